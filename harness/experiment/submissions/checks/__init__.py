"""The checks of a submission, one per file."""
