"""Hydra configuration of the harness; `config.yaml` is the table of contents."""
