"""Golden cases of learning rates and epochs, for the composed configurations of methods."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from omegaconf import DictConfig

from harness.conformance.cases import Check, Vectors, case, equal
from harness.training.label_schedule import tested_epochs
from harness.training.optimizers import learning_rate

_TOLERANCE = 1e-12


def _config(method: str) -> DictConfig:
    from harness.experiment.compose import compose

    return compose([f"method={method}", "dataset=market1501", "protocol=published"])


@case("lr_schedules")
def learning_rates(z: Vectors) -> Iterator[Check]:
    """The shapes of schedules, at the base rate of the file.

    ×0.1 every 20 epochs, warm-up epochs included, and the linear warm-up of CAP and ICE.
    """
    base = {"lr": z.number("base_lr")}
    usual = {**_config("mskd").optimizer, **base, "gamma": 0.1, "step": 20}
    for name, first in (("steplr20", 0), ("mskd_student", -1)):
        key = f"{name}_epoch_and_lr"
        epochs = z[key][:, 0].astype(int)
        yield equal(f"{name} epochs", epochs[0], first)
        ours = [(epoch, learning_rate(usual, int(epoch) - first)) for epoch in epochs]
        yield z.close(name, ours, key, _TOLERANCE)
    for name in ("cap", "ice"):
        settings = {**_config(name).optimizer, **base}
        key = f"{name}_lr_per_epoch"
        rates = [learning_rate(settings, epoch) for epoch in range(len(z[key]))]
        yield z.close(name, rates, key, _TOLERANCE)


def mskd_schedules(z: Vectors) -> Iterator[Check]:
    """The epochs, iterations, rates and tests of `method=mskd protocol=published`."""
    from harness.experiment.recipe import make_recipe

    for stage in make_recipe(_config("mskd")).stages:
        rows = np.array(list(_schedule(stage.config)))
        yield z.close(f"{stage.name} schedule", rows, f"{stage.name}_schedule", _TOLERANCE)
        train = stage.config.train
        tested = tested_epochs(train.warmup_epochs, train.epochs, stage.config.evaluation.every)
        yield z.equal(f"{stage.name} tested after", tested, f"{stage.name}_eval_after_epoch")


def _schedule(config: DictConfig) -> Iterator[tuple[int, int, float]]:
    train, optimizer = config.train, config.optimizer
    for epoch in range(-train.warmup_epochs, train.epochs):
        iterations = train.iterations * (train.warmup_iterations if epoch < 0 else 1)
        yield epoch, iterations, learning_rate(optimizer, epoch + train.warmup_epochs)
