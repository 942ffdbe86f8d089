"""mAP, CMC and mINP of features from elsewhere: what `harness score` and notebooks call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from harness.core.errors import DataError, did_you_mean
from harness.data.identifiers import is_missing, number_cameras, number_identities
from harness.data.types import JUNK
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import RankingResult, rank
from harness.experiment.standalone.arrays import check_length, integers, strings, where
from harness.experiment.standalone.features import feature_shape, unit_features
from harness.experiment.standalone.report import stage

Arrays = Mapping[str, np.ndarray]


@dataclass
class Labels:
    """What is known about the images of one side: ids (N,) int64, cameras (N,), names."""

    ids: np.ndarray
    cams: np.ndarray | None
    names: list[str] | None


@dataclass(frozen=True)
class Scores:
    """Metrics and per-query results; `reranked` is None unless it was wanted.

    seconds: by step. notes: what a user should know. mib: size of the features.
    """

    ranking: RankingResult
    reranked: RankingResult | None
    query: Labels
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)
    mib: float = 0.0

    @property
    def results(self) -> dict[str, RankingResult]:
        """Both results by name."""
        return {"metrics": self.ranking} | ({"reranked": self.reranked} if self.reranked else {})

    def per_query(self) -> dict[str, Any]:
        """ids, ap, inp and first_match_rank of each query, names, and the same after re-ranking.

        Queries without a match have NaN, NaN and 0.
        """
        arrays: dict[str, Any] = {"ids": self.query.ids}
        if self.query.names is not None:
            arrays["names"] = np.asarray(self.query.names)
        for name, result in self.results.items():
            prefix = "" if name == "metrics" else f"{name}_"
            for key in ("ap", "inp", "first_match_rank"):
                arrays[prefix + key] = getattr(result, key)
        return arrays


def score(
    query: Arrays,
    gallery: Arrays,
    *,
    rerank: bool = False,
    use_cams: bool = True,
    device: str | torch.device = "cpu",
) -> Scores:
    """Rank a gallery for each query and compute the metrics of the standard protocol.

    Args:
        query, gallery: arrays by name, as of `numpy.load("q.npz")`: `features` (N, D) or (N, V, D),
            whose view 0 is ranked; `ids` (N,), -1 for junk; optional `cams` (N,) and `names` (N,).
        rerank: also evaluate k-reciprocal re-ranked distances.
        use_cams: False: only junk and, if both sides have names, a query's own image are removed
            from its gallery.

    Raises:
        DataError: arrays are missing, do not fit, or contain no correct match.
    """
    sides = (query, gallery)
    features = [_array(side, "features") for side in sides]
    named = [where(side, "features") for side in sides]
    both, notes = _checked(sides, list(map(feature_shape, features, named)), use_cams)
    seconds: dict[str, float] = {}
    with stage("read", seconds, device):
        read = [unit_features(features.pop(0), name, views=1) for name in named]
        notes += [one.note for one in read if one.note]
        mib = round(sum(one.mib for one in read), 1)
        q, g = (one.values[:, 0].to(device) for one in read)
        del read  # on a GPU, the host's copies are no longer needed
    a, b = both
    truth = GroundTruth(a.ids, b.ids, a.cams, b.cams, a.names, b.names)
    with stage("rank", seconds, device):
        ranking = rank(q, g, truth)
    reranked = None
    if rerank:
        from harness.evaluation.reranking import rerank_blocks  # imports the labelers

        with stage("rerank", seconds, device):
            reranked = rank(None, None, truth, distances=rerank_blocks(q, g))
    seconds["all"] = sum(seconds.values())
    return Scores(ranking, reranked, both[0], seconds, notes, mib)


def _checked(
    sides: tuple[Arrays, Arrays], shapes: list[tuple[int, int, int]], use_cams: bool
) -> tuple[list[Labels], list[str]]:
    """Ids, cameras and names of both sides, checked before any work, and notes."""
    for axis, what in ((2, "dimensions"), (1, "views")):
        q, g = shapes[0][axis], shapes[1][axis]
        if q != g:
            raise DataError(
                f"Query features have {q} {what}, gallery features {g}.",
                "Both must come from the same network.",
            )
    lengths = [shape[0] for shape in shapes]
    ids, notes = _ids(sides, lengths)
    cams = _cameras(sides, lengths, use_cams)
    names = [
        strings(side["names"], where(side, "names"), n) if "names" in side else None
        for side, n in zip(sides, lengths, strict=True)
    ]
    both = list(map(Labels, ids, cams, names))
    if shapes[0][1] > 1:
        notes.append(f"The features have {shapes[0][1]} views; view 0, the global one, is ranked.")
    notes += _own_image_rule(both, sides)
    if not _matches(both[0], both[1]).any():
        raise _no_match(both[0], both[1])
    return both, notes


def _array(side: Arrays, name: str) -> np.ndarray:
    """An array that a side must have."""
    if getattr(side, "is_single", False):
        raise DataError(
            f"{where(side, name)} is a single array; features and ids are needed.",
            "numpy.savez(FILE, features=…, ids=…, cams=…)",
        )
    try:
        return np.asanyarray(side[name])
    except KeyError as error:
        raise DataError(f"There is no array '{name}'.", did_you_mean(name, side)) from error


def _ids(sides: tuple[Arrays, Arrays], lengths: list[int]) -> tuple[list[np.ndarray], list[str]]:
    """Ids of both sides as (N,) int64, and notes: missing ones (NaN, blanks) are junk."""
    arrays, notes = [_array(side, "ids") for side in sides], []
    for i, (array, side, length) in enumerate(zip(arrays, sides, lengths, strict=True)):
        name = where(side, "ids")
        check_length(array, name, length)
        missing = np.zeros(length, dtype=bool)
        if array.dtype.kind == "f":
            missing = np.isnan(array)
        elif array.dtype.kind in "US":
            missing = np.array(list(map(is_missing, strings(array, name, length))), dtype=bool)
        if missing.all():
            raise DataError(f"All {length} of {name} are missing.", "Is it the right array?")
        if missing.any():
            arrays[i] = np.where(missing, np.array(JUNK).astype(array.dtype.kind), array)
            notes.append(f"{missing.sum()} of {length} {name} are missing: they count as junk, -1.")
    named = [where(side, "ids") for side in sides]
    return _numbered(arrays, named, lengths, number_identities), notes


def _numbered(
    arrays: list[np.ndarray], named: list[str], lengths: list[int],
    number: Callable[[list[str]], np.ndarray],
) -> list[np.ndarray]:  # fmt: skip
    """Arrays of both sides as (N,) int64. Words ("person_a") are numbered across both sides."""
    try:
        return list(map(integers, arrays, named, lengths))
    except DataError:
        if any(array.dtype.kind not in "US" for array in arrays):
            raise
    texts = list(map(strings, arrays, named, lengths))
    numbers = number(texts[0] + texts[1])
    return [numbers[: lengths[0]], numbers[lengths[0] :]]


def _cameras(
    sides: tuple[Arrays, Arrays], lengths: list[int], use_cams: bool
) -> list[np.ndarray | None]:
    """Cameras of both sides as (N,) int64; None without cameras, or if they are not used."""
    without = [side for side in sides if "cams" not in side]
    if not use_cams or len(without) == 2:
        return [None, None]
    if without:
        raise DataError(
            f"{where(without[0], 'cams')} is missing, but the other side has cameras.",
            "Add them, or ignore cameras: --no-cams.",
        )
    arrays, named = [side["cams"] for side in sides], [where(side, "cams") for side in sides]
    return list(_numbered(arrays, named, lengths, number_cameras))


def _own_image_rule(both: list[Labels], sides: tuple[Arrays, Arrays]) -> list[str]:
    """A note on what is removed from a query's gallery if there are no cameras."""
    if both[0].cams is not None:
        return []
    gallery = both[1].names
    if both[0].names is None or gallery is None:
        return ["Without cams and names nothing is removed, not even a query's own image."]
    if len(set(gallery)) < len(gallery):
        raise DataError(
            f"{where(sides[1], 'names')} are not unique, so a query's own image is not either.",
            "Use paths within the data set as names, or leave `names` out.",
        )
    return ["Without cams only a query's own image, the one with its name, is removed."]


def _matches(query: Labels, gallery: Labels) -> np.ndarray:
    """(Q,) int64: the number of correct gallery images of each query."""
    real = gallery.ids >= 0
    found = _count(query.ids, gallery.ids[real])
    if query.cams is not None and gallery.cams is not None:
        both = np.concatenate([query.ids, gallery.ids]), np.concatenate([query.cams, gallery.cams])
        ids, cams = (np.unique(values, return_inverse=True)[1] for values in both)
        pairs = ids * (int(cams.max()) + 1) + cams
        return found - _count(pairs[: len(query.ids)], pairs[len(query.ids) :][real])
    if query.names is not None and gallery.names is not None:
        identity = dict(zip(gallery.names, gallery.ids.tolist(), strict=True))
        own = [identity.get(name, -1) for name in query.names]
        found -= (query.ids == own) & (query.ids >= 0)
    return found


def _count(wanted: np.ndarray, values: np.ndarray) -> np.ndarray:
    """How often each of `wanted` (Q,) is in `values`."""
    values = np.sort(values)
    return np.searchsorted(values, wanted, "right") - np.searchsorted(values, wanted, "left")


def _no_match(query: Labels, gallery: Labels) -> DataError:
    common = int((_count(query.ids, gallery.ids[gallery.ids >= 0]) > 0).sum())
    if not common:
        return DataError(
            f"None of the {len(query.ids)} queries has an identity that the gallery has.",
            "Check that both files come from one data set, and how `ids` were made.",
        )
    hint = "Check how `cams` were made; --no-cams ignores them."
    if query.cams is None:
        hint = "The gallery holds only the queries themselves: check how it was split."
    return DataError(
        f"None of the {len(query.ids)} queries has a correct image to find: {common} have images "
        "of their identity in the gallery, but all of these are removed.",
        hint,
    )
