"""DBSCAN on a sparse graph of the pairs within its radius."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components


def dbscan(graph: csr_matrix, eps: float, min_samples: int) -> np.ndarray:
    """Labels (N,) int64 of scikit-learn's DBSCAN on the dense distance matrix, -1 for outliers.

    Ester, Kriegel, Sander, Xu, *A Density-Based Algorithm for Discovering Clusters in Large Spatial
    Databases with Noise*, KDD 1996. An image is its own neighbor, and the radius is inclusive.
    Clusters are the connected components of the core images, numbered by their first core image;
    a border image goes to the lowest-numbered cluster among its core neighbors.

    The graph (N, N) is symmetric; stored entries, zeros included, are distances, all others are
    larger than `eps`. The diagonal may be missing.
    """
    n = graph.shape[0]
    row = np.repeat(np.arange(n, dtype=np.int32), np.diff(graph.indptr))
    # compare in float32, as with a dense float32 matrix
    near = (graph.data <= graph.data.dtype.type(eps)) & (graph.indices != row)
    row, column = row[near], graph.indices[near]
    core = np.bincount(row, minlength=n) + 1 >= min_samples

    within = core[row] & core[column]
    links = csr_matrix((np.ones(int(within.sum()), np.int8), (row[within], column[within])), (n, n))
    component = connected_components(links, directed=False)[1]
    labels = np.full(n, -1, dtype=np.int64)
    first, number = np.unique(component[core], return_index=True)[1], component[core]
    order = np.argsort(first)  # components by their first core image
    rank = np.empty(component.max(initial=-1) + 1, dtype=np.int64)
    rank[number[first[order]]] = np.arange(len(first))
    labels[core] = rank[number]

    border = ~core[row] & core[column]
    lowest = np.full(n, n, dtype=np.int64)
    np.minimum.at(lowest, row[border], labels[column[border]])
    reached = lowest < n
    labels[reached] = lowest[reached]
    return labels
