"""DBSCAN on a sparse graph of the pairs within its radius."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.cluster import DBSCAN


def dbscan(graph: csr_matrix, eps: float, min_samples: int) -> np.ndarray:
    """Cluster as scikit-learn's DBSCAN does on the dense distance matrix.

    Ester, Kriegel, Sander, Xu, *A Density-Based Algorithm for Discovering Clusters in Large Spatial
    Databases with Noise*, KDD 1996. An image is its own neighbour, the radius is inclusive, border
    images go to the cluster found first, and clusters are numbered by their first core image.

    Args:
        graph: (N, N) symmetric; stored entries, zeros included, are distances, all others are
            further than any radius asked for. The diagonal may be left out.
        eps: the radius, at most the one that the graph was made with.
        min_samples: neighbours of a core image, itself included.

    Returns:
        (N,) int64 labels from 0, -1 for outliers.
    """
    # float32 distances have to be compared with the radius as float32, as a dense matrix would be
    kept = graph.data <= graph.data.dtype.type(eps)
    starts = np.concatenate([[0], np.cumsum(kept)])[graph.indptr]
    # Who is a neighbour is settled here. With distances of zero scikit-learn, which wants each row
    # ordered by distance, has nothing to sort; stored zeros count as neighbours.
    zeros = np.zeros(int(kept.sum()), dtype=np.float32)
    neighbours = csr_matrix((zeros, graph.indices[kept], starts), shape=graph.shape)
    found = DBSCAN(eps=0.5, min_samples=min_samples, metric="precomputed").fit(neighbours)
    return np.asarray(found.labels_, dtype=np.int64)
