"""Objectives: labels to a loss; each owns its memory."""

from harness.objectives.camera_proxies import CameraProxies
from harness.objectives.cluster_memory import ClusterMemory
from harness.objectives.exclusive import ExclusiveMemory
from harness.objectives.hybrid_contrast import HardHybridMemory
from harness.objectives.hybrid_memory import HybridMemory
from harness.objectives.part_refinement import PartRefinement
from harness.objectives.proxy_contrast import ProxyContrast
from harness.objectives.softmax_triplet import SoftmaxTriplet

__all__ = [
    "CameraProxies",
    "ClusterMemory",
    "ExclusiveMemory",
    "HardHybridMemory",
    "HybridMemory",
    "PartRefinement",
    "ProxyContrast",
    "SoftmaxTriplet",
]
