"""TransReID-SSL's ICS stem: its arithmetic, its authors' names, and where it cannot be."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.backbones import set_samples_per_bn, timm_model
from harness.core.errors import ConfigError, DataError

SIZE = (64, 32)


def network(**options: Any) -> Any:
    torch.manual_seed(0)
    return timm_model("test_vit", SIZE, pooling="class_token", stem="ics", **options)


def ibn(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    first = F.instance_norm(x[:, :32], None, None, state[f"{name}.IN.weight"],
                            state[f"{name}.IN.bias"])  # fmt: skip
    rest = F.batch_norm(x[:, 32:], None, None, state[f"{name}.BN.weight"],
                        state[f"{name}.BN.bias"], training=True)  # fmt: skip
    return torch.cat([first, rest], dim=1)


def test_arithmetic() -> None:
    """Convolutions 7×7 with stride 2, 3×3, 3×3; patches of 8 of the halved image."""
    stem = network().double().train().model.patch_embed
    for parameter in stem.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    state = dict(stem.state_dict())
    images = torch.randn(4, 3, *SIZE, dtype=torch.float64)
    found = stem(images)
    assert found.shape == (4, 4, 2, 64) and stem.grid_size == (4, 2)
    x = F.relu(ibn(F.conv2d(images, state["conv.0.weight"], stride=2, padding=3), state, "conv.1"))
    x = F.relu(ibn(F.conv2d(x, state["conv.3.weight"], padding=1), state, "conv.4"))
    x = F.conv2d(x, state["conv.6.weight"], padding=1)
    norm = state["conv.7.weight"], state["conv.7.bias"]
    x = F.relu(F.batch_norm(x, None, None, *norm, training=True))
    x = F.conv2d(x, state["proj.weight"], state["proj.bias"], stride=8)
    torch.testing.assert_close(found, x.permute(0, 2, 3, 1))
    stem.flatten = True  # as of a model for images of one size
    torch.testing.assert_close(stem(images), x.flatten(2).transpose(1, 2))


def authors_state(seed: int = 1) -> dict[str, Tensor]:
    """A checkpoint's weights below the blocks by the authors' names, of 64 features."""
    torch.manual_seed(seed)
    shapes = {
        "cls_token": (1, 1, 64), "pos_embed": (1, 9, 64),
        "patch_embed.conv.0.weight": (64, 3, 7, 7), "patch_embed.conv.3.weight": (64, 64, 3, 3),
        "patch_embed.conv.6.weight": (64, 64, 3, 3), "patch_embed.proj.weight": (64, 64, 8, 8),
        "patch_embed.proj.bias": (64,),
    }  # fmt: skip
    for place in (1, 4):
        shapes |= {f"patch_embed.conv.{place}.IN.{k}": (32,) for k in ("weight", "bias")}
        norms = ("weight", "bias", "running_mean", "running_var")
        shapes |= {f"patch_embed.conv.{place}.BN.{k}": (32,) for k in norms}
        shapes |= {f"patch_embed.conv.7.{k}": (64,) for k in norms}
    return {key: torch.rand(shape) for key, shape in shapes.items()}


def test_the_authors_checkpoint_loads(tmp_path: Path) -> None:
    """A DINO teacher, as they save it: every weight of the file arrives under its own name."""
    blocks = {
        k: v for k, v in network().model.state_dict().items() if k.startswith(("blocks", "n"))
    }
    state = authors_state() | blocks
    teacher = {f"module.backbone.{k}": v for k, v in state.items()}
    teacher["module.head.mlp.0.weight"] = torch.ones(2, 64)
    torch.save({"teacher": teacher, "epoch": 100}, tmp_path / "ics.pth")
    loaded = network(weights=str(tmp_path / "ics.pth")).model.state_dict()
    counters = {key for key in loaded if key.endswith("num_batches_tracked")}
    assert loaded.keys() - counters == state.keys()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    with pytest.raises(DataError, match="do not fit the backbone"):
        timm_model("test_vit", SIZE, weights=str(tmp_path / "ics.pth"))
    plain = timm_model("test_vit", SIZE).model.state_dict()
    torch.save(plain, tmp_path / "plain.pth")
    with pytest.raises(DataError, match=r"patch_embed\.conv\.0\.weight"):
        network(weights=str(tmp_path / "plain.pth"))


def test_its_batch_norms_are_grouped() -> None:
    grouped = network().train()
    alone = copy.deepcopy(grouped)
    set_samples_per_bn(grouped, 4)
    x = torch.randn(8, 3, *SIZE)
    expected = torch.cat([alone.model.patch_embed(part) for part in x.split(4)])
    torch.testing.assert_close(grouped.model.patch_embed(x), expected, rtol=1e-4, atol=1e-4)


def test_where_it_cannot_be() -> None:
    with pytest.raises(ConfigError, match=r"stem=ics: test_resnet has no projection"):
        timm_model("test_resnet", SIZE, stem="ics")
    with pytest.raises(ConfigError, match=r"patch_stride=12: the stem ics has no"):
        timm_model("test_vit", SIZE, stem="ics", patch_stride=12)
    frozen = network(freeze=["patch_embed"])
    assert not any(p.requires_grad for p in frozen.model.patch_embed.parameters())
