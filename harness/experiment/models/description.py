"""What a network needs to be used without its run; exported files hold it as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from harness.core.errors import DataError, HarnessError
from harness.core.hashing import settings_digest
from harness.core.interfaces import Backbone
from harness.core.preprocessing import Preprocessing
from harness.core.version import __version__
from harness.experiment.finished_networks import without_weights
from harness.results.store import Run, trained_on

#: the key of the description in a file's metadata
KEY = "harness"
EXPORT_AGAIN = "Export it again: harness export RUN."
#: pixels; no network is used with more
Side = Annotated[int, Field(ge=1, le=4096)]


class Description(BaseModel):
    """A network, its input and where it comes from.

    size: (H, W) of its images in pixels. preprocessing: see `Preprocessing.as_dict`.
    views: names of its V views, the global one first. dim: features per view.
    backbone: configuration from which the network is built again, without weights.
    precision: in which the run trained and tested it.
    checksum: digest of the weights, in safetensors files only.
    record: digest of the run's record. protocol: name and hash of its protocol card.
    """

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    run: str
    stage: str
    size: tuple[Side, Side]
    preprocessing: dict[str, Any]
    views: tuple[str, ...] = Field(min_length=1)
    dim: PositiveInt
    backbone: dict[str, Any]
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    record: str
    method: str
    trained_on: str
    protocol: str
    seed: int
    harness: str = __version__
    checksum: str | None = None

    @field_validator("preprocessing")
    @classmethod
    def _possible(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            return Preprocessing.from_dict(values).as_dict()
        except (HarnessError, LookupError, TypeError) as error:
            raise ValueError(str(error)) from error

    @property
    def input(self) -> Preprocessing:
        """How images become the network's input."""
        return Preprocessing.from_dict(self.preprocessing)

    def to_json(self) -> str:
        """The text in a file's metadata."""
        return self.model_dump_json()


def parse(text: str | bytes | None, origin: str) -> Description:
    """The inverse of `Description.to_json`.

    Raises:
        DataError: there is none, or it is damaged; `origin` names the file.
    """
    if not text:
        raise DataError(
            f"{origin} was not written by harness export: its metadata say nothing of the input.",
            f"Only such files can be used, since size and normalization matter. {EXPORT_AGAIN}",
        )
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise DataError(
            f"{origin}: its description is damaged, or of another version of the harness "
            f"({f'{where}: ' if where else ''}{first['msg']}).",
            EXPORT_AGAIN,
        ) from error


def describe(run: Run, stage: str, backbone: Backbone, node: dict[str, Any]) -> Description:
    """The description of a finished run's network.

    Args:
        node: the complete configuration of the stage's backbone.
    """
    config, record = run.complete_config(), run.record
    without: Any = OmegaConf.to_container(without_weights(OmegaConf.create(node)), resolve=True)
    card = record["protocol"]
    return Description(
        run=run.name,
        stage=stage,
        size=(int(config["images"]["height"]), int(config["images"]["width"])),
        preprocessing=backbone.preprocessing.as_dict(),
        views=tuple(backbone.views),
        dim=backbone.dim,
        backbone=json.loads(json.dumps(without)),
        precision=config["train"]["precision"],
        record=settings_digest(record),
        method=record["experiment"]["method"],
        trained_on=trained_on(record),
        protocol=f"{card['name']} {card['hash']}",
        seed=record["experiment"]["seed"],
    )
