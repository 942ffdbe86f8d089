"""`harness submit`: packs finished runs into a folder that others can check and add to a table."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError, HarnessError, Problems
from harness.core.files import expanded, explain_write_errors, make_folder, read_json, write_json
from harness.core.version import __version__
from harness.evaluation import kept_features
from harness.experiment.submissions import untrusted
from harness.experiment.submissions.installed import of_plugins
from harness.experiment.submissions.layout import (
    CONFIG,
    HISTORY,
    MANIFEST,
    NAME,
    QUERIES,
    RECORD,
    REQUIRED,
    SCHEMA,
    largest,
)
from harness.experiment.submissions.private import machine_names, private_places
from harness.results.run_status import state
from harness.results.store import Run, Store


def submit(
    runs: Sequence[str],
    store: str | Path = "results/runs",
    name: str | None = None,
    output: str | Path = "submissions",
    features: bool = False,
    overwrite: bool = False,
) -> Path:
    """Pack finished runs: records and per-query results, no images and no networks.

    Args:
        runs: names of runs or their beginnings, folders, patterns (`mskd-*`), or methods.
        name: of the submission's folder; by default that of the only run, or METHOD-DATASET.
        features: also pack the test features of each run's last stage.
        overwrite: replace a submission of this name.

    Returns:
        The folder, complete: it is written under another name and renamed.

    Raises:
        ConfigError: no such run, or a name that exists. HarnessError: a run is not finished, not
            evaluated or incomplete, or its files say something about the machine.
    """
    chosen = _choose(Store(Path(store)), runs)
    problems = Problems()
    for run in chosen:
        with problems.collecting():
            _check(run, features)
    problems.check()
    target = expanded(output) / (name or _name(chosen))
    if not NAME.fullmatch(target.name):
        raise ConfigError(f"--name {target.name} is no name.", "Use letters, digits, '_' and '-'.")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists already.", "Give another --name, or --overwrite.")
    make_folder(target.parent)
    with explain_write_errors(target / MANIFEST):
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            made.chmod(0o755)
            _pack(chosen, made, features)
            _replace(target, made)
        finally:
            shutil.rmtree(made, ignore_errors=True)  # already renamed, unless it failed
    return target


def _choose(store: Store, words: Sequence[str]) -> list[Run]:
    """The runs that names, patterns, methods and folders mean, each once, by name."""
    found: dict[str, Run] = {}
    everything = list(store.runs())
    for word in words:
        fitting = [run for run in everything if fnmatchcase(run.name, word)]
        if not fitting:
            fitting = [run for run in everything if _method(run) == word]
        for run in fitting or [store.find(word)]:
            other = found.setdefault(run.name, run)
            if other.folder.resolve() != run.folder.resolve():
                raise ConfigError(
                    f"{other.folder} and {run.folder} have one name.", "Submit them one by one."
                )
    return [found[name] for name in sorted(found)]


def _method(run: Run) -> str | None:
    return str(run.record["experiment"]["method"]) if run.finished else None


def _name(runs: Sequence[Run]) -> str:
    """The name of a submission that was given none."""
    if len(runs) == 1:
        return runs[0].name
    named = {(r.record["experiment"]["method"], r.record["experiment"]["dataset"]) for r in runs}
    if len(named) > 1:
        raise ConfigError(f"These are runs of {len(named)} experiments.", "Give a --name.")
    return "-".join(named.pop())


def _check(run: Run, features: bool) -> None:
    """Refuse a run that cannot be submitted.

    Raises:
        HarnessError: names the cause.
    """
    if (found := state(run)).kind != "finished":
        raise HarnessError(f"{run.name} is {found}.", "Only finished runs can be submitted.")
    record, stage = run.record, list(run.record["stages"])[-1]
    if not record.get("evaluated", True) or not record["metrics"]:
        raise HarnessError(
            f"{run.name} was not evaluated.", "Submit runs on data sets with a test part."
        )
    if not NAME.fullmatch(run.name):
        raise HarnessError(f"{run.name}: other systems may not take this name.", "Rename it.")
    run.complete_config()
    if not (run.folder / QUERIES).is_file():
        raise HarnessError(
            f"{run.name} has no {QUERIES}.",
            "Give its command again with overwrite=backfill, which restores the file.",
        )
    path = kept_features.path_of(run.folder, stage)
    if features and not path.is_file():
        raise HarnessError(
            f"{run.name} kept no features of its stage '{stage}'.",
            "Give its command again with overwrite=backfill evaluation.keep_features=true, which "
            "tests its network again, or leave --features out.",
        )
    names = machine_names()
    contents = {file: read_json(run.folder / file) for file in (RECORD, CONFIG)}
    contents[HISTORY] = run.history()
    contents["the run's folder"] = run.name
    for file, content in contents.items():
        if place := next(private_places(content, names), None):
            raise HarnessError(
                f"{run.name}: {file} says something about this machine: {place}.",
                "Run it again with paths relative to data.root and another name=.",
            )
    for file in (*REQUIRED, *([path.name] if features else [])):
        if (run.folder / file).is_file() and (run.folder / file).stat().st_size > largest(file):
            raise HarnessError(f"{run.name}: {file} is larger than {largest(file):,} bytes.")


def _pack(runs: Sequence[Run], folder: Path, features: bool) -> None:
    """Write the files of a submission, submission.json last."""
    files: dict[str, Any] = {}
    entries: dict[str, Any] = {}
    for run in runs:
        stage = list(run.record["stages"])[-1]
        kept = kept_features.path_of(run.folder, stage)
        (folder / run.name).mkdir()
        for name in (*REQUIRED, *([kept.name] if features else [])):
            copy = folder / run.name / name
            if name == HISTORY and not (run.folder / name).is_file():
                write_json(copy, [])  # untrained, by an earlier version
            else:
                shutil.copyfile(run.folder / name, copy)
            files[f"{run.name}/{name}"] = _described(copy)
        named = run.record["experiment"]
        entries[run.name] = {
            "method": named["method"], "dataset": named["dataset"], "seed": named["seed"],
            "plugins": of_plugins(run.complete_config()),
            "withheld": {kept.name: _described(kept)} if kept.is_file() and not features else {},
        }  # fmt: skip
    manifest = {"schema": SCHEMA, "harness": __version__, "runs": entries, "files": files}
    write_json(folder / MANIFEST, manifest)


def _described(path: Path) -> dict[str, Any]:
    return {"size": path.stat().st_size, "sha256": untrusted.digest(path)}


def _replace(target: Path, made: Path) -> None:
    """Put a new submission in the place of an old one, which is never half removed there."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}-old-", dir=target.parent))
        target.rename(old / target.name)
        made.rename(target)
        shutil.rmtree(old)
    else:
        made.rename(target)


def described(folder: Path) -> str:
    """What a submission holds and what comes next, for the terminal."""
    content = read_json(folder / MANIFEST)
    size = sum(file["size"] for file in content["files"].values())
    count = len(content["runs"])
    lines = [f"{folder}: {count} run{'s' * (count > 1)}, {_megabytes(size)}"]
    for name, entry in content["runs"].items():
        if entry["plugins"]:
            own = ", ".join(entry["plugins"])
            lines.append(f"  {name}: of your own: {own}. A reviewer cannot compose it again.")
    if not any(re.search("_features", name) for name in content["files"]):
        lines.append("  Without --features the ranking cannot be repeated from the submission.")
    return "\n".join([*lines, f"Next: harness validate {folder}"])


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
