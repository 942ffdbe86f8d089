"""The labeled source of an experiment: `source=DATASET`, decoded, with identities from 0.

Only the source's *training* part becomes a `LabelledSet`. With `source=target`, the supervised
upper bound, that is the training part of the data set itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from harness.core.distributed import collectives
from harness.core.errors import ConfigError, DataError, HarnessError
from harness.core.interfaces import LabelledSet, as_cameras
from harness.data.cache_folder import cache_folder
from harness.data.cache_location import place_images
from harness.data.image_cache import ImageCache, build_image_cache
from harness.data.types import ReIDData
from harness.evaluation.evaluator import Evaluator
from harness.experiment.stages import Stage, load_data, preprocessing, target_of
from harness.results.settings import SUPERVISED, UDA, USL


@dataclass(frozen=True)
class Source:
    """A labeled source that is ready for training.

    fingerprint: of the data set, as its record has it. alone: whether no stage of the experiment
    trains on images of the target.
    """

    name: str
    fingerprint: str
    data: LabelledSet
    alone: bool


def reads_identities(stage: Stage) -> bool:
    """Whether a stage trains on the identities of a labeled source."""
    if not stage.has("labeler"):
        return False
    kind = target_of(stage.config.labeler._target_, "labeler")
    return getattr(kind, "reads_identities", False) is True


def setting_of(config: DictConfig) -> str:
    """USL without a source, supervised if it is the data set itself, otherwise UDA."""
    if config.get("source") is None:
        return USL
    return SUPERVISED if config.source == config.dataset else UDA


def source_stages(stages: tuple[Stage, ...]) -> list[str]:
    """The names of the stages that train on a labeled source."""
    return [stage.name for stage in stages if reads_identities(stage) or is_joint(stage)]


def check_source(config: DictConfig, stages: tuple[Stage, ...]) -> None:
    """Check that there is a source exactly if a stage trains on one.

    Raises:
        ConfigError: it is missing, nothing would use it, or it is the target itself.
    """
    labelled = source_stages(stages)
    given = config.get("source") is not None
    if labelled and not given:
        raise ConfigError(
            f"{config.method.name} trains on a labeled source (stage '{labelled[0]}'), but there "
            "is none.",
            f"Name one: source=market1501 dataset={config.dataset.name}.",
        )
    if given and not labelled:
        raise ConfigError(
            f"source={config.source.get('name')}, but {config.method.name} does not use labels.",
            "Leave it out, or choose a method with a labeled source, such as source_pretrain.",
        )
    if given and setting_of(config) == SUPERVISED and not all(map(reads_identities, stages)):
        other = f" ({_other_seed(config.source)})" if "seed" in config.source else ""
        raise ConfigError(
            f"{config.method.name} adapts to an unlabeled data set, but source and dataset are "
            f"both {config.dataset.name}.",
            f"Choose another source{other}, or method=supervised.",
        )
    if given and setting_of(config) == UDA:
        _check_persons(config)


def _other_seed(source: DictConfig) -> str:
    return f"source.seed={source.seed + 1 if isinstance(source.seed, int) else 1}"


def _check_persons(config: DictConfig) -> None:
    """Refuse a rendered source with the persons of the target, in other images."""
    source, target = config.source, config.dataset
    alike = source.get("name") == target.get("name") and "seed" in source
    if alike and source.seed == target.get("seed"):
        raise ConfigError(
            f"source and dataset are both {target.name} of seed {source.seed}: they show the same "
            "persons.",
            f"Choose another: {_other_seed(source)}.",
        )


def is_joint(stage: Stage) -> bool:
    """Whether a stage trains on its labels and on the source's identities together."""
    return bool(stage.config.batch.joint)


def check_identities(stages: tuple[Stage, ...], source: ReIDData) -> None:
    """Check that the source has the identities of a batch.

    Raises:
        ConfigError: a stage that trains on them draws more identities than there are.
    """
    count = len(np.unique(source.train.identities))
    names = source_stages(stages)
    for stage in (stage for stage in stages if stage.name in names):
        batch = stage.config.batch
        if batch.sampler == "identity" and count < batch.identities:
            raise ConfigError(
                f"The source {source.name} has {count} identities for training, and a batch of "
                f"stage '{stage.name}' has {batch.identities}.",
                f"Set batch.identities={count} or fewer, or choose another source.",
            )


def load_source(config: DictConfig) -> ReIDData:
    """The source's images and identities, without decoding; training images of unknown identity
    are left out.

    Raises:
        ConfigError: wrong options. DataError: it is missing, or has no identities.
    """
    section = OmegaConf.to_container(config.source, resolve=True)
    try:
        data = load_data(OmegaConf.create({"dataset": section}))
    except HarnessError as error:
        if setting_of(config) == SUPERVISED:
            raise
        cause, hint = (text.replace("dataset.", "source.") for text in (error.cause, error.hint))
        raise type(error)(cause, hint) from error
    known = data.train.identities >= 0
    if not known.any():
        raise DataError(
            f"{data.name} has no identities to learn from.", "Choose a labeled data set as source."
        )
    if known.all():
        return data
    return replace(data, train=data.train.subset(np.flatnonzero(known)))


def open_source(config: DictConfig, stages: tuple[Stage, ...], evaluator: Evaluator) -> Source:
    """Decode the source's training part at the size of the experiment, for these stages.

    Raises:
        DataError: an image of it is also an image of the target, or it cannot be decoded.
    """
    data = load_source(config)
    on_bad: Any = str(config.source.get("on_bad_image", "error"))

    def decode() -> ImageCache:
        return build_image_cache(
            data.train.images,
            (int(config.images.height), int(config.images.width)),
            cache_folder(config.data.root, config.data.cache_dir),
            on_bad_image=on_bad,
            progress=None,
            interpolation=preprocessing(config.backbone).interpolation,
        )

    cache = collectives.local_rank_zero_first(decode)
    split = data.train if len(cache) == len(data.train.images) else data.train.subset(cache.kept)
    check_disjoint(data.name, cache, evaluator, setting_of(config))
    images, place = place_images(evaluator.image_cache, cache, evaluator.device)
    evaluator.reporter.say(
        f"source {data.name}: {len(cache):,} labeled training images, {place.description}"
    )
    identities = np.unique(split.identities, return_inverse=True)[1].reshape(-1)
    cameras = as_cameras(split.cameras) if config.method.uses_cameras else None
    labelled = LabelledSet(images, cameras, identities=torch.from_numpy(identities))
    return Source(data.name, data.fingerprint(), labelled, all(map(reads_identities, stages)))


def check_disjoint(name: str, source: ImageCache, evaluator: Evaluator, setting: str) -> None:
    """Refuse a source that has the pixels of a target image, resized alike.

    Args:
        setting: in the supervised setting the training images are the target's own.

    Raises:
        DataError: says how many images are shared.
    """
    parts = {"query": evaluator.query_cache, "gallery": evaluator.gallery_cache}
    if setting != SUPERVISED:
        parts["training"] = evaluator.train_cache
    known = _digests(source)
    for part, cache in parts.items():
        if cache is not None and (shared := len(known & _digests(cache))):
            raise DataError(
                f"{shared} images of the source {name} are {part} images of "
                f"{evaluator.data.name}: their identities would be known.",
                "Choose another source, or remove these images from it.",
            )


def _digests(cache: ImageCache) -> set[bytes]:
    return {hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in cache.images}


def described(source: Source | None) -> Mapping[str, Any]:
    """The entry `source` of a record; nothing without a source."""
    if source is None:
        return {}
    return {
        "source": {
            "name": source.name, "fingerprint": source.fingerprint, "train": len(source.data),
            "identities": int(source.data.identities.max()) + 1, "alone": source.alone,
        }
    }  # fmt: skip
