"""Objectives: labels to a loss; each owns its memory."""

from harness.objectives.cluster_memory import ClusterMemory

__all__ = ["ClusterMemory"]
