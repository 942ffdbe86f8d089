"""Packing runs: what is in a submission, and what is refused."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import pytest

from harness.core.errors import ConfigError, HarnessError
from harness.core.hashing import settings_digest
from harness.experiment.submissions import Reference, submit, validate
from harness.experiment.submissions.pack import described
from harness.experiment.submissions.private import private_places
from harness.experiment.submissions.render import as_markdown
from harness.experiment.submissions.verdict import Check, Verdict
from tests.conftest import Command
from tests.experiment.submissions.forge import edit, run_of


@pytest.fixture
def runs(store: Path, tmp_path: Path) -> Path:
    """A copy of the store."""
    return Path(shutil.copytree(store, tmp_path / "runs"))


def only(runs: Path) -> Path:
    return next(runs.glob("cluster_contrast-*-s0-*"))


def test_what_is_packed(runs: Path, tmp_path: Path) -> None:
    folder = submit(["cluster_contrast"], runs, output=tmp_path / "out")
    assert folder == tmp_path / "out" / "cluster_contrast-synthetic"
    assert len([path for path in folder.iterdir() if path.is_dir()]) == 2
    names = {path.name for path in run_of(folder).iterdir()}
    assert names == {"record.json", "config.json", "history.json", "per_query.npz"}
    manifest = json.loads((folder / "submission.json").read_text())
    entry = manifest["runs"][run_of(folder).name]
    assert entry["method"] == "cluster_contrast" and entry["plugins"] == []
    assert list(entry["withheld"]) == ["train_features.npz"]  # kept, and named by its digest
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]


def test_runs_can_be_named_in_several_ways(runs: Path, tmp_path: Path) -> None:
    words = ["cluster_contrast-*", str(only(runs)), "direct_transfer", only(runs).name]
    folder = submit(words, runs, "all", tmp_path / "out")
    assert len(json.loads((folder / "submission.json").read_text())["runs"]) == 3


def test_refusals(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="There is no run 'mskd'"):
        submit(["mskd"], runs, output=out)
    with pytest.raises(ConfigError, match="4 experiments"):
        submit(["*"], runs, output=out)
    with pytest.raises(ConfigError, match="is no name"):
        submit(["*"], runs, "..", output=out)
    submit([only(runs).name], runs, output=out)
    with pytest.raises(ConfigError, match="exists already"):
        submit([only(runs).name], runs, output=out)
    folder = submit([only(runs).name], runs, output=out, overwrite=True, features=True)
    assert (run_of(folder) / "train_features.npz").is_file()
    assert [path.name for path in out.iterdir()] == [folder.name]


def test_unfinished_failed_and_incomplete_runs(runs: Path, tmp_path: Path) -> None:
    run = only(runs)
    (run / "train_features.npz").unlink()
    with pytest.raises(HarnessError, match=r"evaluation\.keep_features=true"):
        submit([run.name], runs, output=tmp_path, features=True)
    (run / "per_query.npz").unlink()
    with pytest.raises(HarnessError, match="overwrite=backfill"):
        submit([run.name], runs, output=tmp_path)
    edit(run / "record.json", lambda r: r.update(evaluated=False, metrics={}))
    with pytest.raises(HarnessError, match="was not evaluated"):
        submit([run.name], runs, output=tmp_path)
    (run / "record.json").unlink()
    with pytest.raises(HarnessError, match="is unfinished"):
        submit([run.name], runs, output=tmp_path)
    (run / "failed.json").write_text('{"error": "out of memory"}')
    with pytest.raises(HarnessError, match="is failed: out of memory"):
        submit([run.name], runs, output=tmp_path)


def test_a_damaged_configuration_is_refused(runs: Path, tmp_path: Path) -> None:
    edit(only(runs) / "config.json", lambda c: c["optimizer"].update(lr=1.0))
    with pytest.raises(HarnessError, match="has changed since the record"):
        submit([only(runs).name], runs, output=tmp_path)


@pytest.mark.parametrize("value", ["/data/x.jpg", "on {host}", "C:\\x", "~/x"])
def test_nothing_of_the_machine(
    runs: Path, tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box-17.example.org")
    text = value.format(host="gpu-box-17")
    edit(only(runs) / "record.json", lambda r: r["dataset"].update(unreadable=[text]))
    with pytest.raises(HarnessError, match=r"dataset.unreadable\[0\]") as caught:
        submit([only(runs).name], runs, output=tmp_path)
    assert text not in str(caught.value)


def test_what_is_no_path_of_a_machine() -> None:
    fine = ["labelled images / batch size", "https://example.org/a.pth", "hf-hub:owner/name",
            "NVIDIA H100/H200", "a/b.jpg", "../x", "1/2", "timm:vit", "images/s"]  # fmt: skip
    assert not list(private_places(fine, ["gpu-box"]))
    places = ["/home", "see /home/a", "weights:/a/b", "~/x", "~me/x", "D:\\x", "\\\\server\\x",
              "file:///a", "on gpu-box"]  # fmt: skip
    assert len(list(private_places(places, ["gpu-box"]))) == len(places)


def test_own_plugins_are_marked(runs: Path, tmp_path: Path) -> None:
    """A method that does not come with the harness cannot be composed again."""
    run = only(runs)
    record = json.loads((run / "record.json").read_text())
    config = json.loads((run / "config.json").read_text())
    config["method"]["name"] = record["experiment"]["method"] = "mine"
    record["config"] = settings_digest(config)
    (run / "config.json").write_text(json.dumps(config))
    (run / "record.json").write_text(json.dumps(record))
    folder = submit([run.name], runs, output=tmp_path / "out")
    manifest = json.loads((folder / "submission.json").read_text())
    assert manifest["runs"][run.name]["plugins"] == ["method mine"]
    assert "cannot compose it again" in described(folder)


def test_the_commands(command: Command, runs: Path, tmp_path: Path) -> None:
    answer = command("submit", "cluster_contrast", "--store", str(runs), "--features")
    assert answer.status == 0, answer.err
    folder = tmp_path / "submissions" / "cluster_contrast-synthetic"
    assert f"harness validate {Path('submissions') / folder.name}" in answer.out
    table = command("table", "--store", str(folder), "--format", "markdown")
    assert "cluster_contrast" in table.out
    good = command("validate", str(folder), "--against", str(tmp_path / "none"))
    assert good.status == 0 and "passes" in good.out
    edit(run_of(folder) / "record.json", lambda r: r.update(seconds=-1.0, note="<b>|@x"))
    answer = command("validate", str(folder), "--format", "markdown")
    assert answer.status == 1
    assert "❌ FAILED" in answer.out and "record.json has " in answer.out
    listed = json.loads(command("validate", str(folder), "--json").out)
    assert listed[0]["passes"] is False and listed[0]["checks"][0]["name"] == "files"
    assert command("validate", "nowhere").status == 2


def test_markdown_shows_hostile_text_as_it_is() -> None:
    reason = "a|b <img src=x> @someone [x](http://y) `c` \n# heading"
    text = as_markdown([Verdict("name", (Check("run", "card", "FAILED", reason),))])
    row = next(line for line in text.splitlines() if "card" in line)
    assert row.replace("\\|", "").count("|") == 4
    for harmful in ("<img", "@someone", "](", "http://", "`c`"):
        assert harmful not in row


def test_validation_changes_nothing(packed: dict[str, Path], reference: Reference) -> None:
    before = {p: p.read_bytes() for p in packed["two"].rglob("*") if p.is_file()}
    validate(packed["two"], reference)
    assert before == {p: p.read_bytes() for p in packed["two"].rglob("*") if p.is_file()}


def test_an_untrained_run_without_history(runs: Path, tmp_path: Path, reference: Reference) -> None:
    """Earlier versions wrote none."""
    run = next(runs.glob("direct_transfer-*"))
    (run / "history.json").unlink()
    assert validate(submit([run.name], runs, output=tmp_path / "out"), reference).passes
