"""`harness label` and `harness score`: for features of one's own, without data set or training."""
