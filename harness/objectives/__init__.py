"""Objectives: labels to a loss; each owns its memory."""

from harness.objectives.camera_proxies import CameraProxies
from harness.objectives.cluster_memory import ClusterMemory
from harness.objectives.part_refinement import PartRefinement

__all__ = ["CameraProxies", "ClusterMemory", "PartRefinement"]
