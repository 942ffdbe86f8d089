"""Where studies are kept: heartbeats of the journal, drivers, passwords."""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.experiment.search import storage as storages
from harness.experiment.search.settings import Settings, read_settings
from harness.experiment.search.storage import GRACE, BeatingJournal, hidden, open_storage, original
from tests.experiment.search.small import small


@pytest.fixture(scope="module")
def settings() -> Settings:
    return read_settings(compose(small(Path("unused")), "search"))


def test_a_journals_trial_beats_and_is_found_when_it_does_not(
    settings: Settings, tmp_path: Path
) -> None:
    journal = open_storage(replace(settings, folder=tmp_path))
    assert isinstance(journal, BeatingJournal)
    study = optuna.create_study(storage=journal, study_name="s")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's own loop would beat for us
        begun, dead, alive = (study.ask() for _ in range(3))
    for trial in (dead, alive):
        journal.record_heartbeat(trial._trial_id)
    old = time.time() - GRACE * settings.heartbeat - 5
    os.utime(journal.beats / str(dead._trial_id), (old, old))
    assert journal._get_stale_trial_ids(study._study_id) == [dead._trial_id]
    assert not list(journal.beats.glob("now-*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # another worker, which opened the journal by itself
        other = optuna.load_study(
            storage=open_storage(replace(settings, folder=tmp_path)), study_name="s"
        )
        optuna.storages.fail_stale_trials(other)
        optuna.storages.fail_stale_trials(study)
    states = [t.state for t in study.get_trials()]
    assert states == [TrialState.RUNNING, TrialState.FAIL, TrialState.RUNNING, TrialState.WAITING]
    assert original(study.get_trials()[3]) == dead.number == 1
    journal.record_heartbeat(begun._trial_id)
    assert journal._get_stale_trial_ids(study._study_id) == []


def test_a_heartbeat_comes_while_a_trial_runs(settings: Settings, tmp_path: Path) -> None:
    journal = open_storage(replace(settings, folder=tmp_path))
    assert isinstance(journal, BeatingJournal)
    study = optuna.create_study(storage=journal)
    beats: list[float] = []

    def look(trial: optuna.Trial) -> float:
        for _ in range(2):
            time.sleep(1.2 * settings.heartbeat)
            beats.append((journal.beats / str(trial._trial_id)).stat().st_mtime)
        return 0.0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(look, n_trials=1)
    assert beats[1] > beats[0]


def test_passwords_are_never_written() -> None:
    assert hidden("postgresql://me:secret@host/db") == "postgresql://me:***@host/db"
    assert "secret" not in hidden("nonsense://:secret@[")
    assert hidden("journal") == "journal"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nonsense://host/db", "nonsense"),
        ("postgresql://me:secret@127.0.0.1:9/db", "cannot be used|Install the driver"),
    ],
)
def test_a_storage_that_is_not_there_is_refused(
    settings: Settings, tmp_path: Path, url: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        open_storage(replace(settings, folder=tmp_path, storage=url))
    assert "secret" not in str(error.value)


def test_a_missing_driver_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(storages, "RDBStorage", missing)
    with pytest.raises(ConfigError, match="No module named 'psycopg'") as error:
        open_storage(replace(settings, folder=tmp_path, storage="postgresql://host/db"))
    assert "usl-reid-harness[postgresql]" in error.value.hint


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["search.trails=5"], "Did you mean 'search.trials'"),
        (["+search.trails=5"], "Did you mean 'trials'"),
        (["search.trials=0"], "search.trials=0 must be a whole number, 1 or more"),
        (["search.trials=1.5"], "must be a whole number"),
        (["search.criterion=last"], "search.criterion=last is unknown"),
        (["search.sampler=tp"], "Did you mean 'tpe'"),
        (["search.hours=-1"], "search.hours=-1 must be"),
        (["search.held_out=1.0"], "search.held_out=1.0 must be"),
        (["search.storage=mysql"], "search.storage=mysql is unknown"),
        (["search.name=a/b"], "no name of a folder"),
        (["search.against=hours", "search.pruner=median"], "exclude each other"),
        (["search.against=hours", "search.sampler=cmaes"], "one objective"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], told: str) -> None:
    base = ["method=cluster_contrast", "dataset=synthetic"]
    with pytest.raises(ConfigError) as error:
        read_settings(compose([*base, *overrides], "search"))
    assert told in str(error.value)


def test_settings_of_a_methods_file(tmp_path: Path) -> None:
    settings = read_settings(compose(["method=cluster_contrast", "search.name=null"], "search"))
    assert settings.name == "cluster_contrast-market1501-last_val"
    assert settings.pruner == "median" and settings.trials == 50
    assert settings.folder == Path("results/searches")
    two = read_settings(compose(["method=mskd", "search.against=hours"], "search"))
    assert two.pruner == "none" and two.directions == ["maximize", "minimize"]
