"""A benchmark harness for unsupervised person re-identification: one pipeline, one protocol."""

__version__ = "0.1.0"
