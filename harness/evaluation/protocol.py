"""By what rule features are scored: the protocol's, or another one after the fact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from harness.core.errors import ConfigError
from harness.data.types import Split
from harness.evaluation.distances import Blocks, distance_blocks
from harness.evaluation.ranking import RANKS, RankingResult, rank
from harness.evaluation.tracks import of_tracks, track_blocks


@dataclass(frozen=True)
class Rule:
    """rerank: by k-reciprocal re-ranked distances, with k1, k2 and λ (Zhong et al., CVPR 2017).
    cameras: whether a query's own camera is left out, where there are cameras. ranks: of the CMC.
    """

    rerank: bool = False
    k1: int = 20
    k2: int = 6
    lam: float = 0.3
    cameras: bool = True
    ranks: tuple[int, ...] = RANKS

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            ConfigError: says what.
        """
        if not 1 <= self.k2 <= self.k1:
            raise ConfigError(
                f"--k1 {self.k1} and --k2 {self.k2} are not 1 <= k2 <= k1.",
                "The usual values are 20 and 6.",
            )
        if not 0 <= self.lam <= 1:
            raise ConfigError(f"--lambda {self.lam} is not in [0, 1].", "The usual value is 0.3.")
        if not self.ranks or min(self.ranks) < 1:
            raise ConfigError(f"--ranks {list(self.ranks)}: each must be 1 or more.")

    @property
    def name(self) -> str:
        """For a file: `plain`, or what is not as usual."""
        words = [f"rerank-k1_{self.k1}-k2_{self.k2}-lambda_{self.lam:g}"] if self.rerank else []
        words += [] if self.cameras else ["no_cams"]
        if tuple(self.ranks) != tuple(RANKS):
            words.append("ranks_" + "_".join(map(str, self.ranks)))
        return "-".join(words) or "plain"

    @property
    def unusual(self) -> str:
        """For a protocol card: what is not as usual, beginning with a comma; '' if all is."""
        words = []
        if self.rerank and (self.k1, self.k2, self.lam) != (20, 6, 0.3):
            words.append(f", k1 {self.k1}, k2 {self.k2}, lambda {self.lam:g}")
        return "".join(words) + ("" if self.cameras else ", cameras left out of account")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        reranking = {"k1": self.k1, "k2": self.k2, "lambda": self.lam} if self.rerank else None
        return {"reranking": reranking, "cameras": self.cameras, "ranks": list(self.ranks)}

    def metrics(self, result: RankingResult) -> dict[str, float | int]:
        """What `RankingResult.as_dict` gives, at this rule's ranks."""
        found = {k: v for k, v in result.as_dict().items() if not k.startswith("rank")}
        shares = {f"rank{k}": 100 * result.cmc_at(k) for k in self.ranks}
        return {"mAP": found.pop("mAP"), **shares, **found}


@dataclass(frozen=True, eq=False)
class Sides:
    """Who is who on both sides: identities (Q,) and (G,), cameras and names where there are any,
    and the tracks (G,) of a gallery that is ranked by tracks. Names only tell a query's own image
    in the gallery.
    """

    query_ids: np.ndarray
    gallery_ids: np.ndarray
    query_cams: np.ndarray | None = None
    gallery_cams: np.ndarray | None = None
    query_names: list[str] | None = None
    gallery_names: list[str] | None = None
    tracks: np.ndarray | None = None

    @classmethod
    def of(cls, query: Split, gallery: Split) -> Sides:
        """The truth of a test part."""
        return cls(
            query.identities,
            gallery.identities,
            query.cameras,
            gallery.cameras,
            [query.images.name(i) for i in range(len(query.images))],
            [gallery.images.name(i) for i in range(len(gallery.images))],
            gallery.tracks,
        )

    def without_cameras(self) -> Sides:
        """As if there were none: nothing is removed but a query's own image."""
        return Sides(self.query_ids, self.gallery_ids, None, None, self.query_names,
                     self.gallery_names, self.tracks)  # fmt: skip


def score(query: Tensor, gallery: Tensor, truth: Sides, rule: Rule) -> RankingResult:
    """Rank the gallery (G, D) for every query (Q, D), L2-normalised."""
    if not rule.cameras:
        truth = truth.without_cameras()
    distances: Blocks | None = None
    if rule.rerank:
        from harness.evaluation.reranking import rerank_blocks

        distances = rerank_blocks(query, gallery, rule.k1, rule.k2, rule.lam)
    if truth.tracks is not None:
        split_ids, split_cams = of_tracks(truth.gallery_ids, truth.gallery_cams, truth.tracks)
        images = distances if distances is not None else distance_blocks(query, gallery)
        return rank(
            None, None, truth.query_ids, split_ids, truth.query_cams, split_cams,
            distances=track_blocks(images, truth.tracks), ranks=rule.ranks,
        )  # fmt: skip
    return rank(
        query, gallery, truth.query_ids, truth.gallery_ids, truth.query_cams, truth.gallery_cams,
        query_names=truth.query_names, gallery_names=truth.gallery_names,
        distances=distances, ranks=rule.ranks,
    )  # fmt: skip
