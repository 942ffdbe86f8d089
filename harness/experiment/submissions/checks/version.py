"""Version: the harness that made a record."""

from __future__ import annotations

import re

from harness.core.version import __version__
from harness.experiment.submissions.context import Context, ReadRun
from harness.experiment.submissions.untrusted import quoted
from harness.experiment.submissions.verdict import Found, failed, ok


def check_version(run: ReadRun, context: Context) -> Found:
    """This version or an earlier one, whose card can be recomputed by this one."""
    stated = run.record["environment"].get("harness")
    if not isinstance(stated, str) or not re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", stated):
        return failed(f"the record was made with {quoted(str(stated))}, which is no version")
    if stated == __version__:
        return ok(stated)
    made = f"the record was made with {stated}, this is {__version__}"
    if _numbers(stated) > _numbers(__version__):
        return failed(f"{made}: a later version may compute other things")
    if not context.passed(run, "card"):
        return failed(f"{made}, and its card cannot be recomputed")
    return ok(f"{made}; its card is the same")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
