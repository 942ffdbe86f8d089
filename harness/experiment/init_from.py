"""`init=RUN`: training begins from the network of a finished run instead of ImageNet weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.components.backbones.weights import read_state
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.results.store import Run, Store, trained_on


@dataclass(frozen=True)
class Init:
    """The network that a cell's students begin from: the last stage's of a finished run.

    digest: of its weights. It is what the cell's hash and protocol card know it by: a run may be
    renamed, or be repeated to other weights.
    """

    run: Run
    stage: str
    digest: str

    @property
    def path(self) -> Path:
        """The file of its weights."""
        return self.run.folder / f"{self.stage}.pt"

    @property
    def trained_on(self) -> str:
        """What the run was trained on."""
        return trained_on(self.run.record)

    @property
    def weights(self) -> str:
        """The line on the protocol card."""
        return f"of a model trained on {self.trained_on} ({self.digest})"

    def described(self) -> dict[str, Any]:
        """For the record."""
        return {
            "run": self.run.name,
            "stage": self.stage,
            "digest": self.digest,
            "method": self.run.record["experiment"]["method"],
            "trained_on": self.trained_on,
        }

    def load_into(self, backbone: Backbone) -> None:
        """Give a network these weights, batch statistics included, all of them or none.

        Raises:
            ConfigError: it does not fit. DataError: the weights cannot be read.
        """
        state, own = read_state(self.path), backbone.state_dict()
        missing = [key for key in own if key not in state]
        unknown = [key for key in state if key not in own]
        other = [
            f"{key} {tuple(state[key].shape)}, not {tuple(value.shape)}"
            for key, value in own.items()
            if key in state and state[key].shape != value.shape
        ]
        if missing or unknown or other:
            kinds = (("lacks", missing), ("has besides", unknown), ("has", other))
            told = "; ".join(
                f"it {word} {', '.join(keys[:2])}{', …' if len(keys) > 2 else ''}"
                for word, keys in kinds
                if keys
            )
            raise ConfigError(
                f"init={self.run.name} is of another backbone: {told}.",
                "Use the same backbone, backbone.views and so on, or another run.",
            )
        backbone.load_state_dict(state)


def find_init(config: DictConfig) -> Init | None:
    """What `init` names; None without.

    Raises:
        ConfigError: there is no such run, it is unfinished, or it kept no weights.
    """
    name = config.get("init")
    if name is None:
        return None
    run = Store(Path(config.store).expanduser()).find(str(name))
    if not run.finished:
        raise ConfigError(
            f"init={run.name} is not finished.",
            "Finish that run first, or choose another (harness list runs).",
        )
    stage = list(run.record["stages"])[-1]
    path = run.folder / f"{stage}.pt"
    if not path.is_file():
        raise ConfigError(
            f"init={run.name} kept no weights ({path.name} is missing).",
            "Committed records come without weights: run it again, overwrite=always.",
        )
    stat = path.stat()
    digest = _digest(path.absolute(), stat.st_mtime_ns, stat.st_size)
    return Init(Run(run.folder.absolute()), stage, digest)


@cache
def _digest(path: Path, modified: int, size: int) -> str:
    """Of a file's content; read again only if it has changed."""
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()


def settled(config: DictConfig) -> DictConfig:
    """The configuration with the folder of the run that `init` names, looked up once: what a
    beginning of a name fits may change as soon as this cell has a folder of its own.
    """
    init = find_init(config)
    if init is None:
        return config
    changed = config.copy()
    OmegaConf.update(changed, "init", str(init.run.folder))
    return changed
