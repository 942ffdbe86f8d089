"""Labels and scores for features from elsewhere, without a data set or training."""
