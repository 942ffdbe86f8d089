"""IBN-a: half the channels by instance, half by batch, in layers 1–3."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from harness.components.backbones import resnet, set_samples_per_bn
from harness.components.backbones.ibn import InstanceBatchNorm
from harness.core.errors import ConfigError


def test_halves_are_normalized_by_instance_and_by_batch() -> None:
    norm = InstanceBatchNorm(6).train()
    x = torch.randn(4, 6, 5, 3)
    expected = torch.cat([F.instance_norm(x[:, :3]), F.batch_norm(x[:, 3:], None, None,
                                                                  training=True)], 1)  # fmt: skip
    torch.testing.assert_close(norm(x), expected)


def test_where_it_is_and_the_authors_names(tmp_path: Path) -> None:
    network = resnet(weights="none", ibn=True)
    norms = [name for name, m in network.trunk.named_modules() if isinstance(m, InstanceBatchNorm)]
    assert len(norms) == 3 + 4 + 6 and all(name.endswith("bn1") for name in norms)
    assert not any(name.startswith("layer4") for name in norms)
    state = network.trunk.state_dict()
    assert state["layer1.0.bn1.IN.weight"].shape == state["layer1.0.bn1.BN.weight"].shape == (32,)
    whole = {f"module.{k}": v for k, v in state.items()} | {"module.fc.weight": torch.ones(5, 2048)}
    torch.save({"state_dict": whole, "epoch": 3}, tmp_path / "ibn.pth")
    again = resnet(weights=str(tmp_path / "ibn.pth"), ibn=True).trunk.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in state.items())


def test_groups_reach_its_batch_norm() -> None:
    norm = InstanceBatchNorm(4).train()
    parts = torch.randn(8, 4, 3, 2)
    expected = torch.cat([norm(part) for part in parts.split(4)])
    set_samples_per_bn(norm, 4)
    torch.testing.assert_close(norm(parts), expected)


def test_refused() -> None:
    with pytest.raises(ConfigError, match="means nothing for resnet18"):
        resnet("resnet18", weights="none", ibn=True)
    with pytest.raises(ConfigError, match="no ImageNet weights for ResNets with IBN-a"):
        resnet(ibn=True)
