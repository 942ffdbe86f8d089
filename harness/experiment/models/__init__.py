"""Trained networks in use: loading, embedding images, export to other formats, and the zoo."""
