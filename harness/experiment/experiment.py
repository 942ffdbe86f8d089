"""One experiment from top to bottom: build, train, test, record."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from harness.components.backbones.batchnorm import has_batch_norm, set_samples_per_bn
from harness.core.distributed import collectives, processes
from harness.core.environment import environment
from harness.core.errors import ConfigError, DataError, say_once
from harness.core.hashing import settings_digest
from harness.core.interfaces import Backbone, UnlabelledSet, as_cameras
from harness.core.metrics import METRICS
from harness.core.progress import Reporter
from harness.core.seeds import derive
from harness.core.throughput import rate, stage_throughput
from harness.data.cache_folder import cache_folder
from harness.data.types import ReIDData
from harness.evaluation.evaluator import Evaluator, make_evaluator
from harness.evaluation.label_free import column, make_label_free_test, read_label_free
from harness.evaluation.protocol import EvaluationProtocol
from harness.experiment.finished_networks import (
    build_initial,
    load_network,
    load_weights,
    without_weights,
)
from harness.experiment.labelled_source import (
    Source,
    described,
    is_joint,
    open_source,
    reads_identities,
)
from harness.experiment.part_checks import check_images
from harness.experiment.plan import Plan
from harness.experiment.run_files import Progress, RunFiles
from harness.experiment.stages import (
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
    load_data,
    preprocessing,
)
from harness.results import tracking
from harness.results.store import SCHEMA, Run
from harness.training.trainer import Components, Trainer

#: entries of a stage's metrics that are counts, not metrics
COUNTS = ("queries", "queries_without_match", "gallery")


def _no_metrics(labels: Tensor) -> dict[str, float]:
    """Labels that are identities are not compared with identities."""
    return {}


class Experiment:
    """Runs a plan in a run's folder, or continues it from its checkpoint.

    data: the data set, if it is loaded already. replaces: whether the run has a record, which stays
    until the new one is complete.
    """

    def __init__(
        self, plan: Plan, device: torch.device, run: Run, reporter: Reporter,
        data: ReIDData | None = None, replaces: bool = False,
    ) -> None:  # fmt: skip
        self.plan, self.device, self.run, self.reporter = plan, device, run, reporter
        self.data = data
        self.progress = Progress(device, environment(device))  # now: the checkout may change
        self.files = RunFiles(run, replaces)
        self.tracker: tracking.Tracker = tracking.Tracker()
        #: the labeled source, once `execute` opened it
        self.source: Source | None = None

    def prepare_folder(self) -> None:
        """Remove leftovers, and write the configuration: a run that fails later can be repeated.

        With a checkpoint, the configuration is that of another experiment until it is checked.
        """
        self.files.remove_leftovers()
        if not self.files.has_checkpoint:
            self.files.write_json("config.json", self.plan.settings)

    def execute(self, afresh: bool = False) -> None:
        """Train all stages, test, and write the record.

        Args:
            afresh: remove an unfinished run's files first, instead of continuing.

        Raises:
            HarnessError: the data or the checkpoint do not fit, or training fails.
        """
        plan, name, card = self.plan, self.run.name, self.plan.card
        rule = f"protocol {card['name']} ({card['hash']})"
        self.reporter.say(f"{name}: {rule}, {self.device}, {plan.precision}")
        evaluator = self.open_data()
        self.note_cameras(evaluator)
        if not evaluator.evaluates:
            problem = f"{evaluator.data.name} has no test part"
            self.reporter.say(f"{problem}: this run trains and is not evaluated.")
        check_images(plan.recipe, len(evaluator.data.train.images))  # unreadable ones are left out
        if plan.config.get("source") is not None:
            self.source = open_source(plan.config, plan.recipe.stages, evaluator)
        if afresh:
            self.files.clear()
        checkpoint = self._load_checkpoint(self._fingerprint(evaluator))
        self._restore_queries(evaluator)
        for stage_name in self.progress.stages:
            self.reporter.say(f"{stage_name}: finished before.")
        self.files.write_json("config.json", plan.settings)
        self.files.write_json("history.json", self.progress.history)
        log = str(plan.config.log) if self.files.writes else "none"
        history = self.progress.history
        with tracking.opened(log, self.files.folder, name, plan.settings, history) as self.tracker:
            for stage in plan.recipe.stages:
                if stage.name not in self.progress.stages:
                    self._train(stage, evaluator, checkpoint)
                    checkpoint = None
            if not plan.recipe.stages:
                self._test_untrained(evaluator)
            self.write_record(evaluator)
        self.files.put_in_place()

    def _load_checkpoint(self, fingerprint: str) -> Mapping[str, Any] | None:
        """The checkpoint to continue from; a replacement that cannot be continued starts afresh."""
        arguments = self.plan, self.progress, fingerprint, self.reporter
        if not self.files.replaces:
            return self.files.load_checkpoint(*arguments)
        try:
            return self.files.load_checkpoint(*arguments)
        except (ConfigError, DataError) as error:
            self.reporter.say(f"{self.run.name}: starting afresh. {error.cause}")
            self.files.clear()
            self.progress = Progress(self.device, environment(self.device))
            return None

    def _fingerprint(self, evaluator: Evaluator) -> str:
        """Of all images that the experiment trains on or tests."""
        source = f"+{self.source.fingerprint}" if self.source else ""
        return f"{evaluator.fingerprint}{source}"

    def _restore_queries(self, evaluator: Evaluator) -> None:
        """Test finished stages again whose per-query results were lost."""
        for stage in collectives.broadcast_from_first(
            lambda: self.files.without_queries(self.progress)
        ):
            self.reporter.say(f"{stage}: its per-query results are missing; testing it again.")
            evaluator.test(self._stage_network(self._stage(stage)))
            self.files.save_queries(stage, evaluator)

    def open_data(self) -> Evaluator:
        """The data set, decoded, behind its evaluator."""
        config = self.plan.config
        cache = cache_folder(config.data.root, config.data.cache_dir)
        evaluator = collectives.local_rank_zero_first(  # the first process of a machine decodes
            lambda: make_evaluator(
                self.data or load_data(config),
                (int(config.images.height), int(config.images.width)),
                cache,
                train=bool(self.plan.recipe.stages),
                on_bad_image=config.dataset.get("on_bad_image", "error"),
                device=self.device,
                precision=self.plan.precision,
                protocol=EvaluationProtocol(rerank=bool(config.evaluation.rerank)),
                reporter=self.reporter,
                image_cache=str(config.data.cache_location),
                interpolation=preprocessing(config.backbone).interpolation,
            )
        )
        evaluator.keep_features = bool(config.evaluation.keep_features)
        if evaluator.skipped:
            self.reporter.say(f"{len(evaluator.skipped)} unreadable images are left out.")
        for line in evaluator.differences or []:
            self.reporter.say(f"{evaluator.data.name} is not as published: {line}")
        return evaluator

    def note_cameras(self, evaluator: Evaluator) -> None:
        """Without cameras in the data, samplers ignore them, and the protocol card says so."""
        if evaluator.data.train.cameras is None:
            self.plan.card["cameras"] = False

    def _start(self, stage: Stage, peer: int = 0) -> Backbone:
        """The network that a stage starts with: of an earlier stage, or with initial weights."""
        if not stage.init_stages:
            return self._backbone(stage.config, stage.name, *["peer"] * bool(peer))
        init = stage.init_stages[: peer + 1][-1]
        return self._loaded(init, stage.config.backbone, stage.config)

    def _backbone(self, config: DictConfig, stage: str, *purpose: str) -> Backbone:
        """A network with its initial weights; random ones derive from the experiment's seed."""
        torch.manual_seed(derive(int(self.plan.config.seed), stage, "init", *purpose))
        return self._placed(build_initial(config.backbone, self.plan.init), config)

    def _placed(self, backbone: Backbone, config: DictConfig) -> Backbone:
        batch = config.batch
        images = int(batch.identities) * int(batch.images)
        set_samples_per_bn(backbone, int(batch.samples_per_bn), images)
        if batch.samples_per_bn and not has_batch_norm(getattr(backbone, "trunk", backbone)):
            say_once(
                "below its neck, the backbone has no batch norm: batch.samples_per_bn matters for "
                "the neck alone"
            )
        return backbone.to(self.device).to(memory_format=torch.channels_last)

    def _teacher(self, stage: Stage) -> Backbone | None:
        """The finished network that the stage's distiller follows, if it follows one."""
        if (finished := self.plan.teachers.get(stage.name)) is not None:
            return self._placed(load_network(finished.run, finished.stage), stage.config)
        if stage.teacher_stage is None:
            return None
        return self._stage_network(self._stage(stage.teacher_stage), stage.config)

    def _stage(self, name: str) -> Stage:
        return next(stage for stage in self.plan.recipe.stages if stage.name == name)

    def _stage_network(self, stage: Stage, config: DictConfig | None = None) -> Backbone:
        """The network of a finished stage of this run, placed for the stage of `config`."""
        return self._loaded(stage.name, stage.config.backbone, config or stage.config)

    def _loaded(self, stage: str, node: DictConfig, config: DictConfig) -> Backbone:
        """The network that `node` describes with the weights of a finished stage of this run."""
        backbone = build_backbone(without_weights(node))
        load_weights(backbone, self.files.stage_weights(stage), f"{self.run.name} ({stage})")
        return self._placed(backbone, config)

    def _trainer(self, stage: Stage, evaluator: Evaluator) -> Trainer:
        backbone = self._start(stage)
        distiller = build_distiller(
            stage,
            self._teacher(stage),
            backbone,
            peer=lambda number: self._start(stage, number),
        )
        data = evaluator.unlabelled(self.plan.recipe.uses_cameras)
        test = self._test(evaluator, data)
        identities, cluster_metrics = None, evaluator.cluster_metrics
        if reads_identities(stage):
            assert self.source is not None
            data, identities = self.source.data, self.source.data.identities
            cluster_metrics = _no_metrics
        labeler = build_labeler(stage, identities)
        return Trainer(
            name=stage.name,
            config=stage.config,
            components=Components(backbone, labeler, build_objective(stage), distiller),
            data=data,
            device=self.device,
            precision=self.plan.precision,
            reporter=self.reporter,
            cluster_metrics=cluster_metrics,
            test=test,
            source=self.source.data if self.source and is_joint(stage) else None,
        )

    def _train(
        self, stage: Stage, evaluator: Evaluator, checkpoint: Mapping[str, Any] | None
    ) -> None:
        """Train one stage; every epoch ends with a checkpoint."""
        trainer, best = self._trainer(stage, evaluator), dict[str, Any]()
        if checkpoint is not None:
            with self.files.explain_unusable():
                trainer.load_state_dict(checkpoint["trainer"])
                best = dict(checkpoint["best"])
            self.reporter.say(f"{stage.name}: going on with epoch {trainer.next_epoch}.")
        metrics: dict[str, Any] = {}
        history, criterion = self.progress.history, self._criterion
        for row in trainer.epochs():
            history.append(row)
            self.tracker.log(row, len(history) - 1)
            if "mAP" in row or criterion in row:
                tested = evaluator.last.as_dict() if evaluator.last else {}
                metrics = {key: row[key] for key in tested} | {"epoch": row["epoch"]}
            value = row.get(criterion)
            if value is not None and value > best.get(criterion, -math.inf):
                best = metrics | {criterion: value}
                self._keep(stage.name, trainer, evaluator)
            self.reporter.time_left(self._time_left(stage.name, trainer))
            self.reporter.epoch(row)
            ended = trainer.next_epoch > trainer.last_epoch
            if ended:
                if self.plan.config.selection == "last":
                    self._keep(stage.name, trainer, evaluator)
                self._end_stage(stage.name, best or metrics or {"epoch": row["epoch"]}, trainer)
            state = None if ended else trainer.state_dict()
            fingerprint = self._fingerprint(evaluator)
            self.files.save_checkpoint(self.plan, self.progress, fingerprint, state, best)

    def _keep(self, stage: str, trainer: Trainer, evaluator: Evaluator) -> None:
        """Keep the network of this epoch and its per-query results."""
        self.files.save_network(stage, trainer.tested_network[1])
        self.files.save_queries(stage, evaluator)

    def _test(
        self, evaluator: Evaluator, data: UnlabelledSet
    ) -> Callable[[Backbone], Mapping[str, float]]:
        """The test of a network: on the test set, and by label-free criteria if wanted."""
        names, reference = read_label_free(self.plan.config)
        if not names:
            return evaluator.test
        cameras, precision = as_cameras(evaluator.data.train.cameras), self.plan.precision
        measure = make_label_free_test(names, reference, data, cameras, self.device, precision)
        return lambda backbone: measure(backbone) | evaluator.test(backbone)

    @property
    def _criterion(self) -> str:
        """The column of the history that selects the checkpoint; '' selects the last one."""
        selection = self.plan.config.selection
        if selection == "label_free":
            return column(read_label_free(self.plan.config)[0][0])
        return "mAP" if selection == "oracle" else ""

    def _end_stage(self, name: str, metrics: Mapping[str, Any], trainer: Trainer) -> None:
        rows = [row for row in self.progress.history if row["stage"] == name]
        self.progress.stages[name] = {
            "metrics": {k: v for k, v in metrics.items() if k in {*METRICS, *COUNTS}},
            "network": trainer.tested_network[0],
            "epoch": metrics["epoch"],
            **stage_throughput(rows),
            "seconds": {k: round(v, 3) for k, v in trainer.timings.items()},
        }

    def _test_untrained(self, evaluator: Evaluator) -> None:
        """A method without stages: the record's only stage is `initial`."""
        backbone = self._backbone(self.plan.config, "initial")
        started = time.perf_counter()
        metrics = evaluator.test(backbone)
        seconds = {"test": round(time.perf_counter() - started, 3)}
        self.files.save_network("initial", backbone)
        self.files.save_queries("initial", evaluator)
        self.progress.stages["initial"] = {
            "metrics": metrics,
            "network": "untrained",
            "epoch": None,
            "extract_images_per_second": rate(evaluator.extracted, evaluator.extract_seconds),
            "seconds": seconds,
        }

    def _time_left(self, stage: str, trainer: Trainer) -> float:
        """Seconds to the end of the experiment, from the mean of the last epochs."""
        mean = float(np.mean([row["seconds"] for row in self.progress.history[-5:]]))
        left = trainer.last_epoch - trainer.next_epoch + 1
        names = [s.name for s in self.plan.recipe.stages]
        for later in self.plan.recipe.stages[names.index(stage) + 1 :]:
            left += later.config.train.epochs + later.config.train.warmup_epochs
        return mean * left

    def write_record(self, evaluator: Evaluator, **notes: Any) -> None:
        """Write the record, with the metrics of the last stage and further entries `notes`."""
        plan, progress, data = self.plan, self.progress, evaluator.data
        record = {
            "schema": SCHEMA,
            "experiment": {
                "method": plan.recipe.method,
                "dataset": data.name,  # a subset has a name of its own
                "protocol": plan.card["name"],
                "seed": int(plan.config.seed),
            },
            "settings": plan.hash,
            "config": settings_digest(plan.settings),
            **({"init": plan.init.as_dict()} if plan.init else {}),
            "protocol": plan.card,
            "evaluated": evaluator.evaluates,
            "metrics": list(progress.stages.values())[-1]["metrics"],
            "stages": progress.stages,
            "dataset": {
                "name": data.name,
                "fingerprint": evaluator.fingerprint,
                "train": len(data.train.images),
                "query": len(data.query.images),
                "gallery": len(data.gallery.images),
                "unreadable": evaluator.skipped,
                # null: no published facts; []: all published facts agree
                "not_as_published": evaluator.differences,
                "notes": dict(data.notes),
                **({"parts": evaluator.parts} if evaluator.parts else {}),
            },
            **described(self.source),
            "seconds": round(progress.seconds, 2),
            "devices": processes.world_size(),
            "device_hours": round(progress.device_seconds / 3600, 5),
            "memory_mib": progress.memory_mib,
            "pipeline": {
                "image_cache": evaluator.place.name if evaluator.place else None,
                "compile": plan.config.train.compile if plan.recipe.stages else "off",
            },
            "processes": progress.processes,
            "environment": progress.environment,
            "finished": time.strftime("%Y-%m-%d", time.gmtime()),
            **notes,
        }
        self.files.finish(record)
