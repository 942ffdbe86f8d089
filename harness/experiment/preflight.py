"""Checks before an experiment costs anything; every problem is reported, not only the first.

Configuration, parts, weights, data set, disk space and write permission come first; downloads of
weights follow only if nothing was found.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from harness.core.errors import ConfigError, DataError, HarnessError, Problems
from harness.core.files import check_writable, expanded, nearest_existing
from harness.core.options import check_options
from harness.core.precision import resolve_precision
from harness.data.cache_folder import cache_folder
from harness.data.cache_location import check_cache_location
from harness.data.image_cache import bytes_to_build
from harness.data.types import ReIDData
from harness.evaluation.evaluator import bytes_to_decode
from harness.experiment.finished_networks import without_weights
from harness.experiment.labelled_source import check_identities, load_source, setting_of
from harness.experiment.part_checks import (
    check_cameras,
    check_downloads,
    check_images,
    check_test_part,
    collect_part_problems,
)
from harness.experiment.plan import Plan, make_plan
from harness.experiment.stages import PLUGS, build_backbone, load_data, preprocessing, target_of
from harness.results import tracking
from harness.results.settings import SUPERVISED
from harness.training.compilation import check_compile

#: copies of a network in a checkpoint, at least: weights and one moment of the optimizer
COPIES = 2


@dataclass(frozen=True)
class Checked:
    """What the checks found.

    data: the data set, loaded but not decoded. noted: whether a run with these problems is noted in
    the store as failed. A run whose configuration is refused is not.
    """

    problems: Problems
    data: ReIDData | None
    noted: bool


def plan_of(config: DictConfig, device: torch.device) -> Plan:
    """The plan of a composed configuration. If it is refused, what needs no plan is checked, too.

    Raises:
        HarnessError: one or several problems.
    """
    problems = Problems()
    with problems.collecting():
        return make_plan(config, resolve_precision(str(config.train.precision), device))
    _collect_settings(config, device, problems)
    for part in PLUGS:
        with problems.collecting():
            _check_part_options(config, part)
    with problems.collecting():
        load_data(config)
    if config.get("source") is not None:
        with problems.collecting():
            load_source(config)
    problems.check()
    raise AssertionError("make_plan raised nothing and returned nothing")


def check_all(plan: Plan, device: torch.device) -> Checked:
    """Check everything, without an error; weights are downloaded if nothing was found."""
    config, problems, data, source = plan.config, Problems(), None, None
    writable = _collect_settings(config, device, problems)
    collect_part_problems(plan, problems)
    with problems.collecting():
        data = load_data(config)
    if config.get("source") is not None:
        with problems.collecting():
            source = load_source(config)
            check_identities(plan.recipe.stages, source)
    if data is not None:
        for check in (_check_cameras, check_test_part, _check_images):
            with problems.collecting():
                check(plan, data)
        with problems.collecting():
            _check_space(plan, data, source)
    if not problems.errors:
        with problems.collecting():
            check_downloads(plan)
    refused = all(isinstance(error, ConfigError) for error in problems.errors)
    return Checked(problems, data, writable and not refused)


def _collect_settings(config: DictConfig, device: torch.device, problems: Problems) -> bool:
    """Check settings outside the recipe. Returns whether the store can be written."""
    with problems.collecting():
        tracking.check_log(str(config.log))
    with problems.collecting():
        check_cache_location(str(config.data.cache_location), device)
    with problems.collecting():
        check_compile(str(config.train.compile), device)
    before = len(problems.errors)
    with problems.collecting():
        check_writable(expanded(str(config.store)))
    return len(problems.errors) == before


def _check_part_options(config: DictConfig, part: str) -> None:
    node: Any = OmegaConf.to_container(config[part], resolve=True)
    if node.get("_target_") is not None:
        given = {key: value for key, value in node.items() if not key.startswith("_")}
        check_options(target_of(node["_target_"], part), given, part)


def _check_cameras(plan: Plan, data: ReIDData) -> None:
    check_cameras(plan.recipe, data)


def _check_images(plan: Plan, data: ReIDData) -> None:
    check_images(plan.recipe, len(data.train.images))


def _check_space(plan: Plan, data: ReIDData, source: ReIDData | None) -> None:
    """Check that the decoded images and the run's files fit on their disks.

    Raises:
        HarnessError: they do not, or the folder of image caches cannot be written.
    """
    size = int(plan.config.images.height), int(plan.config.images.width)
    cache = cache_folder(plan.config.data.root, plan.config.data.cache_dir)
    store = expanded(str(plan.config.store))
    try:
        interpolation = preprocessing(plan.config.backbone).interpolation
        decoded = bytes_to_decode(
            data, size, cache, train=bool(plan.recipe.stages), interpolation=interpolation
        )
        if source is not None and setting_of(plan.config) != SUPERVISED:
            decoded += bytes_to_build(source.train.images, size, cache, interpolation)
    except OSError as error:
        raise DataError(f"An image cannot be read from disk: {error}") from error
    if decoded:
        check_writable(cache)
    with torch.device("meta"):  # large networks take seconds to fill with random weights
        backbone = build_backbone(without_weights(plan.config.backbone))
    network = sum(tensor.nbytes for tensor in backbone.state_dict().values())
    stages = max(1, len(plan.recipe.stages))
    # while a checkpoint is written, two others are kept
    run = network * (stages + (3 * COPIES if plan.recipe.stages else 0))
    needs = {"The decoded images": (cache, decoded), "The run's networks": (store, run)}
    on_disk: dict[int, int] = {}
    for what, (folder, size_in_bytes) in needs.items():
        existing = nearest_existing(folder)
        disk = existing.stat().st_dev
        on_disk[disk] = on_disk.get(disk, 0) + size_in_bytes
        free = shutil.disk_usage(existing).free
        if size_in_bytes and free < on_disk[disk]:
            raise HarnessError(
                f"{what} need {size_in_bytes / 1e9:.1f} GB, but the disk of {folder} has "
                f"{free / 1e9:.1f} GB free.",
                "Free some space, or choose another folder: data.cache_dir= for decoded images, "
                "store= for runs.",
            )
