"""`backbone.freeze`: frozen parts keep their weights and statistics through a training step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from harness.components.backbones import mobilenet_v2, resnet, timm_model
from harness.components.backbones.reid_net import ReIDNet
from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan


def step(network: ReIDNet) -> tuple[set[str], set[str]]:
    """Names of the tensors of the trunk that change in a step, and of those that do not."""
    before = copy.deepcopy(network.trunk.state_dict())
    network.train()
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    network(torch.randn(4, 3, 64, 32)).square().sum().backward()
    optimizer.step()
    after = network.trunk.state_dict()
    changed = {key for key, value in after.items() if not torch.equal(value, before[key])}
    return changed, set(after) - changed


@pytest.mark.parametrize(
    ("make", "freeze", "prefixes"),
    [
        (lambda f: resnet("resnet18", weights="none", freeze=f), ["conv1", "bn1", "layer1"],
         ("conv1.", "bn1.", "layer1.")),
        (lambda f: mobilenet_v2("none", freeze=f), ["features.0", "features.1"],
         ("features.0.", "features.1.")),
        (lambda f: timm_model("test_vit", (64, 32), freeze=f), ["patch_embed", "pos_embed"],
         ("model.patch_embed.", "model.pos_embed")),
        (lambda f: timm_model("test_resnet", (64, 32), freeze=f), ["conv1", "bn1", "layer1.0"],
         ("model.conv1.", "model.bn1.", "model.layer1.0.")),
    ],
    ids=["resnet", "mobilenet", "vit", "timm resnet"],
)  # fmt: skip
def test_frozen_parts_stay(make, freeze: list[str], prefixes: tuple[str, ...]) -> None:  # type: ignore[no-untyped-def]
    network = make(freeze)
    changed, kept = step(network)
    frozen = {key for key in changed | kept if key.startswith(prefixes)}
    assert frozen and frozen <= kept, "batch statistics included"
    assert len(changed) > len(frozen) / 2
    copied = copy.deepcopy(network)
    copied.train()
    norms = [m for m in copied.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not norms or {norm.training for norm in norms} == {True, False}


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no part 'layer5'") as refusal:
        resnet("resnet18", weights="none", freeze=["layer5"])
    assert "layer4" in refusal.value.hint


def test_on_the_card_and_in_the_hash_only_where_something_is_frozen() -> None:
    one, other = (
        make_plan(compose(["method=mskd", "dataset=synthetic", "protocol=common",
                           "backbone.weights=none", f"backbone.freeze={parts}"]), "fp32")
        for parts in ("[]", "[conv1]")
    )  # fmt: skip
    assert "freeze" not in one.card["backbone"] and "freeze" not in one.settings["backbone"]
    assert "freeze ['conv1']" in other.card["backbone"]
    assert one.hash != other.hash and one.card["hash"] != other.card["hash"]
