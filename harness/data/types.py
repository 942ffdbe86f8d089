"""Data sets as values: where images come from, their truth, and what is publicly known of them.

Nothing here needs torch, so that what reads images in processes of its own starts quickly.
`harness.core.interfaces` has the same names.

Shapes: N images of a set.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.data.image_source import ImageSource, Subset
from harness.data.layouts import Layout


@dataclass(frozen=True)
class Split:
    """One part of a data set, with its truth. Stays outside of methods.

    identities: (N,) int64; -1 is junk (never matched nor counted), 0 may be used for distractors.
    cameras: (N,) int64 from 0, or None when the data set has none.
    tracks: (N,) int64 from 0 without gaps, which track each gallery image is of, where tracks are
        ranked instead of images; else None. A track is of one identity and one camera.
    """

    images: ImageSource
    identities: np.ndarray
    cameras: np.ndarray | None = None
    tracks: np.ndarray | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.identities):
            raise ValueError(f"{len(self.images)} images but {len(self.identities)} identities")
        if self.cameras is not None and len(self.cameras) != len(self.identities):
            raise ValueError(f"{len(self.identities)} identities but {len(self.cameras)} cameras")
        if self.tracks is not None and len(self.tracks) != len(self.identities):
            raise ValueError(f"{len(self.identities)} identities but {len(self.tracks)} tracks")

    def subset(self, indices: np.ndarray) -> Split:
        """The images at `indices`, in that order; tracks are numbered anew."""
        cameras = None if self.cameras is None else self.cameras[indices]
        tracks = None
        if self.tracks is not None:
            tracks = np.unique(self.tracks[indices], return_inverse=True)[1]
        return Split(Subset(self.images, indices), self.identities[indices], cameras, tracks)


@dataclass(frozen=True)
class Facts:
    """Counts of a data set; None where no public source gives one.

    gallery: images that are ranked, junk not counted. matches: pairs of a query and a gallery image
    of its identity from another camera. fingerprint: `ReIDData.fingerprint` of a genuine copy.
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
    """A data set as loaded: a training part without use of its identities, and a test part.

    facts: what is publicly known of it, for the record's check; None where nothing is (own images,
        a subset).
    parts: the data sets whose training parts it joins, the one that is tested on first; () for one.
    """

    name: str
    train: Split
    query: Split
    gallery: Split
    notes: Mapping[str, int | float | str] = field(default_factory=dict)
    facts: Facts | None = None
    parts: tuple[ReIDData, ...] = ()

    def fingerprint(self) -> str:
        """One digest over the three parts, for records."""
        digest = hashlib.blake2b(digest_size=16)
        for split in (self.train, self.query, self.gallery):
            digest.update(split.images.fingerprint().encode())
            digest.update(np.ascontiguousarray(split.identities, dtype="<i8").tobytes())
            if split.cameras is not None:
                digest.update(np.ascontiguousarray(split.cameras, dtype="<i8").tobytes())
        return digest.hexdigest()


class Dataset(ABC):
    """Where images come from. Built from `datasets/<name>/config.yaml`; cheap until `load`."""

    @abstractmethod
    def load(self) -> ReIDData:
        """Find, parse and check the data set. Decodes no image.

        Raises:
            DataError: files are missing or do not parse, with the folder, the counts and where to
                get the data set.
        """

    def layouts(self) -> Sequence[Layout]:
        """What it looks like in archives and folders, in order of preference, for
        `harness prepare`; none if there is nothing to unpack.
        """
        return ()
