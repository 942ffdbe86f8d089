"""`harness verify`: every method's arithmetic against numbers that its authors' code produced."""

from harness.verification.runner import Check, show, verify

__all__ = ["Check", "show", "verify"]
