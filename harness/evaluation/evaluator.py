"""The evaluator knows the truth, and methods do not: cluster quality and test metrics come from here.

Everything that touches identities during a run is in this file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.core.distributed.collectives import broadcast_from_first
from harness.core.errors import DataError
from harness.core.interfaces import Backbone, UnlabelledSet, as_cameras
from harness.core.progress import Reporter
from harness.core.throughput import synchronized_time
from harness.data.cache_location import CacheLocation, place_images
from harness.data.facts import compare_with_published
from harness.data.image_cache import ImageCache, build_image_cache
from harness.data.types import ReIDData, Split
from harness.evaluation.cluster_quality import cluster_quality
from harness.evaluation.protocol import Rule, Sides, score
from harness.evaluation.ranking import RankingResult
from harness.training.extraction import extract


@dataclass
class Evaluator:
    """A data set decoded at one size, with its truth.

    Attributes:
        data: the data set without junk and without unreadable images.
        fingerprint: of the data set as it was loaded, junk and unreadable images included.
        skipped: names of images that could not be decoded and were left out.
        differences: what of the data set is not as publicly known, a line each; None where nothing
            is publicly known of it.
        last: the ranking behind the last call of `test`. features: those of the queries (Q, D) and
            the gallery (G, D) behind it, with keep_features. rule: another than the protocol's.
        parts: of several data sets at once, each one's name, fingerprint, training images, cameras.
        image_cache: where training images are wished (`data.cache_location`). place: where they are, once asked for.
        extracted, extract_seconds: images of the test part that networks saw, and how long it took.
    """

    data: ReIDData
    fingerprint: str
    train_cache: ImageCache | None
    query_cache: ImageCache | None
    gallery_cache: ImageCache | None
    device: torch.device
    precision: str
    rerank: bool
    reporter: Reporter
    image_cache: str = "auto"
    skipped: list[str] = field(default_factory=list)
    differences: list[str] | None = None
    last: RankingResult | None = None
    rule: Rule | None = None
    keep_features: bool = False
    features: tuple[Tensor, ...] | None = None
    parts: list[dict[str, str | int]] = field(default_factory=list)
    place: CacheLocation | None = None
    extracted: int = 0
    extract_seconds: float = 0.0
    _images: np.ndarray | Tensor | None = None

    @property
    def without_cameras(self) -> list[str]:
        """Names of the data sets, of several at once, whose training images have no cameras."""
        return [str(part["name"]) for part in self.parts if not part["cameras"]]

    @property
    def evaluates(self) -> bool:
        """Whether the data set has a test part. Without identities it has none."""
        return self.query_cache is not None

    def unlabelled(self, uses_cameras: bool) -> UnlabelledSet:
        """What a method may see of the training part."""
        assert self.train_cache is not None
        cameras = as_cameras(self.data.train.cameras) if uses_cameras else None
        if self._images is None:  # all stages share them
            self._images, self.place = place_images(self.image_cache, self.train_cache, self.device)
            size = self.train_cache.images.nbytes / 1e9
            self.reporter.say(
                f"{len(self._images):,} training images ({size:.2f} GB): {self.place.description}"
            )
        return UnlabelledSet(self._images, cameras)

    def observe(self, labels: Tensor) -> dict[str, float]:
        """Pseudo-labels (N,) against the truth, for the record. {} if there is none."""
        identities = self.data.train.identities
        if (identities < 0).all():
            return {}
        return dict(cluster_quality(labels, identities))

    def test(self, backbone: Backbone) -> dict[str, float]:
        """mAP, CMC and mINP in percent, on the global view; {} without a test part."""
        if self.query_cache is None or self.gallery_cache is None:
            return {}
        started = synchronized_time(self.device)
        features = [
            extract(
                backbone,
                image_cache.images,
                self.device,
                self.precision,
                progress=self.reporter.phase(f"test: {part} features"),
                views=1,
            )[:, 0]
            for part, image_cache in (("query", self.query_cache), ("gallery", self.gallery_cache))
        ]
        self.extract_seconds += synchronized_time(self.device) - started
        self.extracted += len(self.query_cache) + len(self.gallery_cache)
        self.features = tuple(features) if self.keep_features else None
        self.last = broadcast_from_first(lambda: self.score(features[0], features[1]))
        return self.last.as_dict()

    def score(self, query: Tensor, gallery: Tensor, rule: Rule | None = None) -> RankingResult:
        """Rank the gallery (G, D) for every query (Q, D) by the protocol's rule, or another."""
        return score(query, gallery, self.truth, rule or self.rule or Rule(self.rerank))

    @property
    def truth(self) -> Sides:
        """Who is who in the test part."""
        return Sides.of(self.data.query, self.data.gallery)


def make_evaluator(
    data: ReIDData,
    size: tuple[int, int],
    cache: Path,
    *,
    train: bool,
    on_bad_image: str,
    device: torch.device,
    precision: str,
    rerank: bool,
    reporter: Reporter,
    image_cache: str = "auto",
) -> Evaluator:
    """Decode a data set's parts (once: they are kept under `cache`).

    Args:
        size: (H, W). train: whether the training part is needed. on_bad_image: error or skip.
        image_cache: where training images are to lie, see `harness/data/cache_location.py`.

    Raises:
        DataError: images that cannot be decoded, or a test part of queries or gallery alone.
    """
    skipped: list[str] = []

    def decode(part: str, split: Split) -> tuple[Split, ImageCache]:
        if not len(split.images):
            raise DataError(f"{data.name} has no {part} images.", "Training and test need them.")
        image_cache = build_image_cache(
            split.images,
            size,
            cache,
            on_bad_image="skip" if on_bad_image == "skip" else "error",
            progress=_said_once(reporter, f"decoding {part} images"),
        )
        skipped.extend(image_cache.bad)
        kept = split if len(image_cache) == len(split.images) else split.subset(image_cache.kept)
        return kept, image_cache

    fingerprint = data.fingerprint()
    gallery_split = without_junk(data.gallery)
    train_split, train_cache = decode("training", data.train) if train else (data.train, None)
    query_split, query_cache, gallery_cache = data.query, None, None
    if len(data.query.images) or len(data.gallery.images):
        query_split, query_cache = decode("query", data.query)
        gallery_split, gallery_cache = decode("gallery", gallery_split)
        check_matches(query_split, gallery_split, data.name)
    kept = ReIDData(data.name, train_split, query_split, gallery_split, data.notes)
    return Evaluator(
        data=kept,
        fingerprint=fingerprint,
        train_cache=train_cache,
        query_cache=query_cache,
        gallery_cache=gallery_cache,
        device=device,
        precision=precision,
        rerank=rerank,
        reporter=reporter,
        image_cache=image_cache,
        skipped=skipped,
        differences=compare_with_published(data, fingerprint),
        parts=[_described(part) for part in data.parts],
    )


def _described(part: ReIDData) -> dict[str, str | int]:
    return {
        "name": part.name,
        "fingerprint": part.fingerprint(),
        "train": len(part.train.images),
        "cameras": 0 if part.train.cameras is None else len(np.unique(part.train.cameras)),
    }


def without_junk(gallery: Split) -> Split:
    """What is ranked of a gallery. Junk never is: it is left out early."""
    ranked = np.flatnonzero(gallery.identities != -1)
    return gallery if len(ranked) == len(gallery.identities) else gallery.subset(ranked)


def check_matches(query: Split, gallery: Split, name: str) -> None:
    """Refuse a test part in which no query can be answered, before any training.

    Raises:
        DataError: there is no correct gallery image for any of them.
    """
    if query.cameras is None or gallery.cameras is None:
        possible = bool(np.isin(query.identities, gallery.identities).any())
    else:
        seen: dict[int, set[int]] = {}
        for identity, camera in zip(gallery.identities, gallery.cameras, strict=True):
            seen.setdefault(int(identity), set()).add(int(camera))
        possible = any(
            seen.get(int(identity), set()) - {int(camera)}
            for identity, camera in zip(query.identities, query.cameras, strict=True)
        )
    if not possible:
        raise DataError(
            f"No query of {name} has a correct gallery image: none of its identity"
            + ("." if query.cameras is None else " from another camera."),
            "Check how identities and cameras are given; without cameras nothing is left out.",
        )


def _said_once(reporter: Reporter, phase: str) -> Callable[[int, int], None]:
    """A progress function that opens its phase at the first call: opened image_caches stay silent."""
    advance: list[Callable[[int, int], None]] = []

    def progress(done: int, total: int) -> None:
        if not advance:
            advance.append(reporter.phase(phase))
        advance[0](done, total)

    return progress
