"""Ranking metrics against golden numbers, against a slow oracle, and on bad input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import normalize

from harness.core.errors import HarnessError
from harness.core.metrics import METRICS, Metric
from harness.evaluation.distances import distance_blocks, product_blocks
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.protocol import EvaluationProtocol
from harness.evaluation.ranking import RankingResult, rank
from tests.oracles.ranking import rank_slowly
from tests.paths import GOLDEN

EVAL = np.load(GOLDEN / "eval.npz")
TRUTH = [EVAL[k] for k in ("query_ids", "gallery_ids", "query_cams", "gallery_cams")]
GROUND_TRUTH = GroundTruth(*TRUTH)
#: the other arguments are those of `GroundTruth`
RANK_ARGUMENTS = ("query_features", "gallery_features", "block")
FEATURES = [torch.from_numpy(EVAL[k]) for k in ("query_features", "gallery_features")]


def blocks(distances: np.ndarray, rows: int) -> Iterator[tuple[int, Tensor]]:
    """A matrix in blocks, the last one first: the order does not matter."""
    for start in reversed(range(0, len(distances), rows)):
        yield start, torch.from_numpy(distances[start : start + rows])


def assert_golden(result: RankingResult, prefix: str) -> None:
    np.testing.assert_allclose(result.ap, EVAL[f"{prefix}ap_per_query"], rtol=0, atol=1e-9)
    assert result.mAP == pytest.approx(float(EVAL[f"{prefix}mAP"]), abs=1e-9)
    cmc = [result.cmc_at(k) for k in range(1, 101)]
    np.testing.assert_allclose(cmc, EVAL[f"{prefix}cmc"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        [result.cmc_at(k) for k in (1, 5, 10)], EVAL[f"{prefix}rank1_5_10"], rtol=0, atol=1e-9
    )
    skipped = np.isnan(EVAL[f"{prefix}ap_per_query"])
    assert (result.valid.sum(), result.skipped_queries) == (26, 4) == (30 - skipped.sum(), 4)
    np.testing.assert_array_equal(result.first_match_rank == 0, skipped)


@pytest.mark.parametrize("block", [1, 7, 30, 512])
def test_golden_metrics_whatever_the_block(block: int) -> None:
    assert_golden(rank(FEATURES[0], FEATURES[1], GROUND_TRUTH, block=block), "")


@pytest.mark.parametrize("rows", [1, 7, 30])
def test_golden_reranked_metrics_from_given_distances(rows: int) -> None:
    given_in = EVAL["rerank_dist"].copy()
    result = rank(None, None, GROUND_TRUTH, distances=blocks(given_in, rows))
    assert_golden(result, "rerank_")
    np.testing.assert_array_equal(given_in, EVAL["rerank_dist"])  # the caller's array is unchanged


def test_golden_distances() -> None:
    found = torch.cat([rows for _, rows in distance_blocks(FEATURES[0], FEATURES[1], block=8)])
    np.testing.assert_allclose(found, EVAL["dist"], rtol=0, atol=2e-6)


def test_distances_are_float32_under_autocast_and_leave_the_precision_setting() -> None:
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            ((_, rows),) = distance_blocks(FEATURES[0], FEATURES[1])
        assert torch.get_float32_matmul_precision() == "medium"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"  # type: ignore[attr-defined]
    finally:
        torch.set_float32_matmul_precision("highest")
    np.testing.assert_allclose(rows, EVAL["dist"], rtol=0, atol=2e-6)


def test_ap_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    distances = rng.random((6, 300), dtype=np.float32)
    query_ids, gallery_ids = np.arange(6), rng.integers(0, 9, 300)
    truth = GroundTruth(query_ids, gallery_ids)
    result = rank(None, None, truth, distances=[(0, torch.tensor(distances))])
    for q in range(6):
        expected = average_precision_score(gallery_ids == q, -distances[q])
        assert result.ap[q] == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    # ranking of the one query: wrong, right, [same camera], [junk], wrong, right
    distances = torch.tensor([[0.1, 0.2, 0.3, 0.4, 0.5, 0.6]])
    truth = GroundTruth([3], [1, 3, 3, -1, 2, 3], [0], [0, 1, 0, 0, 1, 2])
    result = rank(None, None, truth, distances=[(0, distances)])
    assert result.ap[0] == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert result.as_dict()["mINP"] == pytest.approx(100 * 2 / 4)
    assert result.first_match_rank[0] == 2
    assert result.as_dict() == {
        "mAP": 50.0,
        "rank1": 0.0,
        "rank5": 100.0,
        "rank10": 100.0,
        "rank20": 100.0,
        "mINP": 50.0,
        "queries": 1,
        "queries_without_match": 0,
        "gallery": 5,
    }
    assert json.loads(json.dumps(result.as_dict())) == result.as_dict()


def test_a_new_metric_is_in_every_result(monkeypatch: pytest.MonkeyPatch) -> None:
    worst = Metric("worst", "Worst", ("inp", "ap"), lambda inp, ap: np.minimum(inp, ap))
    monkeypatch.setitem(METRICS, "worst", worst)
    result = rank(FEATURES[0], FEATURES[1], GROUND_TRUTH)
    expected = 100 * np.minimum(result.inp, result.ap)[result.valid].mean()
    assert result.as_dict()["worst"] == pytest.approx(expected)
    metrics = EvaluationProtocol(ranks=(3,)).metrics(result)
    assert metrics["worst"] == pytest.approx(expected)
    assert [key for key in metrics if key in METRICS or key.startswith("rank")] == [
        "mAP", "rank3", "mINP", "worst",
    ]  # fmt: skip


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any], int]:
    """Small problems rich in ties, junk, same-camera images and queries without a match."""
    queries, gallery = draw(st.integers(1, 7)), draw(st.integers(1, 25))

    def integers(count: int, low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    levels = draw(st.sampled_from([1, 4, 1000]))
    values = integers(queries * gallery, 0, levels).reshape(queries, gallery)
    truth: dict[str, Any] = {
        "query_ids": integers(queries, -1, 4),
        "gallery_ids": integers(gallery, -1, 4),
    }
    rule = draw(st.sampled_from(["cameras", "names", "neither", "query cameras only"]))
    if rule == "cameras":
        truth |= {"query_cams": integers(queries, 0, 2), "gallery_cams": integers(gallery, 0, 2)}
    if rule == "query cameras only":
        truth |= {"query_cams": integers(queries, 0, 2)}
    if rule != "neither":
        names = draw(st.permutations(range(gallery + queries)))
        truth |= {
            "gallery_names": [str(n) for n in names[:gallery]],
            "query_names": draw(
                st.lists(
                    st.sampled_from([str(n) for n in names]), min_size=queries, max_size=queries
                )
            ),
        }
    return values.astype(np.float32) / 8, truth, draw(st.integers(1, queries))


@given(rankings())
def test_equals_the_oracle(problem: tuple[np.ndarray, dict[str, Any], int]) -> None:
    distances, truth, rows = problem
    ap, inp, first = rank_slowly(distances, **truth)
    if not any(first):
        with pytest.raises(HarnessError, match="has a correct image"):
            rank(None, None, GroundTruth(**truth), distances=blocks(distances, rows))
        return
    result = rank(None, None, GroundTruth(**truth), distances=blocks(distances, rows))
    np.testing.assert_allclose(result.ap, ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.inp, inp, rtol=0, atol=1e-12)
    assert result.first_match_rank.tolist() == first
    found = [r for r in first if r]
    for k in range(1, 30):
        assert result.cmc_at(k) == np.mean([r <= k for r in found])
    assert result.mAP == pytest.approx(np.nanmean(ap), abs=1e-12)
    assert result.as_dict()["mINP"] == pytest.approx(100 * np.nanmean(inp), abs=1e-10)
    assert result.skipped_queries == first.count(0)
    assert result.gallery == sum(truth["gallery_ids"] >= 0)


@pytest.mark.parametrize("each", [90, 110, 300])
def test_equals_the_oracle_with_many_correct_images(each: int) -> None:
    generator = np.random.default_rng(each)
    ids, cams = np.repeat([0, 1, -1], each), generator.integers(0, 2, 3 * each)
    distances = generator.integers(0, 40, (4, 3 * each)).astype(np.float32)  # many ties
    queries = ([0, 1, 1, 0], ids.tolist(), [0, 1, 0, 1], cams.tolist())
    found = rank(None, None, GroundTruth(*queries), distances=blocks(distances.copy(), 3))
    ap, inp, first = rank_slowly(distances, [0, 1, 1, 0], ids.tolist(), [0, 1, 0, 1], cams.tolist())
    np.testing.assert_allclose(found.ap, ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.inp, inp, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.first_match_rank, first)


def test_equals_the_oracle_when_rows_are_counted_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.evaluation.ranking._CHUNK", 400)  # 2 rows of 160 at a time
    ap, inp, _ = rank_slowly(EVAL["dist"], *TRUTH)
    result = rank(FEATURES[0], FEATURES[1], GROUND_TRUTH, block=5)
    np.testing.assert_allclose(result.ap, ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.inp, inp, rtol=0, atol=1e-12)


def test_identical_features_are_ranked_by_index() -> None:
    same = normalize(torch.ones(5, 8), dim=1)
    result = rank(same[:1], same, GroundTruth([7], [1, 1, 7, 1, 7]))
    assert result.ap[0] == pytest.approx((1 / 3 + 2 / 5) / 2)


def with_duplicates(images: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (37, D) and a gallery (G, D) with about six of each row, and which row each is (G,).

    Every third query equals gallery rows.
    """
    generator = torch.Generator().manual_seed(seed)
    different = normalize(torch.randn(images // 6 + 1, dim, generator=generator), dim=1)
    which = torch.randint(len(different), (images,), generator=generator)
    query = normalize(torch.randn(37, dim, generator=generator), dim=1)
    query[::3] = different[which[torch.arange(13) % images]]
    return query, different[which], which


def first_of_each(which: Tensor) -> Tensor:
    return torch.stack([(which == row).nonzero()[0, 0] for row in which])


@pytest.mark.parametrize("block", [1, 5, 8, 32, 512])
@pytest.mark.parametrize("images", [5, 77, 500])
@pytest.mark.parametrize("dim", [8, 515])
def test_duplicate_rows_have_the_same_distance(block: int, images: int, dim: int) -> None:
    query, gallery, which = with_duplicates(images, dim)
    for blocks in (distance_blocks, product_blocks):
        rows = torch.cat([rows.clone() for _, rows in blocks(query, gallery.double(), block)])
        assert torch.equal(rows, rows[:, first_of_each(which)])
        expected = query.double() @ gallery.double().T
        expected = 2 - 2 * expected if blocks is distance_blocks else expected
        torch.testing.assert_close(rows.double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("block", [1, 8, 512])
@pytest.mark.parametrize("seed", range(3))
def test_duplicate_rows_are_ranked_by_index(block: int, seed: int) -> None:
    """Against a stable sort of exact distances, in which duplicates are exactly equal."""
    query, gallery, which = with_duplicates(77, 515, seed)
    ids = torch.randint(7, (77,), generator=torch.Generator().manual_seed(seed))
    query_ids = torch.arange(len(query)) % 7
    exact = (2 - 2 * query.double() @ gallery.double().T)[:, first_of_each(which)].numpy()
    result = rank(query, gallery, GroundTruth(query_ids, ids), block=block)
    for q, order in enumerate(np.argsort(exact, axis=1, kind="stable")):
        places = np.flatnonzero(ids[order] == query_ids[q]) + 1
        expected = np.mean(np.arange(1, len(places) + 1) / places)
        assert result.ap[q] == pytest.approx(expected, abs=1e-12)
        assert result.first_match_rank[q] == places[0]


def test_minus_zero_is_a_zero() -> None:
    distances = [(0, torch.tensor([[0.0, -0.0]]))]
    result = rank(None, None, GroundTruth([1], [0, 1]), distances=distances)
    assert result.first_match_rank[0] == 2


def test_without_cameras_only_the_query_image_itself_is_removed() -> None:
    gallery = normalize(torch.eye(4) + 0.01, dim=1)
    query, ids = gallery[:1], [5, 6, 5, 6]
    assert rank(query, gallery, GroundTruth([5], ids)).first_match_rank[0] == 1  # finds itself

    def with_query_name(name: str) -> RankingResult:
        names = ["a", "b", "c", "d"]
        return rank(query, gallery, GroundTruth([5], ids, None, None, [name], names))

    named = with_query_name("a")
    assert named.first_match_rank[0] == 2  # b and c are equally far, b comes first
    assert named.gallery == 4
    assert with_query_name("z").first_match_rank[0] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_features": FEATURES[0][:-1]}, r"query features are \(29, 32\) for 30"),
        ({"gallery_features": FEATURES[1][:, :-1]}, "gallery features are not L2-normalized"),
        ({"gallery_features": normalize(FEATURES[1][:, :-1], dim=1)}, "32 dimensions"),
        ({"query_features": FEATURES[0] * torch.nan}, "30 of 30 query features are not finite"),
        ({"gallery_features": FEATURES[1] * torch.inf}, "160 of 160 gallery .* not finite"),
        ({"query_features": FEATURES[0] * 0}, "backbone has collapsed"),
        ({"query_features": None}, "neither features nor distances"),
        ({"query_cams": [1, 2]}, "2 query cameras for 30"),
        ({"gallery_names": ["a"]}, "1 gallery names for 160"),
        ({"gallery_ids": EVAL["gallery_ids"] + 0.5}, "gallery_ids must be a list of integers"),
        ({"query_ids": EVAL["query_ids"] + 1000}, "no query identity occurs in the gallery"),
        ({"query_cams": [0] * 30, "gallery_cams": [0] * 160}, "how cameras are parsed"),
        ({"gallery_ids": [-1] * 160}, "no query identity occurs in the gallery"),
        ({"block": 0}, "must be 1 or more"),
    ],
)
def test_bad_input_is_reported(change: dict[str, Any], message: str) -> None:
    sides = (
        f"{side}_{what}" for what in ("features", "ids", "cams") for side in ("query", "gallery")
    )
    arguments = dict(zip(sides, [*FEATURES, *TRUTH], strict=True)) | change
    with pytest.raises(HarnessError, match=message):
        options = {key: arguments.pop(key) for key in RANK_ARGUMENTS if key in arguments}
        rank(**options, ground_truth=GroundTruth(**arguments))


DISTANCES = torch.from_numpy(EVAL["dist"])


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([(0, DISTANCES[:20])], "missing for 10 of 30"),
        ([], "missing for 30 of 30"),
        ([(0, DISTANCES), (4, DISTANCES[4:6])], "rows 4 to 5 were given twice"),
        ([(1, DISTANCES)], "at row 1 do not fit"),
        ([(0, DISTANCES[:, 1:])], "do not fit 30 × 160"),
        ([(0, DISTANCES - 1)], "negative or not finite"),
        ([(0, DISTANCES * torch.nan)], "negative or not finite"),
        ([(0, DISTANCES + torch.inf)], "negative or not finite"),
    ],
)
def test_bad_distances_are_reported(pieces: list[tuple[int, Tensor]], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        rank(None, None, GROUND_TRUTH, distances=pieces)


def test_no_query_and_no_gallery() -> None:
    with pytest.raises(HarnessError, match="none of the 0 queries"):
        truth = GroundTruth(torch.zeros(0).long(), TRUTH[1])
        rank(torch.zeros(0, 4), FEATURES[1][:, :4] * 0 + 0.5, truth)
    with pytest.raises(HarnessError, match="none of the 30 queries"):
        truth = GroundTruth(TRUTH[0], torch.zeros(0).long())
        rank(FEATURES[0], torch.zeros(0, 32), truth)


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    assert_golden(rank(FEATURES[0].cuda(), FEATURES[1].cuda(), GROUND_TRUTH), "")


@pytest.mark.gpu
def test_duplicate_rows_have_the_same_distance_on_a_gpu() -> None:
    query, gallery, which = with_duplicates(500, 515)
    first = first_of_each(which).cuda()
    for block in (1, 8, 512):
        for _, rows in distance_blocks(query.cuda(), gallery.cuda(), block):
            assert torch.equal(rows, rows[:, first])
