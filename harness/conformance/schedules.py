"""Golden cases of learning rates and epochs, read from the composed configurations themselves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from omegaconf import DictConfig

from harness.conformance.cases import Check, Vectors, case, close, equal
from harness.training.label_schedule import tested_epochs
from harness.training.optimizers import learning_rate


@case("lr_schedules")
def learning_rates(z: Vectors) -> Iterator[Check]:
    """×0.1 every 20 epochs, counted from the first epoch, warm-up included; rates that rise at
    first, those of `method=cap` and `method=ice`, both `protocol=published`.
    """
    from harness.experiment.compose import compose

    base = float(z["base_lr"])
    usual = {"lr": base, "gamma": 0.1, "step": 20}
    for key, first in (("steplr20_epoch_and_lr", 0), ("mskd_student_epoch_and_lr", -1)):
        epochs = z[key][:, 0].astype(int)
        ours = [learning_rate(usual, int(epoch) - first) for epoch in epochs]
        yield equal(f"{key.removesuffix('_epoch_and_lr')} epochs", epochs[0], first)
        yield close(key.removesuffix("_epoch_and_lr"), ours, z[key][:, 1], 1e-12)
    for name in ("cap", "ice"):
        config = compose([f"method={name}", "dataset=market1501", "protocol=published"])
        theirs = z[f"{name}_lr_per_epoch"]
        ours = [learning_rate(config.optimizer, epoch) for epoch in range(len(theirs))]
        yield close(name, ours, theirs, 1e-12)


def mskd_schedules(z: Vectors) -> Iterator[Check]:
    """The epochs, iterations, rates and tests of `method=mskd protocol=published`."""
    from harness.experiment.compose import compose
    from harness.experiment.recipe import make_recipe

    recipe = make_recipe(compose(["method=mskd", "dataset=market1501", "protocol=published"]))
    for stage in recipe.stages:
        rows = np.array(list(_schedule(stage.config)))
        yield close(f"{stage.name} schedule", rows, z[f"{stage.name}_schedule"], 1e-12)
        train = stage.config.train
        tested = tested_epochs(train.warmup_epochs, train.epochs, stage.config.evaluation.every)
        yield equal(f"{stage.name} tested after", tested, z[f"{stage.name}_eval_after_epoch"])


def _schedule(config: DictConfig) -> Iterator[tuple[int, int, float]]:
    train, optimizer = config.train, config.optimizer
    for epoch in range(-train.warmup_epochs, train.epochs):
        iterations = train.iterations * (train.warmup_iterations if epoch < 0 else 1)
        yield epoch, iterations, learning_rate(optimizer, epoch + train.warmup_epochs)
