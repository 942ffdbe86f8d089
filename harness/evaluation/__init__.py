"""Ranking metrics, re-ranking and cluster quality: the only package that reads identities."""
