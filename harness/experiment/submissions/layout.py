"""What a submission is: its files, how large they may be, and submission.json.

submissions/NAME/               a store: harness table --store submissions/NAME
    submission.json             size and digest of every file, and where each run is from
    RUN/
        record.json, config.json, history.json, per_query.npz
        STAGE_features.npz      with --features: the test features of the reported stage
"""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SCHEMA = 1
MANIFEST = "submission.json"
RECORD, CONFIG, HISTORY, QUERIES = "record.json", "config.json", "history.json", "per_query.npz"
REQUIRED = (RECORD, CONFIG, HISTORY, QUERIES)
FEATURES = re.compile(r"[A-Za-z][\w-]{0,63}_features\.npz", re.ASCII)
#: names of submissions and of runs
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,149}")
#: bytes of each kind of file, of all files, and of the arrays of a file
MIB = 1 << 20
LARGEST = {MANIFEST: MIB, RECORD: MIB, CONFIG: MIB // 4, HISTORY: 8 * MIB, QUERIES: 64 * MIB}
LARGEST_FEATURES, LARGEST_SUBMISSION = 1024 * MIB, 4096 * MIB
#: runs of a submission, and files of a run
MOST_RUNS, MOST_FILES = 200, len(REQUIRED) + 1


def largest(name: str) -> int:
    """Bytes that a file of this name may have, unpacked too; 0 for names that there are not."""
    return LARGEST.get(name, LARGEST_FEATURES if FEATURES.fullmatch(name) else 0)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class File(_Section):
    size: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Submitted(_Section):
    """A run.

    plugins: what of it is not of the harness itself, which a reviewer cannot compose again.
    withheld: files of features that were kept, but not submitted.
    """

    method: str
    dataset: str
    seed: int
    plugins: list[str] = []
    withheld: dict[str, File] = {}


class Manifest(BaseModel):
    """submission.json. files: by their path in the submission."""

    model_config = ConfigDict(extra="forbid", strict=True, populate_by_name=True)
    version: Annotated[int, Field(alias="schema")]
    harness: str
    runs: Annotated[dict[str, Submitted], Field(min_length=1, max_length=MOST_RUNS)]
    files: dict[str, File]


def read_manifest(content: Any) -> Manifest:
    """Raises ValueError: it is none of this version."""
    if isinstance(content, dict) and content.get("schema") != SCHEMA:
        raise ValueError(f"it does not have schema {SCHEMA}, which this version reads")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from error
