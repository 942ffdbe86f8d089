"""Results for the public table: `harness submit` packs them, `harness validate` checks them."""

from harness.experiment.submissions.context import Reference
from harness.experiment.submissions.pack import submit
from harness.experiment.submissions.validate import validate

__all__ = ["Reference", "submit", "validate"]
