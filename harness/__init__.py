"""A benchmark harness for unsupervised person re-identification: one pipeline, one protocol.

The Python interface. Each function does what the command of the same name does, and returns the
result instead of printing it:

>>> import harness
>>> done = harness.run("method=mskd", "dataset=synthetic")  # doctest: +SKIP
>>> done.record["metrics"]["mAP"]  # doctest: +SKIP
>>> harness.evaluate(done.folder, dataset="msmt17")  # doctest: +SKIP
>>> harness.load_model(done.folder).embed(["a.jpg", "b.jpg"])  # doctest: +SKIP
>>> harness.load_results("results/runs")  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.core.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from harness.experiment.models.model import Model
    from harness.experiment.standalone.label import Labelling
    from harness.experiment.standalone.score import Scores
    from harness.results.store import Run


__all__ = ["__version__", "evaluate", "label", "load_model", "load_results", "run", "score"]


def run(*overrides: str) -> Run:
    """Run an experiment and return its run, finished. A finished one is not repeated.

    Args:
        overrides: as after `harness run`: "method=mskd", "dataset=market1501", "labeler.eps=0.5".

    Raises:
        HarnessError: with the cause and a hint.
    """
    from harness.experiment.compose import compose
    from harness.experiment.run import run_experiment

    return run_experiment(compose(list(overrides)))


def evaluate(run: Run | str | Path, dataset: str | None = None, **options: Any) -> dict[str, Any]:
    """Test the network of a finished run again: metrics in percent.

    Args:
        run: a run, its name or its folder. dataset: test on this one instead of its own.
        options: see `harness.experiment.evaluate.evaluate_run`.

    Raises:
        HarnessError: with the cause and a hint.
    """
    from harness.experiment.evaluate import evaluate_run

    changes = [*options.pop("changes", ()), *([f"dataset={dataset}"] if dataset else [])]
    return evaluate_run(str(getattr(run, "folder", run)), changes, **options)


def load_model(model: str | Path, **options: Any) -> Model:
    """A trained network; `.embed(images)` makes features (N, D) float32, L2-normalized.

    Args:
        model: a finished run, a file of `harness export`, or a name of `harness list models`.
        options: stage, device, precision, store: see `harness.experiment.models.load.load_model`.

    Raises:
        HarnessError: with the cause and a hint.
    """
    from harness.experiment.models.load import load_model

    return load_model(model, **options)


def label(
    features: np.ndarray, *overrides: str, cameras: np.ndarray | None = None, **options: Any
) -> Labelling:
    """Pseudo-labels of features (N, D) or (N, V, D): `.labels` (N,), -1 for outliers.

    Args:
        overrides: as after `harness label`: "labeler=self_paced", "labeler.eps=0.5".
        cameras: (N,) integers, for labelers that use cameras.
        options: the same as keywords: labeler="self_paced", eps=0.5.

    Raises:
        HarnessError: with the cause and a hint.
    """
    from harness.experiment.standalone import label as standalone

    labeler = standalone.make_labeler(*overrides, **options)[1]
    return standalone.label(features, labeler, cameras=cameras)


def score(
    query: Mapping[str, np.ndarray], gallery: Mapping[str, np.ndarray], **options: Any
) -> Scores:
    """mAP, Rank-k and mINP of features.

    Args:
        query, gallery: arrays `features` (N, D), `ids` (N,) and, where there are any, `cams` and
            `names` (N,).
        options: rerank=True, use_cams=False, device="cuda": see
            `harness.experiment.standalone.score.score`.

    Raises:
        HarnessError: with the cause and a hint.
    """
    from harness.experiment.standalone import score as standalone

    return standalone.score(query, gallery, **options)


def load_results(store: str | Path = "results/runs") -> pd.DataFrame:
    """The finished runs of a store, a row per run and stage: see `harness.results.store.frame`."""
    from harness.results.store import load

    return load(store)
