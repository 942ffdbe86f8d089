"""`harness verify`: every method's arithmetic against numbers from its authors' own code."""

from harness.conformance.cases import Check
from harness.conformance.runner import show, verify

__all__ = ["Check", "show", "verify"]
