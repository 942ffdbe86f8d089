"""Features to pseudo-labels."""

from harness.components.labelers.bottom_up import BottomUp, merge
from harness.components.labelers.dbscan import dbscan
from harness.components.labelers.encoding import Encoding, encode
from harness.components.labelers.identities import Identities
from harness.components.labelers.infomap import Infomap
from harness.components.labelers.jaccard import distance_rows, radius_graph
from harness.components.labelers.jaccard_dbscan import JaccardDBSCAN
from harness.components.labelers.kmeans import KMeans
from harness.components.labelers.neighbours import nearest
from harness.components.labelers.self_paced import SelfPaced, self_paced, three_radii

__all__ = [
    "BottomUp", "Encoding", "Identities", "Infomap", "JaccardDBSCAN", "KMeans", "SelfPaced",
    "dbscan", "distance_rows", "encode", "merge", "nearest", "radius_graph", "self_paced",
    "three_radii",
]  # fmt: skip
