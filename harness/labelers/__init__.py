"""Features to pseudo-labels."""

from harness.labelers.bottom_up import BottomUp, merge
from harness.labelers.dbscan import dbscan
from harness.labelers.encoding import Encoding, encode
from harness.labelers.infomap import Infomap
from harness.labelers.jaccard import distance_rows, radius_graph
from harness.labelers.jaccard_dbscan import JaccardDBSCAN
from harness.labelers.kmeans import KMeans
from harness.labelers.neighbours import nearest
from harness.labelers.self_paced import SelfPaced, self_paced, three_radii

__all__ = [
    "BottomUp",
    "Encoding",
    "Infomap",
    "JaccardDBSCAN",
    "KMeans",
    "SelfPaced",
    "dbscan",
    "distance_rows",
    "encode",
    "merge",
    "nearest",
    "radius_graph",
    "self_paced",
    "three_radii",
]
