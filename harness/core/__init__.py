"""Shared by all rooms: interfaces, options, metrics, errors, files, seeds, precision, processes."""
