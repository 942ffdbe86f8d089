"""Figures of one run, drawn with matplotlib, which is imported on first use."""
