"""Distillers: a teacher, and the loss that it adds."""

from harness.distillers.offline_teacher import OfflineTeacher

__all__ = ["OfflineTeacher"]
