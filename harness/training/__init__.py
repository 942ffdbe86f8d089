"""Training without identities: trainer, step, micro-batches, optimizers, feature extraction."""
