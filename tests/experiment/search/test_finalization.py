"""What comes after a search: a preset that runs, tables that tell it apart, records, budgets."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import pytest

from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.search import worker as trials
from harness.results.store import Store
from tests.conftest import Command
from tests.experiment.search.small import EPS, pretend, search, small
from tests.experiment.search.test_study import near_half
from tests.tiny import tiny


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials pretend; what is run on fresh seeds is real."""
    monkeypatch.setattr(trials, "run_experiment", pretend(near_half))


def near(folder: Path, *options: str) -> list[str]:
    """A search of three trials, two fresh seeds, in the folder `s`."""
    return small(folder, *EPS, "search.trials=3", "search.reproduce=2", "search.seed=3", *options)


def test_what_was_found_runs_as_a_preset(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_SEARCHES", str(tmp_path / "searches"))
    answer = command("search", *near(tmp_path))
    assert answer.status == 0, answer.err
    assert "On 2 fresh seeds" in answer.out and "Tuned minus default" in answer.out
    (line,) = [x for x in answer.out.splitlines() if x.startswith("run it: harness run ")]
    assert f" data.root={tmp_path}/data " in line and line.endswith(" +search=s")
    assert " 'backbone.widths=[8,16]' " in line and "store=" not in line
    runs = {run.name: run for run in Store(tmp_path / "runs").runs()}
    assert len(runs) == 4
    tuned = [run for run in runs.values() if "tuned" in run.record["protocol"]]
    assert sorted(run.record["experiment"]["seed"] for run in tuned) == [1, 2]
    message = tuned[0].record["protocol"]["tuned"]
    assert (message["search"], message["criterion"], message["trials"]) == ("s", "last_val", 3)
    assert "held out" in message["by"]
    # the preset gives the very same run, and no trial's store is the store of runs
    again = command("run", "method=cluster_contrast", *tiny(tmp_path), "batch.identities=2",
                    "+search=s", "seed=1")  # fmt: skip
    assert again.status == 0, again.err
    assert "is finished already" in again.out
    best = (tmp_path / "searches" / "s" / "preset.yaml").read_text()
    assert "eps" in best and "method: cluster_contrast" in best
    # tables: default and tuned, each by its name, in one table
    table = command("table", "--store", str(tmp_path / "runs"), "--format", "markdown").out
    assert "| cluster_contrast | yes |" in table
    assert "| cluster_contrast [tuned: s] | yes |" in table
    assert table.count("### synthetic") == 1
    assert "s: 3 trials, optimizing mAP on 40% of the training people, held out" in table
    # a preset cannot start a search
    refused = command("search", *near(tmp_path), "+search=s")
    assert refused.status == 2 and "is the result of a search" in refused.err


def test_a_preset_is_of_its_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_SEARCHES", str(tmp_path / "searches"))
    search(tmp_path, *EPS, "search.trials=1")
    assert compose(["method=cluster_contrast", "+search=s"]).tuned.search == "s"
    with pytest.raises(ConfigError, match="found for cluster_contrast, not for spcl"):
        make_recipe(compose(["method=spcl", "+search=s"]))
    with pytest.raises(ConfigError, match="harness search writes it"):
        make_recipe(compose(["method=spcl", "+tuned={search: s}"]))


def test_settings_chosen_on_the_test_set_say_so_everywhere(
    command: Command, tmp_path: Path
) -> None:
    answer = command("search", *near(tmp_path, "search.criterion=oracle"))
    assert answer.status == 0, answer.err
    assert "chosen by test mAP (oracle)" in answer.out
    page = (tmp_path / "searches" / "s" / "README.md").read_text()
    assert "**Settings were chosen by test mAP (oracle)" in page
    assert "[tuned on the test set (oracle): s]" in page
    for style in ("markdown", "csv", "html"):
        table = command("table", "--store", str(tmp_path / "runs"), "--format", style).out
        assert "tuned on the test set (oracle): s" in table
    # and they never lead: only the honest row may be bold
    markdown = command("table", "--store", str(tmp_path / "runs"), "--format", "markdown").out
    (row,) = [x for x in markdown.splitlines() if "(oracle)" in x and x.startswith("|")]
    assert "**" not in row


def test_the_record_holds_it_all(tmp_path: Path) -> None:
    search(tmp_path, *EPS, "search.trials=3", "search.pruner=none")
    place = tmp_path / "searches" / "s"
    record = json.loads((place / "search.json").read_text())
    assert (
        record["optimised"] == "mAP on 40% of the training people, held out, after the last epoch"
    )
    assert record["budget"] == {"trials": 3, "hours": None}
    assert record["trials"] == {"complete": 3, "pruned": 0, "failed": 0}
    assert record["default"]["settings"] == {"labeler.eps": 0.6}
    assert record["space"] == {"labeler.eps": {"low": 0.35, "high": 0.75}}
    assert record["best"]["values"][0] >= record["default"]["values"][0]
    assert (record["sampler"], record["storage"]) == ("tpe", "journal")
    rows = list(csv.DictReader((place / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["COMPLETE"] * 3
    assert rows[0]["default"] == "True" and float(rows[0]["labeler.eps"]) == 0.6


def test_where_the_default_is_best_nothing_is_run_twice(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        trials,
        "run_experiment",
        pretend(lambda config, _: 1.0 if config.labeler.eps == 0.6 else 0.0),
    )
    answer = command("search", *near(tmp_path))
    assert "Nothing better than the default was found." in answer.out
    assert len(list(Store(tmp_path / "runs").runs())) == 2


def test_each_method_has_the_same_budget(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    good = pretend(near_half)

    def fake_run(config, reporter):  # type: ignore[no-untyped-def]
        seen.append(str(config.method.name))
        return good(config, reporter)

    monkeypatch.setattr(trials, "run_experiment", fake_run)
    options = [o for o in small(tmp_path) if not o.startswith(("method=", "search.name"))]
    answer = command("search", "-m", "method=cluster_contrast,cap", *options,
                     "search.trials=2", "search.hours=1")  # fmt: skip
    assert answer.status == 0, answer.err
    assert seen == ["cluster_contrast"] * 2 + ["cap"] * 2
    assert "The same budget for each: 2 trials, 1 device-hours" in answer.out
    assert answer.out.count("| 2 (2, 0, 0) |") == 2
    names = {p.name for p in (tmp_path / "searches").iterdir()}
    assert names == {"cluster_contrast-synthetic-last_val", "cap-synthetic-last_val"}
    without = command("search", "method=cluster_contrast,cap", *options)
    assert without.status == 2 and "-m" in without.err
    same = command("search", "-m", "method=cluster_contrast,cap", *options, "search.name=one")
    assert same.status == 2 and "search.name" in same.err


def test_the_command_line(command: Command, tmp_path: Path) -> None:
    assert "usage: harness search" in command("search", "--help").out
    shown = command("search", "method=mskd", "search.trials=3", "--cfg", "job").out
    assert "trials: 3" in shown and "part_weight" in shown
    assert command("search", "method=mskd", "--trials").status == 2
    # a run knows nothing of a search
    plain = command("run", "method=mskd", "--cfg", "job").out
    assert "search:" not in plain.replace("search: auto", "")
    refused = command("run", "method=mskd", "search.trials=3")
    assert refused.status == 2 and "search.trials" in refused.err
    unknown = command("run", "method=mskd", "+search=nobody")
    assert unknown.status == 2 and "nobody" in unknown.err


def test_plots_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        search(tmp_path, "~search.space.neighbours", "~search.space.objective.hard",
               "search.trials=5", "search.plots=true",
               "search.against=images_per_second")  # fmt: skip
    place = tmp_path / "searches" / "s"
    for name in ("history", "slice", "importance", "front"):
        assert (place / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"![{name}]({name}.png)" in (place / "README.md").read_text()
