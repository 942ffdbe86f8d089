"""MSKD's distillation: the student's features follow those of a frozen, finished teacher."""

from __future__ import annotations

from harness.distillers.feature_teacher import FeatureTeacher


class OfflineTeacher(FeatureTeacher):
    """The distance of `FeatureTeacher` to a finished network that stays as it is.

    Lan et al., *Learning to Purification for Unsupervised Person Re-identification* (MSKD, arXiv
    2204.09931). With `batch_norm=train`, as the published code has it, the teacher's running
    statistics drift, which nothing reads with one warm-up epoch, as published: that is labelled
    first.
    """
