"""The evaluation protocol: how features are turned into a ranking and its metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from harness.core.errors import ConfigError
from harness.evaluation.distances import Blocks, distance_blocks, track_blocks
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.ranking import RANKS, RankingResult, rank


@dataclass(frozen=True)
class EvaluationProtocol:
    """What a test holds fixed.

    rerank: whether to re-rank distances with k1, k2 and λ (Zhong et al., CVPR 2017).
    cameras: whether gallery images of a query's identity and camera are removed.
    ranks: the k of Rank-k.
    """

    rerank: bool = False
    k1: int = 20
    k2: int = 6
    lam: float = 0.3
    cameras: bool = True
    ranks: tuple[int, ...] = RANKS

    def check(self) -> None:
        """Check the ranges of all settings; raises ConfigError."""
        if not 1 <= self.k2 <= self.k1:
            raise ConfigError(
                f"--k1 {self.k1} and --k2 {self.k2} are out of range: 1 ≤ k2 ≤ k1.",
                "The usual values are 20 and 6.",
            )
        if not 0 <= self.lam <= 1:
            problem = f"--lambda {self.lam} is out of range: 0 ≤ lambda ≤ 1."
            raise ConfigError(problem, "The usual value is 0.3.")
        if not self.ranks or min(self.ranks) < 1:
            raise ConfigError(f"--ranks {list(self.ranks)}: each must be 1 or more.")

    @property
    def name(self) -> str:
        """For file names: `plain`, or the settings that differ from the defaults."""
        words = [f"rerank-k1_{self.k1}-k2_{self.k2}-lambda_{self.lam:g}"] if self.rerank else []
        words += [] if self.cameras else ["no_cams"]
        if tuple(self.ranks) != tuple(RANKS):
            words.append("ranks_" + "_".join(map(str, self.ranks)))
        return "-".join(words) or "plain"

    @property
    def unusual(self) -> str:
        """For protocol cards: settings that differ from the defaults, after a comma; else ''."""
        text = ""
        if self.rerank and (self.k1, self.k2, self.lam) != (20, 6, 0.3):
            text = f", k1 {self.k1}, k2 {self.k2}, lambda {self.lam:g}"
        return text + ("" if self.cameras else ", cameras left out of account")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        reranking = {"k1": self.k1, "k2": self.k2, "lambda": self.lam} if self.rerank else None
        return {"reranking": reranking, "cameras": self.cameras, "ranks": list(self.ranks)}

    def metrics(self, result: RankingResult) -> dict[str, float | int]:
        """`RankingResult.as_dict` with Rank-k at this protocol's ranks."""
        found = {k: v for k, v in result.as_dict().items() if not k.startswith("rank")}
        shares = {f"rank{k}": 100 * result.cmc_at(k) for k in self.ranks}
        return {"mAP": found.pop("mAP"), **shares, **found}


def score(
    query: Tensor, gallery: Tensor, ground_truth: GroundTruth, protocol: EvaluationProtocol
) -> RankingResult:
    """Rank the gallery (G, D) for every query (Q, D); both are L2-normalized."""
    truth = ground_truth if protocol.cameras else ground_truth.without_cameras()
    distances: Blocks | None = None
    if protocol.rerank:
        from harness.evaluation.reranking import rerank_blocks  # imports scipy and the labelers

        distances = rerank_blocks(query, gallery, protocol.k1, protocol.k2, protocol.lam)
    if truth.tracks is not None:
        images = distance_blocks(query, gallery) if distances is None else distances
        distances, truth = track_blocks(images, truth.tracks), truth.of_tracks()
    return rank(query, gallery, truth, distances=distances)
