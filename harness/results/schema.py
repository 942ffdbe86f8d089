"""The schema of record.json, declared once. Every record is validated when it is read.

Sections may hold more than is declared here; what is declared is what tables, reports and
checks rely on.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.core.hashing import card_hash

SCHEMA = 1
#: metrics that an evaluated record cannot lack; others may have been added after it was written
REQUIRED = ("mAP", "rank1")
#: files of a run, which a stage's network `STAGE.pt` and its other files must not be taken for
RESERVED = ("checkpoint", "config", "failed", "history", "per_query", "query_identity", "record")

Metrics = dict[str, float]


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _printable(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it is not finite")
    items = value if isinstance(value, list) else ()
    if isinstance(value, dict) or any(isinstance(item, list | dict) for item in items):
        raise ValueError("it is nested")
    return value


class _Section(BaseModel):
    """No coercion of types, and no nan or inf."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Experiment(_Section):
    """Method × data set × protocol × seed (the protocol has a section of its own)."""

    method: str
    dataset: str
    seed: int


class Tuned(_Section):
    search: str
    criterion: str
    by: str
    trials: int


class ProtocolCard(_Section):
    """All that was held equal, as key and value, with a hash over it."""

    __pydantic_extra__: dict[str, Annotated[Any, AfterValidator(_printable)]]
    name: str
    hash: str
    cameras: bool
    selection: str
    tuned: Tuned | None = None


class Stage(_Section):
    """One training phase: its metrics in percent, and what it cost."""

    metrics: Metrics
    epoch: int | None = None
    images_per_second: float | None = None
    extract_images_per_second: float | None = None
    waiting: float | None = None
    cpu_share: float | None = None
    seconds: dict[str, float | None] | None = None
    label_seconds: dict[str, float | None] | None = None


class DatasetPart(_Section):
    name: str
    fingerprint: str


class Dataset(_Section):
    """The images. `not_as_published` is null where nothing is publicly known of them."""

    name: str = ""
    fingerprint: str = ""
    not_as_published: list[str] | None = None
    parts: list[DatasetPart] = []


class Init(_Section):
    """The finished run that training began from."""

    trained_on: str | None = None


class Environment(_Section):
    device: str | None = None
    cpu: str | None = None


def _stage_name(name: str) -> str:
    if problem := stage_name_problem(name):
        raise ValueError(problem)
    return name


StageName = Annotated[str, AfterValidator(_stage_name)]


class Record(_Section):
    """What a finished run leaves."""

    experiment: Experiment
    settings: str
    config: str | None = None
    protocol: ProtocolCard
    evaluated: bool = True
    metrics: Metrics
    stages: Annotated[dict[StageName, Stage], Field(min_length=1)]
    dataset: Dataset
    environment: Environment
    seconds: float
    devices: int = 1
    device_hours: float | None = None
    memory_mib: dict[str, float] = {}
    init: Init | None = None
    networks_of: str | None = None
    finished: str | None = None


class Evaluation(_Section):
    """`harness eval dataset=… --save`: a network of a run, tested on other data."""

    stage: str
    protocol: ProtocolCard
    metrics: Metrics
    dataset: DatasetPart


class Size(_Section):
    height: int
    width: int


class Method(_Section):
    name: str
    uses_cameras: bool


class Training(_Section):
    precision: str


class DataSource(_Section):
    """A data set; `sets` are those of a joint one."""

    name: str
    sets: dict[str, dict[str, Any]] = {}


class Config(_Section):
    """The sections of config.json from which a network and its data are rebuilt."""

    seed: int
    method: Method
    images: Size
    dataset: DataSource
    backbone: dict[str, Any]
    train: Training
    evaluation: dict[str, Any]
    stages: dict[str, dict[str, Any] | None]


class Epoch(_Section):
    """A row of history.json: what figures need."""

    stage: str
    epoch: int


class Checkpoint(_Section):
    """What a run goes on from; `trainer` is the state of the stage in progress."""

    settings: str
    seed: int
    data: str
    history: str
    stages: dict[StageName, Stage]
    trainer: dict[str, Any] | None
    best: dict[str, Any]
    environment: dict[str, Any]
    processes: Annotated[list[int], Field(min_length=1)]
    seconds: float
    device_seconds: float
    memory_mib: dict[str, float]


def checkpoint_problem(state: Any) -> str | None:
    """What is wrong with the content of a checkpoint, in words; None if nothing is."""
    try:
        Checkpoint.model_validate(state)
        json.dumps([state["stages"], state["environment"]], allow_nan=False)  # go into the record
    except ValidationError as error:
        return f"it {_in_words(error)}"
    except (TypeError, ValueError) as error:
        return f"it holds what a record cannot ({error})"
    return None


def config_problem(config: Any) -> str | None:
    """What is wrong with the content of config.json, in words; None if nothing is."""
    try:
        Config.model_validate(config)
    except ValidationError as error:
        return f"config.json {_in_words(error)}"
    return None


def history_problem(rows: Any) -> str | None:
    """What is wrong with the content of history.json, in words; None if nothing is."""
    try:
        TypeAdapter(list[Epoch]).validate_python(rows)
    except ValidationError as error:
        return f"it {_in_words(error)}"
    return None


def is_evaluation(raw: Any) -> bool:
    """Whether this is a result of `harness eval dataset=… --save` that tables can show."""
    try:
        Evaluation.model_validate(raw)
    except ValidationError:
        return False
    return raw.get("schema") == SCHEMA and "mAP" in raw["metrics"]


def stage_name_problem(name: str) -> str | None:
    """Why a stage cannot have this name, in words; None if it can. Files of a run are named after
    its stages, so a name must not lead out of the folder or be that of another file.
    """
    if not re.fullmatch(r"[^\W\d][\w-]{0,63}", name):
        return "it must begin with a letter, and hold letters, digits, '_' and '-'"
    if name.lower() in RESERVED:
        return f"files of a run have this name: {', '.join(RESERVED)}"
    return None


def read(raw: Any) -> dict[str, Any] | str:
    """A record as it was written, or what is wrong with it, in words."""
    if not isinstance(raw, dict):
        return "record.json does not hold a JSON object"
    if type(raw.get("schema")) is not int or raw["schema"] != SCHEMA:
        return f"record.json has schema {raw.get('schema')!r}, and this version reads {SCHEMA}"
    try:
        Record.model_validate(raw)
    except ValidationError as error:
        return f"record.json {_in_words(error)}"
    found = {f"stages.{name}.": stage for name, stage in raw["stages"].items()} | {"": raw}
    lacking = [f"{place}metrics.{key}" for place, section in found.items() for key in REQUIRED
               if key not in section["metrics"]]  # fmt: skip
    if raw.get("evaluated", True) and lacking:
        return f"record.json lacks {', '.join(lacking)}"
    card = raw["protocol"]
    if (own := card_hash(card)) != card["hash"]:
        return f"record.json has protocol hash {card['hash']}, but its card gives {own}"
    return raw


def _in_words(error: ValidationError) -> str:
    """The missing fields, or else the first one that is not valid."""
    errors = error.errors(include_url=False, include_input=False)
    fields = {".".join(map(str, e["loc"])): e for e in errors}
    missing = [field for field, e in fields.items() if e["type"] == "missing"]
    if missing:
        return f"lacks {', '.join(missing)}"
    field, first = next(iter(fields.items()))
    message = "Input should be an object" if first["type"] == "model_type" else first["msg"]
    return f"has no valid {field} ({message})"
