"""Golden cases of learning rates and epochs, for the composed configurations of methods."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from omegaconf import DictConfig

from harness.conformance.cases import Check, Vectors, case, close
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.training.label_schedule import tested_epochs
from harness.training.optimizers import learning_rate

_TOLERANCE = 1e-12


def _config(method: str) -> DictConfig:
    return compose([f"method={method}", "dataset=market1501", "protocol=published"])


@case("lr_schedules")
def learning_rates(z: Vectors) -> Iterator[Check]:
    """The shapes of schedules, at the base rate of the file.

    ×0.1 every 20 epochs, warm-up epochs included, and the linear warm-up of CAP and ICE.
    """
    base = {"lr": z.number("base_lr")}
    usual = {**_config("mskd").optimizer, **base, "gamma": 0.1, "step": 20}
    for name, first in (("steplr20", 0), ("mskd_student", -1)):
        epochs = z[f"{name}_epoch_and_lr"][:, 0].astype(int)
        yield close(f"{name} epochs", epochs[0], first)
        ours = [(epoch, learning_rate(usual, int(epoch) - first, 50)) for epoch in epochs]
        yield from z.close(f"{name}_*", _TOLERANCE, epoch_and_lr=ours)
    for name in ("cap", "ice"):
        settings = {**_config(name).optimizer, **base}
        count = len(z[f"{name}_lr_per_epoch"])
        rates = [learning_rate(settings, epoch, count) for epoch in range(count)]
        yield from z.close(f"{name}_*", _TOLERANCE, lr_per_epoch=rates)


def mskd_schedules(z: Vectors) -> Iterator[Check]:
    """The epochs, iterations, rates and tests of `method=mskd protocol=published`."""
    for stage in make_recipe(_config("mskd")).stages:
        rows = np.array(list(_schedule(stage.config)))
        yield from z.close(f"{stage.name}_*", _TOLERANCE, schedule=rows)
        train = stage.config.train
        tested = tested_epochs(train.warmup_epochs, train.epochs, stage.config.evaluation.every)
        yield from z.equal(f"{stage.name}_*", eval_after_epoch=tested)


def _schedule(config: DictConfig) -> Iterator[tuple[int, int, float]]:
    train, optimizer = config.train, config.optimizer
    for epoch in range(-train.warmup_epochs, train.epochs):
        iterations = train.iterations * (train.warmup_iterations if epoch < 0 else 1)
        yield (
            epoch,
            iterations,
            learning_rate(
                optimizer, epoch + train.warmup_epochs, train.epochs + train.warmup_epochs
            ),
        )
