"""Every method's step, augmentation, extraction and distances on pretended CUDA tensors.

torch's FakeTensorMode computes shapes, types and devices without a GPU. An operation between
devices, or one that waits for a value (`.item()`, a mask as an index), raises an error. A backward
pass cannot run so, and neither can the start of an epoch, whose results these tests move to the
device: `pytest -m gpu` has both.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn import functional as F

from harness.components.backbones.batchnorm import SourceView
from harness.core.interfaces import Batch, SourceBatch
from harness.data.augment import normalize
from harness.data.samplers import SAMPLERS
from harness.evaluation.distances import distance_blocks, product_blocks
from harness.training.step import with_source
from harness.training.trainer import Trainer
from tests.benchmarks.test_methods import stages_of

CUDA = torch.device("cuda:0")
METHODS = (
    "3c", "buc", "cap", "cluster_contrast", "dcmip", "hhcl", "ice", "ice/aware", "ise", "mmt",
    "mskd", "ncplr", "ncplr/parts", "o2cap", "pass", "pcl_clip", "pplr", "rtmem", "rtmem/shipped",
    "source_pretrain", "spcl", "spcl/uda", "strong_baseline", "strong_baseline/uda", "supervised",
    "tmgf", "transreid_ssl",
)  # fmt: skip
#: methods whose memory takes in samples one after another, by label: `update` waits for the number
#: of samples of the most frequent one, or for that of labels whose hardest sample it takes in
ONE_BY_ONE = (
    "3c", "buc", "cap", "cluster_contrast", "dcmip", "hhcl", "ise", "mskd", "ncplr", "ncplr/parts",
    "o2cap", "pass", "pcl_clip", "rtmem", "rtmem/shipped", "spcl", "spcl/uda", "tmgf",
    "transreid_ssl",
)  # fmt: skip


def pretended(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type on the pretended GPU; call it in a FakeTensorMode."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA,
        requires_grad=tensor.requires_grad,
    )  # fmt: skip


def move(value: Any) -> Any:
    """A value with all tensors in it moved to the pretended GPU; modules are changed in place."""
    if isinstance(value, Tensor):
        return pretended(value)
    if isinstance(value, list | tuple):
        moved = [move(one) for one in value]
        return type(value)(*moved) if hasattr(value, "_fields") else type(value)(moved)
    if isinstance(value, dict):
        return {key: move(one) for key, one in value.items()}
    if isinstance(value, nn.Module):
        for module in value.modules():
            for name, own in list(vars(module).items()):
                if name == "_parameters":
                    for key, one in own.items():
                        if one is not None:
                            own[key] = nn.Parameter(pretended(one.detach()), one.requires_grad)
                elif name != "_modules" and not name.endswith("hooks"):
                    vars(module)[name] = move(own)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: move(getattr(value, f.name)) for f in dataclasses.fields(value)}
        for name, one in fields.items():
            object.__setattr__(value, name, one)
    return value


def begun(folder: Path, method: str) -> tuple[Trainer, Tensor]:
    """A trainer in its first epoch on the CPU, with labels (N,): clusters of K images each."""
    *_, stage = stages_of(folder, f"method={method}")
    trainer = stage.trainer
    features = stage.images.features(trainer.components.backbone)
    labels = torch.arange(len(features)) // int(trainer.config.batch.images)
    if trainer.source is not None:
        trainer.components.objective.start_source(features.detach(), trainer.source.identities)
    trainer.start_epoch(0, labels, features)
    return trainer, labels


def batch_on_cuda(trainer: Trainer, labels: Tensor) -> Batch:
    """A batch as the trainer makes it, from images on the pretended GPU."""
    settings = trainer.config.batch
    sampler = SAMPLERS[str(settings.sampler)](
        labels, trainer.data.cameras, int(settings.identities), int(settings.images),
        torch.Generator().manual_seed(0),
    )  # fmt: skip
    (indices,) = sampler.batches(1)
    distiller = trainer.components.distiller
    copies = 1 if distiller is None else distiller.augmentations
    augment = trainer.batch_maker.augment
    drawn = [augment.draw(len(indices), torch.Generator()) for _ in range(copies)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(trainer.data.images.shape, dtype=torch.uint8, device=CUDA)
        made = [augment.apply(images, one, indices=indices, device=CUDA) for one in drawn]
        plain = None
        if distiller is not None and distiller.needs_plain:
            plain = normalize(images[: len(indices)], device=CUDA)
        on_device = indices.to(CUDA)
        own = labels.to(CUDA)[on_device]
        source = None if trainer.source is None else SourceBatch(made[0].flip(0), own % 3)
        return Batch(made[0], own, on_device, tuple(made[1:]), plain, source=source)


def joined(trainer: Trainer, batch: Batch, embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What an objective gets: embeddings, labels and indices, those of a source first."""
    if batch.source is None:
        return embeddings, batch.labels, batch.indices
    view: Any = SourceView(trainer.components.backbone)
    return with_source(
        view(batch.source.images), batch.source.labels, embeddings, batch.labels, batch.indices,
        trainer.components.objective.source_classes,
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_a_step_stays_on_the_device_and_waits_for_nothing(tmp_path: Path, method: str) -> None:
    trainer, labels = begun(tmp_path, method)
    batch = batch_on_cuda(trainer, labels)
    assert batch.images.device == CUDA
    objective, distiller = trainer.components.objective, trainer.components.distiller
    with FakeTensorMode(allow_non_fake_inputs=True):
        move(trainer.trained)
        embeddings = trainer.components.backbone(batch.images)
        loss = objective(*joined(trainer, batch, embeddings))
        if distiller is not None:
            loss = loss + distiller(embeddings, batch, objective)
        assert loss.device == CUDA and loss.shape == ()
        if distiller is not None:
            distiller.step(trainer.components.backbone, objective)
        if method in ONE_BY_ONE:
            with pytest.raises(DynamicOutputShapeException, match=r"unique|nonzero"):
                objective.update()
        else:
            objective.update()


@pytest.mark.parametrize(
    "words",
    [
        *(f"method=mskd backbone={network}" for network in ("small", "resnet50_views")),
        "method=mskd backbone=mobilenet_v2",
        *(
            f"method={own} protocol=debug"
            for own in ("transreid_ssl/ics", "pass", "pcl_clip", "tmgf")
        ),
    ],
)
def test_features_stay_on_the_device(tmp_path: Path, words: str) -> None:
    from harness.experiment.compose import compose
    from harness.experiment.stages import build_backbone

    config = compose([*words.split(), "backbone.weights=none"])
    backbone = build_backbone(config.backbone).eval()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        move(backbone)
        images = torch.empty(4, 64, 32, 3, dtype=torch.uint8, device=CUDA)
        features = F.normalize(backbone(normalize(images, device=CUDA)).float(), dim=-1)
        assert features.shape == (4, len(backbone.views), backbone.dim)
        assert features.device == CUDA


def test_distances_of_a_test_stay_on_the_device() -> None:
    """Ranks are then counted on the device, and brought to the host block by block."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        query, gallery = torch.empty(10, 8, device=CUDA), torch.empty(30, 8, device=CUDA)
        for measure in (distance_blocks, product_blocks):
            with pytest.MonkeyPatch.context() as patch:  # their number of duplicates is waited for
                patch.setattr("harness.evaluation.distances.first_duplicates", lambda x: None)
                blocks = [block for _, block in measure(query, gallery, 4)]
            assert {block.device for block in blocks} == {CUDA}
            assert [tuple(block.shape) for block in blocks] == [(4, 30), (4, 30), (2, 30)]


def test_mixed_devices_and_waiting_are_found() -> None:
    """What the tests above rely on."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        there, here = torch.empty(3, device=CUDA), torch.empty(3)
        with pytest.raises(RuntimeError, match="device"):
            there + here
        for wait in (lambda: there.sum().item(), lambda: bool(there.any())):
            with pytest.raises(DataDependentOutputException):
                wait()
