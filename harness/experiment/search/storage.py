"""Where a study is kept, and how the trial of a worker that died comes back.

Optuna's databases keep a heartbeat of each running trial; its journal file, which is what shared
file systems can do, does not. Here it does: a file beside the journal is touched, and compared with
one touched by whoever asks, so that only the file server's clock counts.
"""

from __future__ import annotations

import inspect
import os
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError, first_line
from harness.core.files import make_folder
from harness.experiment.search.settings import Settings

Stale = Callable[[optuna.Study, FrozenTrial], None]
GRACE = 3  # heartbeats


def retry(retries: int) -> Stale:
    """What is done with a trial whose worker died: it waits for another one, `retries` times."""
    # RetryFailedTrialCallback until Optuna 4.9
    kind: Any = (
        getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback", None)
        or optuna.storages.RetryFailedTrialCallback
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return kind(max_retry=retries, inherit_intermediate_values=True)


def original(trial: FrozenTrial) -> int:
    """The number of the trial that this one goes on with; its own if it is the first."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def open_storage(settings: Settings) -> BaseStorage:
    """The study's storage, made if it is not there.

    Raises:
        ConfigError: it cannot be reached or read, or its driver is not installed.
    """
    stale = retry(settings.retries)
    make_folder(settings.place)
    if settings.storage == "journal":
        path = settings.place / "study.journal"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return BeatingJournal(path, settings.heartbeat, stale)
    url, engine = _url(settings)
    names = inspect.signature(RDBStorage).parameters
    new = "heartbeat_stale_trial_callback"
    options: dict[str, Any] = {new if new in names else "failed_trial_callback": stale}

    def database() -> RDBStorage:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                engine_kwargs=engine,
                heartbeat_interval=settings.heartbeat,
                grace_period=GRACE * settings.heartbeat,
                **options,
            )

    try:
        try:
            return database()
        except ImportError:
            raise
        except Exception:  # a worker on another machine may be laying out the same tables
            time.sleep(2)
            return database()
    except ImportError as error:
        raise ConfigError(
            f"search.storage={hidden(settings.storage)}: {first_line(error)}.",
            'Install the driver: pip install "usl-reid-harness[postgresql]".',
        ) from error
    except Exception as error:  # whatever the database's driver raises
        raise ConfigError(
            f"search.storage={hidden(settings.storage)} cannot be used: {first_line(error)}",
            "Is it there, and may you write to it?",
        ) from error


def _url(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The URL, and options of its engine."""
    if settings.storage == "sqlite":
        path = (settings.place / "study.db").absolute()
        return f"sqlite:///{path}", {"connect_args": {"timeout": 100}}  # workers wait for another
    url = settings.storage
    bare = url.startswith(("postgresql://", "postgres://"))
    if bare and find_spec("psycopg") and not find_spec("psycopg2"):
        url = f"postgresql+psycopg://{url.split('://', 1)[1]}"
    return url, {"pool_pre_ping": True}


def hidden(storage: str) -> str:
    """A storage without its password."""
    if "://" not in storage:
        return storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return storage.split("://")[0] + "://…"


class BeatingJournal(JournalStorage, BaseHeartbeat):
    """Optuna's journal file with heartbeats: `study.journal.beats/TRIAL` is touched.

    Args:
        path: the journal. interval: seconds between two beats. stale: see `retry`.
    """

    def __init__(self, path: Path, interval: int, stale: Stale) -> None:
        super().__init__(JournalFileBackend(str(path)))
        self.beats = path.with_name(f"{path.name}.beats")
        self.beats.mkdir(exist_ok=True)
        self.interval, self.stale = interval, stale

    def record_heartbeat(self, trial_id: int) -> None:
        """A sign of life of a trial."""
        self._touch(str(trial_id))

    def _touch(self, name: str) -> float:
        """The file server's time."""
        path = self.beats / name
        path.touch()
        os.utime(path)
        return path.stat().st_mtime

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        """Running trials that have not been heard of for `GRACE` intervals."""
        now = self._touch(f"now-{os.getpid()}")
        (self.beats / f"now-{os.getpid()}").unlink()
        stale = []
        for trial in self.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)):
            path = self.beats / str(trial._trial_id)
            # one that has not beaten yet has just begun; see `study.never_begun`
            if path.exists() and now - path.stat().st_mtime > GRACE * self.interval:
                stale.append(trial._trial_id)
        return stale

    def get_heartbeat_interval(self) -> int | None:
        """Seconds between two beats."""
        return self.interval

    def get_heartbeat_stale_trial_callback(self) -> Stale | None:
        """What is done with a trial whose worker died."""
        return self.stale

    get_failed_trial_callback = get_heartbeat_stale_trial_callback  # its name until Optuna 4.9
