"""Pictures of a search, by Optuna's matplotlib plots: history, importance, slices, Pareto front."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from harness.core.errors import say_once
from harness.core.files import write_atomically
from harness.experiment.search.finalisation import Outcome
from harness.experiment.search.study import shortened


def copy_of(outcome: Outcome) -> Study:
    """The trials that count, in a study of their own: no trial stands in it twice."""
    study = optuna.create_study(directions=outcome.plan.settings.directions)
    study.add_trials([t for t in outcome.trials if t.state.is_finished()])
    return study


def importance(outcome: Outcome) -> dict[str, float]:
    """Key → its share in the variance of the criterion (fANOVA); {} where that cannot be told."""
    study = copy_of(outcome)
    complete = [t for t in outcome.trials if t.state == TrialState.COMPLETE]
    if len({t.values[0] for t in complete}) < 2:
        return {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
                target=lambda t: t.values[0],
            )
    except (ValueError, RuntimeError):  # too few trials, or keys that no two trials share
        return {}
    return {str(key): float(value) for key, value in found.items()}


def draw(outcome: Outcome) -> list[Path]:
    """Write the plots into the study's folder; without matplotlib none, and a line says so."""
    try:
        import matplotlib
    except ImportError:
        say_once('no plots: matplotlib is missing (pip install "usl-reid-harness[search]")')
        return []
    matplotlib.use("Agg")
    from optuna.visualization import matplotlib as plots

    study, settings = copy_of(outcome), outcome.plan.settings
    target: dict[str, Any] = {}
    if settings.against is not None:
        target = {"target": lambda t: t.values[0]}
    words = settings.optimised.split(",")[0]
    named = target | {"target_name": words}
    drawn: dict[str, Callable[[], Any]] = {
        "history": lambda: plots.plot_optimization_history(study, **named),
        "slice": lambda: plots.plot_slice(study, **named),
    }
    if importance(outcome):
        drawn["importance"] = lambda: plots.plot_param_importances(
            study,
            evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0),
            **named,
        )
    if settings.against is not None:
        names = [words, str(settings.against).replace("_", " ")]
        drawn["front"] = lambda: plots.plot_pareto_front(study, target_names=names)
    found = []
    for name, make in drawn.items():
        path = settings.place / f"{name}.png"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            warnings.simplefilter("ignore", UserWarning)
            axes = make()
        _save(path, axes, settings.name, shortened([p.key for p in outcome.plan.space]))
        found.append(path)
    return found


def _save(path: Path, axes: Any, title: str, short: dict[str, str]) -> None:
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import NullFormatter

    first = np.ravel(axes)[0] if isinstance(axes, np.ndarray) else axes
    figure = first.figure
    several = isinstance(axes, np.ndarray) and axes.size > 1
    figure.set_size_inches((3 * len(short), 3) if several else (8, 4.5))
    if several:
        figure.suptitle(title)
        for part in np.ravel(axes):
            part.set_xlabel(short.get(part.get_xlabel(), part.get_xlabel()))
            if part.get_xscale() == "log":
                part.xaxis.set_minor_formatter(NullFormatter())  # its labels lie on each other
    elif path.stem == "history":
        first.legend(loc="lower right")  # Optuna's takes a third of the picture
    # the colour bar of slices is laid out by hand: tight_layout would lay it over one of them
    write_atomically(
        path, lambda file: figure.savefig(file, format="png", dpi=80, bbox_inches="tight")
    )
    plt.close(figure)
