"""The store: what is finished, what is damaged, who may write."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.errors import ConfigError, HarnessError
from harness.core.metrics import METRICS
from harness.results.comparisons import comparisons
from harness.results.store import Run, Store, load
from harness.results.store_check import record_problems
from tests.conftest import Command
from tests.results.records import metrics, record, write


def without(*path: str) -> str:
    """A record that lacks something."""
    whole = record()
    node = whole
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return json.dumps(whole)


DAMAGED = {
    "empty": ("", "cannot be read"),
    "truncated": (json.dumps(record())[:-40], "cannot be read"),
    "not text": ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), "cannot be read"),
    "a list": ("[1]", "does not hold a JSON object"),
    "an older schema": (
        json.dumps(record() | {"schema": 0}),
        "has schema 0, and this version reads 1",
    ),
    "no stages": (without("stages"), "lacks stages"),
    "stages of nothing": (json.dumps(record() | {"stages": {}}), "no valid stages ("),
    "a stage of nothing": (json.dumps(record() | {"stages": {"a": 3}}), "no valid stages.a ("),
    "no settings": (without("settings"), "lacks settings"),
    "no protocol": (without("protocol"), "lacks protocol"),
    "no hash": (without("protocol", "hash"), "lacks protocol.hash"),
    "no seed": (without("experiment", "seed"), "lacks experiment.seed"),
    "no mAP": (without("stages", "student", "metrics", "mAP"), "lacks stages.student.metrics.mAP"),
    "no seconds": (without("seconds"), "lacks seconds"),
    "memory as a number": (json.dumps(record() | {"memory_mib": 3}), "no valid memory_mib ("),
    "no number of devices": (json.dumps(record() | {"devices": None}), "no valid devices ("),
    "infinite seconds": (json.dumps(record() | {"seconds": 1e999}), "no valid seconds ("),
    "deep nesting": ('{"schema": ' + "[" * 100_000, "cannot be read"),
    "a nested line of the card": (
        json.dumps(record(card={"input": [[1]]})),
        "no valid protocol.input (",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_record_is_flagged_and_skipped(
    tmp_path: Path, command: Command, case: str
) -> None:
    text, problem = DAMAGED[case]
    write(tmp_path, "bad", text)
    write(tmp_path, "good", record())
    bad, good = Store(tmp_path).runs()
    assert (bad.finished, good.finished) == (False, True)
    assert bad.problem is not None and problem in bad.problem
    assert good.problem is None
    with pytest.raises(HarnessError, match="overwrite=always"):
        _ = bad.record
    assert set(load(tmp_path)["run"]) == {"good"}
    table = command("table", "--store", str(tmp_path))
    assert table.status == 0
    assert "left out: bad: record.json" in table.err
    listed = command("list", "runs", "--store", str(tmp_path)).out.splitlines()
    assert listed[0].startswith("bad    damaged: record.json")
    assert listed[1].startswith("good   mAP 70.0")
    page = tmp_path / "page.html"
    assert command("report", "--store", str(tmp_path), "--output", str(page)).status == 0
    assert "damaged: record.json" in page.read_text(encoding="utf-8")


def test_an_unfinished_run_is_no_result(tmp_path: Path, command: Command) -> None:
    folder = write(tmp_path, "half", None)
    (run,) = Store(tmp_path).runs()
    assert not run.finished
    assert run.problem is None
    assert run.record == {}
    assert run.history() == []
    assert load(tmp_path).empty
    assert "half   unfinished\n" in command("list", "runs", "--store", str(tmp_path)).out
    (folder / "history.json").write_text(json.dumps([{"stage": "teacher", "epoch": 3}]))
    listed = command("list", "runs", "--store", str(tmp_path)).out
    assert "unfinished after teacher 3" in listed
    (folder / "history.json").write_text("[{")
    with pytest.raises(HarnessError, match=r"history\.json cannot be read"):
        run.history()
    assert "damaged" in command("list", "runs", "--store", str(tmp_path)).out


def test_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "run", record())
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").touch()
    assert [run.name for run in Store(tmp_path).runs()] == ["run"]
    assert list(Store(tmp_path / "nowhere").runs()) == []


def test_load_gives_a_row_a_stage(tmp_path: Path) -> None:
    write(tmp_path, "a", record(seed=3, teacher=60.0, student=70.0))
    write(tmp_path, "b", record("direct_transfer", initial=2.5))
    rows = load(tmp_path)
    assert rows["stage"].tolist() == ["teacher", "student", "initial"]
    assert rows["final"].tolist() == [False, True, True]
    assert rows["seed"].tolist() == [3, 3, 0]
    assert rows["method"].tolist() == ["mskd", "mskd", "direct_transfer"]
    assert rows[list(metrics(0))].iloc[1].to_dict() == metrics(70.0)
    assert set(METRICS) <= set(rows)


def test_runs_on_other_images_of_a_source_are_other_experiments(tmp_path: Path) -> None:
    """Their settings are equal; the tables are as many as the sources, and no run is left out."""
    for name, fingerprint, mAP in (("a", "1" * 32, 40.0), ("b", "2" * 32, 60.0)):
        content = record("spcl_uda", card={"setting": "UDA, source personx"}, train=mAP)
        write(tmp_path, name, content | {"source": {"name": "personx", "fingerprint": fingerprint}})
    assert not list(record_problems(Store(tmp_path).runs()))
    assert [list(table.rows["mAP"]) for table in comparisons(tmp_path)] == [[40.0], [60.0]]
    write(tmp_path, "copy", json.loads((tmp_path / "b" / "record.json").read_text()))
    (problem,) = record_problems(Store(tmp_path).runs())
    assert "same experiment as b" in problem.text


def test_find(tmp_path: Path) -> None:
    for name in ("mskd-s0-1a", "mskd-s0-1ab", "mskd-s1-1a"):
        write(tmp_path, name, record())
    store = Store(tmp_path)
    assert store.find("mskd-s1").name == "mskd-s1-1a"
    assert store.find("mskd-s0-1a").name == "mskd-s0-1a", "a whole name goes before a beginning"
    assert store.find(str(tmp_path / "mskd-s1-1a")).folder == tmp_path / "mskd-s1-1a"
    with pytest.raises(ConfigError, match="fits several runs: mskd-s0-1a, mskd-s0-1ab"):
        store.find("mskd-s0")
    with pytest.raises(ConfigError, match=r"no run 'mskd-s2-1a'.*\n.*Did you mean"):
        store.find("mskd-s2-1a")
    with pytest.raises(ConfigError, match="store is empty"):
        Store(tmp_path / "nowhere").find("x")


def test_a_folder_given_by_dots_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mskd-a"
    (folder / "figures").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for inside, given in ((folder, "."), (folder, "./"), (folder / "figures", "..")):
        monkeypatch.chdir(inside)
        found = Store(Path("results/runs")).find(given)
        assert (found.name, found.folder) == ("mskd-a", folder)
    monkeypatch.chdir(tmp_path)
    assert Store(Path("runs")).find("mskd-a/").folder == Path("mskd-a"), "others stay as given"


def test_eval_answers_a_misspelt_stage(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "good", record())
    write(tmp_path, "half", None)
    answer = command("eval", "good", "--stage", "studnt", "--store", str(tmp_path))
    assert answer.status == 2
    assert "no stage 'studnt'" in answer.err
    assert "'student'" in answer.err
    answer = command("eval", "half", "--store", str(tmp_path))
    assert answer.status == 2
    assert "half is not finished" in answer.err
    answer = command("eval", "good", "--store", str(tmp_path))
    assert answer.status == 2
    assert "kept no weights of its stage 'student'" in answer.err


def test_a_config_that_cannot_be_read(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", record())
    assert Run(folder).config() == {}
    (folder / "config.json").write_text("{")
    with pytest.raises(HarnessError, match=r"config\.json cannot be read"):
        Run(folder).config()


HOLD = """
import sys
from pathlib import Path
from harness.results.store import Run
lock = Run(Path(sys.argv[1])).lock()
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_has_one_writer_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    run = Run(tmp_path / "cell")
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(HarnessError, match="Another process is running cell"):
            run.lock()
        other.kill()
    run.lock().release()
    run.lock().release()
