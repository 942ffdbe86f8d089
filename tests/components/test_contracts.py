"""What every registered part must keep, found where the harness finds it: in `harness/conf`.

A new part is under contract as soon as its config file stands there.
"""

from __future__ import annotations

import inspect
import io
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

import harness
from harness.core import plugins
from harness.core.interfaces import (
    Backbone,
    Batch,
    Distiller,
    Objective,
    PseudoLabeler,
    PseudoLabels,
)
from harness.data.types import Dataset
from harness.experiment.compose import compose
from harness.experiment.finished_networks import without_weights
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import register
from harness.experiment.stages import build, build_backbone

CONF = Path(harness.__file__).parent / "conf"


def parts(group: str) -> list[str]:
    """All options of a group that are a part."""
    return [path.stem for path in sorted((CONF / group).glob("*.yaml")) if path.stem != "none"]


def config_of(group: str, name: str, *overrides: str) -> DictConfig:
    """The config of one part as a run would see it."""
    # of a method that has no settings of its own for any part; distillers refer to objectives
    usual = [] if group == "objective" else ["objective=cluster_memory"]
    node = compose(["method=direct_transfer", *usual, f"{group}={name}", *overrides])[group]
    resolved = OmegaConf.create(OmegaConf.to_container(node, resolve=True))
    assert isinstance(resolved, DictConfig)
    return resolved


def clustered(count: int = 60, views: int = 1, dim: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit features (N, V, D) around a few centers, and which center each is of."""
    generator = torch.Generator().manual_seed(0)
    clusters = torch.arange(count) % 6
    centers = torch.randn(6, views, dim, generator=generator)
    features = centers[clusters] + 0.2 * torch.randn(count, views, dim, generator=generator)
    return nn.functional.normalize(features, dim=-1), clusters


#: presets whose networks are too large for a test
SMALLER = dict.fromkeys(("vit_small", "vit_base", "clip_vit_base"), "vit_tiny_patch16_224")


@pytest.mark.parametrize("name", parts("backbone"))
@pytest.mark.parametrize("views", [["global"], ["global", "upper", "lower"]])
def test_backbone(name: str, views: list[str]) -> None:
    node = config_of("backbone", name, "images.height=64", "images.width=32")
    if name in SMALLER:
        node.model = SMALLER[name]
    node.views = views
    node = without_weights(node)
    backbone = build_backbone(node)
    assert isinstance(backbone, Backbone)
    assert list(backbone.views) == views
    images = torch.randn(4, 3, 64, 32)
    backbone.train()
    out = backbone(images)
    assert out.shape == (4, len(views), backbone.dim) and out.dtype == torch.float32
    out.square().sum().backward()
    trained = [p for p in backbone.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    backbone.eval()
    with torch.no_grad():
        whole = backbone(images)
        halves = torch.cat([backbone(images[:2]), backbone(images[2:])])
    torch.testing.assert_close(whole, halves, rtol=1e-4, atol=1e-4)  # no image sees another


#: what the config of a part needs for sixty images of six clusters
SIXTY_IMAGES = {"kmeans": ["labeler.clusters=6"]}
#: packages without which a part is refused; `pip install "usl-reid-harness[infomap]"`
OPTIONAL = {"infomap": "infomap"}


@pytest.mark.parametrize("name", parts("labeler"))
def test_labeler(name: str) -> None:
    if name in OPTIONAL and find_spec(OPTIONAL[name]) is None:
        pytest.skip(f"the package {OPTIONAL[name]} is not installed")
    settings = ["neighbours={k1: 10, k2: 3}", *SIXTY_IMAGES.get(name, [])]
    extra = {"identities": clustered()[1]} if name == "identities" else {}

    def from_state(state: dict[str, Any]) -> PseudoLabeler:
        """As after a kill: a new labeler, and what a checkpoint kept of the state."""
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        labeler: PseudoLabeler = build(config_of("labeler", name, *settings), "labeler", **extra)
        labeler.load_state_dict(torch.load(file, weights_only=True))
        return labeler

    labeler = build(config_of("labeler", name, *settings), "labeler", **extra)
    assert isinstance(labeler, PseudoLabeler)
    fresh = from_state(labeler.state_dict())
    features, clusters = clustered()
    cameras = clusters % 2 if labeler.uses_cameras else None
    result = labeler.label(features, cameras)
    assert isinstance(result, PseudoLabels)
    assert result.labels.shape == (60,) and result.labels.dtype == torch.int64
    found = torch.unique(result.labels[result.labels >= 0])
    assert torch.equal(found, torch.arange(result.clusters)) and result.clusters > 1
    assert {"clusters", "outliers"} <= result.stats.keys()
    assert torch.equal(fresh.label(features, cameras).labels, result.labels)
    resumed = from_state(labeler.state_dict())
    later = features.flip(0)  # of a later epoch
    assert torch.equal(resumed.label(later, cameras).labels, labeler.label(later, cameras).labels)
    assert labeler.describe()
    if extra:
        return  # it labels any features
    broken = features.clone()
    broken[3, 0, 0] = float("nan")
    with pytest.raises(harness.core.errors.HarnessError):
        labeler.label(broken, cameras)


@pytest.mark.parametrize("name", parts("objective"))
@pytest.mark.parametrize("views", [1, 3])
def test_objective(name: str, views: int) -> None:
    objective = build(config_of("objective", name), "objective")
    assert isinstance(objective, Objective)
    features, labels = clustered(views=views)
    if views < objective.min_views:
        with pytest.raises(harness.core.errors.ConfigError):
            objective.prepare(views, features.shape[2], len(features))
        return
    objective.prepare(views, features.shape[2], len(features))
    labels[5] = -1  # an outlier of the epoch
    cameras = labels % 2 if objective.uses_cameras else None
    for clusters in (6, 4):  # the number of labels changes from epoch to epoch
        epoch_labels = torch.where(labels < clusters, labels, -1)
        objective.start_epoch(features, epoch_labels, cameras)
        indices = torch.nonzero(epoch_labels >= 0)[:13, 0]
        embeddings = (3 * features[indices]).requires_grad_()
        for _ in range(2):  # a memory that begins empty teaches nothing in its first batch
            loss = objective(embeddings, epoch_labels[indices], indices)
            assert loss.shape == () and torch.isfinite(loss)
            loss.backward()
            objective.update()
        assert embeddings.grad is not None and embeddings.grad.abs().max() > 0
        assert embeddings.grad.isfinite().all()
        with torch.no_grad():
            assert torch.isfinite(objective(embeddings, epoch_labels[indices], indices))
        objective.update(frozen=True)
        own = objective.features()
        assert own is None or own.shape == features.shape


@pytest.mark.parametrize("name", parts("objective"))
def test_objectives_resume(name: str) -> None:
    """What an epoch depends on is in `state_dict`, and fits whatever the labels were."""
    objectives = [build(config_of("objective", name), "objective") for _ in range(2)]
    views = objectives[0].min_views
    features, labels = clustered(views=views)
    for objective in objectives:
        objective.prepare(views, features.shape[2], len(features))
    one, other = objectives
    cameras = labels % 2 if one.uses_cameras else None
    noise = torch.randn(12, views, 16, generator=torch.Generator().manual_seed(1))
    indices = torch.arange(12)
    one.start_epoch(features, labels, cameras)
    one(noise, labels[indices], indices)
    one.update()
    other.load_state_dict(one.state_dict())
    for epoch_labels in (labels, torch.where(labels < 4, labels, -1), labels % 3):
        losses = []
        for objective in objectives:
            torch.manual_seed(0)  # as the trainer does
            objective.start_epoch(features.flip(0), epoch_labels, cameras)
            chosen = torch.nonzero(epoch_labels >= 0)[:12, 0]
            losses.append(float(objective(noise, epoch_labels[chosen], chosen).detach()))
            objective.update()
        assert losses[0] == losses[1]


@pytest.mark.parametrize("name", parts("objective"))
def test_frozen_memories_stay(name: str) -> None:
    objective = build(config_of("objective", name), "objective")
    views = objective.min_views
    features, labels = clustered(views=views)
    objective.prepare(views, features.shape[2], len(features))
    objective.start_epoch(features, labels, labels % 2 if objective.uses_cameras else None)
    indices = torch.arange(12)
    noise = torch.randn(12, views, 16, generator=torch.Generator().manual_seed(1))

    def loss() -> float:
        torch.manual_seed(0)  # for dropout
        with torch.no_grad():
            return float(objective(noise, labels[indices], indices))

    before = loss()
    objective.update(frozen=True)
    assert loss() == before
    objective.update()
    # what the optimizer trains is no memory, and some have none that changes within an epoch
    trained = any(p.requires_grad for p in objective.parameters())
    assert loss() != before or trained or type(objective).update is Objective.update


@pytest.mark.parametrize("name", parts("distiller"))
def test_distiller(name: str) -> None:
    """It teaches the student, and learns nothing by gradient but what its peers do."""
    node = config_of("distiller", name)
    kind: Any = get_class(node._target_)
    teacher = build_backbone(config_of("backbone", "small"))
    extra: dict[str, Any] = {}
    if "teacher" in inspect.signature(kind).parameters:
        extra["teacher"] = teacher
    if kind.peers:
        extra["peers"] = [build_backbone(config_of("backbone", "small")) for _ in range(kind.peers)]
    distiller = build(node, "distiller", **extra)
    assert isinstance(distiller, Distiller)
    objective = build(config_of("objective", "softmax_triplet"), "objective")
    features, labels = clustered(12, dim=teacher.dim)
    objective.prepare(1, teacher.dim, 12)
    distiller.prepare(objective)
    objective.start_epoch(features, labels)
    distiller.relabel(features, labels)
    before = {k: v.clone() for k, v in teacher.named_parameters()}
    images = torch.randn(distiller.augmentations + 1, 12, 3, 32, 16)
    plain = images[-1] if distiller.needs_plain else None
    batch = Batch(images[0], labels, torch.arange(12), tuple(images[1:-1]), plain)
    student = torch.randn(12, 1, teacher.dim, requires_grad=True)
    distiller.start_epoch(0)
    loss = distiller(student, batch, objective)
    assert loss.shape == () and torch.isfinite(loss)
    loss.backward()
    assert student.grad is not None and student.grad.abs().max() > 0
    assert all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.named_parameters())
    peers = [p for p in distiller.parameters() if p.requires_grad]
    assert bool(peers) == bool(kind.peers) and all(p.grad is not None for p in peers)
    own = build_backbone(config_of("backbone", "small"))
    for network in (*distiller.labeled_by, *([distiller.tested[1]] if distiller.tested else [])):
        own.load_state_dict(network.state_dict())  # of the stage's backbone, as records say
    distiller.step(own, objective)


@pytest.mark.parametrize("name", sorted(plugins.find()["datasets"]))
def test_dataset_config_fits_its_class(name: str) -> None:
    """Every option in the config is an argument of the class, and the other way round."""
    register()
    node = compose(["method=direct_transfer", f"dataset={name}"]).dataset
    kind = get_class(node._target_)
    assert issubclass(kind, Dataset)
    arguments = set(inspect.signature(kind).parameters)
    assert set(node) - {"_target_", "name", "on_bad_image", "root"} == arguments - {"root"}
    assert node.name == name and node.on_bad_image == "error"


@pytest.mark.parametrize("name", sorted(plugins.find()["methods"]))
@pytest.mark.parametrize("protocol", parts("protocol"))
def test_method_composes_into_a_recipe(name: str, protocol: str) -> None:
    recipe = make_recipe(compose([f"method={name}", f"protocol={protocol}", "dataset=synthetic"]))
    assert recipe.method == name


@pytest.mark.parametrize("kind", ["methods", "datasets"])
def test_every_plugin_has_a_page(kind: str) -> None:
    for plugin in plugins.find()[kind].values():
        assert plugin.summary, f"{plugin.folder}/README.md says nothing"
