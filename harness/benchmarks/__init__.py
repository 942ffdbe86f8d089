"""Timings on this machine: the training pipeline, the label step and evaluation."""
