"""Which runs of a submission are the same experiment."""

from __future__ import annotations

from pathlib import Path

from harness.experiment.submissions.checks.repeats import check_repeats
from harness.experiment.submissions.context import Context, ReadRun, Reference
from harness.experiment.submissions.layout import Submitted
from tests.results.records import record


def test_other_images_of_a_source_are_another_experiment() -> None:
    def run(name: str, fingerprint: str) -> ReadRun:
        content = record("spcl_uda", card={"setting": "UDA, source personx"}, initial=40.0)
        content["stages"]["initial"]["epoch"] = None  # untrained, so queries are not compared
        source = {"name": "personx", "fingerprint": fingerprint}
        return ReadRun(
            Path(name), Submitted.model_construct(), content | {"source": source}, {}, []
        )

    one, other, again = run("one", "1" * 32), run("other", "2" * 32), run("again", "2" * 32)
    reference = Reference(leaderboard=None)
    assert check_repeats(other, Context(reference, [one, other])).outcome != "FAILED"
    found = check_repeats(other, Context(reference, [one, other, again]))
    assert found.outcome == "FAILED" and found.reason.endswith("as again, seed included")
