"""The storage of a study: SQLite, Optuna's journal file, or a database server."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from harness.core.errors import ConfigError, first_line
from harness.core.files import make_folder
from harness.experiment.search.settings import Settings


def open_storage(settings: Settings) -> BaseStorage:
    """Open the study's storage, creating it if needed.

    Raises:
        ConfigError: it cannot be reached or read, or its driver is not installed.
    """
    make_folder(settings.place)
    if settings.storage == "journal":
        return JournalStorage(JournalFileBackend(str(settings.place / "study.journal")))
    url, engine = _url(settings)
    shown = f"search.storage={without_password(settings.storage)}"
    try:
        try:
            return RDBStorage(url, engine_kwargs=engine)
        except ImportError:
            raise
        except Exception:  # a worker on another machine may be creating the same tables
            time.sleep(2)
            return RDBStorage(url, engine_kwargs=engine)
    except ImportError as error:
        raise ConfigError(
            f"{shown}: {first_line(error)}.",
            'Install the driver: pip install "usl-reid-harness[postgresql]".',
        ) from error
    except Exception as error:  # whatever the database's driver raises
        raise ConfigError(
            f"{shown} cannot be used: {first_line(error)}",
            "Check that the database exists and that you may write to it.",
        ) from error


def _url(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The database's URL and SQLAlchemy's options for it."""
    url = settings.storage
    if url == "sqlite":  # a worker waits up to 100 s while another one writes
        path = (settings.place / "study.db").absolute()
        return f"sqlite:///{path}", {"connect_args": {"timeout": 100}}
    bare = url.startswith(("postgresql://", "postgres://"))
    if bare and find_spec("psycopg") and not find_spec("psycopg2"):
        url = f"postgresql+psycopg://{url.split('://', 1)[1]}"
    return url, {"pool_pre_ping": True}


def without_password(storage: str) -> str:
    """A storage as it may be shown."""
    if "://" not in storage:
        return storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(storage).render_as_string(hide_password=True)
    except ArgumentError:
        return storage.split("://")[0] + "://…"
