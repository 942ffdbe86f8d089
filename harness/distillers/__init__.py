"""Distillers: a teacher, and the loss that it adds."""

from harness.distillers.mean_teacher import MeanTeacher
from harness.distillers.mutual_teachers import MutualTeachers
from harness.distillers.offline_teacher import OfflineTeacher

__all__ = ["MeanTeacher", "MutualTeachers", "OfflineTeacher"]
