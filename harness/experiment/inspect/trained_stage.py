"""One stage of a finished run with its network and images, as figures need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone, PseudoLabeler
from harness.core.progress import Reporter
from harness.data.image_cache import ImageCache
from harness.evaluation.evaluator import Evaluator
from harness.evaluation.protocol import EvaluationProtocol
from harness.experiment.evaluate import (
    choose,
    find_stage,
    recorded_evaluator,
    recorded_precision,
)
from harness.experiment.finished_networks import load_network
from harness.experiment.recipe import stage_config
from harness.experiment.stages import build, target_of
from harness.results.store import Run
from harness.training.extraction import extract
from harness.training.label_schedule import label_schedule


@dataclass
class TrainedStage:
    """A stage whose network and images are loaded on first use, once.

    stage: its name; None for the last one. root, cache: folders of the data sets and of decoded
    images. changes: `dataset.KEY=VALUE`, for data that have moved.
    """

    run: Run
    stage: str | None
    root: Path
    cache: Path
    device: torch.device
    reporter: Reporter
    changes: Sequence[str] = ()

    @cached_property
    def name(self) -> str:
        """The name of the stage; a ConfigError if the run is unfinished or has none of it."""
        hint = (
            "Repeat its command to finish it, or draw its curves so far: harness show RUN curves."
        )
        return find_stage(self.run, self.stage, hint)

    @property
    def title(self) -> str:
        return f"{self.run.name} ({self.name})"

    @cached_property
    def config(self) -> dict[str, Any]:
        config = self.run.complete_config()
        choose(config, self.changes)
        return config

    @cached_property
    def backbone(self) -> Backbone:
        """The network at the end of the stage; a ConfigError if its weights were not kept."""
        return load_network(self.run, self.name).to(self.device).eval()

    def _evaluator(self, train: bool) -> Evaluator:
        protocol = EvaluationProtocol(bool(self.config["evaluation"].get("rerank", False)))
        made = recorded_evaluator(
            self.config, self.root, self.cache, self.device, self.reporter, protocol, train
        )
        known = self.run.record.get("dataset", {}).get("fingerprint")
        if known not in (None, made.fingerprint):
            self.reporter.say("These images differ from those that the run was evaluated on.")
        return made

    @cached_property
    def test(self) -> Evaluator:
        """The evaluator of the test images; a ConfigError if the data set has none."""
        made = self._evaluator(train=False)
        if not made.evaluates:
            raise ConfigError(
                f"{made.data.name} has no test part: there is nothing to rank.",
                "These figures need none: harness show RUN embedding curves maps.",
            )
        return made

    @property
    def example_images(self) -> ImageCache:
        """Query images, or training images where there are no queries."""
        try:
            images = self.test.query_cache
        except ConfigError:
            images = self.training.train_cache
        assert images is not None
        return images

    @cached_property
    def training(self) -> Evaluator:
        """The evaluator of the training images."""
        return self._evaluator(train=True)

    def features(self, images: np.ndarray, part: str, views: int | None = None) -> Tensor:
        """Features (N, V, D) of images (N, H, W, 3), L2-normalized per view."""
        precision = recorded_precision(self.config, self.device)
        progress = self.reporter.phase(f"{part} features")
        return extract(
            self.backbone, images, self.device, precision, progress=progress, views=views
        )

    def labels(self, features: Tensor) -> tuple[np.ndarray, str] | None:
        """Pseudo-labels (N,) of these features, −1 for outliers, and the labeler's description.

        None where the stage has no labeler, or one that reads the identities of a labeled source.
        A labeler that starts from its previous labels is called as often as in training.
        """
        config = stage_config(OmegaConf.create(self.config), self.config["stages"].get(self.name))
        target = (config.get("labeler") or {}).get("_target_")
        if target is None or getattr(target_of(target, "labeler"), "reads_identities", False):
            return None
        labeler: PseudoLabeler = build(config.labeler, "labeler")
        cameras = self.training.data.train.cameras if labeler.uses_cameras else None
        given = None if cameras is None else torch.from_numpy(np.asarray(cameras))
        every, epochs = config.train.get("label_every", 1), int(config.train.epochs)
        calls = sum(label_schedule(every, epochs)) if labeler.min_calls > 1 else 1
        self.reporter.phase("labels")
        for _ in range(calls):
            found = labeler.label(features, given).labels
        return found.numpy(), labeler.describe()
