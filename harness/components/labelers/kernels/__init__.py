"""Kernels of the label step, compiled by numba.

Each works on a range of rows and writes only there, so ranges run in parallel. No kernel sums
across ranges, so the number of threads cannot change a result.
"""
