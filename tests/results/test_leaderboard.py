"""The committed leaderboard is what its records say."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.core import plugins
from harness.experiment import plan
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan
from harness.results.store import Store
from harness.results.tables import Options, show
from tests.paths import ROOT

RESULTS = ROOT / "results"


def test_page_matches_the_records(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    show(Options(str(RESULTS / "leaderboard"), "markdown", output=str(page)))
    assert page.read_text() == (RESULTS / "README.md").read_text(), (
        "its records have changed, or how tables are written: make leaderboard"
    )


def test_there_are_records() -> None:
    assert len(list(Store(RESULTS / "leaderboard").runs())) >= 10


@pytest.mark.parametrize(
    "run", list(Store(RESULTS / "leaderboard").runs()), ids=lambda run: run.name
)
def test_records_are_whole(run: object) -> None:
    from harness.results.store import Run

    assert isinstance(run, Run)
    assert run.finished, run.problem
    assert (run.folder / "per_query.npz").is_file() and run.config()
    names = {path.name for path in run.folder.iterdir()}
    assert not names & {"checkpoint.pt"}, "an unfinished run is no record"


SYNTHETIC = {
    run.name: run.record
    for run in Store(RESULTS / "leaderboard").runs()
    if run.finished
    and run.record["dataset"]["name"] == "synthetic"
    and run.record["protocol"]["name"] == "demo"
}
MARKET = {
    run.name: run.record["protocol"]["weights"]
    for run in Store(RESULTS / "leaderboard").runs()
    if run.finished and run.record["protocol"]["name"] == "market1501_cpu"
}
#: name of a method or variant in records → as `method=` takes it
METHODS = {
    name: f"{method}/{variant}" if variant else method
    for method, plugin in plugins.find()["methods"].items()
    for variant in (None, *plugin.variants)
    for name in [f"{method}_{variant}" if variant else method]
}


@pytest.mark.parametrize("method", sorted({name.split("-")[0] for name in SYNTHETIC}))
def test_records_are_of_the_experiments_as_configured_now(method: str) -> None:
    """What a method's config says today is what is on the leaderboard, for each seed. Direct
    transfer also stands beside methods that choose a backbone, with theirs.
    """
    config = compose([f"method={METHODS[method]}", "dataset=synthetic", "seed=0"])
    now = make_plan(config, "fp32").name
    names = {name for name in SYNTHETIC if name.split("-")[0] == method}
    assert now in names, "its settings have changed: run it again"
    others = {name for name in names if name.split("-")[3] != now.split("-")[3]}
    assert not others or method == "direct_transfer", "of one setting"
    for name in others:
        card = SYNTHETIC[name]["protocol"]["hash"]
        beside = {n.split("-")[0] for n, r in SYNTHETIC.items() if r["protocol"]["hash"] == card}
        assert beside - {method} and card != SYNTHETIC[now]["protocol"]["hash"]


@pytest.mark.parametrize("method", sorted({name.split("-")[0] for name in MARKET}))
def test_records_of_market1501_cpu_are_of_today(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for the experiment on real images; the file of weights is known by its digest."""
    own = {name: weights for name, weights in MARKET.items() if name.split("-")[0] == method}
    (weights,) = set(own.values())
    monkeypatch.setattr(plan, "describe_weights", lambda value: weights)
    words = [f"method={METHODS[method]}", "+experiment=market1501_cpu", "backbone.weights=/a.pth"]
    now = make_plan(compose([*words, "seed=0"]), "bf16").name
    assert now in own, "its settings have changed: run it again"
    assert {name.split("-")[3] for name in own} == {now.split("-")[3]}, "of one setting"
