"""What a search shows: its page with plots, the last lines in the terminal, a table of budgets."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import optuna
import pandas as pd
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState

from harness.core.files import write_atomically, write_text
from harness.core.metrics import in_tables
from harness.core.tuned import row_mark
from harness.experiment.registration import search_folders
from harness.experiment.search.finalization import Result
from harness.experiment.search.worker import shown
from harness.results.significance_marks import LEVEL, Queries
from harness.results.store import Run

#: shown wherever settings were chosen by test mAP
WARNING = (
    "Settings were chosen by test mAP (oracle), so their test results do not estimate what they "
    "reach on other data."
)


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
    settings, own = result.plan.settings, ("search.", "store=", "name=")
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
