"""Prepare a data set: unpack it, check every image and count, fill the image cache."""

from __future__ import annotations

import difflib
import json as jsonlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from omegaconf import DictConfig
from rich.console import Console

from harness.core import plugins
from harness.core.errors import ConfigError, DataError, HarnessError
from harness.core.files import expanded, make_folder, write_json
from harness.core.progress import Reporter
from harness.data.cache_folder import cache_folder
from harness.data.facts import compare_with_published
from harness.data.image_cache import build_image_cache, find_bad
from harness.data.image_source import ImageSource
from harness.data.prepare import own_images as own
from harness.data.prepare.archives import open_source
from harness.data.prepare.card import make_card, read_headers, show
from harness.data.prepare.layouts import find_layout
from harness.data.prepare.unpack import in_place, unpack
from harness.data.releases import shown
from harness.data.types import Dataset, ReIDData
from harness.evaluation.evaluator import check_matches, without_junk
from harness.experiment.compose import compose, quoted
from harness.experiment.stages import make_dataset, named, preprocessing

BAD_SHOWN = 20


def prepare(changes: Sequence[str], yes: bool = False, json: bool = False) -> dict[str, Any]:
    """Unpack a data set under the data root, check it, decode its images, and print its card.

    Repeating it is fast: files and image caches that are complete are kept.

    Args:
        changes: `dataset=NAME`, `source=PATH`, and options of `harness run` such as `data.root=`,
            `images.height=` or `dataset.KEY=`; for `dataset=folder` also those of `propose`.
        yes: accept the proposed CSV. json: print the card as JSON.

    Raises:
        ConfigError: an unknown option. DataError: the source is not the complete data set, or
            images cannot be decoded. HarnessError: a disk is full or cannot be written.
    """
    for change in changes:
        if "=" not in change:
            is_path = "." in change or Path(change).exists()
            names = () if is_path else plugins.find()["datasets"]
            near = difflib.get_close_matches(change, names, n=1)
            meant = f"dataset={near[0]}" if near else f"source={change}"
            raise ConfigError(f"'{change}' is not KEY=VALUE.", f"Did you mean {meant}?")
    given = dict(change.split("=", 1) for change in changes)
    if "dataset" not in given:
        raise ConfigError(
            "No data set was given.", "Add dataset=NAME (harness list datasets) or dataset=folder."
        )
    source = given.pop("source", None)
    console = Console(stderr=True, highlight=False) if json else Console(highlight=False)
    options = {key: given.pop(key) for key in own.OPTIONS if key in given}
    if given["dataset"] == "folder" and source is not None:
        given |= _own_images(expanded(source), given, options, yes, console)
        source = None
    elif options:
        raise ConfigError(
            f"{next(iter(options))}= applies to your own images only.",
            "Add dataset=folder source=DIR, or leave it out.",
        )
    if given["dataset"] == "folder" and source is None and "dataset.csv" not in given:
        raise ConfigError(
            "dataset=folder needs the folder of your images.",
            "Give source=DIR to get a proposed CSV, or dataset.csv=FILE if you have one.",
        )
    config = _composed(given)
    dataset = make_dataset(config)
    root = expanded(str(config.data.root))
    with Reporter(console) as reporter:
        if source is not None:
            with _alone(root, str(config.dataset.name)):
                place(dataset, expanded(source), root, config, reporter)
        data = named(dataset.load(), str(config.dataset.name))
        card = check(data, config, reporter)
    if json:
        print(jsonlib.dumps(card))
    else:
        show(card, reporter.console)
        trains = card["parts"]["train"]["images"] > 0
        words = [f"method={'mskd' if trains else 'direct_transfer'}"]
        words += [f"{k}={value}" for k, value in given.items() if not k.startswith("images.")]
        print(f"ready: harness run {shlex.join(words)}")
    return card


def _own_images(
    folder: Path, given: dict[str, str], options: dict[str, str], yes: bool, console: Console
) -> dict[str, str]:
    """The settings of a folder of images, once the user has accepted its CSV. An existing CSV is
    used as it is.
    """
    folder = folder.absolute()
    config = _composed(given | {"dataset.csv": own.NAME})
    root = expanded(str(config.data.root)).absolute()
    target = root / given["dataset.csv"] if "dataset.csv" in given else folder / own.NAME
    fresh = not target.is_file()
    if not fresh:
        console.print(
            f"{target} exists and is used as it is; remove it to get a new proposal.",
            markup=False, soft_wrap=True,
        )  # fmt: skip
    else:
        own.confirm(own.propose(folder, options), target, yes, console)
    found = {"dataset.csv": quoted(str(target))}
    if target.parent != folder and "dataset.images" not in given:
        found["dataset.images"] = quoted(str(folder))
    if fresh:
        try:
            _check_identities(make_dataset(_composed(given | found)).load())
        except DataError as error:
            target.unlink()
            hint = "Describe the names with pattern=, or write the file by hand."
            raise DataError(error.cause, f"{target} was removed again. {hint}") from error
    return found


def _check_identities(data: ReIDData) -> None:
    """Raises DataError if no query has a correct gallery image."""
    if len(data.query.images):
        check_matches(data.query, without_junk(data.gallery), data.name)


def _composed(given: dict[str, str]) -> DictConfig:
    """The configuration of a run on the data set; the method does not matter here."""
    return compose(["method=direct_transfer", *(f"{key}={value}" for key, value in given.items())])


def _alone(root: Path, name: str) -> FileLock:
    """The lock for unpacking a data set."""
    cache = cache_folder(root, None)
    make_folder(cache)
    lock = FileLock(cache / f"prepare-{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        cause = f"Another process is preparing {name} under {root}."
        raise HarnessError(cause, "Wait for it.") from error
    return lock


def place(dataset: Dataset, path: Path, root: Path, config: DictConfig, reporter: Reporter) -> None:
    """Unpack a source where the loader expects its files.

    Raises:
        ConfigError: the data set has nothing to unpack. DataError: the source does not fit.
    """
    layouts = dataset.layouts()
    if not layouts:
        raise ConfigError(
            f"dataset={config.dataset.name} has nothing to unpack.", "Leave out source=."
        )
    source = open_source(path)
    reporter.phase(f"looking into {path.name}")
    members = source.members()
    check_counts = bool(config.dataset.get("check_counts", True))
    found = find_layout(layouts, [member.name for member in members], str(path), check_counts)
    where = f", in folder {found.prefix}" if found.prefix else ""
    images = sum(found.counts.values())
    reporter.say(f"{path} holds {found.layout.title}{where}: {images:,} images.")
    if in_place(path, found, root):
        reporter.say("Its files are in place already.")
        return
    skips = config.dataset.get("on_bad_image", "error") == "skip"
    phase = reporter.phase("unpacking")
    written, there = unpack(source, members, found, root, phase, allow_empty=skips)
    kept = f"; {there:,} existed" if there else ""
    reporter.say(f"{written:,} files written to {root / found.layout.home}{kept}.")


def check(data: ReIDData, config: DictConfig, reporter: Reporter) -> dict[str, Any]:
    """Decode every image, fill the image caches that runs use, and make the card.

    Raises:
        DataError: images that cannot be decoded; names them.
    """
    cache = cache_folder(config.data.root, config.data.cache_dir)
    size = (int(config.images.height), int(config.images.width))
    fingerprint = data.fingerprint()
    saved = cache / "cards" / f"{fingerprint}.json"
    skips = config.dataset.get("on_bad_image", "error") == "skip"
    if not skips:
        _check_empty(data)
    _check_identities(data)
    gallery = without_junk(data.gallery)
    junk = data.gallery.subset(np.flatnonzero(data.gallery.identities == -1))
    bad: list[str] = []
    for name, split in (("training", data.train), ("query", data.query), ("gallery", gallery)):
        if len(split.images):
            phase = reporter.phase(f"decoding {name} images")
            bad += build_image_cache(
                split.images, size, cache, on_bad_image="skip", progress=phase,
                interpolation=preprocessing(config.backbone).interpolation,
            ).bad  # fmt: skip
    if len(junk.images) and not saved.is_file():
        bad += find_bad(junk.images, reporter.phase("decoding junk"))
    if bad and not skips:
        raise DataError(
            f"{len(bad):,} images cannot be decoded: {shown(bad, BAD_SHOWN)}",
            "Download them again, or leave them out here and in runs: dataset.on_bad_image=skip.",
        )
    if saved.is_file():
        card: dict[str, Any] = jsonlib.loads(saved.read_text(encoding="utf-8"))
    else:
        sources: list[ImageSource] = [s.images for s in (data.train, data.query, data.gallery)]
        headers = read_headers(sources, reporter.phase("looking at sizes"))
        card = make_card(data, fingerprint, headers, compare_with_published(data, fingerprint))
        write_json(saved, card)
    height, width = size
    images = len(data.train.images) + len(data.query.images) + len(gallery.images) - len(bad)
    return card | {
        "unreadable": bad,
        "image_cache": {"folder": str(cache), "size": f"{height}x{width}", "images": images,
                 "bytes": images * height * width * 3},
    }  # fmt: skip


def _check_empty(data: ReIDData) -> None:
    """Refuse files of 0 bytes, which a full disk or an interrupted copy leaves."""
    from harness.data.image_files import ImageFiles

    splits = (data.train, data.query, data.gallery)
    files = [split.images for split in splits if isinstance(split.images, ImageFiles)]
    empty = [source.name(i) for source in files for i, size in enumerate(source.sizes) if size == 0]
    if empty:
        raise DataError(
            f"{len(empty):,} of {sum(map(len, files)):,} image files are empty (0 bytes): "
            f"{shown(empty, BAD_SHOWN)}",
            "Their download or copy was interrupted: get them again.",
        )
