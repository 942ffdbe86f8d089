"""Storages and settings: drivers, passwords, and options that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.experiment.search import study as studies
from harness.experiment.search.settings import Settings, read_settings
from harness.experiment.search.study import open_storage
from tests.experiment.search.small import small


@pytest.fixture(scope="module")
def settings() -> Settings:
    return read_settings(compose(small(Path("unused")), "search"))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://host/db", "nonsense"),
        ("nonsense://:secret@[", "nonsense"),
        ("nonsense://me:top@secret@host/db", "search.storage=nonsense://host/db"),
        ("postgresql://me:secret@127.0.0.1:9/db", "cannot be used|Install the driver"),
    ],
)
def test_a_storage_that_is_not_there_is_refused(
    settings: Settings, tmp_path: Path, url: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        open_storage(settings.model_copy(update={"folder": tmp_path, "storage": url}))
    assert "secret" not in str(error.value)


def test_a_missing_driver_is_named(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'psycopg'")

    monkeypatch.setattr(studies, "RDBStorage", missing)
    with pytest.raises(ConfigError, match="No module named 'psycopg'") as error:
        open_storage(
            settings.model_copy(update={"folder": tmp_path, "storage": "postgresql://host/db"})
        )
    assert "usl-reid-harness[postgresql]" in error.value.hint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.trails=5"], "Did you mean 'search.trials'"),
        (["+search.trails=5"], "Did you mean 'trials'"),
        (["search.trials=0"], "search.trials=0 is out of range: trials ≥ 1"),
        (["search.trials=1.5"], "search.trials=1.5 must be a whole number"),
        (["search.criterion=last"], "search.criterion=last must be last_val"),
        (["search.sampler=tp"], "Did you mean 'tpe'"),
        (["search.hours=-1"], "search.hours=-1 is out of range: hours > 0"),
        (["search.hours=inf"], "search.hours=inf is out of range"),
        (["search.plots=1"], "search.plots=1 must be true or false"),
        (["search.held_out=1.0"], "search.held_out=1.0 is out of range: 0 < held_out < 1"),
        (["search.storage=mysql"], "search.storage=mysql is unknown"),
        (["search.name=a/b"], "not a valid folder name"),
        (["search.against=hours", "search.pruner=median"], "cannot be combined"),
        (["search.against=hours", "search.sampler=cmaes"], "only one objective"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], message: str) -> None:
    base = ["method=cluster_contrast", "dataset=synthetic"]
    with pytest.raises(ConfigError) as error:
        read_settings(compose([*base, *overrides], "search"))
    assert message in str(error.value)


def test_settings_of_a_methods_file(tmp_path: Path) -> None:
    settings = read_settings(compose(["method=cluster_contrast", "search.name=null"], "search"))
    assert settings.name == "cluster_contrast-market1501-last_val"
    assert settings.pruner == "median" and settings.trials == 50
    assert settings.folder == Path("results/searches")
    two = read_settings(compose(["method=mskd", "search.against=hours"], "search"))
    assert two.pruner == "none" and two.directions == ["maximize", "minimize"]
