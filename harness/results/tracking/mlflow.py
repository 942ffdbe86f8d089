"""MLflow, at `$MLFLOW_TRACKING_URI`; by default a database in the current folder."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from harness.results.row_labels import flat
from harness.results.tracking import Row, Tracker, final, read_note, scalars, update_note

EXPERIMENT = "usl-reid-harness"
#: the server's limits: characters of a parameter's value, parameters of a request
MAX_LENGTH, MAX_PARAMS = 500, 100


class Client(Tracker):
    """Logs to MLflow. A resumed run keeps its MLflow run, whose metric `step` holds the last step
    that was sent.
    """

    def __init__(
        self, folder: Path, name: str, config: Mapping[str, Any], history: Sequence[Row]
    ) -> None:
        self.client, self.sent = MlflowClient(), -1
        known = read_note(folder).get("mlflow")
        self.run = str(known or self._create(name, config))
        if known:
            steps = self.client.get_metric_history(self.run, "step")
            self.sent = max((metric.step for metric in steps), default=-1)
            self.client.update_run(self.run, status="RUNNING")
        else:
            update_note(folder, mlflow=self.run)
        for step, row in enumerate(history):
            self.log(row, step)

    def _create(self, name: str, config: Mapping[str, Any]) -> str:
        chosen = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self.client.get_experiment_by_name(chosen)
        experiment = found.experiment_id if found else self.client.create_experiment(chosen)
        run = self.client.create_run(experiment, run_name=name).info.run_id
        params = [Param(k, str(v)[:MAX_LENGTH]) for k, v in flat(dict(config)).items()]
        for start in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(run, params=params[start : start + MAX_PARAMS])
        self.client.log_batch(run, tags=[RunTag("run", name)])
        return run

    def log(self, row: Row, step: int) -> None:
        if step > self.sent:
            self._send(scalars(row) | {"step": step}, step)
            self.sent = step

    def _send(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(key, value, now, step) for key, value in values.items()]
        self.client.log_batch(self.run, metrics=metrics)

    def close(self, metrics: Mapping[str, float] | None) -> None:
        if metrics is not None:
            self._send(final(metrics), self.sent)
        self.client.set_terminated(self.run, "FINISHED" if metrics is not None else "KILLED")
