"""Objectives: labels to a loss; each owns its memory."""

from harness.components.objectives.camera_proxies import AssociatedProxies, CameraProxies
from harness.components.objectives.cluster_memory import ClusterMemory
from harness.components.objectives.exclusive import ExclusiveMemory
from harness.components.objectives.hybrid_contrast import HardHybridMemory
from harness.components.objectives.hybrid_memory import HybridMemory
from harness.components.objectives.part_refinement import PartRefinement
from harness.components.objectives.proxy_contrast import ProxyContrast
from harness.components.objectives.softmax_triplet import SoftmaxTriplet

__all__ = [
    "AssociatedProxies", "CameraProxies", "ClusterMemory", "ExclusiveMemory", "HardHybridMemory",
    "HybridMemory", "PartRefinement", "ProxyContrast", "SoftmaxTriplet",
]  # fmt: skip
