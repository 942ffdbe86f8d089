"""The values of a composed configuration: of the right kind and within their range."""

from __future__ import annotations

import math

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.core.errors import ConfigError, did_you_mean, first_line
from harness.core.tuned import check_tuned
from harness.data.augmentation_settings import make_augment
from harness.data.samplers import SAMPLERS
from harness.evaluation.label_free import read_label_free
from harness.training.label_schedule import check_label_every
from harness.training.optimizers import check_optimizer

#: the parts and settings that a stage may change
STAGE_KEYS = (
    "backbone", "labeler", "objective", "distiller", "train", "batch", "optimizer", "neighbours",
)  # fmt: skip
TOP_KEYS = (
    *STAGE_KEYS, "seed", "protocol", "images", "evaluation", "selection", "method", "stages",
    "dataset", "data", "init", "store", "name", "overwrite", "log", "device", "threads",
    "tuned",
)  # fmt: skip
SECTIONS = ("protocol", "images", "evaluation", "method", "dataset", "data")
SELECTIONS = ("last", "label_free", "oracle")
POSITIVE = ("images.height", "images.width", "batch.identities", "batch.images",
            "train.epochs", "train.iterations", "train.warmup_iterations", "optimizer.step",
            "evaluation.every")  # fmt: skip
FROM_ZERO = ("batch.samples_per_bn", "train.warmup_epochs", "images.pad", "seed", "threads",
             "optimizer.warmup")  # fmt: skip
TRUTHS = ("method.uses_cameras", "evaluation.rerank", "evaluation.keep_features")
STAGE_TRUTHS = ("optimizer.nesterov", "optimizer.reset_with_labels")
#: key → (lowest, highest); whether the lowest itself is allowed
RANGES = {
    "optimizer.lr": (0.0, math.inf, False),
    "optimizer.gamma": (0.0, math.inf, False),
    "optimizer.weight_decay": (0.0, math.inf, True),
    "optimizer.momentum": (0.0, 1.0, True),
    "optimizer.warmup_start": (0.0, 1.0, True),
    "optimizer.backbone_lr_mult": (0.0, math.inf, True),
    "images.flip": (0.0, 1.0, True),
    "images.erase": (0.0, 1.0, True),
    "images.blur": (0.0, 1.0, True),
}


def check_values(config: DictConfig) -> None:
    """Whether all options of a cell are known, given, and of a value that they can have.

    Raises:
        ConfigError: one is not; with what would do.
    """
    for key in config:
        if key not in TOP_KEYS:
            raise ConfigError(f"There is no option '{key!s}'.", did_you_mean(str(key), TOP_KEYS))
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:  # ${…} of what is not there
        raise ConfigError(
            f"{error.full_key}: {first_line(error)}.", f"Give it: {error.full_key}=VALUE."
        ) from error
    if missing:
        raise ConfigError(
            f"No value was given for {', '.join(missing)}.", f"Give one: {missing[0]}=VALUE."
        )
    check_tuned(config)
    for key in TOP_KEYS[: TOP_KEYS.index("seed")] + SECTIONS:
        if not isinstance(config.get(key), DictConfig):
            raise ConfigError(
                f"{key}={config.get(key)} must hold keys and values.", f"Change one: {key}.KEY=…"
            )
    if config.selection not in SELECTIONS:
        raise ConfigError(
            f"selection={config.selection} is unknown.",
            did_you_mean(str(config.selection), SELECTIONS),
        )
    read_label_free(config)  # refuses what is unknown
    _check_truths(config, TRUTHS)
    check_numbers(config)
    make_augment(config.images)  # refuses what is out of range


def _check_truths(config: DictConfig, keys: tuple[str, ...], where: str = "") -> None:
    for key in keys:
        value = OmegaConf.select(config, key)
        if not isinstance(value, bool):
            raise ConfigError(f"{where}{key}={value} must be true or false.")


def check_numbers(config: DictConfig, where: str = "") -> None:
    """Whether a stage's numbers, sampler, optimizer and rhythm are possible, alone and together.

    Args:
        where: what a message begins with ("stages.student: ").

    Raises:
        ConfigError: one is not; with what would do.
    """
    sampler = config.batch.get("sampler")
    if sampler not in SAMPLERS:
        raise ConfigError(
            f"{where}batch.sampler={sampler} is unknown.", did_you_mean(str(sampler), SAMPLERS)
        )
    if SAMPLERS[sampler].needs_cameras and not config.method.uses_cameras:
        raise ConfigError(
            f"{where}batch.sampler={sampler} needs cameras, but method.uses_cameras is false.",
            "Set method.uses_cameras=true (tables will show it), or batch.sampler=identity.",
        )
    for key in (*POSITIVE, *FROM_ZERO):
        value = OmegaConf.select(config, key)
        if (key, value) == ("train.iterations", "auto"):
            continue
        least = 1 if key in POSITIVE else 0
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ConfigError(f"{where}{key}={value} must be a whole number, {least} or more.")
    for key, (low, high, closed) in RANGES.items():
        value = OmegaConf.select(config, key)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and math.isfinite(value) and low <= value <= high) or (
            value == low and not closed
        ):
            limits = f"{low:g} or more" if closed else f"above {low:g}"
            limits = limits if high == math.inf else f"from {low:g} to {high:g}"
            raise ConfigError(f"{where}{key}={value} must be a number, {limits}.")
    _check_truths(config, STAGE_TRUTHS, where)
    check_optimizer(config.optimizer, where)
    check_label_every(config.train.label_every, where)
    batch, group = config.batch.identities * config.batch.images, config.batch.samples_per_bn
    if group == 1 or batch < 2:
        raise ConfigError(
            f"{where}Batches of {batch} with batch.samples_per_bn={group}: a single image has no "
            "statistics.",
            "Use batch.samples_per_bn=0 (whole batch) or 2 and more, and batches of 2 and more.",
        )
    if group and batch % group and batch > group:
        raise ConfigError(
            f"{where}batch.samples_per_bn={group} does not divide the batch of {batch} images "
            f"({config.batch.identities} × {config.batch.images}).",
            "Choose a divisor, or 0 for the whole batch.",
        )
