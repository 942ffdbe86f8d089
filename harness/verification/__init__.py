"""`harness verify`: every method's arithmetic against numbers that its authors' code produced."""

from harness.verification.cases import Check
from harness.verification.runner import show, verify

__all__ = ["Check", "show", "verify"]
