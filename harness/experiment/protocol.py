"""The protocol card: all that is held equal, hashed; rows of different cards never share a table.

Three things belong on the card but not under its hash, as every table shows them by row: whether
cameras were used, how the checkpoint was selected, and whether settings were found by a search.
Were they hashed, the floor of a table (direct transfer, no cameras) could never stand in the same
table as the methods above it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.core.hashing import UNHASHED as UNHASHED
from harness.core.hashing import card_hash as card_hash
from harness.core.tuned import describe_tuned
from harness.data.augmentation_settings import describe as describe_augmentation
from harness.evaluation.label_free import read_label_free
from harness.experiment.joint_datasets import sections
from harness.experiment.labelled_source import setting_of
from harness.experiment.stages import backbone_name, preprocessing
from harness.results.settings import USL, line
from harness.training.optimizers import describe as describe_optimizer

#: what a stage may change of the sections held equal, because it is the method's own
OWN = ("backbone.views", "train.warmup_epochs", "train.warmup_iterations", "train.label_every",
       "train.micro_batch", "batch.joint", "batch.domain_norms")  # fmt: skip
#: options of a backbone that have a line of their own, or (views) are the method's
ON_CARD = ("arch", "model", "weights", "pretrained", "pooling", "stride_in", "views", "size",
           "mean", "std", "interpolation", "checkpointing")  # fmt: skip
#: usual values of a backbone's other options, which the card does not name
USUAL = {"last_stride": 1, "stem_relu": True, "neck": "bn", "ibn": False, "freeze": [],
         "patch_stride": None, "output_stride": None, "drop_path": 0.0, "branches": False,
         "stem": "patch", "part_tokens": 0, "part_fusion": "cat", "projection": None}  # fmt: skip
HELD = ("images.", "backbone.", "batch.", "train.", "optimizer.")
RULE = "same identity and camera removed; junk removed; AP = mean precision at each match"


def protocol_card(config: DictConfig, precision: str, weights: Mapping[str, str]) -> dict[str, Any]:
    """The card of an experiment, with its `hash` (8 hex digits).

    precision: resolved (never `auto`). weights: value of `backbone.weights` → its description.
    """
    backbone: Any = OmegaConf.to_container(config.backbone, resolve=True)
    network = backbone_name(backbone)
    origin = weights[str(backbone.get("weights", "none"))]
    iterations, sampler = config.train.iterations, config.batch.sampler
    per_epoch = "labelled images / batch size" if iterations == "auto" else iterations
    tracks = bool(sections(config.dataset)[0].get("tracks"))
    card: dict[str, Any] = {
        "name": config.protocol.name,
        "input": f"{config.images.height}x{config.images.width}",
        "augmentation": describe_augmentation(config.images),
        "backbone": network,
        "pooling": backbone.get("pooling"),
        "weights": f"timm {network}" if backbone.get("pretrained") else origin,
        **preprocessing(config.backbone).lines(),
        "batch": f"{config.batch.identities} x {config.batch.images}"
        + ("" if sampler == "identity" else f", {sampler} sampler"),
        "samples_per_bn": config.batch.samples_per_bn,
        "schedule": f"{config.train.epochs} epochs x {per_epoch} iterations a stage",
        "optimizer": describe_optimizer(config.optimizer),
        "precision": precision,
        "evaluation": evaluation_rule(tracks, bool(config.evaluation.rerank)),
        "cameras": bool(config.method.uses_cameras),
        "selection": config.selection,
    }
    if (setting := setting_of(config)) != USL:
        card["setting"] = line(setting, str(config.source.name))
    if (tuned := describe_tuned(config)) is not None:
        card["tuned"] = tuned
    if config.selection == "label_free":
        card["selection"] = f"label_free, {read_label_free(config)[0][0]}"
    if backbone.get("stride_in", "3x3") != "3x3":
        card["backbone"] += f", stride in {backbone['stride_in']}"
    for key in sorted(set(backbone) - {"_target_", *ON_CARD}):
        if backbone[key] != USUAL.get(key):
            card["backbone"] += f", {key} {backbone[key]}"
    if changed := ", ".join(_changed_by_stages(config, weights)):
        card["stages"] = changed
    card["hash"] = card_hash(card)
    return card


def evaluation_rule(tracks: bool, rerank: bool) -> str:
    """The line `evaluation` of the card."""
    to_track = ", image to track" if tracks else ""
    return RULE + to_track + (", k-reciprocal re-ranking" if rerank else "")


def _changed_by_stages(config: DictConfig, weights: Mapping[str, str]) -> Iterator[str]:
    """`STAGE.KEY=VALUE` where a stage changes what is held equal."""
    changes: Any = OmegaConf.to_container(config.stages, resolve=True) if config.stages else {}
    for stage in changes:
        for key, value in _flat(changes[stage] or {}):
            if key.startswith(HELD) and key not in OWN and value != OmegaConf.select(config, key):
                value = weights[str(value)] if key == "backbone.weights" else value
                yield f"{stage}.{key}={value}"


def _flat(node: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
