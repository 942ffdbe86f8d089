"""What a search tells people: the end in the terminal, a page in its folder, a table of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from optuna.trial import TrialState

from harness.core.metrics import METRICS
from harness.core.tuned import ORACLE
from harness.experiment.search.finalisation import Outcome, spread
from harness.results.significance import Bootstrap, Difference
from harness.results.significance_marks import LEVEL
from harness.results.store import Run

SHOWN = ("mAP", "rank1", "mINP")
#: said wherever settings were chosen by test mAP
WARNING = (
    "Settings were chosen by test mAP (oracle): what they reach on the test set is no estimate of "
    "what they would reach elsewhere."
)


def row_names(outcome: Outcome) -> tuple[str, str]:
    """How the default and the best are called in tables."""
    method, settings = outcome.plan.recipe.method, outcome.plan.settings
    on_test = f" {ORACLE}" if settings.criterion == "oracle" else ""
    return method, f"{method} [tuned{on_test}: {settings.name}]"


def budget(outcome: Outcome) -> str:
    """Trials and device time, planned and used."""
    settings = outcome.plan.settings
    hours = "" if settings.hours is None else f", {settings.hours:g} device-hours at most"
    states = [
        f"{outcome.count(state)} {word}"
        for state, word in (
            (TrialState.COMPLETE, "complete"), (TrialState.PRUNED, "pruned"),
            (TrialState.FAIL, "failed"),
        )
    ]  # fmt: skip
    return (
        f"{outcome.plan.trials} trials{hours}; used {', '.join(states)}, "
        f"{outcome.hours:.2f} device-hours"
    )


def comparison(outcome: Outcome) -> list[str]:
    """A Markdown table of the default and the best on fresh seeds; [] where nothing was run."""
    if not outcome.default:
        return []
    if spread(outcome.default, "mAP") is None:
        return ["The data have no test part: nothing was evaluated on fresh seeds."]
    count = len(outcome.default)
    lines = [
        f"| On {count} fresh seed{'s' * (count > 1)} | "
        + " | ".join(METRICS[m].label for m in SHOWN)
        + " |",
        "| --- |" + " ---: |" * len(SHOWN),
    ]
    rows = list(zip(row_names(outcome), (outcome.default, outcome.tuned), strict=True))
    for name, runs in rows[: 1 if outcome.best_is_default else 2]:
        lines.append(f"| {name} | " + " | ".join(_cell(runs, m) for m in SHOWN) + " |")
    if outcome.best_is_default:
        return [*lines, "", "Nothing better than the default was found."]
    found = difference(outcome.tuned, outcome.default)
    if found is not None:
        lines += ["", _difference(found)]
    if not outcome.same_protocol():
        lines += ["", "The search changed what a protocol holds equal: the two rows are of "
                      "different protocols, and `harness table` keeps them apart."]  # fmt: skip
    return lines


def _cell(runs: Sequence[Run], metric: str) -> str:
    found = spread(runs, metric)
    if found is None:
        return "–"
    mean, std = found
    return f"{mean:.1f}" if std != std else f"{mean:.1f} ± {std:.1f}"


def difference(a: Sequence[Run], b: Sequence[Run]) -> Difference | None:
    """mAP of A minus that of B, by the paired bootstrap of tables; None without per-query APs."""
    import numpy as np

    values, people, valid = [], None, None
    for runs in (a, b):
        aps = []
        for run in runs:
            stage = list(run.record["stages"])[-1]
            try:
                with np.load(run.folder / "per_query.npz") as arrays:
                    aps.append(100.0 * arrays[f"{stage}_ap"].astype(float))
                    people = arrays["query_identity"]
                    found = arrays[f"{stage}_first_match_rank"] > 0
                    valid = found if valid is None else valid & found
            except (OSError, KeyError):
                return None
        values.append(np.stack(aps))
    assert people is not None and valid is not None
    if len(np.unique(people[valid])) < 2:
        return None
    return Bootstrap(people[valid]).compare(values[0][:, valid], values[1][:, valid], LEVEL)


def _difference(found: Difference) -> str:
    p = "p < 0.001" if found.p < 0.001 else f"p {found.p:.3f}"
    seeds = " and seeds" if min(found.seeds) > 1 else ""
    return (
        f"Tuned minus default: {found.value:+.1f} mAP, {LEVEL:.0%} interval {found.low:+.1f} to "
        f"{found.high:+.1f}, {p} (paired bootstrap over {found.identities} people{seeds})."
    )


def page(outcome: Outcome, names: Sequence[str], plots: Sequence[Path]) -> str:
    """README.md of the study's folder."""
    plan, settings, best = outcome.plan, outcome.plan.settings, outcome.best
    lines = [
        f"# Search `{settings.name}`",
        "",
        f"{plan.recipe.method} on {plan.base.dataset.name}, protocol {plan.base.protocol.name}. "
        f"Optimised: {settings.optimised}. Sampler {settings.sampler}, pruner {settings.pruner}. "
        f"Budget: {budget(outcome)}.",
        "",
        "Made by `harness search`; every trial is in `trials.csv`, all else in `search.json`.",
    ]
    if settings.criterion == "last_val":
        lines += [
            "",
            "The criterion uses identities of the training set to choose settings; no trial "
            "trained on the people held out, and none saw the test set.",
        ]
    if settings.criterion == "oracle":
        lines += ["", f"**{WARNING}**"]
    if best is None:
        lines += ["", "No trial was completed."]
    else:
        lines += ["", "| | " + " | ".join(_heads(outcome)) + " |",
                  "| --- |" + " ---: |" * len(_heads(outcome))]  # fmt: skip
        default = next((t for t in outcome.trials if "default" in t.user_attrs), None)
        shown = [("default", default), ("best", best)]
        shown += [("Pareto front", t) for t in outcome.front if t.number != best.number]
        for word, trial in shown:
            if trial is not None:
                lines.append(f"| {word} (trial {trial.number}) | {_trial(outcome, trial)} |")
        lines += ["", *comparison(outcome)]
        presets = ", ".join(f"`+search={name}`" for name in names)
        run = command(outcome, names[0])
        lines += ["", f"Presets: {presets}, as in `{run}`."]
    lines += ["", *(f"![{path.stem}]({path.name})" for path in plots), ""]
    return "\n".join(lines)


def command(outcome: Outcome, preset: str) -> str:
    """What runs a preset on the data that it was found on: the search's own words, but for those
    about the search itself and about places.
    """
    words = [
        word
        for word in outcome.plan.overrides
        if not word.lstrip("+~").startswith(("search.", "method=", "store=", "name=", "data."))
    ]
    return " ".join(["harness run", f"method={_method(outcome)}", *words, f"+search={preset}"])


def _method(outcome: Outcome) -> str:
    """As the command line has it: a variant is METHOD/VARIANT."""
    given = [o.split("=", 1)[1] for o in outcome.plan.overrides if o.startswith("method=")]
    return given[-1] if given else outcome.plan.recipe.method


def _heads(outcome: Outcome) -> list[str]:
    settings = outcome.plan.settings
    second = [settings.against.replace("_", " ")] if settings.against else []
    return ["criterion", *second, *(param.key for param in outcome.plan.space)]


def _trial(outcome: Outcome, trial: object) -> str:
    from optuna.trial import FrozenTrial

    assert isinstance(trial, FrozenTrial)
    complete = trial.state == TrialState.COMPLETE
    values = [f"{v:.4g}" for v in trial.values] if complete and trial.values else []
    values += ["–"] * (len(outcome.plan.settings.directions) - len(values))
    settings = outcome.values(trial)
    keys = [param.key for param in outcome.plan.space]
    return " | ".join([*values, *(_short(settings[k]) if k in settings else "" for k in keys)])


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def budgets(outcomes: Sequence[Outcome]) -> list[str]:
    """A Markdown table of several searches, and how much each was given."""
    settings = outcomes[0].plan.settings
    hours = "no limit of time" if settings.hours is None else f"{settings.hours:g} device-hours"
    lines = [
        "| Method | Default mAP | Tuned mAP | Trials (complete, pruned, failed) | Device-hours |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for outcome in outcomes:
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
        counts = ", ".join(str(outcome.count(state)) for state in states)
        total = sum(t.state.is_finished() for t in outcome.trials)
        tuned = "the default" if outcome.best_is_default else _cell(outcome.tuned, "mAP")
        lines.append(
            f"| {outcome.plan.recipe.method} | {_cell(outcome.default, 'mAP')} | {tuned} | "
            f"{total} ({counts}) | {outcome.hours:.2f} |"
        )
    fresh = settings.reproduce
    lines += [
        "",
        f"The same budget for each: {settings.trials} trials, {hours}, the published defaults as "
        f"the first trial. Optimised: {settings.optimised}. mAP on the test set, mean ± standard "
        f"deviation over {fresh} fresh seeds.",
    ]
    return [*lines, WARNING] if settings.criterion == "oracle" else lines
