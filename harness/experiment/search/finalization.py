"""After the trials: presets of the best settings, runs on fresh seeds, and the search's record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import optuna
import yaml
from omegaconf import OmegaConf
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import HarnessError
from harness.core.files import write_json, write_text
from harness.core.metrics import METRICS
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.experiment.run import run_experiment
from harness.experiment.search.plan import PARTS, Plan
from harness.experiment.search.study import best_of, counted, seconds_of
from harness.results.store import Run


@dataclass(frozen=True)
class Result:
    """The result of a search.

    Attributes:
        default, tuned: finished runs of the default and of the best settings on the same seeds.
    """

    plan: Plan
    study: Study
    default: tuple[Run, ...] = ()
    tuned: tuple[Run, ...] = ()

    @cached_property
    def trials(self) -> list[FrozenTrial]:
        """Those that count."""
        return counted(self.study)

    @cached_property
    def front(self) -> list[FrozenTrial]:
        """With two objectives, the Pareto-optimal trials, the most accurate first."""
        front = self.study.best_trials if self.plan.settings.against is not None else []
        return sorted(front, key=lambda t: -t.values[0])

    @property
    def hours(self) -> float:
        """Device-hours of the trials."""
        return seconds_of(self.trials) / 3600

    @property
    def counts(self) -> dict[str, int]:
        """How many trials are complete, pruned and failed."""
        states = [t.state for t in self.trials]
        return {"complete": states.count(TrialState.COMPLETE),
                "pruned": states.count(TrialState.PRUNED),
                "failed": states.count(TrialState.FAIL)}  # fmt: skip

    @cached_property
    def best(self) -> FrozenTrial | None:
        """The best trial, None if no trial is complete."""
        return best_of(self.trials)

    @property
    def default_trial(self) -> FrozenTrial | None:
        """The trial with the default settings."""
        return next((t for t in self.trials if "default" in t.user_attrs), None)

    @property
    def best_is_default(self) -> bool:
        """Whether nothing better than the default was found."""
        return self.best is not None and self.best.params == self.plan.defaults

    @cached_property
    def importance(self) -> dict[str, float]:
        """Key → its share in the variance of the criterion (fANOVA); {} with too few trials."""
        try:
            return optuna.importance.get_param_importances(
                self.study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda trial: trial.values[0],
            )
        except (ValueError, RuntimeError):  # fewer than two trials, all equal, or no common key
            return {}

    def tuned_by(self, preset: str) -> dict[str, Any]:
        """The section `tuned` of a preset: where its settings come from, for protocol cards."""
        settings, method = self.plan.settings, self.plan.method
        return {"search": preset, "method": method, "criterion": settings.criterion,
                "by": settings.optimized, "trials": len(self.trials)}  # fmt: skip


def write_presets(result: Result) -> list[str]:
    """Write the best settings, and those of a Pareto front; returns names for `+search=NAME`."""
    settings, best = result.plan.settings, result.best
    if best is None:
        return []
    for path in settings.place.glob("preset-*.yaml"):
        path.unlink()  # more trials may have changed the front
    _write_preset(result, best, "", f"best by {settings.optimized}")
    suffixes = {f"-{t.number}": t for t in result.front if t.number != best.number}
    for suffix, trial in suffixes.items():
        _write_preset(result, trial, suffix, "on the Pareto front")
    return [settings.name + suffix for suffix in ("", *suffixes)]


def _write_preset(result: Result, trial: FrozenTrial, suffix: str, what: str) -> None:
    settings = result.plan.settings
    parts = [{f"override /{k}": v} for k, v in trial.params.items() if k in PARTS]
    node = OmegaConf.create({"defaults": parts} if parts else {})
    node.tuned = result.tuned_by(settings.name + suffix)
    for key, value in trial.params.items():
        if key not in PARTS:
            OmegaConf.update(node, key, value, force_add=True)
    text = yaml.safe_dump(OmegaConf.to_container(node), sort_keys=False, allow_unicode=True)
    number = f"{trial.number} of {len(result.trials)}"
    note = f"Trial {number} of the search '{settings.name}', {what}."
    write_text(settings.place / f"preset{suffix}.yaml", f"# @package _global_\n# {note}\n{text}")


def run_fresh_seeds(result: Result, say: Callable[[str], None]) -> Result:
    """Run the default and the best settings on seeds that no trial had, in the store of all runs.

    A seed on which either fails is left out.
    """
    plan, best, pairs = result.plan, result.best, list[tuple[Run, Run]]()
    if best is None:
        return result
    first = int(plan.base.seed) + plan.settings.seeds
    for seed in range(first, first + plan.settings.reproduce):
        configs = {"default": plan.compose({}), "tuned": plan.compose(best.params)}
        configs["tuned"].tuned = result.tuned_by(plan.settings.name)
        if result.best_is_default:
            configs.pop("tuned")
        runs = []
        for what, config in configs.items():
            config.seed = seed
            say(f"fresh seed {seed}, {what}")
            try:
                runs.append(run_experiment(config, Reporter()))
            except HarnessError as error:
                say(f"left out: {error.cause}")
        if len(runs) == len(configs):
            pairs.append((runs[0], runs[-1]))
    default, tuned = (tuple(pair[i] for pair in pairs) for i in (0, 1))
    return replace(result, default=default, tuned=tuned)


def write_record(result: Result) -> None:
    """Write `search.json` and `trials.csv` into the study's folder."""
    plan, settings, base = result.plan, result.plan.settings, result.plan.base
    identity = plan.identity
    record = {
        **settings.model_dump(include={"name", "criterion", "against", "sampler", "pruner"}),
        **{key: identity[key] for key in ("method", "dataset", "protocol", "seed", "sampler_seed")},
        "optimised": settings.optimized,
        "label_free": settings.label_free if settings.criterion == "label_free" else None,
        "protocol_card": plan.experiment.card,
        "default_settings": identity["other settings"],
        "space": plan.space.describe(),
        "storage": settings.storage.split("://")[0],
        "budget": {"trials": plan.trials, "hours": settings.hours},
        "trials": result.counts,
        "hours": round(result.hours, 4),
        "device": str(resolve_device(str(base.device))),
        "default": _described(result.default_trial),
        "best": _described(result.best),
        "front": [_described(trial) for trial in result.front],
        "importance": {key: round(value, 4) for key, value in result.importance.items()},
        "fresh": {"default": _metrics(result.default), "tuned": _metrics(result.tuned)},
    }
    write_json(settings.place / "search.json", record)
    table = result.study.trials_dataframe(("number", "state", "value", "params", "user_attrs"))
    table = table[table["number"].isin([t.number for t in result.trials if t.state.is_finished()])]
    table.columns = table.columns.str.replace("^(params|user_attrs)_", "", regex=True)
    objectives = ["value"] if settings.against is None else ["values_0", "values_1"]
    keys = [param.key for param in plan.space]
    columns = ["number", "state", *objectives, "seconds", *keys, "default", "same_as", "reason"]
    write_text(settings.place / "trials.csv", table.reindex(columns=columns).to_csv(index=False))


def _described(trial: FrozenTrial | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    values = trial.values if trial.state == TrialState.COMPLETE else []
    return {"trial": trial.number, "state": trial.state.name.lower(),
            "values": values, "settings": trial.params}  # fmt: skip


def _metrics(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "runs": [run.name for run in runs],
        "seeds": [run.record["experiment"]["seed"] for run in runs],
        **{key: [run.record["metrics"].get(key) for run in runs] for key in METRICS},
    }
