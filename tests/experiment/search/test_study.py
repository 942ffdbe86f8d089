"""Studies: trials in order, failures, budgets, resuming, workers that die."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError, DataError, HarnessError, TrainingError
from harness.experiment.search import command
from harness.experiment.search import plan as plans
from harness.experiment.search import worker as trials
from harness.experiment.search.plan import Plan, make_plan
from harness.experiment.search.study import counted, open_study, reason
from harness.experiment.search.worker import heartbeat, requeue_abandoned
from tests.experiment.search.small import EPS, pretend, search, small

Planned = Callable[..., Plan]
STORAGES = ["journal", pytest.param("sqlite", marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def plan() -> Plan:
    """A search for eps alone, of two epochs a trial."""
    return make_plan(small(Path("unused"), *EPS, "search.pruner=none"))


@pytest.fixture
def planned(plan: Plan, tmp_path: Path) -> Planned:
    """`planned(trials=3)`: the plan with other settings, in this test's folder."""

    def change(**settings: Any) -> Plan:
        return replace(
            plan, settings=plan.settings.model_copy(update={"folder": tmp_path, **settings})
        )

    return change


def near_half(config: DictConfig, epoch: int) -> float:
    """A mAP that is best at eps 0.5, and rises with epochs."""
    return 50 - 100 * abs(float(config.labeler.eps) - 0.5) + epoch


def run(plan: Plan, monkeypatch: pytest.MonkeyPatch, fake_run: Any = None) -> list[str]:
    """Search with runs that only pretend to train; returns the lines said."""
    monkeypatch.setattr(trials, "run_experiment", fake_run or pretend(near_half))
    said: list[str] = []
    command.search(plan, said.append)
    return said


def study_of(plan: Plan) -> Study:
    """The study of a plan."""
    return open_study(plan)


def ended(plan: Plan) -> list[FrozenTrial]:
    """The trials that count."""
    return counted(study_of(plan))


def test_the_first_trial_is_the_default(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(trials=4)
    said = run(plan, monkeypatch)
    first, *others = ended(plan)
    assert first.params == {"labeler.eps": 0.6} and first.user_attrs["default"]
    assert [t.state for t in others] == [TrialState.COMPLETE] * 3
    assert len({t.params["labeler.eps"] for t in others}) == 3
    assert first.values == [pytest.approx(50 - 10 + 1)]
    assert first.intermediate_values == {0: pytest.approx(40), 1: pytest.approx(41)}
    assert any("(4/4)" in line for line in said)
    assert "default: eps 0.6" in " ".join(said)


def test_the_same_command_goes_on(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DictConfig] = []
    fake_run = pretend(near_half, seen)
    run(planned(trials=2), monkeypatch, fake_run)
    run(planned(trials=2), monkeypatch, fake_run)
    assert len(seen) == 2, "a finished study runs nothing"
    run(planned(trials=5), monkeypatch, fake_run)
    assert len(seen) == 5
    # the sampler draws for trial n what it would have drawn without a stop
    other = planned(trials=5, name="other")
    run(other, monkeypatch)
    assert [t.params for t in ended(planned(trials=5))] == [t.params for t in ended(other)]


def test_a_failed_trial_says_why_and_the_search_goes_on(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    problems = [
        None, TrainingError("no clusters"), torch.OutOfMemoryError("CUDA out of memory"),
        ValueError("a bug\nof two lines"), RuntimeError("DefaultCPUAllocator: not enough memory"),
    ]  # fmt: skip
    good = pretend(near_half)
    count = iter(range(99))

    def fake_run(config: DictConfig, reporter: Any) -> Any:
        problem = dict(enumerate(problems)).get(next(count))
        if problem is not None:
            raise problem
        return good(config, reporter)

    plan = planned(trials=6)
    said = run(plan, monkeypatch, fake_run)
    found = ended(plan)
    assert [t.state.name for t in found] == ["COMPLETE", *["FAIL"] * 4, "COMPLETE"]
    assert [reason(t) for t in found[1:5]] == [
        "no clusters", "out of memory", "ValueError: a bug", "out of memory",
    ]  # fmt: skip
    assert any("failed: no clusters" in line for line in said)
    assert "no clusters" in (plan.settings.place / "trials.csv").read_text()


@pytest.mark.parametrize(
    ("begins_well", "problem", "trials_then"),
    [
        (False, TrainingError("no clusters"), 3),  # nothing ever succeeds
        (True, HarnessError("The disk is full"), 4),
        (True, TrainingError("no clusters"), 6),  # a wide space: that is what a search is for
    ],
)
def test_it_gives_up_where_it_is_not_the_settings(
    planned: Planned,
    monkeypatch: pytest.MonkeyPatch,
    begins_well: bool,
    problem: HarnessError,
    trials_then: int,
) -> None:
    good = pretend(near_half)

    def fake_run(config: DictConfig, reporter: Any) -> Any:
        if begins_well and config.labeler.eps == 0.6:
            return good(config, reporter)
        raise problem

    plan = planned(trials=6, failures=3)
    if trials_then == 6:
        run(plan, monkeypatch, fake_run)
    else:
        with pytest.raises(HarnessError, match=f"last 3 trials failed: {problem.cause}"):
            run(plan, monkeypatch, fake_run)
    assert len(ended(plan)) == trials_then


def test_missing_data_stop_the_search_and_cost_no_trial(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake_run(config: DictConfig, reporter: Any) -> None:
        raise DataError("an image is gone")

    plan = planned(trials=2)
    with pytest.raises(DataError):
        run(plan, monkeypatch, fake_run)
    (waiting,) = ended(plan)
    assert waiting.state == TrialState.WAITING and waiting.params == {"labeler.eps": 0.6}
    run(plan, monkeypatch)
    assert [t.state for t in ended(plan)] == [TrialState.COMPLETE] * 2
    assert (plan.settings.place / "trials" / "trial-0000").is_dir()


def test_ctrl_c_leaves_a_trial_that_goes_on(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(config: DictConfig, epoch: int) -> float:
        if epoch == 1 and config.labeler.eps != 0.6:
            raise KeyboardInterrupt
        return near_half(config, epoch)

    plan = planned(trials=3)
    with pytest.raises(KeyboardInterrupt):
        run(plan, monkeypatch, pretend(stopped))
    first, second = ended(plan)
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.WAITING)
    seen: list[DictConfig] = []
    run(plan, monkeypatch, pretend(near_half, seen))
    assert [c.name for c in seen] == ["trial-0001", "trial-0003"], "in its own folder"
    after = ended(plan)
    assert [t.state for t in after] == [TrialState.COMPLETE] * 3
    assert after[1].params == second.params
    assert set(after[1].intermediate_values) == {0, 1}


@pytest.mark.parametrize("storage", STORAGES)
def test_a_dead_workers_trial_is_retried(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, storage: str
) -> None:
    def killed(config: DictConfig, epoch: int) -> float:
        if epoch == 1:
            raise SystemExit  # not caught: the trial stays RUNNING
        return near_half(config, epoch)

    plan = planned(trials=2, storage=storage)
    with pytest.raises(SystemExit):
        run(plan, monkeypatch, pretend(killed))
    assert [t.state for t in ended(plan)] == [TrialState.RUNNING]
    time.sleep(4.1)  # more than three heartbeats
    seen: list[DictConfig] = []
    run(plan, monkeypatch, pretend(near_half, seen))
    assert {c.name for c in seen} == {"trial-0000", "trial-0002"}
    every = study_of(plan).get_trials()
    assert [t.state.name for t in every] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert every[1].user_attrs["resumes"] == [0]
    assert [t.number for t in ended(plan)] == [1, 2]
    assert "default" in ended(plan)[0].user_attrs


@pytest.mark.parametrize("storage", STORAGES)
def test_a_live_worker_keeps_its_trial(planned: Planned, storage: str) -> None:
    plan = planned(storage=storage)
    study = study_of(plan)
    silent, alive = study.ask(), study.ask()
    with heartbeat(alive, plan.settings.heartbeat):
        time.sleep(4.1)
        requeue_abandoned(study_of(plan), plan)  # another worker
        requeue_abandoned(study, plan)
    states = [t.state.name for t in study.get_trials()]
    assert states == ["FAIL", "RUNNING", "WAITING"], "only the silent one, and only once"
    assert study.get_trials()[2].user_attrs["resumes"] == [silent.number]


@pytest.mark.slow
def test_after_some_retries_it_is_given_up(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(config: DictConfig, epoch: int) -> float:
        if config.labeler.eps == 0.6:
            raise SystemExit
        return near_half(config, epoch)

    plan = planned(trials=2, retries=1)
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(plan, monkeypatch, pretend(killed))
        time.sleep(4.1)
    run(plan, monkeypatch, pretend(killed))
    given_up, other = sorted(ended(plan), key=lambda t: t.number)
    assert (given_up.state, other.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert reason(given_up) == "its worker died repeatedly"


def test_many_workers_run_as_many_trials_as_were_asked_for(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[DictConfig] = []

    def slow(config: DictConfig, epoch: int) -> float:
        time.sleep(0.05)
        return near_half(config, epoch)

    monkeypatch.setattr(trials, "run_experiment", pretend(slow, seen))
    plan = planned(trials=8)
    workers = [
        threading.Thread(target=command.search, args=(plan, lambda line: None)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    found = ended(plan)
    assert len(found) == 8 and all(t.state == TrialState.COMPLETE for t in found)
    assert len({t.params["labeler.eps"] for t in found}) == 8, "all draw different values"
    assert len({c.name for c in seen}) == len(seen), "nothing was run twice"
    assert sum("default" in t.user_attrs for t in found) == 1


def test_workers_that_begin_at_once_share_one_study(planned: Planned) -> None:
    """They used to lay out the database's tables at once, and all but one failed."""
    plan = planned(storage="sqlite")
    together, opened = threading.Barrier(4), []

    def begin() -> None:
        together.wait()
        opened.append(study_of(plan).get_trials())

    workers = [threading.Thread(target=begin) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(opened) == 4, "none was refused"
    assert len(ended(plan)) == 1, "one default trial"


def test_the_same_values_are_not_run_again(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(trials=2)
    run(plan, monkeypatch)
    study = study_of(plan)
    study.enqueue_trial({"labeler.eps": 0.6})
    seen: list[DictConfig] = []
    plan = planned(trials=3)
    said = run(plan, monkeypatch, pretend(near_half, seen))
    assert not seen
    again = ended(plan)[-1]
    assert again.values == ended(plan)[0].values and again.user_attrs["same_as"] == 0
    assert any("the same as trial 0" in line for line in said)


def test_hopeless_trials_are_pruned_but_never_the_default(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default is the worst here, and the first of all."""

    def value(config: DictConfig, epoch: int) -> float:
        good = {0.6: -1.0}.get(config.labeler.eps, 10.0 - int(config.name[-4:]))
        return good + epoch

    plan = planned(trials=12, pruner="median", sampler="random")
    run(plan, monkeypatch, pretend(value))
    found = ended(plan)
    pruned = [t for t in found if t.state == TrialState.PRUNED]
    assert found[0].state == TrialState.COMPLETE and pruned
    # warm-up is an epoch here, so all that is pruned is so at the second look
    assert {len(t.intermediate_values) for t in pruned} == {2}
    assert not list(plan.settings.place.glob("trials/*/*.pt"))


@pytest.mark.slow
@pytest.mark.parametrize("pruner", ["hyperband", "halving"])
def test_other_pruners(planned: Planned, monkeypatch: pytest.MonkeyPatch, pruner: str) -> None:
    plan = planned(trials=9, pruner=pruner, sampler="random")

    def value(config: DictConfig, epoch: int) -> float:
        return -float(int(config.name[-4:]))

    run(plan, monkeypatch, pretend(value))
    assert {t.state for t in ended(plan)} == {TrialState.COMPLETE, TrialState.PRUNED}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "sampler", ["tpe", *(pytest.param(s, marks=SLOW) for s in ("random", "gp", "cmaes"))]
)
def test_samplers_find_the_optimum_again(
    planned: Planned, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    if sampler == "cmaes":
        pytest.importorskip("cmaes")
    drawn = []
    for name in ("one", "other"):
        plan = planned(trials=14, sampler=sampler, name=name)
        run(plan, monkeypatch)
        drawn.append([t.params["labeler.eps"] for t in ended(plan)])
    assert drawn[0] == drawn[1] and len(set(drawn[0])) == 14
    assert min(abs(eps - 0.5) for eps in drawn[0]) < 0.05


def test_a_grid_ends_with_its_last_combination(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(
        small(tmp_path, *EPS, "search.sampler=grid", "+search.space.labeler.eps.step=0.05",
              "search.trials=50")
    )  # fmt: skip
    assert plan.trials == 9
    run(plan, monkeypatch)
    found = sorted(t.params["labeler.eps"] for t in ended(plan))
    assert found == pytest.approx([0.35 + 0.05 * i for i in range(9)])
    with pytest.raises(ConfigError, match="finitely many"):
        make_plan(small(tmp_path, *EPS, "search.sampler=grid"))


def test_device_hours_end_a_search_within_a_trial(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    fake_time = SimpleNamespace(**{**vars(time), "monotonic": lambda: clock[0]})
    monkeypatch.setattr(trials, "time", fake_time)

    def takes_time(config: DictConfig, epoch: int) -> float:
        clock[0] += 0.35
        return near_half(config, epoch)

    plan = planned(trials=50, hours=1.0 / 3600)
    said = run(plan, monkeypatch, pretend(takes_time))
    first, second = ended(plan)
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.WAITING)
    before = study_of(plan).get_trials()[1]
    assert before.user_attrs["seconds"] == 0.35, "one of its two epochs"
    assert any("are used up" in line for line in said)
    run(planned(trials=3), monkeypatch)  # more time: the one that was stopped goes on
    assert [t.state for t in ended(plan)] == [TrialState.COMPLETE] * 3


def test_two_objectives_make_a_front(planned: Planned, monkeypatch: pytest.MonkeyPatch) -> None:
    """mAP is best at eps 0.5, throughput (as pretended) at the highest eps."""
    plan = planned(trials=12, against="images_per_second", sampler="random")
    run(plan, monkeypatch)
    found = ended(plan)
    assert all(len(t.values) == 2 for t in found)
    names = {p.name for p in plan.settings.place.glob("preset*.yaml")}
    page = (plan.settings.place / "README.md").read_text()
    assert "preset.yaml" in names and len(names) >= 2
    for path in plan.settings.place.glob("preset-*.yaml"):
        assert f"search: s-{path.stem.split('-')[1]}\n" in path.read_text()
    assert "Pareto front (trial" in page and "images per second" in page
    beaten = [t for t in found if t.params["labeler.eps"] < 0.4]
    assert all(f"preset-{t.number}.yaml" not in names for t in beaten)


def test_speeds_of_different_machines_are_not_compared(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(planned(trials=1, name="accuracy alone"), monkeypatch)
    run(planned(trials=1, against="images_per_second"), monkeypatch)
    study_of(planned(trials=1, against="images_per_second"))
    monkeypatch.setattr(plans, "cpu_name", lambda: "a faster one, 64 cores", raising=False)
    study_of(planned(trials=1, name="accuracy alone"))
    with pytest.raises(
        ConfigError, match=r"workers on equal ones.*not CPU, a faster one, 64 cores"
    ):
        study_of(planned(trials=1, against="images_per_second"))


def test_a_trial_of_several_seeds_is_their_mean(
    planned: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[DictConfig] = []
    stopped = [True]

    def value(config: DictConfig, epoch: int) -> float:
        if config.seed == 1 and stopped and stopped.pop():
            raise KeyboardInterrupt
        return near_half(config, epoch) + 3 * int(config.seed)

    plan = planned(trials=2, seeds=2)
    with pytest.raises(KeyboardInterrupt):
        run(plan, monkeypatch, pretend(value))
    run(plan, monkeypatch, pretend(value, seen))
    names = ["trial-0000", "trial-0000-1", "trial-0002", "trial-0002-1"]
    assert [(c.name, c.seed) for c in seen] == list(zip(names, [0, 1, 0, 1], strict=True))
    first, _ = ended(plan)
    assert first.values == [pytest.approx(41 + 1.5)]
    # two epochs per run; the second run reports the mean with the first
    assert first.intermediate_values == pytest.approx({0: 40, 1: 41, 2: 42, 3: 42.5})
    assert plan.settings.optimized.endswith("mean of 2 seeds")


def test_another_search_of_the_same_name_is_refused(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = replace(
        plan,
        settings=plan.settings.model_copy(update={"folder": tmp_path / "searches", "trials": 1}),
    )
    run(first, monkeypatch)
    for overrides, message in (
        (["search.space.labeler.eps.low=0.4"], ["space of labeler.eps"]),
        (["search.criterion=oracle", "search.sampler=random"],
         ["optimized: mAP on 40% of the training people", "sampler: tpe, not random"]),
        (["search.held_out=0.404"], ["mAP on 40% of", "not mAP on 40.4% of"]),
        (["train.epochs=3", "seed=3"], ["other settings", "seed: 0, not 3"]),
        (["method=cap"], ["method: cluster_contrast, not cap"]),
    ):  # fmt: skip
        other = make_plan(small(tmp_path, *EPS, "search.pruner=none", *overrides))
        with pytest.raises(ConfigError, match="belongs to another search") as error:
            study_of(other)
        assert all(text in error.value.cause for text in message)
        assert "search.name" in error.value.hint


def test_a_stopped_trial_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real runs: stopped within, the trial ends with the numbers of one never stopped."""
    options = [*EPS, "search.trials=1", "train.epochs=3"]
    search(tmp_path / "whole", *options)
    watch = trials.Objective._watch
    looks = []

    def stop(self: Any, *arguments: Any) -> None:
        looks.append(arguments)
        if len(looks) == 3:  # two epochs are in the checkpoint
            raise KeyboardInterrupt
        watch(self, *arguments)

    monkeypatch.setattr(trials.Objective, "_watch", stop)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "stopped", *options)
    monkeypatch.undo()
    search(tmp_path / "stopped", *options)
    log = (
        tmp_path / "stopped" / "searches" / "s" / "trials" / "trial-0000" / "log.txt"
    ).read_text()
    assert "going on with epoch 2" in log
    values = []
    for name in ("whole", "stopped"):
        csv = (tmp_path / name / "searches" / "s" / "trials.csv").read_text().splitlines()
        values.append(csv[1].split(",")[1:3])
    assert values[0] == values[1] and values[0][0] == "COMPLETE"
    assert not list(tmp_path.glob("*/searches/s/trials/*/*.pt")), "no weights are left"
