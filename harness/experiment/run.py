"""One experiment: build, train, test, record. Killed at any moment, the same command goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from harness.components.backbones import set_samples_per_bn
from harness.components.backbones.weights import read_state
from harness.core.distributed import collectives as sharing
from harness.core.distributed import processes
from harness.core.errors import ConfigError, DataError
from harness.core.files import write_json
from harness.core.host_memory import keep_freed_memory
from harness.core.interfaces import Backbone, UnlabelledSet, as_cameras
from harness.core.precision import resolve_device, resolve_precision
from harness.core.progress import Reporter, duration
from harness.core.seeds import derive
from harness.core.throughput import rate, stage_throughput
from harness.data.cache_location import check_cache_location
from harness.evaluation.evaluator import Evaluator, make_evaluator
from harness.evaluation.label_free import column, judge, read_label_free
from harness.experiment.checkpoint import StoredExperiment
from harness.experiment.data_loading import load_data
from harness.experiment.init_from import settled
from harness.experiment.model_loading import (
    build_initial,
    check_images,
    check_parts,
    find_teachers,
    load_network,
    run_of_teacher,
)
from harness.experiment.naming import portable_config, run_name, settings_hash
from harness.experiment.overwrite import carry_out, strategy
from harness.experiment.protocol import protocol_card
from harness.experiment.recipe import make_recipe
from harness.experiment.stages import (
    Stage,
    build_backbone,
    build_distiller,
    build_labeler,
    build_objective,
)
from harness.results import tracking
from harness.results.store import Run, Store
from harness.training.compilation import check_compile
from harness.training.trainer import Parts, Trainer


def run_experiment(config: DictConfig, reporter: Reporter | None = None) -> Run:
    """Run one experiment and return its folder, finished; a finished cell is only reported.

    Raises:
        HarnessError: anything a person can mend, with cause and hint.
    """
    processes.join()
    how = strategy(config)
    tracking.check_log(str(config.log))
    recipe = make_recipe(config)
    config = settled(config)
    device = resolve_device(processes.device_name(str(config.device)))
    if device.type == "cuda" and processes.is_distributed():
        torch.cuda.set_device(device)  # where communication takes place
    precision = resolve_precision(str(config.train.precision), device)
    check_cache_location(str(config.data.cache_location), device)
    recipe, teachers = find_teachers(config, recipe)
    if device.type == "cpu":
        keep_freed_memory()
    if config.threads or processes.is_distributed():  # torchrun sets a single thread for each
        torch.set_num_threads(int(config.threads) or processes.threads())
    run = Store(Path(config.store).expanduser()).run(run_name(config, precision, teachers))
    settings = settings_hash(config, precision, teachers)
    sharing.check_same(f"{run.name} ({settings}, {device.type})", "cell")
    with reporter or Reporter(processes.console()) as reporter:
        if _to_do(run, how):
            check_compile(config.train.compile, device)
            check_parts(config, recipe)
            with sharing.held_by_first(run.lock):
                run = Run(run.folder)  # read anew: it may have been finished meanwhile
                if run.finished and how == "only-missing":
                    _check_same(run, config, settings)
                if _to_do(run, how):
                    card = protocol_card(config, precision)
                    experiment = Experiment(
                        config, recipe, card, settings, teachers, device, precision, run, reporter
                    )
                    if carry_out(experiment, how):
                        run = _as_first_sees(run)
                        _say_metrics(run, reporter)
                        return run
        run = _as_first_sees(run)
        _check_same(run, config, settings)
        reporter.say(f"{run.name} is finished already (overwrite=always runs it again).")
        _say_metrics(run, reporter)
        return run


def _to_do(run: Run, how: str) -> bool:
    return sharing.from_first(lambda: how != "skip" or not run.finished)


def _as_first_sees(run: Run) -> Run:
    """The folder read anew, with the record that the first process finds in it."""
    fresh = Run(run.folder)
    vars(fresh)["_record"] = sharing.from_first(lambda: fresh._record)
    return fresh


def _check_same(run: Run, config: DictConfig, settings: str) -> None:
    """Whether a finished run is really the cell that is asked for, made with the same images.

    Raises:
        ConfigError: its settings or seed are others (`name=`). DataError: its images are.
    """
    record = run.record
    if (record["settings"], record["experiment"]["seed"]) != (settings, int(config.seed)):
        raise ConfigError(
            f"{run.name} is another experiment: its settings or its seed are not those asked for.",
            "Choose another name=, or replace it with overwrite=always.",
        )
    try:
        data = load_data(config)
    except DataError:
        return  # records can be read where the images are not
    if data.fingerprint() != record["dataset"]["fingerprint"]:
        raise DataError(
            f"{run.name} is finished, but with other images than {data.name} has now.",
            "Keep both with name=, or replace it with overwrite=always.",
        )


class Experiment(StoredExperiment):
    """A experiment at work."""

    def run_all(self) -> None:
        """All stages, then the record."""
        if strategy(self.config) == "always":
            self.forget()
        for left in self.folder.glob("*.tmp") if self.keeps else ():  # by a kill while writing
            left.unlink()
        self.reporter.say(
            f"{self.run.name}: protocol {self.card['name']} ({self.card['hash']}), "
            f"{self.device}, {self.precision}"
        )
        evaluator = self._evaluator()
        self._check_cameras(evaluator)
        self._check_test_part(evaluator)
        check_images(self.recipe, len(evaluator.data.train.images))
        checkpoint = self._load_checkpoint(evaluator.fingerprint)  # refuses another cell's folder
        shown = portable_config(self.config, self.precision, self.teachers)
        if self.keeps:
            write_json(self.folder / "config.json", shown)
        log = str(self.config.log) if self.keeps else "none"
        with tracking.opened(log, self.folder, self.run.name, shown, self.history) as self.tracker:
            self._run_stages(evaluator, checkpoint)

    def _run_stages(self, evaluator: Evaluator, checkpoint: Mapping[str, Any] | None) -> None:
        if not self.recipe.stages:
            self._test_untrained(evaluator)
            return
        for stage in self.recipe.stages:
            if stage.name not in self.stages:
                self._train(stage, evaluator, checkpoint)
                checkpoint = None
        self._finish(self.stages[self.recipe.stages[-1].name]["metrics"], evaluator)

    def _test_untrained(self, evaluator: Evaluator) -> None:
        """A method without stages: its only stage in the record is `initial`."""
        backbone = self._backbone(self.config, "initial")
        started = time.perf_counter()
        metrics = evaluator.test(backbone)
        seconds = {"test": round(time.perf_counter() - started, 3)}
        speed = rate(evaluator.extracted, evaluator.extract_seconds)
        self._save_network("initial", backbone)
        self._remember("initial", evaluator)
        self.stages["initial"] = {
            "metrics": metrics,
            "network": "untrained",
            "epoch": None,
            "extract_images_per_second": speed,
            "seconds": seconds,
        }
        self._finish(metrics, evaluator)

    # ---------------------------------------------------------------------- before training

    def _evaluator(self) -> Evaluator:
        config = self.config
        root = Path(config.data.root).expanduser()
        evaluator = sharing.first_here_first(  # which decodes, where that has not been done
            lambda: make_evaluator(
                load_data(config),
                (int(config.images.height), int(config.images.width)),
                Path(config.data.cache_dir).expanduser()
                if config.data.cache_dir
                else root / ".harness",
                train=bool(self.recipe.stages),
                on_bad_image=config.dataset.get("on_bad_image", "error"),
                device=self.device,
                precision=self.precision,
                rerank=bool(config.evaluation.rerank),
                reporter=self.reporter,
                image_cache=str(config.data.cache_location),
            )
        )
        evaluator.keep_features = bool(config.evaluation.get("keep_features"))
        if evaluator.skipped:
            self.reporter.say(f"{len(evaluator.skipped)} unreadable images are left out.")
        for line in evaluator.differences or []:
            self.reporter.say(f"{evaluator.data.name} is not as published: {line}")
        return evaluator

    def _check_cameras(self, evaluator: Evaluator) -> None:
        """Where the data have no cameras samplers do without; parts that need them are refused."""
        if evaluator.data.train.cameras is not None:
            return
        self.card["cameras"] = False
        for stage in self.recipe.stages:
            for part in (build_labeler(stage), build_objective(stage)):
                if part.uses_cameras:
                    lacking = ", ".join(evaluator.without_cameras) or evaluator.data.name
                    raise ConfigError(
                        f"{type(part).__name__} needs cameras, but {lacking} has none.",
                        "Add a camera column to the data, or choose another part.",
                    )

    def _check_test_part(self, evaluator: Evaluator) -> None:
        """Without one, runs train and are not evaluated; what needs a test is refused.

        Raises:
            ConfigError: a method that does not train, or a checkpoint chosen by the test.
        """
        if evaluator.evaluates:
            return
        name = evaluator.data.name
        if not self.recipe.stages:
            raise ConfigError(
                f"{self.recipe.method} does not train, and {name} has no test part.",
                "Choose a method that trains, or data with query and gallery images.",
            )
        if self.config.selection == "oracle":
            raise ConfigError(
                f"selection=oracle needs a test part, and {name} has none.", "Use selection=last."
            )
        self.reporter.say(f"{name} has no test part: this run trains and is not evaluated.")

    def _backbone(self, config: DictConfig, stage: str, *purpose: str) -> Backbone:
        """A network with its initial weights, drawn from the cell's seed where they are random."""
        torch.manual_seed(derive(int(self.config.seed), stage, "init", *purpose))
        return self._placed(build_initial(config.backbone, self.init), config)

    def _placed(self, backbone: Backbone, config: DictConfig) -> Backbone:
        batch = config.batch
        images = int(batch.identities) * int(batch.images)
        set_samples_per_bn(backbone, int(batch.samples_per_bn), images)
        return backbone.to(self.device).to(memory_format=torch.channels_last)

    def _teacher(self, stage: Stage) -> Backbone | None:
        """The finished network that a stage's distiller follows, on that stage's batches."""
        if stage.teacher_run is not None:
            return self._placed(load_network(*run_of_teacher(self.config, stage)), stage.config)
        if stage.teacher_stage is None:
            return None
        source = next(s for s in self.recipe.stages if s.name == stage.teacher_stage)
        backbone = build_backbone(source.config.backbone)
        path = self.folder / f"{source.name}.pt"
        backbone.load_state_dict(sharing.from_first(lambda: read_state(path)))
        return self._placed(backbone, stage.config)

    # ----------------------------------------------------------------------------- training

    def _train(
        self, stage: Stage, evaluator: Evaluator, checkpoint: Mapping[str, Any] | None
    ) -> None:
        backbone = self._backbone(stage.config, stage.name)
        parts = Parts(
            backbone,
            build_labeler(stage),
            build_objective(stage),
            build_distiller(
                stage,
                self._teacher(stage),
                backbone,
                peer=lambda: self._backbone(stage.config, stage.name, "peer"),
            ),
        )
        data = evaluator.unlabelled(self.recipe.uses_cameras)
        trainer = Trainer(
            name=stage.name,
            config=stage.config,
            parts=parts,
            data=data,
            device=self.device,
            precision=self.precision,
            reporter=self.reporter,
            observe=evaluator.observe,
            test=self._looks(evaluator, data),
        )
        best: dict[str, Any] = {}
        if checkpoint is not None:
            trainer.load_state_dict(checkpoint["trainer"])
            best = dict(checkpoint["best"])
            self.reporter.say(f"{stage.name}: going on with epoch {trainer.next_epoch}.")
        metrics: dict[str, Any] = {}
        for row in trainer.epochs():
            self.history.append(row)
            self.tracker.log(row, len(self.history) - 1)
            if "mAP" in row or self._chosen_by in row:
                metrics = (
                    {key: row[key] for key in evaluator.last.as_dict()} if evaluator.last else {}
                )
                metrics["epoch"] = row["epoch"]
            value = row.get(self._chosen_by)
            if value is not None and value > best.get(self._chosen_by, -math.inf):
                best = metrics | {self._chosen_by: value}
                self._save_network(stage.name, trainer.tested_network[1])
                self._remember(stage.name, evaluator)
            self.reporter.time_left(self._time_left(stage.name, trainer))
            self.reporter.epoch(row)
            ended = trainer.next_epoch > trainer.last_epoch
            if ended:
                if self.config.selection == "last":
                    self._save_network(stage.name, trainer.tested_network[1])
                    self._remember(stage.name, evaluator)
                self._end_stage(stage.name, best or metrics or {"epoch": row["epoch"]}, trainer)
            self._save_checkpoint(None if ended else trainer, best, evaluator.fingerprint)

    def _looks(
        self, evaluator: Evaluator, data: UnlabelledSet
    ) -> Callable[[Backbone], Mapping[str, float]]:
        """What a network is looked at by: the test set, and criteria without labels if wanted."""
        names, reference = read_label_free(self.config)
        if not names:
            return evaluator.test
        cameras = as_cameras(evaluator.data.train.cameras)
        measure = judge(names, reference, data, cameras, self.device, self.precision)
        return lambda backbone: measure(backbone) | evaluator.test(backbone)

    @property
    def _chosen_by(self) -> str:
        """What of a row the checkpoint is chosen by; '' for the last one."""
        if self.config.selection == "label_free":
            return column(read_label_free(self.config)[0][0])
        return "mAP" if self.config.selection == "oracle" else ""

    def _end_stage(self, name: str, metrics: Mapping[str, Any], trainer: Trainer) -> None:
        rows = [row for row in self.history if row["stage"] == name]
        apart = {"epoch", self._chosen_by} - {"mAP"}
        self.stages[name] = {
            "metrics": {k: v for k, v in metrics.items() if k not in apart},
            "network": trainer.tested_network[0],
            "epoch": metrics["epoch"],
            **stage_throughput(rows),
            "seconds": {k: round(v, 3) for k, v in trainer.timings.items()},
        }

    def _time_left(self, stage: str, trainer: Trainer) -> float:
        """Seconds to the end of the experiment, from the mean of the epochs so far."""
        mean = float(np.mean([row["seconds"] for row in self.history[-5:]]))
        left = trainer.last_epoch - trainer.next_epoch + 1
        names = [s.name for s in self.recipe.stages]
        for later in self.recipe.stages[names.index(stage) + 1 :]:
            left += later.config.train.epochs + later.config.train.warmup_epochs
        return mean * left


def _say_metrics(run: Run, reporter: Reporter) -> None:
    record = run.record
    for name, result in record["stages"].items():
        m = result["metrics"]
        label = f"{record['experiment']['method']} ({name})"
        if not m:
            reporter.say(f"{label}: trained, not evaluated")
            continue
        reporter.say(
            f"{label}: mAP {m['mAP']:.1f}  Rank-1 {m['rank1']:.1f}  Rank-5 {m['rank5']:.1f}  "
            f"Rank-10 {m['rank10']:.1f}  mINP {m['mINP']:.1f}"
        )
    reporter.say(f"{run.folder}  ({duration(record['seconds'])})")
