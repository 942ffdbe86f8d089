"""Features to pseudo-labels."""

from harness.labelers.dbscan import dbscan
from harness.labelers.encoding import Encoding, encode
from harness.labelers.jaccard import distance_rows, radius_graph
from harness.labelers.jaccard_dbscan import JaccardDBSCAN
from harness.labelers.neighbours import nearest

__all__ = [
    "Encoding",
    "JaccardDBSCAN",
    "dbscan",
    "distance_rows",
    "encode",
    "nearest",
    "radius_graph",
]
