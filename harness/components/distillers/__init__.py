"""Distillers: a teacher, and the loss that it adds."""

from harness.components.distillers.instance_teacher import InstanceTeacher
from harness.components.distillers.mean_teacher import MeanTeacher
from harness.components.distillers.mutual_teachers import MutualTeachers
from harness.components.distillers.offline_teacher import OfflineTeacher

__all__ = ["InstanceTeacher", "MeanTeacher", "MutualTeachers", "OfflineTeacher"]
