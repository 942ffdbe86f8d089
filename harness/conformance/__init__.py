"""`harness verify`: every method's arithmetic against numbers that its authors' code produced."""

from harness.conformance.cases import Check
from harness.conformance.runner import show, verify

__all__ = ["Check", "show", "verify"]
