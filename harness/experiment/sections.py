"""The sections of a configuration: each option with its kind, range and meaning, declared once.

Defaults are in `harness/conf/config.yaml`. Rules between options are in `check_sections` and
`check_stage`. The options of backbones, labelers, objectives, distillers and data sets are declared
by their constructors (`harness.core.options`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, Field

from harness.core.errors import ConfigError, did_you_mean, first_line
from harness.core.options import check_options
from harness.core.tuned import check_tuned
from harness.data.augmentation_settings import make_augment
from harness.data.samplers import SAMPLERS
from harness.evaluation.label_free import read_label_free
from harness.experiment.batch_checks import check_batches
from harness.training.label_schedule import check_label_every
from harness.training.optimizers import check_optimizer

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Interval = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=2, max_length=2)]


class Protocol(BaseModel):
    """What is held equal across methods, as a preset."""

    name: Annotated[str, Field(description="the preset, on the protocol card")]


class Images(BaseModel):
    """Input size and augmentation."""

    height: Annotated[Positive, Field(description="input height in pixels")]
    width: Annotated[Positive, Field(description="input width in pixels")]
    flip: Annotated[Share, Field(description="probability of a horizontal flip")]
    pad: Annotated[Natural, Field(description="pixels of zero padding before the random crop")]
    erase: Annotated[Share, Field(description="probability of random erasing")]
    erase_area: Annotated[Interval, Field(description="erased share of the image, from and to")]
    erase_aspect: Annotated[Interval, Field(description="aspect of erased rectangles")]
    blur: Annotated[Share, Field(description="probability of Gaussian blur")]
    part_area: Annotated[
        Interval | None, Field(description="area of random crops resized to the input (BUC)")
    ]
    part_aspect: Annotated[Interval, Field(description="height / width of these crops")]


class Batch(BaseModel):
    """P × K batches and their batch-norm statistics."""

    identities: Annotated[Positive, Field(description="P, clusters per batch")]
    images: Annotated[Positive, Field(description="K, images per cluster")]
    samples_per_bn: Annotated[
        Natural, Field(description="images that share batch-norm statistics; 0: the whole batch")
    ]
    sampler: Annotated[
        Literal["identity", "camera", "proxy", "random"],
        Field(description="how batches are drawn from clusters and cameras"),
    ]


class Train(BaseModel):
    """Epochs, iterations, precision."""

    epochs: Annotated[Positive, Field(description="epochs of a stage")]
    iterations: Annotated[
        Positive | Literal["auto"],
        Field(description="per epoch; auto: labelled images / batch size"),
    ]
    label_every: Annotated[
        Any,  # see check_label_every
        Field(description="epochs that labels last; below 1: a share of the epochs; or a list"),
    ]
    warmup_epochs: Annotated[
        Natural, Field(description="first epochs, labelled by the teacher, memories frozen")
    ]
    warmup_iterations: Annotated[
        Positive, Field(description="factor on `iterations` in warm-up epochs")
    ]
    precision: Annotated[
        Literal["fp32", "tf32", "bf16", "fp16", "auto"],
        Field(description="arithmetic of networks; auto: bf16 where the hardware has it"),
    ]
    compile: Annotated[
        Literal["off", "default", "max-autotune"], Field(description="torch.compile of networks")
    ]
    micro_batch: Annotated[
        Positive | Literal["auto"],
        Field(description="images computed at once; auto: as many as fit. Same results"),
    ]


class Optimizer(BaseModel):
    """Optimizer and learning-rate schedule."""

    name: Annotated[Literal["adam", "sgd"], Field(description="the optimizer")]
    lr: Annotated[float, Field(gt=0, description="learning rate")]
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty in the gradient")]
    step: Annotated[Positive, Field(description="epochs between factors of gamma")]
    steps: Annotated[
        list[Positive] | None, Field(description="epochs at which gamma applies, in place of step")
    ]
    gamma: Annotated[float, Field(gt=0, description="factor on the learning rate")]
    warmup: Annotated[Natural, Field(description="epochs of linear warm-up")]
    warmup_start: Annotated[Share, Field(description="factor on the rate at their start")]
    momentum: Annotated[Share, Field(description="of SGD")]
    nesterov: Annotated[bool, Field(description="Nesterov momentum, of SGD")]
    backbone_lr_mult: Annotated[
        float, Field(ge=0, description="factor on the rate of pretrained layers")
    ]
    reset_with_labels: Annotated[
        bool, Field(description="start with fresh moments whenever labels are made")
    ]


class Neighbours(BaseModel):
    """k-reciprocal Jaccard distance."""

    k1: Annotated[Positive, Field(description="neighbours, the image itself included")]
    k2: Annotated[Positive, Field(description="neighbours of the query expansion")]


class Evaluation(BaseModel):
    """When tests are made, and how."""

    every: Annotated[Positive, Field(description="epochs between tests; the end is always tested")]
    rerank: Annotated[bool, Field(description="k-reciprocal re-ranking")]
    keep_features: Annotated[bool, Field(description="keep test features (float16) with the run")]
    label_free: Annotated[
        str | list[str] | None, Field(description="criteria without labels, measured at each test")
    ]
    reference: Annotated[
        dict[str, Any] | None,
        Field(description="k1, k2, eps, min_samples of their clustering; null: neighbours"),
    ]


class MethodSection(BaseModel):
    """The method."""

    name: Annotated[str, Field(description="in run names, records and tables")]
    uses_cameras: Annotated[bool, Field(description="whether its parts or sampler see camera ids")]


class Data(BaseModel):
    """Where data are."""

    root: Annotated[str, Field(description="folder of all data sets")]
    cache_dir: Annotated[
        str | None, Field(description="folder of image caches; null: ROOT/.harness")
    ]
    cache_location: Annotated[
        Literal["auto", "device", "pinned", "mmap"],
        Field(description="where training images are while training. Same results"),
    ]


#: the parts and sections that a stage may change
STAGE_KEYS = (
    "backbone", "labeler", "objective", "distiller", "train", "batch", "optimizer", "neighbours",
)  # fmt: skip
#: sections that are checked for every stage
STAGE_SECTIONS: dict[str, type[BaseModel]] = {
    "train": Train, "batch": Batch, "optimizer": Optimizer, "neighbours": Neighbours,
}  # fmt: skip
SECTIONS: dict[str, type[BaseModel]] = {
    "protocol": Protocol, "images": Images, "evaluation": Evaluation, "method": MethodSection,
    "data": Data, **STAGE_SECTIONS,
}  # fmt: skip


class Settings(BaseModel):
    """The options at the top of a configuration."""

    seed: Annotated[Natural, Field(description="of every random draw")]
    selection: Annotated[
        Literal["last", "label_free", "oracle"],
        Field(description="the epoch whose network is kept and reported"),
    ]
    init: Annotated[str | None, Field(description="a finished run whose network training begins")]
    store: Annotated[str, Field(description="folder of runs")]
    name: Annotated[
        str | None, Field(description="the run's folder; null: METHOD-DATASET-sSEED-HASH")
    ]
    overwrite: Annotated[
        Literal["skip", "always", "backfill"],
        Field(description="a finished run: report it, run it afresh, or add what it lacks"),
    ]
    log: Annotated[
        Literal["none", "tensorboard", "wandb", "mlflow"],
        Field(description="curves while training"),
    ]
    device: Annotated[str, Field(description="auto, cpu, cuda or cuda:N")]
    threads: Annotated[int, Field(ge=0, le=1024, description="CPU threads; 0: all cores")]


TOP_KEYS = (*STAGE_KEYS, *SECTIONS, *Settings.model_fields, "stages", "dataset", "tuned")


def check_sections(config: DictConfig) -> None:
    """Check the options of a composed configuration, apart from those of parts.

    Raises:
        ConfigError: an unknown or missing option, or a value of the wrong kind or out of range.
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
    for key in (*STAGE_KEYS, *SECTIONS, "dataset"):
        if not isinstance(config.get(key), DictConfig):
            raise ConfigError(
                f"{key}={config.get(key)} must be keys and values.", f"Change one: {key}.KEY=…"
            )
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    if not isinstance(plain["stages"] or {}, dict):
        raise ConfigError(f"stages={plain['stages']} must be keys and values.")
    check_options(Settings, {key: plain[key] for key in Settings.model_fields})
    if plain["train"].get("compile") is False:
        raise ConfigError(
            "train.compile=false must be off, default or max-autotune.",
            'Write it as "off": YAML reads the bare word as false.',
        )
    for name, section in SECTIONS.items():
        check_options(section, plain[name], name)
    read_label_free(config)
    check_stage(config)
    make_augment(config.images)


def check_stage(config: DictConfig, where: str = "") -> None:
    """Check the sections that a stage may change, alone and together.

    Args:
        where: what a message begins with ("stages.student: ").

    Raises:
        ConfigError: a value is out of range, or some contradict each other.
    """
    for name, section in STAGE_SECTIONS.items():
        plain = OmegaConf.to_container(config[name], resolve=True)
        assert isinstance(plain, dict)
        check_options(section, {str(key): value for key, value in plain.items()}, f"{where}{name}")
    sampler = config.batch.sampler
    if SAMPLERS[sampler].needs_cameras and not config.method.uses_cameras:
        raise ConfigError(
            f"{where}batch.sampler={sampler} needs cameras, but method.uses_cameras is false.",
            "Set method.uses_cameras=true (tables will show it), or batch.sampler=identity.",
        )
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
    check_batches(config.batch, config.train.micro_batch, where)
