"""After the trials: presets of the best settings, runs on fresh seeds, the record and the page."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import pandas as pd
import yaml
from omegaconf import OmegaConf
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import HarnessError
from harness.core.files import write_atomically, write_json, write_text
from harness.core.metrics import METRICS, in_tables
from harness.core.plugins import PART_GROUPS
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.core.tuned import row_mark
from harness.experiment.registration import search_folders
from harness.experiment.run import run_experiment
from harness.experiment.search.plan import Plan
from harness.experiment.search.study import best_of, counted, seconds_of
from harness.experiment.search.worker import shown
from harness.results.significance_marks import LEVEL, Queries
from harness.results.store import Run

#: shown wherever settings were chosen by test mAP
WARNING = (
    "Settings were chosen by test mAP (oracle), so their test results do not estimate what they "
    "reach on other data."
)


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
        fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
        try:
            return optuna.importance.get_param_importances(
                self.study, evaluator=fanova, target=lambda trial: trial.values[0]
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
    parts = [{f"override /{k}": v} for k, v in trial.params.items() if k in PART_GROUPS]
    node = OmegaConf.create({"defaults": parts} if parts else {})
    node.tuned = result.tuned_by(settings.name + suffix)
    for key, value in trial.params.items():
        if key not in PART_GROUPS:
            OmegaConf.update(node, key, value, force_add=True)
    text = yaml.safe_dump(OmegaConf.to_container(node), sort_keys=False, allow_unicode=True)
    number = f"{trial.number} of {len(result.trials)}"
    note = f"Trial {number} of the search '{settings.name}', {what}."
    write_text(settings.place / f"preset{suffix}.yaml", f"# @package _global_\n# {note}\n{text}")


def run_fresh_seeds(result: Result, say: Callable[[str], None]) -> Result:
    """Run the default and the best settings on seeds that no trial had; skip failing seeds."""
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


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def budget(result: Result) -> str:
    """Trials and device time, planned and used."""
    hours = result.plan.settings.hours
    limit = "" if hours is None else f", at most {hours:g} device-hours"
    used = ", ".join(f"{count} {word}" for word, count in result.counts.items())
    return f"{result.plan.trials} trials{limit}; used {used}, {result.hours:.2f} device-hours"


def comparison(result: Result) -> list[str]:
    """A table of the default and the best settings on fresh seeds; [] if nothing was run."""
    if not result.default:
        return []
    if not result.default[0].record["metrics"]:
        return ["The data have no test part: fresh seeds were trained but not evaluated."]
    metrics, method, count = in_tables(), result.plan.method, len(result.default)
    rows = {method: result.default}
    if not result.best_is_default:
        mark = row_mark({"tuned": result.tuned_by(result.plan.settings.name)})
        rows[f"{method} [{mark}]"] = result.tuned
    head = [f"On {count} fresh seed{'s' * (count > 1)}", *(m.label for m in metrics.values())]
    lines = _table(head, [[name, *(_mean(r, m) for m in metrics)] for name, r in rows.items()])
    if result.best_is_default:
        return [*lines, "", "Nothing better than the default was found."]
    found = _difference(result)
    return lines if found is None else [*lines, "", found]


def _mean(runs: Sequence[Run], metric: str) -> str:
    """Mean ± standard deviation."""
    values = [run.record["metrics"][metric] for run in runs if run.record["metrics"]]
    if not values:
        return "–"
    std = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{std}"


def _difference(result: Result) -> str | None:
    """Tuned minus default by the paired bootstrap of tables; None without per-query results."""
    first = result.default[0]
    runs = [[run.name for run in each] for each in (result.tuned, result.default)]
    table = {
        "method": ["tuned", "default"],
        "runs": runs,
        "stage": list(first.record["stages"])[-1],
    }
    queries = Queries(first.folder.parent, pd.DataFrame(table))
    try:
        if queries.bootstrap is None:
            return None
        found = queries.pairs([("tuned", "default")], "mAP")[0].difference
    except KeyError:  # a run kept no results by query
        return None
    p = "p < 0.001" if found.p < 0.001 else f"p {found.p:.3f}"
    seeds = " and seeds" if min(found.seeds) > 1 else ""
    return (
        f"Tuned minus default: {found.value:+.1f} mAP, {LEVEL:.0%} interval {found.low:+.1f} to "
        f"{found.high:+.1f}, {p} (paired bootstrap over identities{seeds})."
    )


def write_page(result: Result, names: Sequence[str]) -> None:
    """Write README.md, with the presets' names, and its plots into the study's folder."""
    plan, settings, best = result.plan, result.plan.settings, result.best
    lines = [
        f"# Search `{settings.name}`",
        "",
        f"{plan.method} on {plan.base.dataset.name}, protocol {plan.base.protocol.name}. "
        f"Optimized: {settings.optimized}. Sampler {settings.sampler}, pruner {settings.pruner}. "
        f"Budget: {budget(result)}.",
        "",
        "Written by `harness search`. `trials.csv` holds every trial, `search.json` the rest.",
    ]
    if settings.criterion == "last_val":
        lines += ["", "The criterion uses identities of the training set to choose settings. No "
                      "trial trained on the held-out identities or read the test set."]  # fmt: skip
    if settings.criterion == "oracle":
        lines += ["", f"**{WARNING}**"]
    if best is None:
        lines += ["", "No trial was completed."]
    else:
        named = [("default", result.default_trial), ("best", best)]
        named += [("Pareto front", t) for t in result.front if t.number != best.number]
        against = [settings.against.replace("_", " ")] if settings.against else []
        head = ["", "criterion", *against, *(param.key for param in plan.space)]
        rows = [[f"{word} (trial {t.number})", *_trial(result, t)] for word, t in named if t]
        presets = ", ".join(f"`+search={name}`" for name in names)
        lines += ["", *_table(head, rows), *(["", *fresh] if (fresh := comparison(result)) else [])]
        lines += ["", f"Presets: {presets}, as in `{command(result)}`."]
        if settings.plots:
            lines += ["", *(f"![{name}]({name}.png)" for name in _draw_plots(result))]
    write_text(settings.place / "README.md", "\n".join([*lines, ""]))


def _trial(result: Result, trial: FrozenTrial) -> list[str]:
    """Objectives and settings."""
    complete = trial.state == TrialState.COMPLETE
    values = trial.values if complete else ["–"] * len(result.study.directions)
    return [shown(v) for v in (*values, *(trial.params.get(p.key, "") for p in result.plan.space))]


def _draw_plots(result: Result) -> list[str]:
    """Write Optuna's plots of the criterion; returns their names."""
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as plots

    settings = result.plan.settings
    criterion = settings.column.removeprefix("label_free_")
    named: dict[str, Any] = {"target": lambda trial: trial.values[0], "target_name": criterion}
    drawn: dict[str, Callable[..., Any]] = {
        "history": partial(plots.plot_optimization_history, **named),
        "slice": partial(plots.plot_slice, **named),
    }
    if result.importance:
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        drawn["importance"] = partial(plots.plot_param_importances, evaluator=evaluator, **named)
    if settings.against is not None:
        labels = [criterion, settings.against.replace("_", " ")]
        drawn["front"] = partial(plots.plot_pareto_front, target_names=labels)
    for name, draw in drawn.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", (ExperimentalWarning, UserWarning))
            figure = np.ravel(np.asarray(draw(result.study)))[0].figure
        save = partial(figure.savefig, format="png", dpi=80, bbox_inches="tight")
        write_atomically(settings.place / f"{name}.png", save)
        matplotlib.pyplot.close(figure)
    return list(drawn)


def command(result: Result) -> str:
    """The command that runs the best settings on the same data."""
    settings, own = result.plan.settings, ("search.", "store=")
    words = [w for w in result.plan.overrides if not w.lstrip("+~").startswith(own)]
    run = shlex.join(["harness", "run", *words, f"+search={settings.name}"])
    found = settings.folder.absolute() in map(Path.absolute, search_folders())
    return run if found else f"HARNESS_SEARCHES={shlex.quote(str(settings.folder))} {run}"


def last_lines(result: Result) -> list[str]:
    """What the terminal shows at the end."""
    settings, best = result.plan.settings, result.best
    lines = [f"\n{settings.name}: {budget(result)}"]
    if best is None:
        return [*lines, "No trial was completed: there are no settings to run."]
    lines += comparison(result)
    if result.best_is_default:
        lines.append("The best trial is the default.")
    lines.append(f"best: {', '.join(f'{key}={value}' for key, value in best.params.items())}")
    return [*lines, f"run it: {command(result)}", f"see {settings.place}/README.md"]


def budgets(results: Sequence[Result]) -> list[str]:
    """A Markdown table of several searches, and how much each was given."""
    settings = results[0].plan.settings
    hours = "no time limit" if settings.hours is None else f"{settings.hours:g} device-hours"
    head = ["Method", "Default mAP", "Tuned mAP", "Trials (complete, pruned, failed)",
            "Device-hours"]  # fmt: skip
    rows = []
    for result in results:
        counts = result.counts.values()
        tuned = "the default" if result.best_is_default else _mean(result.tuned, "mAP")
        trials = f"{sum(counts)} ({', '.join(map(str, counts))})"
        rows.append([result.plan.method, _mean(result.default, "mAP"), tuned, trials,
                     f"{result.hours:.2f}"])  # fmt: skip
    text = (
        f"The same budget for each: {settings.trials} trials, {hours}, the published defaults as "
        f"the first trial. Optimized: {settings.optimized}. mAP on the test set, mean ± standard "
        f"deviation over {settings.reproduce} fresh seeds."
    )
    return [*_table(head, rows), "", text, *([WARNING] if settings.criterion == "oracle" else [])]
