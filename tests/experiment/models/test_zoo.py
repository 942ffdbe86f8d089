"""The model zoo: entries from runs, files that are verified, and bad files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness.core.errors import ConfigError, DataError
from harness.experiment.models import zoo
from harness.experiment.models.export import add_to_zoo
from harness.experiment.models.load import load_model
from harness.experiment.models.model import Model
from harness.results.store import Run
from tests.conftest import Command

GOOD: dict[str, Any] = {
    "url": "https://example.org/a.safetensors", "sha256": "0" * 64, "size": 1, "backbone": "small",
    "dataset": "synthetic", "protocol": "demo 1", "method": "mskd", "seed": 0, "mAP": 50.0,
    "rank1": None, "terms": "Apache-2.0",
}  # fmt: skip


def test_add_list_and_use(
    command: Command, model: Model, run: Run, people: Path, no_zoo: Path
) -> None:
    assert "No models." in command("list", "models").out
    answer = command("zoo", "add", str(run.folder), "--terms", "CC0")
    assert answer.status == 0, answer.err
    name = "cluster_contrast-folder-s0"
    (entry,) = yaml.safe_load(no_zoo.read_text()).values()
    assert entry["url"] == f"{name}.safetensors" and entry["terms"] == "CC0"
    assert entry["mAP"] == pytest.approx(run.record["metrics"]["mAP"], abs=0.01)
    assert entry["size"] == (no_zoo.parent / entry["url"]).stat().st_size
    listed = command("list", "models").out
    assert listed.startswith(name) and "CC0" in listed and "cluster_contrast on folder" in listed
    found = load_model(name, device="cpu", precision=model.precision)
    np.testing.assert_array_equal(found.embed(people / "0_0.png"), model.embed(people / "0_0.png"))
    answer = command("embed", name, str(people), "--out", "f.npz")
    assert answer.status == 0, answer.err
    again = command("zoo", "add", str(run.folder))
    assert again.status == 2 and f"has a model '{name}' already" in again.err
    other = command("zoo", "add", str(run.folder), "--name", "other")
    assert other.status == 2 and f"the same network already, as '{name}'" in other.err
    missing = command("embed", "cluster", str(people), "--out", "g.npz")
    assert missing.status == 2 and f"Models of the zoo: {name}" in missing.err
    (no_zoo.parent / entry["url"]).write_bytes(b"other")
    with pytest.raises(DataError, match="has another checksum"):
        load_model(name)
    (no_zoo.parent / entry["url"]).unlink()
    with pytest.raises(DataError, match="there is no file"):
        load_model(name)


def test_download(
    run: Run, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_zoo: Path
) -> None:
    """With an address, the file is fetched, verified and kept."""
    url = "https://example.org/models/mine.safetensors"
    file = tmp_path / "release" / "mine.safetensors"
    name, entry, written = add_to_zoo(str(run.folder), name="mine", url=url, output=file)
    assert (name, entry.url, written) == ("mine", url, file)
    asked = []

    def download(address: str, sha256: str, folder: Path) -> Path:
        asked.append((address, sha256))
        return file

    monkeypatch.setattr(zoo, "download", download)
    assert load_model("mine", device="cpu").embed(people / "0_0.png").shape == (1, 8)
    assert asked == [(url, entry.sha256)]


def test_what_is_not_added(run: Run, tmp_path: Path, no_zoo: Path) -> None:
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    shutil.copy(run.folder / "config.json", unfinished)
    cases: list[tuple[Path, dict[str, Any], str]] = [
        (unfinished, {}, "is not finished"),
        (run.folder, {"name": "../x"}, "cannot be a model's name"),
        (run.folder, {"url": "ftp://x/y"}, "must begin with http"),
        (run.folder, {"url": "../y"}, "a path inside the folder"),
        (run.folder, {"output": tmp_path / "x.onnx"}, "does not end in .safetensors"),
        (run.folder, {"output": tmp_path / "x.safetensors"}, "outside"),
        (run.folder, {"terms": " "}, "--terms is empty"),
        (run.folder, {"stage": "x"}, "no stage 'x'"),
    ]
    for folder, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            add_to_zoo(str(folder), **options)
    assert not no_zoo.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{", "is no YAML"),
        ("- a", "does not map names"),
        ({"a b": GOOD}, "'a b' cannot be"),
        ({"a": GOOD | {"sha256": "1"}}, "a.sha256"),
        ({"a": GOOD | {"url": "/etc/passwd"}}, "a.url"),
        ({"a": GOOD | {"url": "a/../../b"}}, "a.url"),
        ({"a": GOOD | {"mAP": 101}}, "a.mAP"),
        ({"a": GOOD | {"term": "x"}}, "a.term"),
        ({"a": {k: v for k, v in GOOD.items() if k != "terms"}}, "a.terms"),
        ({"a": 3}, "a: "),
    ],
)
def test_bad_files(change: Any, message: str, no_zoo: Path) -> None:
    no_zoo.parent.mkdir()
    no_zoo.write_text(change if isinstance(change, str) else yaml.safe_dump(change))
    with pytest.raises(DataError, match=message) as caught:
        zoo.load()
    assert caught.value.hint or message == "is no YAML"


def test_good_entries(no_zoo: Path) -> None:
    no_zoo.parent.mkdir()
    no_zoo.write_text(yaml.safe_dump({"a": GOOD}))
    assert "mAP 50.0; 0.00 MB; Apache-2.0" in zoo.load().models["a"].in_words()
