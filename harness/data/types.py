"""Data sets with identities: splits, loaded data sets and their published counts.

Training code and methods never import this module: they get images and camera ids only.
Imports no torch, so that processes that only read images start quickly.

Shapes: N images of a split.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.core.hashing import hexdigest
from harness.data.image_source import ImageSource, Subset
from harness.data.layouts import Layout

#: identities of junk boxes (ignored by evaluation) and of distractors (always wrong answers)
JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True)
class Split:
    """The training, query or gallery images of a data set, with their identities.

    identities: (N,) int64; -1 is junk (neither matched nor counted), 0 may mark distractors.
    cameras: (N,) int64 from 0, or None if the data set has none.
    tracks: (N,) int64 from 0 without gaps: the track of each gallery image, if tracks are
        ranked instead of images; else None. A track has one identity and one camera.
    originals: (N,) names of the original images, where the gallery contains the queries under
        other paths; else None, and the paths tell which images are the same.
    """

    images: ImageSource
    identities: np.ndarray
    cameras: np.ndarray | None = None
    tracks: np.ndarray | None = None
    originals: np.ndarray | None = None

    def __post_init__(self) -> None:
        count = len(self.identities)
        if len(self.images) != count:
            raise ValueError(f"{len(self.images)} images but {count} identities")
        for name in ("cameras", "tracks", "originals"):
            values = getattr(self, name)
            if values is not None and len(values) != count:
                raise ValueError(f"{count} identities but {len(values)} {name}")

    def subset(self, indices: np.ndarray) -> Split:
        """The images at `indices`, in that order; tracks are renumbered."""
        cameras, tracks = self.cameras, self.tracks
        return Split(
            Subset(self.images, indices), self.identities[indices],
            None if cameras is None else cameras[indices],
            None if tracks is None else np.unique(tracks[indices], return_inverse=True)[1],
            None if self.originals is None else self.originals[indices],
        )  # fmt: skip


@dataclass(frozen=True)
class DatasetFacts:
    """Counts and fingerprint of a data set: published, or measured; None where unknown.

    gallery: ranked gallery images, without junk.
    matches: pairs of a query and a gallery image of its identity from another camera.
    fingerprint: `ReIDData.fingerprint`; the published one is of a genuine copy.
    """

    train: int | None = None
    train_identities: int | None = None
    query: int | None = None
    query_identities: int | None = None
    gallery: int | None = None
    junk: int | None = None
    distractors: int | None = None
    cameras: int | None = None
    matches: int | None = None
    fingerprint: str | None = None


@dataclass(frozen=True)
class ReIDData:
    """A loaded data set. Identities of the training split are for evaluation only.

    notes: further counts and settings, for the record.
    facts: published facts to compare with; None if there are none (own images, subsets).
    parts: the data sets whose training splits are joined, the tested one first; () for one.
    """

    name: str
    train: Split
    query: Split
    gallery: Split
    notes: Mapping[str, int | float | str] = field(default_factory=dict)
    facts: DatasetFacts | None = None
    parts: tuple[ReIDData, ...] = ()

    def fingerprint(self) -> str:
        """Digest of all images, identities and cameras, for records."""
        return hexdigest(self._content())

    def _content(self) -> Iterator[bytes]:
        for split in (self.train, self.query, self.gallery):
            yield split.images.fingerprint().encode()
            yield np.ascontiguousarray(split.identities, dtype="<i8").tobytes()
            if split.cameras is not None:
                yield np.ascontiguousarray(split.cameras, dtype="<i8").tobytes()


class Dataset(ABC):
    """Loader of a data set, built from `datasets/<name>/config.yaml`; cheap until `load`."""

    @abstractmethod
    def load(self) -> ReIDData:
        """Find, parse and check the data set, without decoding images.

        Raises DataError if files are missing or do not parse; it says where to get them.
        """

    def facts(self) -> DatasetFacts | None:
        """What is publicly known of the data that `load` returns with these options; None if
        nothing is.
        """
        return None

    def layouts(self) -> Sequence[Layout]:
        """Layouts in which `harness prepare` finds it, preferred first; none: nothing to unpack."""
        return ()
