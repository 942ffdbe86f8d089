from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN

from harness.components.labelers.dbscan import dbscan
from tests.components.labelers.cases import golden

CASES = [
    *[("k30", eps, 4, f"labels_k30_eps0{eps * 100:.0f}") for eps in (0.5, 0.6, 0.58, 0.62, 0.45)],
    *[("k20", eps, 4, f"labels_k20_eps0{eps * 100:.0f}") for eps in (0.5, 0.6)],
    ("k20", None, 4, "mmt_labels"),
    ("small", 0.15, 4, "small_labels_eps015"),
    ("small", 0.30, 4, "small_labels_eps030"),
    ("grid", 0.25, 3, "grid_labels_eps025_min3"),
    ("grid", 0.25, 4, "grid_labels_eps025_min4"),
    ("grid", 0.50, 4, "grid_labels_eps050_min4"),
]


def graph_of(distances: np.ndarray, eps: float) -> csr_matrix:
    """The pairs within eps, with stored zeros."""
    rows, columns = np.nonzero(distances <= distances.dtype.type(eps))
    starts = np.searchsorted(rows, np.arange(len(distances) + 1))
    return csr_matrix((distances[rows, columns], columns, starts), shape=distances.shape)


@pytest.mark.parametrize(("source", "eps", "min_samples", "expected"), CASES)
def test_labels_are_the_golden_ones(
    source: str, eps: float | None, min_samples: int, expected: str
) -> None:
    case = golden("dbscan")
    if source in ("k30", "k20"):
        distances = golden(f"jaccard_{source}_k2_6")["dist"]
    else:
        distances = case[f"{source}_dist"]
    radius = float(case["mmt_eps"]) if eps is None else eps
    for made_with in (radius, 1.0):  # a graph of a larger radius serves as well
        labels = dbscan(graph_of(distances, made_with), radius, min_samples)
        np.testing.assert_array_equal(labels, case[expected])


@given(
    data=st.data(),
    n=st.integers(1, 25),
    eps=st.sampled_from([0.1, 0.3, 0.5]),
    min_samples=st.integers(1, 6),
)
@settings(max_examples=50, deadline=None)
def test_agrees_with_the_dense_matrix(
    data: st.DataObject, n: int, eps: float, min_samples: int
) -> None:
    tenths = data.draw(st.lists(st.integers(0, 10), min_size=n * n, max_size=n * n))
    half = np.triu(np.array(tenths, dtype=np.float32).reshape(n, n) / 10, 1)
    distances = (half + half.T).astype(np.float32)
    expected = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distances)
    graph = graph_of(distances, eps)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(dbscan(graph, eps, min_samples), expected.labels_)


def test_the_diagonal_may_be_left_out() -> None:
    pairs = csr_matrix(np.array([[0, 0.2, 0], [0.2, 0, 0.2], [0, 0.2, 0]], dtype=np.float32))
    assert dbscan(pairs, 0.5, 3).tolist() == [0, 0, 0]
    assert dbscan(pairs, 0.5, 4).tolist() == [-1, -1, -1]
    assert dbscan(pairs, 0.1, 1).tolist() == [0, 1, 2]
