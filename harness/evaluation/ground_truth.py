"""The ground truth of a test: identities, cameras, names and tracks, and who matches whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import HarnessError
from harness.data.types import Split

Integers = np.ndarray | Tensor | Sequence[int]


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """Identities of the queries and of the gallery, and what else decides who is ranked.

    query_ids, gallery_ids: (Q,) and (G,) identities; -1 is junk.
    query_cams, gallery_cams: (Q,) and (G,) cameras. Where either side has none, only junk and
        the query image itself are removed from a ranking.
    query_names, gallery_names: Q and G image names. The query image itself is the gallery
        image of the same name; names have no other use.
    tracks: (G,) from 0 without gaps, where tracks are ranked instead of images.
    """

    query_ids: Integers
    gallery_ids: Integers
    query_cams: Integers | None = None
    gallery_cams: Integers | None = None
    query_names: Sequence[str] | None = None
    gallery_names: Sequence[str] | None = None
    tracks: np.ndarray | None = None

    @classmethod
    def of(cls, query: Split, gallery: Split) -> GroundTruth:
        """The ground truth of a data set's test part."""
        return cls(
            query.identities, gallery.identities, query.cameras, gallery.cameras,
            _names(query), _names(gallery), gallery.tracks,
        )  # fmt: skip

    def without_cameras(self) -> GroundTruth:
        """The same without cameras: only a query's own image is removed from its ranking, or, where
        tracks are ranked, the track that contains it.
        """
        return replace(self, query_cams=None, gallery_cams=None)

    def of_tracks(self) -> GroundTruth:
        """The same with a gallery of tracks (T,), each with the identity and camera of its images.

        Tracks of the query's identity and camera are removed, as images are. Without cameras, a
        query's name is the number of the track that contains its image.
        """
        assert self.tracks is not None
        _, first = np.unique(self.tracks, return_index=True)
        ids, cams = np.asarray(self.gallery_ids)[first], None
        if self.gallery_cams is not None:
            cams = np.asarray(self.gallery_cams)[first]
        query_names = gallery_names = None
        if self.query_names is not None and self.gallery_names is not None:
            track_of = dict(zip(self.gallery_names, self.tracks.astype(str), strict=True))
            query_names = [track_of.get(name, "") for name in self.query_names]
            gallery_names = [str(track) for track in range(len(first))]
        return GroundTruth(self.query_ids, ids, self.query_cams, cams, query_names, gallery_names)


def _names(split: Split) -> list[str]:
    if split.originals is not None:
        return [str(name) for name in split.originals]
    return [split.images.name(i) for i in range(len(split.images))]


@dataclass(frozen=True, eq=False)
class MatchIndex:
    """The ground truth indexed for ranking: where each query's identity is in the gallery.

    by_identity: (G,) gallery indices sorted by identity; those of query q are
        by_identity[begin[q] : end[q]].
    itself: (Q,) gallery index of the query image, or -1.
    junk: gallery indices that are never ranked.
    """

    query_ids: Tensor
    gallery_ids: Tensor
    query_cams: Tensor | None
    gallery_cams: Tensor | None
    itself: Tensor | None
    by_identity: Tensor
    begin: Tensor
    end: Tensor
    junk: Tensor

    @classmethod
    def of(cls, truth: GroundTruth) -> MatchIndex:
        """Check and index the ground truth.

        Raises HarnessError: shapes that do not match, or ids that are not integers.
        """
        query = _integers("query_ids", truth.query_ids)
        gallery = _integers("gallery_ids", truth.gallery_ids)
        for what, values, ids in (
            ("query cameras", truth.query_cams, query),
            ("gallery cameras", truth.gallery_cams, gallery),
            ("query names", truth.query_names, query),
            ("gallery names", truth.gallery_names, gallery),
        ):
            if values is not None and len(values) != len(ids):
                raise HarnessError(f"{len(values)} {what} for {len(ids)} identities")
        query_cams = gallery_cams = itself = None
        if truth.query_cams is not None and truth.gallery_cams is not None:
            query_cams = _integers("query_cams", truth.query_cams)
            gallery_cams = _integers("gallery_cams", truth.gallery_cams)
        elif truth.query_names is not None and truth.gallery_names is not None:
            index = {name: i for i, name in enumerate(truth.gallery_names)}
            itself = torch.tensor([index.get(name, -1) for name in truth.query_names])
        by_identity = torch.argsort(gallery, stable=True)
        ordered = gallery[by_identity]
        begin, end = (torch.searchsorted(ordered, query, right=right) for right in (False, True))
        junk = (gallery < 0).nonzero().flatten()
        fixed = (query_cams, gallery_cams, itself, by_identity, begin, end, junk)
        return cls(query, gallery, *fixed)

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The compiled kernel's arguments, in its order; empty arrays for what is absent."""
        absent = torch.empty(0, dtype=torch.int64)
        cameras = (self.query_cams, self.gallery_cams)
        tensors = (self.begin, self.end, self.by_identity, self.junk, *cameras, self.itself)
        return tuple((absent if t is None else t).cpu().numpy() for t in tensors)

    def to(self, device: torch.device) -> MatchIndex:
        """The same on another device."""
        if self.query_ids.device == device:
            return self
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in vars(self).items()}
        return MatchIndex(**moved)

    def no_valid_query(self) -> HarnessError:
        """The error that explains why no query has a correct image."""
        matched = int(((self.end > self.begin) & (self.query_ids >= 0)).sum())
        if matched == 0:
            cause = "no query identity occurs in the gallery"
            hint = "Check that both come from one data set, and how identities are parsed."
        else:
            cause = f"{matched} have gallery images of their identity, but all of these are removed"
            hint = "Check how cameras are parsed; without cameras only the query image is removed."
            if self.query_cams is None:
                hint = "The gallery holds only the query images: check how it was split."
        queries = len(self.query_ids)
        return HarnessError(f"none of the {queries} queries has a correct image: {cause}", hint)


def _integers(name: str, values: Integers) -> Tensor:
    tensor = torch.as_tensor(values).cpu()
    if tensor.dim() != 1 or tensor.is_floating_point():
        kind = f"{tensor.dtype} {tuple(tensor.shape)}"
        raise HarnessError(f"{name} must be a list of integers, not {kind}")
    return tensor.to(torch.int64)
