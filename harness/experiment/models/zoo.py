"""The model zoo: a YAML file of trained networks, with addresses, checksums, results and terms.

    mskd-market1501-s0:
      url: https://…/mskd-market1501-s0.safetensors    # or a path relative to this file
      sha256: …
      …

It is `results/zoo.yaml` of the checkout, or the file that $HARNESS_ZOO names. `harness zoo add RUN`
writes entries, `harness list models` prints them.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated

import torch
import yaml
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator

from harness.core.downloads import download
from harness.core.errors import ConfigError, DataError
from harness.core.files import expanded, explain_write_errors, write_atomically, write_text
from harness.core.paths import shipped

VARIABLE = "HARNESS_ZOO"
NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")
Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Entry(BaseModel):
    """A network of the zoo.

    url: an address, or a path relative to the zoo's file. size: of the file in bytes.
    dataset: what it was trained on. protocol: name and hash of the protocol card.
    mAP, rank1: in percent, of the run's record; null if it was not evaluated.
    terms: under which it may be used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: Text
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: PositiveInt
    backbone: Text
    dataset: Text
    protocol: Text
    method: Text
    seed: int
    mAP: Percent | None = None
    rank1: Percent | None = None
    terms: Text

    @field_validator("url")
    @classmethod
    def _address(cls, url: str) -> str:
        if problem := url_problem(url):
            raise ValueError(problem)
        return url

    @property
    def is_remote(self) -> bool:
        """Whether it has to be downloaded."""
        return "://" in self.url

    def in_words(self) -> str:
        """One line for lists."""
        tested = "not evaluated"
        if self.mAP is not None:
            tested = f"mAP {self.mAP:.1f}" + (
                f"  Rank-1 {self.rank1:.1f}" if self.rank1 is not None else ""
            )
        return (
            f"{self.method} on {self.dataset}, {self.backbone}, {self.protocol}, seed {self.seed}: "
            f"{tested}; {self.size / 1e6:,.2f} MB; {self.terms}"
        )


def url_problem(url: str) -> str | None:
    """Why an address cannot be used, in words; None if it can."""
    if "://" in url:
        fine = re.fullmatch(r"https?://[^\s#]+", url)
        return None if fine else "must begin with http:// or https://, without blanks and #"
    path = PurePosixPath(url)
    if path.is_absolute() or ".." in path.parts or "\\" in url:
        return "must be an address, or a path inside the folder of the zoo's file"
    return None


@dataclass(frozen=True)
class Zoo:
    """The models of a zoo's file, by name."""

    path: Path
    models: dict[str, Entry]

    def fetch(self, name: str) -> Path:
        """The file of a model, downloaded if necessary; its checksum is verified.

        Raises:
            DataError: it cannot be downloaded, is missing, or has another checksum.
        """
        entry = self.models[name]
        if entry.is_remote:
            return download(entry.url, entry.sha256, Path(torch.hub.get_dir()) / "checkpoints")
        file = self.path.parent / entry.url
        if not file.is_file():
            raise DataError(
                f"Model {name}: there is no file {file}.",
                f"Copy it there, or give its address in {self.path}.",
            )
        if (found := sha256_of(file.read_bytes())) != entry.sha256:
            raise DataError(
                f"Model {name}: {file} has another checksum than {self.path} says: sha256 {found}.",
                "It is damaged, or was replaced: export the run again (harness zoo add).",
            )
        return file


def zoo_file() -> Path:
    """The zoo's file, whether it exists or not."""
    named = os.environ.get(VARIABLE)
    return expanded(named) if named else shipped("results", "zoo.yaml")


def load(path: Path | None = None) -> Zoo:
    """The zoo; empty if there is no file.

    Raises:
        DataError: the file is no YAML, or an entry lacks something.
    """
    path = path or zoo_file()
    if not path.is_file():
        return Zoo(path, {})
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} is no YAML: {' '.join(str(error).split())}", "See docs/use-a-model.md."
        ) from error
    if not isinstance(content, dict):
        raise DataError(f"{path} does not map names to models.", "See docs/use-a-model.md.")
    models = {}
    for name, values in content.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise DataError(f"{path}: '{name}' cannot be a model's name.", NAME_RULE)
        try:
            models[name] = Entry.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([name, *map(str, first["loc"])])
            raise DataError(
                f"{path}: {where}: {first['msg']}.", "docs/use-a-model.md lists what it needs."
            ) from error
    return Zoo(path, models)


NAME_RULE = "Use letters, digits, '-', '_', '.' and '+', a letter or digit first."


def check_name(name: str, zoo: Zoo) -> None:
    """Refuse a name that cannot be added."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"'{name}' cannot be a model's name.", NAME_RULE)
    if name in zoo.models:
        raise ConfigError(
            f"{zoo.path} has a model '{name}' already.",
            "Choose another name (--name), or remove that entry from the file.",
        )


def add(name: str, entry: Entry, content: bytes, file: Path, path: Path) -> None:
    """Write a model's file, then its entry.

    Raises:
        ConfigError: the name or the same network is there already, or `file` exists.
        HarnessError: a file cannot be written.
    """
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        zoo = load(path)
        check_name(name, zoo)
        for other, known in zoo.models.items():
            if known.sha256 == entry.sha256:
                raise ConfigError(
                    f"{path} has the same network already, as '{other}'.", "Nothing was added."
                )
        if file.exists() and file.read_bytes() != content:
            raise ConfigError(f"{file} exists.", "Choose another file: --output.")
        write_atomically(file, lambda out: out.write(content))
        rows = {
            key: one.model_dump(mode="json") for key, one in {**zoo.models, name: entry}.items()
        }
        text = yaml.safe_dump(rows, allow_unicode=True, width=100, sort_keys=False)
        write_text(path, f"# Trained networks; written by harness zoo add.\n{text}")


def sha256_of(content: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(content).hexdigest()
