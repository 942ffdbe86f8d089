"""Figures of a finished run that need its network: rankings, embedding, activation maps."""
