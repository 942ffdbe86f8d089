"""The evaluator: the only code that reads identities during a run.

Where could an identity leak? `Evaluator` holds them, and a stage gets three of its methods:

- `unlabelled` returns images, and camera ids if the method declares that it uses them;
- `cluster_metrics` and `test` return numbers for the record. With `selection=oracle`, which tables
  show, test mAP also selects the checkpoint.

Import contracts keep `training`, `components` and `methods` from importing this package or the
types that hold identities (`harness.data.types`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from harness.core.distributed.collectives import broadcast_from_first
from harness.core.errors import DataError
from harness.core.interfaces import Backbone, UnlabelledSet, as_cameras
from harness.core.preprocessing import IMAGENET
from harness.core.progress import Reporter
from harness.core.throughput import synchronized_time
from harness.data.cache_location import CacheLocation, place_images
from harness.data.facts import compare_with_published, valid_matches
from harness.data.image_cache import ImageCache, build_image_cache, bytes_to_build
from harness.data.types import ReIDData, Split
from harness.evaluation.cluster_quality import cluster_quality
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.protocol import EvaluationProtocol, score
from harness.evaluation.ranking import RankingResult
from harness.training.extraction import extract


@dataclass
class Evaluator:
    """A data set decoded at one size, with its identities.

    data: the data set without junk and without unreadable images.
    fingerprint: of the data set as it was loaded, junk and unreadable images included.
    image_cache: `data.cache_location`, where training images are kept.
    skipped: names of images that could not be decoded and were left out.
    differences: from the published data set, a line each; None if nothing is published.
    parts: for joint data sets, each one's name, fingerprint, training images and cameras.
    last: the ranking of the latest `test`; `features`: its query (Q, D) and gallery (G, D)
        features, if `keep_features`.
    extracted, extract_seconds: number of test images embedded, and the time it took.
    place: where the training images are, once `unlabelled` was called.
    """

    data: ReIDData
    fingerprint: str
    train_cache: ImageCache | None
    query_cache: ImageCache | None
    gallery_cache: ImageCache | None
    device: torch.device
    precision: str
    protocol: EvaluationProtocol
    reporter: Reporter
    image_cache: str = "auto"
    skipped: list[str] = field(default_factory=list)
    differences: list[str] | None = None
    parts: list[dict[str, str | int]] = field(default_factory=list)
    keep_features: bool = False
    last: RankingResult | None = None
    features: tuple[Tensor, ...] | None = None
    extracted: int = 0
    extract_seconds: float = 0.0
    place: CacheLocation | None = None
    _images: np.ndarray | Tensor | None = None

    def unlabelled(self, uses_cameras: bool) -> UnlabelledSet:
        """All that a method sees of the training part: images, and cameras if it declares them."""
        assert self.train_cache is not None
        cameras = as_cameras(self.data.train.cameras) if uses_cameras else None
        if self._images is None:  # all stages share them
            self._images, self.place = place_images(self.image_cache, self.train_cache, self.device)
            size = self.train_cache.images.nbytes / 1e9
            self.reporter.say(
                f"{len(self._images):,} training images ({size:.2f} GB): {self.place.description}"
            )
        return UnlabelledSet(self._images, cameras)

    def cluster_metrics(self, labels: Tensor) -> dict[str, float]:
        """Pseudo-labels (N,) compared with identities, for the record; {} without identities."""
        identities = self.data.train.identities
        if (identities < 0).all():
            return {}
        return dict(cluster_quality(labels, identities))

    def test(self, backbone: Backbone) -> dict[str, float]:
        """mAP, CMC and mINP in percent, on the global view; {} without a test part."""
        if self.query_cache is None or self.gallery_cache is None:
            return {}
        started = synchronized_time(self.device)
        features = []
        for part, images in (("query", self.query_cache), ("gallery", self.gallery_cache)):
            progress = self.reporter.phase(f"test: {part} features")
            where = images.images, self.device, self.precision
            features.append(extract(backbone, *where, progress=progress, views=1)[:, 0])
        self.extract_seconds += synchronized_time(self.device) - started
        self.extracted += len(self.query_cache) + len(self.gallery_cache)
        self.features = tuple(features) if self.keep_features else None
        self.last = broadcast_from_first(lambda: self.score(features[0], features[1]))
        return self.last.as_dict()

    def score(self, query: Tensor, gallery: Tensor) -> RankingResult:
        """Rank the gallery (G, D) for every query (Q, D) by the protocol."""
        return score(query, gallery, self.ground_truth, self.protocol)

    @property
    def ground_truth(self) -> GroundTruth:
        """The ground truth of the test part."""
        return GroundTruth.of(self.data.query, self.data.gallery)

    @property
    def evaluates(self) -> bool:
        """Whether there is a test part. Data sets without identities have none."""
        return self.query_cache is not None


def make_evaluator(
    data: ReIDData, size: tuple[int, int], cache: Path, *, train: bool, on_bad_image: str,
    device: torch.device, precision: str, reporter: Reporter,
    protocol: EvaluationProtocol | None = None, image_cache: str = "auto",
    interpolation: str = IMAGENET.interpolation,
) -> Evaluator:  # fmt: skip
    """Decode a data set at a size (H, W), or open what was decoded before.

    Args:
        cache: the folder of image caches. image_cache: see `harness/data/cache_location.py`.
        train: whether the training part is needed. on_bad_image: error or skip.
        interpolation: see `Preprocessing`.

    Raises DataError for images that cannot be decoded, or a test part of queries or gallery alone.
    """
    skipped: list[str] = []

    def decode(part: str, split: Split) -> tuple[Split, ImageCache]:
        if not len(split.images):
            raise DataError(f"{data.name} has no {part} images.", "Training and test need them.")
        progress = _lazy_phase(reporter, f"decoding {part} images")
        on_bad: Literal["error", "skip"] = "skip" if on_bad_image == "skip" else "error"
        decoded = build_image_cache(
            split.images, size, cache, on_bad_image=on_bad, progress=progress,
            interpolation=interpolation,
        )  # fmt: skip
        skipped.extend(decoded.bad)
        kept = split if len(decoded) == len(split.images) else split.subset(decoded.kept)
        return kept, decoded

    fingerprint = data.fingerprint()
    gallery_split = without_junk(data.gallery)
    train_split, train_cache = decode("training", data.train) if train else (data.train, None)
    query_split, query_cache, gallery_cache = data.query, None, None
    if len(data.query.images) or len(data.gallery.images):
        query_split, query_cache = decode("query", data.query)
        gallery_split, gallery_cache = decode("gallery", gallery_split)
        check_matches(query_split, gallery_split, data.name)
    kept = ReIDData(data.name, train_split, query_split, gallery_split, data.notes)
    parts: list[dict[str, str | int]] = [
        {
            "name": part.name, "fingerprint": part.fingerprint(), "train": len(part.train.images),
            "cameras": 0 if part.train.cameras is None else len(np.unique(part.train.cameras)),
        }
        for part in data.parts
    ]  # fmt: skip
    return Evaluator(
        kept, fingerprint, train_cache, query_cache, gallery_cache, device, precision,
        protocol or EvaluationProtocol(), reporter, image_cache, skipped,
        compare_with_published(data, fingerprint), parts,
    )  # fmt: skip


def bytes_to_decode(
    data: ReIDData, size: tuple[int, int], cache: Path, *, train: bool, interpolation: str
) -> int:
    """Disk space that decoding a data set at a size (H, W) will take.

    Raises OSError if an image file cannot be found.
    """
    splits = [data.query, without_junk(data.gallery), *([data.train] if train else [])]
    return sum(
        bytes_to_build(s.images, size, cache, interpolation) for s in splits if len(s.images)
    )


def without_junk(gallery: Split) -> Split:
    """The gallery images that are ranked; junk is dropped before it is decoded."""
    ranked = np.flatnonzero(gallery.identities != -1)
    return gallery if len(ranked) == len(gallery.identities) else gallery.subset(ranked)


def check_matches(query: Split, gallery: Split, name: str) -> None:
    """Raise DataError unless some query has a correct gallery image, before any training."""
    if valid_matches(query, gallery):
        return
    problem = f"No query of {name} has a correct gallery image: none of its identity"
    hint = "Check identities and cameras; without cameras only the query image is removed."
    if query.cameras is None or gallery.cameras is None:
        raise DataError(f"{problem}.", hint)
    if len(np.unique([*query.cameras, *gallery.cameras])) == 1:
        hint = (
            "There is one camera only. Leave cameras out: then only the query image itself is "
            "removed, and every other image of its identity is a match."
        )
    raise DataError(f"{problem} from another camera.", hint)


def _lazy_phase(reporter: Reporter, phase: str) -> Callable[[int, int], None]:
    """Progress that opens its phase at the first call, so that opening a cache stays silent."""
    advance: list[Callable[[int, int], None]] = []

    def progress(done: int, total: int) -> None:
        if not advance:
            advance.append(reporter.phase(phase))
        advance[0](done, total)

    return progress
