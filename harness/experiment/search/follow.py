"""How well criteria follow test mAP, on the networks that the trials of a study have left.

    python -m harness.experiment.search.follow OVERRIDES

with the overrides of the search, and keep_networks=true.

This looks at the test set: it judges criteria, and chooses no settings.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.trial import TrialState

from harness.components.backbones.weights import read_state
from harness.core.errors import ConfigError
from harness.core.files import write_text
from harness.core.interfaces import as_cameras
from harness.core.precision import resolve_device, resolve_precision
from harness.core.progress import Reporter
from harness.evaluation.evaluator import make_evaluator
from harness.evaluation.label_free import CRITERIA, make_label_free_test
from harness.experiment.data_loading import load_data
from harness.experiment.search.plan import Plan, make_plan
from harness.experiment.search.storage import original
from harness.experiment.search.study import open_study
from harness.experiment.search.trial import trial_config
from harness.experiment.search.trial_statistics import counted
from harness.experiment.stages import build_backbone
from harness.results.store import Run

#: numbers below this many networks say little, and none is given
LEAST = 4


def measure(plan: Plan) -> pd.DataFrame:
    """A row a cell of a complete trial: `cell`, `test_mAP`, what the study optimised (`last_val`,
    say) and the label-free criteria, of its last network.

    Raises:
        ConfigError: no trial has left a network.
    """
    settings = plan.settings
    study = open_study(settings, plan.identity, plan.space, plan.defaults, plan.steps)
    device = resolve_device(str(plan.base.device))
    precision = resolve_precision(str(plan.base.train.precision), device)
    stage = plan.recipe.stages[-1].name
    rows: list[dict[str, Any]] = []

    def evaluator(config: Any) -> Any:
        root = Path(config.data.root).expanduser()
        return make_evaluator(
            load_data(config),
            (int(config.images.height), int(config.images.width)),
            Path(config.data.cache_dir).expanduser()
            if config.data.cache_dir
            else root / ".harness",
            train=True,
            on_bad_image=config.dataset.get("on_bad_image", "error"),
            device=device,
            precision=precision,
            reporter=Reporter(),
        )

    tested = evaluator(plan.base)
    trained = evaluator(trial_config(plan.base, settings, plan.reference))
    cameras = as_cameras(trained.data.train.cameras)
    criteria = CRITERIA if cameras is not None else CRITERIA[1:]
    data = trained.unlabelled(False)
    look = make_label_free_test(criteria, plan.reference, data, cameras, device, precision)
    for trial in counted(study.get_trials()):
        first = f"trial-{original(trial):04d}"
        names = [first, *(f"{first}-{k}" for k in range(1, settings.seeds))]
        runs = [Run(settings.place / "trials" / name) for name in names]
        kept = [run for run in runs if (run.folder / f"{stage}.pt").is_file()]
        if trial.state != TrialState.COMPLETE or not kept:
            continue
        config = plan.compose(plan.space.decode(trial.params))
        config.backbone.weights = "none"
        backbone = build_backbone(config.backbone).to(device)
        for run in kept:
            backbone.load_state_dict(read_state(run.folder / f"{stage}.pt"))
            found = {k.removeprefix("label_free_"): v for k, v in look(backbone).items()}
            own = {settings.criterion: run.history()[-1][settings.column]}
            rows.append({"cell": run.name, "test_mAP": tested.test(backbone)["mAP"]} | own | found)
    if not rows:
        raise ConfigError(
            f"No trial of '{settings.name}' has left a network.",
            "Search with search.keep_networks=true.",
        )
    return pd.DataFrame(rows).round(3)


def correlations(rows: pd.DataFrame) -> pd.Series:
    """Spearman's rank correlation of each criterion with test mAP.

    Raises:
        ConfigError: too few trials.
    """
    if len(rows) < LEAST:
        raise ConfigError(f"{len(rows)} networks are too few to rank.", f"{LEAST} or more.")
    return rows.drop(columns="cell").corr("spearman")["test_mAP"].drop("test_mAP").round(2)


def main(arguments: Sequence[str]) -> None:
    """Print both, and keep the rows as `follow.csv` in the study's folder."""
    plan = make_plan(arguments)
    rows = measure(plan)
    write_text(plan.settings.place / "follow.csv", rows.to_csv(index=False))
    print(rows.to_string(index=False))
    print("\nSpearman's rank correlation with test mAP")
    print(correlations(rows).to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
