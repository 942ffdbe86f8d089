"""`overwrite=backfill`: add what a finished run lacks, without training.

- Per-query results, kept features and metrics that its record or folder lacks are measured again
  with its networks; curves are written for a tracker (`log=`) that has none.
- An experiment that differs from a finished one in `evaluation.` alone is made with the networks of
  that one.
"""

from __future__ import annotations

from contextlib import suppress
from copy import copy
from operator import methodcaller

from omegaconf import OmegaConf

from harness.core.errors import DataError, HarnessError
from harness.core.files import write_atomically
from harness.core.metrics import METRICS
from harness.evaluation import kept_features
from harness.evaluation.evaluator import Evaluator
from harness.experiment.experiment import COUNTS, Experiment
from harness.experiment.finished_networks import load_network, weights_of
from harness.experiment.plan import Plan, make_plan
from harness.experiment.run_files import read_arrays
from harness.results import tracking
from harness.results.store import Run, Store

#: percentage points by which mAP may differ on another device or with other threads
TOLERANCE = 0.1
MEASURED = (*METRICS, *COUNTS)


def backfill(experiment: Experiment) -> bool:
    """Add what is missing to a run whose folder is locked. Returns whether anything was added.

    Raises:
        HarnessError: weights were not kept. DataError: the images or networks are not those of the
            record.
    """
    run, plan = experiment.run, experiment.plan
    if run.finished:
        missing = find_missing(run, bool(plan.config.evaluation.keep_features))
        if missing:
            _complete(experiment, missing)
        return _write_curves(experiment) or bool(missing)
    begun = experiment.files.has_checkpoint
    source = None if begun else find_source(run, plan)
    if source is not None:
        _adopt(experiment, source)
    return source is not None


def find_missing(run: Run, keep_features: bool) -> dict[str, list[str]]:
    """Stage → what the run lacks of it: `queries`, `features`, `metrics`."""
    found = {}
    arrays = read_arrays(run.folder / "per_query.npz").keys()
    wanted = {name for metric in METRICS.values() for name in metric.arrays}
    for stage, result in run.record["stages"].items():
        kept = kept_features.path_of(run.folder, stage).is_file()
        lacks = {
            "queries": not {"query_identity", *(f"{stage}_{name}" for name in wanted)} <= arrays,
            "metrics": any(key not in result["metrics"] for key in MEASURED),
            "features": keep_features and not kept,
        }
        if result["metrics"] and any(lacks.values()):
            found[stage] = [what for what, missing in lacks.items() if missing]
    return found


def _complete(experiment: Experiment, missing: dict[str, list[str]]) -> None:
    """Test the networks of stages again, all before any file is written, and keep what was missing.

    Raises:
        ConfigError: weights were not kept. DataError: a network has another mAP than its record.
    """
    run, record, files = experiment.run, experiment.run.record, experiment.files
    evaluator = _open_data(experiment, run)
    tested: dict[str, tuple[dict[str, float], Evaluator]] = {}
    for stage, lacks in missing.items():
        experiment.reporter.say(
            f"{run.name} ({stage}): {', '.join(lacks)} missing or damaged; "
            "testing its network again."
        )
        metrics = evaluator.test(load_network(run, stage).to(experiment.device))
        recorded = record["stages"][stage]["metrics"]
        if abs(metrics["mAP"] - recorded["mAP"]) > TOLERANCE:
            raise DataError(
                f"{stage} of {run.name} now has mAP {metrics['mAP']:.2f}, its record says "
                f"{recorded['mAP']:.2f}: nothing was changed.",
                "Its network or the evaluation has changed: overwrite=always.",
            )
        tested[stage] = metrics, copy(evaluator)  # its next test replaces its results
    for stage, (metrics, results) in tested.items():
        files.save_queries(stage, results)
        recorded = record["stages"][stage]["metrics"]
        recorded.update({k: v for k, v in metrics.items() if k not in recorded})
    if any("metrics" in lacks for lacks in missing.values()):
        last = list(record["stages"].values())[-1]["metrics"]
        files.write_json("record.json", record | {"metrics": last})


def _open_data(experiment: Experiment, made_with: Run) -> Evaluator:
    evaluator = experiment.open_data()
    if evaluator.fingerprint != made_with.record["dataset"]["fingerprint"]:
        raise DataError(
            f"The images are not those that {made_with.name} was made with.",
            "Bring them back, or train again: overwrite=always.",
        )
    return evaluator


def _write_curves(experiment: Experiment) -> bool:
    """Write curves for a tracker that has none. Returns whether there were any to write."""
    plan, run = experiment.plan, experiment.run
    log = str(plan.config.log)
    if log == "none" or tracking.has_curves(log, run.folder):
        return False
    tracker = tracking.make_tracker(log, run.folder, run.name, plan.settings, run.history())
    tracker.close(run.record["metrics"])
    return True


def find_source(run: Run, plan: Plan) -> Run | None:
    """A finished run with all its networks that differs in its evaluation alone. With
    selection=oracle there is none: another evaluation would select other checkpoints.
    """
    config = plan.config
    if config.selection == "oracle":
        return None
    for other in Store(run.folder.parent).runs():
        if not other.finished or other.name == run.name:
            continue
        made, same = other.record["experiment"], config.copy()
        if (made["method"], made["seed"]) != (config.method.name, config.seed):
            continue
        with suppress(HarnessError):
            same.evaluation = OmegaConf.merge(
                same.evaluation, other.complete_config()["evaluation"]
            )
            weights = [other.folder / f"{stage}.pt" for stage in other.record["stages"]]
            equal = other.record["settings"] == make_plan(same, plan.precision).hash
            if equal and all(path.is_file() for path in weights):
                return other
    return None


def _adopt(experiment: Experiment, source: Run) -> None:
    """Test the networks of `source` by this experiment's evaluation; the new record names it."""
    run, record, progress = experiment.run, source.record, experiment.progress
    experiment.reporter.say(f"{run.name}: testing the networks of {source.name}.")
    evaluator = _open_data(experiment, source)
    experiment.note_cameras(evaluator)
    experiment.files.write_json("config.json", experiment.plan.settings)
    progress.count_earlier(record)
    progress.history = [
        {key: value for key, value in row.items() if key not in MEASURED}
        for row in source.history()
    ]
    for stage, result in record["stages"].items():
        content = weights_of(source, stage).read_bytes()
        write_atomically(run.folder / f"{stage}.pt", methodcaller("write", content))
        metrics = evaluator.test(load_network(run, stage).to(experiment.device))
        experiment.files.save_queries(stage, evaluator)
        progress.stages[stage] = result | {"metrics": metrics}
    experiment.files.write_json("history.json", progress.history)
    experiment.write_record(evaluator, networks_of=source.name)
