"""Distillers: a teacher, and the loss that it adds."""

from harness.components.distillers.feature_distance import MeanTeacher, OfflineTeacher
from harness.components.distillers.instance_proxies import InstanceProxies
from harness.components.distillers.instance_teacher import InstanceTeacher
from harness.components.distillers.mutual_teachers import MutualTeachers

__all__ = [
    "InstanceProxies", "InstanceTeacher", "MeanTeacher", "MutualTeachers", "OfflineTeacher",
]  # fmt: skip
