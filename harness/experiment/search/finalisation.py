"""After the search: the best configuration as a preset, run on fresh seeds beside the default."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import HarnessError
from harness.core.files import write_json, write_text
from harness.core.metrics import in_tables
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.experiment.model_loading import find_teachers
from harness.experiment.naming import settings_hash
from harness.experiment.protocol import card_hash, protocol_card
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.experiment.search.plan import Plan
from harness.experiment.search.preset import with_tuned, write_preset
from harness.experiment.search.space import Values
from harness.experiment.search.storage import hidden
from harness.experiment.search.study import best_of
from harness.experiment.search.trial_statistics import counted, reason, seconds_of
from harness.results.store import Run

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What a search has come to.

    Attributes:
        trials: those that count. best: None where none was completed. front: with two objectives,
            those that no other beats in both.
        default, tuned: finished runs on the same fresh seeds; () where there are none.
    """

    plan: Plan
    trials: tuple[FrozenTrial, ...]
    best: FrozenTrial | None
    front: tuple[FrozenTrial, ...]
    default: tuple[Run, ...] = ()
    tuned: tuple[Run, ...] = ()

    @property
    def hours(self) -> float:
        """Device time of the trials."""
        return seconds_of(list(self.trials)) / 3600

    def count(self, state: TrialState) -> int:
        """How many trials ended so."""
        return sum(t.state == state for t in self.trials)

    @property
    def best_is_default(self) -> bool:
        """Whether nothing better than the default was found."""
        return self.best is not None and self.values(self.best) == self.plan.defaults

    def values(self, trial: FrozenTrial) -> Values:
        """What a trial set, as configurations have it."""
        return self.plan.space.decode(trial.params)

    def fresh_seeds(self) -> list[int]:
        """Seeds that no trial had."""
        first = int(self.plan.base.seed) + self.plan.settings.seeds
        return list(range(first, first + self.plan.settings.reproduce))

    def same_protocol(self) -> bool:
        """Whether the best and the default hold the same equal, so that they may share a table."""
        if self.best is None:
            return True
        cards = [
            protocol_card(config, str(config.train.precision))
            for config in (self.plan.base, self.plan.compose(self.values(self.best)))
        ]
        return card_hash(cards[0]) == card_hash(cards[1])


def conclude(plan: Plan, study: Study) -> Outcome:
    """What the trials of a study come to; nothing is run."""
    trials = tuple(counted(study.get_trials()))
    best = best_of(list(trials))
    front: tuple[FrozenTrial, ...] = ()
    if plan.settings.against is not None and best is not None:
        ours = {t.number for t in trials}
        front = tuple(
            sorted((t for t in study.best_trials if t.number in ours), key=lambda t: -t.values[0])
        )
    return Outcome(plan, trials, best, front)


def write_presets(outcome: Outcome) -> list[str]:
    """Write what was found; returns the names for `+search=`."""
    plan, best = outcome.plan, outcome.best
    if best is None:
        return []
    place, name, total = plan.settings.place, plan.settings.name, len(outcome.trials)
    by = plan.settings.optimised
    note = f"Trial {best.number} of {total} of the search '{name}', the best by {by}."
    for path in place.glob("preset-*.yaml"):
        path.unlink()  # of a front that more trials may have moved
    write_preset(place / "preset.yaml", plan, outcome.values(best), total, name, note)
    names = [name]
    for trial in outcome.front:
        if trial.number != best.number:
            note = f"Trial {trial.number} of {total} of the search '{name}', on its Pareto front."
            path, other = place / f"preset-{trial.number}.yaml", f"{name}-{trial.number}"
            write_preset(path, plan, outcome.values(trial), total, other, note)
            names.append(other)
    return names


def reproduce(outcome: Outcome, say: Say) -> Outcome:
    """Run the default and the best on fresh seeds, in the store of all runs.

    A run that fails is told of and left out, with its seed.
    """
    plan, best, seeds = outcome.plan, outcome.best, outcome.fresh_seeds()
    if best is None or not seeds:
        return outcome
    pairs: list[tuple[Run, Run]] = []
    for seed in seeds:
        default = plan.base.copy()
        configs = [default, with_tuned(plan, outcome.values(best), len(outcome.trials))]
        if outcome.best_is_default:
            configs = [default]
        runs = []
        for what, config in zip(("default", "tuned"), configs, strict=False):
            config.seed = seed
            say(f"fresh seed {seed}, {what}")
            try:
                runs.append(run_experiment(config, Reporter()))
            except HarnessError as error:
                say(f"left out: {error.cause}")
        if len(runs) == len(configs):
            pairs.append((runs[0], runs[-1]))
    return Outcome(
        plan, outcome.trials, best, outcome.front,
        tuple(a for a, _ in pairs), tuple(b for _, b in pairs),
    )  # fmt: skip


def spread(runs: Sequence[Run], metric: str) -> tuple[float, float] | None:
    """Mean and standard deviation (NaN of one run); None where nothing was evaluated."""
    values = [run.record["metrics"][metric] for run in runs if run.record["metrics"]]
    if not values:
        return None
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float(
        "nan"
    )


def describe(outcome: Outcome, importance: dict[str, float]) -> dict[str, Any]:
    """The record of a search: all but the trials."""
    plan, settings = outcome.plan, outcome.plan.settings
    config = plan.base
    precision = str(config.train.precision)

    def fresh(runs: Sequence[Run]) -> dict[str, Any]:
        return {
            "runs": [run.name for run in runs],
            "seeds": [run.record["experiment"]["seed"] for run in runs],
            **{m: [run.record["metrics"].get(m) for run in runs] for m in in_tables()},
        }

    return {
        "name": settings.name,
        **{k: plan.identity[k] for k in ("method", "dataset", "protocol", "optimised")},
        "criterion": settings.criterion,
        "label_free": settings.label_free if settings.criterion == "label_free" else None,
        "against": settings.against,
        "protocol_card": protocol_card(config, precision),
        "default_settings": settings_hash(
            config, precision, find_teachers(config, make_recipe(config))[1]
        ),
        "space": plan.space.describe(),
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "sampler_seed": settings.seed,
        "seed": int(config.seed),
        "storage": hidden(settings.storage).split("://")[0],
        "budget": {"trials": settings.trials, "hours": settings.hours},
        "trials": {
            "complete": outcome.count(TrialState.COMPLETE),
            "pruned": outcome.count(TrialState.PRUNED),
            "failed": outcome.count(TrialState.FAIL),
        },
        "hours": round(outcome.hours, 4),
        "device": str(resolve_device(str(config.device))),
        "default": _told(
            outcome, next((t for t in outcome.trials if "default" in t.user_attrs), None)
        ),
        "best": _told(outcome, outcome.best),
        "front": [_told(outcome, trial) for trial in outcome.front],
        "importance": {key: round(value, 4) for key, value in importance.items()},
        "fresh": {"default": fresh(outcome.default), "tuned": fresh(outcome.tuned)},
    }


def _told(outcome: Outcome, trial: FrozenTrial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    values = list(trial.values or []) if trial.state == TrialState.COMPLETE else []
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "values": values,
        "settings": outcome.values(trial),
    }


def trials_csv(outcome: Outcome) -> str:
    """A row a trial: number, state, objectives, seconds, settings, and why it failed."""
    keys = [param.key for param in outcome.plan.space]
    against = [outcome.plan.settings.against] if outcome.plan.settings.against else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", "state", "criterion", *against, "epochs", "seconds", *keys, "note"])
    for t in outcome.trials:
        if not t.state.is_finished():
            continue
        objectives = list(t.values or []) if t.state == TrialState.COMPLETE else []
        objectives += [""] * (1 + len(against) - len(objectives))
        shown = [round(v, 4) if isinstance(v, float) else v for v in objectives]
        settings = [t.params.get(key, "") for key in keys]
        note = (
            reason(t)
            if t.state == TrialState.FAIL
            else f"as trial {t.user_attrs['same_as']}"
            if "same_as" in t.user_attrs
            else "default"
            if "default" in t.user_attrs
            else ""
        )
        writer.writerow(
            [t.number, t.state.name.lower(), *shown, len(t.intermediate_values),
             t.user_attrs.get("seconds", ""), *settings, note]
        )  # fmt: skip
    return text.getvalue()


def write_record(outcome: Outcome, importance: dict[str, float], page: str) -> None:
    """`search.json`, `trials.csv` and `README.md` in the study's folder."""
    place = outcome.plan.settings.place
    write_json(place / "search.json", describe(outcome, importance))
    write_text(place / "trials.csv", trials_csv(outcome))
    write_text(place / "README.md", page)
