"""The sections of a configuration: each option with its kind, range and meaning, declared once.

Defaults are in `harness/conf/config.yaml`. Rules between options are in `check_sections` and
`check_stage`. The options of backbones, labelers, objectives, distillers and data sets are declared
by their constructors (`harness.core.options`).
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field

from harness.core.distributed.processes import world_size
from harness.core.errors import ConfigError, Problems, did_you_mean, first_line
from harness.core.options import check_options
from harness.core.tuned import check_tuned
from harness.data.augmentation_settings import make_augment
from harness.data.samplers import SAMPLERS
from harness.evaluation.label_free import read_label_free
from harness.training.label_schedule import check_label_every
from harness.training.optimizers import check_optimizer

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Interval = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]


def _option(meaning: str, **limits: Any) -> Any:
    return Field(description=meaning, **limits)


class Protocol(BaseModel):
    """What is held equal across methods, as a preset."""

    name: str = _option("the preset, on the protocol card")


class Images(BaseModel):
    """Input size and augmentation."""

    height: Positive = _option("input height in pixels")
    width: Positive = _option("input width in pixels")
    flip: Share = _option("probability of a horizontal flip")
    pad: Natural = _option("pixels of zero padding before the random crop")
    erase: Share = _option("probability of random erasing")
    erase_area: Interval = _option("erased share of the image, from and to")
    erase_aspect: Interval = _option("aspect of erased rectangles")
    blur: Share = _option("probability of Gaussian blur")
    part_area: Interval | None = _option("area of random crops resized to the input (BUC)")
    part_aspect: Interval = _option("height / width of these crops")


class Batch(BaseModel):
    """P × K batches and their batch-norm statistics."""

    identities: Positive = _option("P, clusters per batch")
    images: Positive = _option("K, images per cluster")
    samples_per_bn: Natural = _option("images that share batch-norm statistics; 0: the whole batch")
    sampler: Literal["identity", "camera", "proxy", "random"] = _option(
        "how batches are drawn from clusters and cameras"
    )
    joint: bool = _option("as many images of the labeled source in each batch")
    domain_norms: bool = _option("in joint batches, batch norms of the source and of the target")


class Train(BaseModel):
    """Epochs, iterations, precision."""

    epochs: Positive = _option("epochs of a stage", le=100_000)
    iterations: Positive | Literal["auto"] = _option("per epoch; auto: labeled images / batch size")
    label_every: Any = _option("epochs that labels last; below 1: a share of the epochs; or a list")
    warmup_epochs: Natural = _option(
        "first epochs, labeled by the teacher, memories frozen", le=100_000
    )
    warmup_iterations: Positive = _option("factor on `iterations` in warm-up epochs")
    precision: Literal["fp32", "tf32", "bf16", "fp16", "auto"] = _option(
        "arithmetic of networks; auto: bf16 where the hardware has it"
    )
    compile: Literal["off", "default", "max-autotune"] = _option("torch.compile of networks")
    micro_batch: Positive | Literal["auto"] = _option(
        "images computed at once; auto: as many as fit. Changes rounding, and drop_path's draws"
    )


class Optimizer(BaseModel):
    """Optimizer and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = _option("the optimizer")
    lr: float = _option("learning rate", gt=0)
    weight_decay: float = _option("L2 penalty in the gradient; decoupled in AdamW", ge=0)
    schedule: Literal["step", "cosine"] = _option("how the rate falls")
    min_lr: float = _option("the rate after the last epoch of a cosine schedule", ge=0)
    step: Positive = _option("epochs between factors of gamma")
    steps: list[Positive] | None = _option("epochs at which gamma applies, in place of step")
    gamma: float = _option("factor on the learning rate", gt=0)
    warmup: Natural = _option("epochs of linear warm-up")
    warmup_start: Share = _option("factor on the rate at their start")
    momentum: Share = _option("of SGD")
    nesterov: bool = _option("Nesterov momentum, of SGD")
    layer_decay: float = _option(
        "factor on the rate from each layer to the one below it", gt=0, le=1
    )
    clip: float | None = _option("largest norm of a step's gradients; null: any", gt=0)
    backbone_lr_mult: float = _option("factor on the rate of pretrained layers", ge=0)
    reset_with_labels: bool = _option("start with fresh moments whenever labels are made")


class Neighbours(BaseModel):
    """k-reciprocal Jaccard distance."""

    k1: Positive = _option("neighbours, the image itself included")
    k2: Positive = _option("neighbours of the query expansion")


class Evaluation(BaseModel):
    """When tests are made, and how."""

    every: Positive = _option("epochs between tests; the end is always tested")
    rerank: bool = _option("k-reciprocal re-ranking")
    keep_features: bool = _option("keep test features (float16) with the run")
    label_free: str | list[str] | None = _option("criteria without labels, measured at each test")
    reference: dict[str, Any] | None = _option(
        "k1, k2, eps, min_samples of their clustering; null: neighbours"
    )


class MethodSection(BaseModel):
    """The method."""

    name: str = _option("in run names, records and tables")
    uses_cameras: bool = _option("whether its parts or sampler see camera ids")


class Data(BaseModel):
    """Where data are."""

    root: str = _option("folder of all data sets")
    cache_dir: str | None = _option("folder of image caches; null: ROOT/.harness if writable")
    cache_location: Literal["auto", "device", "pinned", "mmap"] = _option(
        "where training images are while training. Same results"
    )


#: the parts and sections that a stage may change
STAGE_KEYS = (
    "backbone", "labeler", "objective", "distiller", "images", "train", "batch", "optimizer",
    "neighbours",
)  # fmt: skip
#: sections that are checked for every stage
STAGE_SECTIONS: dict[str, type[BaseModel]] = {
    "images": Images, "train": Train, "batch": Batch, "optimizer": Optimizer,
    "neighbours": Neighbours,
}  # fmt: skip
SECTIONS: dict[str, type[BaseModel]] = {
    "protocol": Protocol, "images": Images, "evaluation": Evaluation, "method": MethodSection,
    "data": Data, **STAGE_SECTIONS,
}  # fmt: skip


class Settings(BaseModel):
    """The options at the top of a configuration."""

    seed: Natural = _option("of every random draw")
    selection: Literal["last", "label_free", "oracle"] = _option(
        "the epoch whose network is kept and reported"
    )
    init: str | None = _option("a finished run; training starts from its network")
    store: str = _option("folder of runs")
    name: str | None = _option("the run's folder; null: METHOD-DATASET-sSEED-HASH")
    overwrite: Literal["skip", "always", "backfill"] = _option(
        "a finished run: report it, run it afresh, or add what it lacks"
    )
    log: Literal["none", "tensorboard", "wandb", "mlflow"] = _option("curves while training")
    device: str = _option("auto, cpu, cuda or cuda:N")
    threads: int = _option("CPU threads; 0: all cores", ge=0, le=1024)


TOP_KEYS = (*STAGE_KEYS, *SECTIONS, *Settings.model_fields, "stages", "dataset", "source", "tuned")


def check_sections(config: DictConfig) -> None:
    """Check the options of a composed configuration, apart from those of parts.

    Raises:
        ConfigError: an unknown or missing option, or a value of the wrong kind or out of range.
    """
    for key in config:
        if key not in TOP_KEYS:
            raise ConfigError(f"There is no option '{key!s}'.", did_you_mean(str(key), TOP_KEYS))
    check_complete(config)
    check_tuned(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain["stages"] or {}, dict):
        raise ConfigError(f"stages={plain['stages']} must hold keys and values.")
    problems = Problems()
    with problems.collecting():
        check_options(Settings, {key: plain[key] for key in Settings.model_fields})
    if plain["train"].get("compile") is False:
        raise ConfigError(
            "train.compile=false must be off, default or max-autotune.",
            'Write it as "off": YAML reads the bare word as false.',
        )
    for name, section in SECTIONS.items():
        with problems.collecting():
            check_options(section, plain[name], name)
    problems.check()
    _check_numbers(plain)
    read_label_free(config)
    check_stage(config)


def check_complete(config: DictConfig) -> None:
    """Check that every section is there, and that every option has a value.

    Raises:
        ConfigError: names those that are missing.
    """
    try:
        missing = sorted(OmegaConf.missing_keys(config))
    except OmegaConfBaseException as error:  # ${…} of what is not there
        raise ConfigError(
            f"{error.full_key}: {first_line(error)}.", f"Give it: {error.full_key}=VALUE."
        ) from error
    missing += _lacking(config)
    if missing:
        raise ConfigError(
            f"No value was given for {', '.join(missing)}.", f"Give one: {missing[0]}=VALUE."
        )
    for key in (*STAGE_KEYS, *SECTIONS, "dataset"):
        if not isinstance(config.get(key), DictConfig):
            raise ConfigError(
                f"{key}={config.get(key)} must hold keys and values.", f"Change one: {key}.KEY=…"
            )


def _lacking(config: DictConfig) -> list[str]:
    """Options that were taken out (`~optimizer.step`), or that config.json of an earlier version
    does not have.
    """
    keys = dict.fromkeys([*STAGE_KEYS, *SECTIONS, *Settings.model_fields, "stages", "dataset"])
    found = [key for key in keys if key not in list(config)]  # `in config` is false for ??? values
    needed = {name: list(section.model_fields) for name, section in SECTIONS.items()}
    needed |= {"dataset": ["name", "_target_"], "backbone": ["_target_"]}
    for name, options in needed.items():
        node = config.get(name)
        if isinstance(node, DictConfig):
            found += [f"{name}.{key}" for key in options if key not in list(node)]
    return found


def _check_numbers(node: Any, key: str = "") -> None:
    """Refuse nan, inf and numbers beyond int64 at any depth, declared or not: no part computes with
    them, and no record can hold them.

    Raises:
        ConfigError: names the option.
    """
    if isinstance(node, dict | list):
        inner = node.items() if isinstance(node, dict) else enumerate(node)
        for name, value in inner:
            _check_numbers(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, float) and not math.isfinite(node):
        raise ConfigError(f"{key}={node} must be a finite number.")
    elif isinstance(node, int) and not -(2**63) <= node < 2**63:
        raise ConfigError(f"{key}={node} is beyond the whole numbers of 64 bits.")


def check_stage(config: DictConfig, where: str = "") -> None:
    """Check the sections that a stage may change, alone and together.

    Args:
        where: what a message begins with ("stages.student: ").

    Raises:
        ConfigError: a value is out of range, or some contradict each other.
    """
    for name, section in STAGE_SECTIONS.items():
        plain: Any = OmegaConf.to_container(config[name], resolve=True)
        check_options(section, plain, f"{where}{name}")
    sampler = config.batch.sampler
    if SAMPLERS[sampler].needs_cameras and not config.method.uses_cameras:
        raise ConfigError(
            f"{where}batch.sampler={sampler} needs cameras, but method.uses_cameras is false.",
            "Set method.uses_cameras=true (tables will show it), or batch.sampler=identity.",
        )
    check_optimizer(config.optimizer, where)
    check_label_every(config.train.label_every, where)
    _check_batches(config, where)
    make_augment(config.images)


def _check_batches(config: DictConfig, where: str) -> None:
    """Check that batches can be shared by processes, and that batch-norm groups stay whole."""
    batch, group = config.batch.identities * config.batch.images, config.batch.samples_per_bn
    if group == 1 or batch < 2:
        raise ConfigError(
            f"{where}Batches of {batch} with batch.samples_per_bn={group}: a single image has no "
            "statistics.",
            "Use batch.samples_per_bn=0 (whole batch) or 2 and more, and batches of 2 and more.",
        )
    whole = group == 0 or group >= batch  # statistics over the whole batch
    if not whole and batch % group:
        raise ConfigError(
            f"{where}batch.samples_per_bn={group} does not divide the batch of {batch} images "
            f"({config.batch.identities} × {config.batch.images}).",
            "Choose a divisor, or 0 for the whole batch.",
        )
    processes = world_size()
    share = batch // processes
    if batch % processes:
        raise ConfigError(
            f"{where}A batch of {batch} images cannot be shared equally by {processes} processes.",
            "Start another number of processes, or change batch.identities or batch.images.",
        )
    if not whole and share % group:
        fit = [str(n) for n in range(1, batch // group + 1) if batch // group % n == 0]
        raise ConfigError(
            f"{where}{processes} processes take {share} of {batch} images each, which are not "
            f"whole groups of batch.samples_per_bn={group}.",
            f"Start {', '.join(fit[:-1])} or {fit[-1]} processes, or set batch.samples_per_bn=0 "
            "for statistics over the whole batch.",
        )
    micro_batch = config.train.micro_batch
    if micro_batch == "auto" or micro_batch >= share:
        return
    if whole:
        raise ConfigError(
            f"{where}train.micro_batch={micro_batch}, but batch.samples_per_bn={group} takes "
            f"statistics over the whole batch of {batch} images, which must be computed at once.",
            "Lower batch.samples_per_bn, or leave train.micro_batch out.",
        )
    if micro_batch % group:
        raise ConfigError(
            f"{where}train.micro_batch={micro_batch} splits batch-norm groups of {group} images.",
            f"Choose a multiple of batch.samples_per_bn={group}.",
        )
