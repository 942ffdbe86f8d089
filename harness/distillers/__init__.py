"""Distillers: a teacher, and the loss that it adds."""

from harness.distillers.instance_teacher import InstanceTeacher
from harness.distillers.mean_teacher import MeanTeacher
from harness.distillers.mutual_teachers import MutualTeachers
from harness.distillers.offline_teacher import OfflineTeacher

__all__ = ["InstanceTeacher", "MeanTeacher", "MutualTeachers", "OfflineTeacher"]
