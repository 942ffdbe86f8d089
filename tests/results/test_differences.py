"""What sets runs apart: `harness list runs` and `harness diff`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.experiment.compose import compose
from harness.experiment.plan import make_plan
from harness.results.differences import ChangedOptions, differences
from harness.results.store import Run
from tests.conftest import Command
from tests.results.records import record, write


def add(store: Path, name: str, *overrides: str, **options: Any) -> Run:
    """A finished run with the configuration that overrides give."""
    plan = make_plan(compose(["protocol=debug", *overrides]), "fp32")
    folder = write(store, name, record(plan.recipe.method, **options))
    (folder / "config.json").write_text(json.dumps(plan.settings))
    return Run(folder)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["method=mskd"], "debug"),
        (["method=mskd", "seed=3"], "debug"),
        (["method=mskd", "protocol=common"], "common"),
        (["method=mskd", "labeler.eps=0.5"], "debug: labeler.eps=0.5"),
        (["method=spcl", "optimizer.steps=[2,3]"], "debug: optimizer.steps=[2,3]"),
        (["method=cluster_contrast", "labeler=kmeans"], "debug: labeler=kmeans"),
        (["method=ice", "labeler=kmeans", "labeler.clusters=9"],
         "debug: labeler=kmeans, labeler.clusters=9"),
        (["method=direct_transfer", "dataset=synthetic", "dataset.cameras=2"],
         "debug: dataset.cameras=2"),
        (["method=direct_transfer", "dataset=[market1501,msmt17]"], "debug"),
    ],
)  # fmt: skip
def test_a_run_is_known_by_what_was_changed(
    overrides: list[str], text: str, tmp_path: Path, command: Command
) -> None:
    run = add(tmp_path, "run", *overrides, train=50.0)
    assert ChangedOptions().of(run) == text
    listed = command("list", "runs", "--store", str(tmp_path)).out
    assert listed == f"run   mAP 50.0  Rank-1 70.0   {text}\n"


def test_a_method_that_is_not_installed_has_no_defaults_to_differ_from(tmp_path: Path) -> None:
    run = add(tmp_path, "run", "method=mskd", "labeler.eps=0.5")
    config = run.config()
    config["method"]["name"] = "gone"
    (run.folder / "config.json").write_text(json.dumps(config))
    assert ChangedOptions().of(run) == "debug"


def test_differences_have_sections(tmp_path: Path) -> None:
    one = add(tmp_path, "one", "method=mskd", train=50.0)
    other = add(
        tmp_path, "other", "method=mskd", "labeler.eps=0.5", "labeler.k1=9", seed=1,
        card={"input": "64x32"}, train=51.0,
    )  # fmt: skip
    content = json.loads((other.folder / "record.json").read_text())
    content["dataset"]["fingerprint"] = "abc"
    content["environment"]["packages"] = {"torch": "2"}
    (other.folder / "record.json").write_text(json.dumps(content))
    found = {(d.section, d.key): (d.one, d.other) for d in differences(one, Run(other.folder))}
    assert found["settings", "labeler.eps"] == ("0.6", "0.5")
    assert found["protocol card", "input"] == ("256x128", "64x32")
    assert found["data set", "fingerprint"] == ("", "abc")
    assert found["environment", "packages.torch"] == ("–", "2")
    assert found["result", "train mAP"] == ("50.0", "51.0")
    assert ("settings", "labeler.min_samples") not in found


def test_the_command(tmp_path: Path, command: Command) -> None:
    add(tmp_path, "mskd-a", "method=mskd")
    add(tmp_path, "mskd-b", "method=mskd", "backbone.views=[global,upper]")
    store = ("--store", str(tmp_path))
    answer = command("diff", "mskd-a", "mskd-b", *store)
    assert answer.status == 0 and not answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    assert lines[0] == ["mskd-a", "mskd-b"]
    assert ["backbone.views", '["global","upper","lower"]', '["global","upper"]'] in lines
    found = json.loads(command("diff", "mskd-a", "mskd-b", *store, "--json").out)
    assert {"section": "settings", "key": "backbone.views", "one": '["global","upper","lower"]',
            "other": '["global","upper"]'} in found  # fmt: skip


def test_equal_runs_differ_in_nothing_but_have_results(tmp_path: Path) -> None:
    runs = [add(tmp_path, name, "method=mskd") for name in ("a", "b")]
    found = list(differences(*runs))
    assert {one.section for one in found} == {"result"} and all(o.one == o.other for o in found)


def test_an_unfinished_run_is_compared_by_its_settings(tmp_path: Path) -> None:
    finished = add(tmp_path, "a", "method=mskd")
    begun = add(tmp_path, "b", "method=mskd", "labeler.eps=0.5")
    (begun.folder / "record.json").unlink()
    found = {(d.section, d.key): (d.one, d.other) for d in differences(finished, Run(begun.folder))}
    assert found["settings", "labeler.eps"] == ("0.6", "0.5")
    assert found["result", "status"][1] == "unfinished"
    assert found["protocol card", "input"] == ("256x128", "–")


@pytest.mark.parametrize("damage", [None, "{", "[1]"])
def test_a_run_without_settings_is_explained(
    damage: str | None, tmp_path: Path, command: Command
) -> None:
    add(tmp_path, "a", "method=mskd")
    run = add(tmp_path, "b", "method=mskd")
    path = run.folder / "config.json"
    path.unlink() if damage is None else path.write_text(damage)
    answer = command("diff", "a", "b", "--store", str(tmp_path))
    assert answer.status == 1 and "config.json cannot be read" in answer.err
    assert "overwrite=always" in answer.err
    assert command("list", "runs", "--store", str(tmp_path)).status == 0
