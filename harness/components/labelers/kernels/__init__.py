"""The loops of the label step, compiled by numba.

Each works on a range of rows and touches nothing outside of it, so ranges run in parallel, and none
of them sums anything across ranges: the number of threads cannot change a result.
"""
