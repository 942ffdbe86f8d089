"""`harness validate`: checks a submission that anyone may have made, without trust.

A check sees a run only if the files are whole and bounded (`checks/files.py`), and the values of
its configuration name nothing but what is installed (`checks/schema.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from harness.core.errors import ConfigError, first_line
from harness.experiment.submissions.checks import files
from harness.experiment.submissions.checks.card import check_card
from harness.experiment.submissions.checks.cost import check_cost
from harness.experiment.submissions.checks.features import check_features
from harness.experiment.submissions.checks.history import check_history
from harness.experiment.submissions.checks.images import check_images
from harness.experiment.submissions.checks.metrics import check_metrics
from harness.experiment.submissions.checks.protocol import check_protocol
from harness.experiment.submissions.checks.repeats import check_repeats
from harness.experiment.submissions.checks.schema import check_configuration, schema_problems
from harness.experiment.submissions.checks.settings import check_settings
from harness.experiment.submissions.checks.version import check_version
from harness.experiment.submissions.context import Context, ReadRun, Reference
from harness.experiment.submissions.layout import CONFIG, HISTORY, NAME, RECORD, Manifest, Submitted
from harness.experiment.submissions.untrusted import quoted, read_strict
from harness.experiment.submissions.verdict import Check, Found, Verdict, failed, failed_or, ok

#: characters of a reason
LONGEST_REASON = 2000
#: in this order: version looks at the outcome of card
CHECKS: dict[str, Callable[[ReadRun, Context], Found]] = {
    "settings": check_settings, "card": check_card, "version": check_version,
    "protocol": check_protocol, "data set": check_images, "metrics": check_metrics,
    "features": check_features, "history": check_history, "repeats": check_repeats,
    "cost": check_cost,
}  # fmt: skip


def validate(folder: str | Path, reference: Reference | None = None) -> Verdict:
    """Check a submission, by default against the leaderboard of the checkout and without images.

    Raises:
        ConfigError: there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir() or folder.is_symlink():
        raise ConfigError(
            f"{folder} is not a folder.", "harness submit RUN writes one: submissions/NAME."
        )
    folder = folder.resolve()
    return Verdict(quoted(folder.name), tuple(_checks(folder, Context(reference or Reference()))))


def _checks(folder: Path, context: Context) -> Iterator[Check]:
    manifest, problems = _files(folder)
    if not NAME.fullmatch(folder.name):
        problems.append("the folder's name is no name of a submission")
    yield _check("", "files", lambda: failed_or(problems, ok(_counted(manifest))))
    if problems or manifest is None:
        return
    read = [_read(folder / name, entry, context) for name, entry in manifest.runs.items()]
    context.runs.extend(run for run, _ in read if run is not None)
    for run, checks in read:
        yield from checks
        if run is None:
            continue
        for name, function in CHECKS.items():
            check = _check(run.name, name, lambda run=run, f=function: f(run, context))  # type: ignore[misc]
            context.outcomes[run.name, name] = check.outcome
            yield check


def _check(run: str, name: str, function: Callable[[], Found]) -> Check:
    """An outcome; whatever hostile values raise in a check is a failure."""
    try:
        found = function()
    except Exception as error:
        kind = type(error).__name__
        found = failed(f"it cannot be checked: {kind}: {quoted(first_line(error), 200)}")
    return Check(run, name, found.outcome, quoted(found.reason, LONGEST_REASON))


def _counted(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    files, runs = len(manifest.files), len(manifest.runs)
    return f"{files} files of {runs} run{'s' * (runs > 1)}, as in submission.json"


def _files(folder: Path) -> tuple[Manifest | None, list[str]]:
    """submission.json, and what is wrong with the files."""
    try:
        found, problems = files.list_files(folder)
        if problems:
            return None, problems
        manifest = files.manifest_of(folder)
        return manifest, list(files.file_problems(folder, manifest, found))
    except files.FAULTS as error:
        return None, [f"submission.json: {quoted(str(error), 200)}"]


def _read(folder: Path, entry: Submitted, context: Context) -> tuple[ReadRun | None, list[Check]]:
    """A run, if it can be read safely, and the checks that tell."""
    checks = [
        _check(folder.name, "contents", lambda: failed_or(files.content_problems(folder), ok()))
    ]
    if checks[-1].outcome != "ok":
        return None, checks
    record, config, history = (read_strict(folder / name) for name in (RECORD, CONFIG, HISTORY))
    problems = _check(
        folder.name, "schema", lambda: failed_or(schema_problems(record, config, history), ok())
    )
    checks.append(problems)
    if problems.outcome != "ok":
        return None, checks
    checks.append(
        _check(folder.name, "configuration", lambda: check_configuration(config, context.known))
    )
    if checks[-1].outcome != "ok":
        return None, checks
    return ReadRun(folder, entry, record, config, history), checks
