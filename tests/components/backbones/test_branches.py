"""Copies of a transformer's last block for halves and thirds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.components.backbones import timm_model
from harness.components.backbones.timm_models import BranchedNet
from harness.core.errors import ConfigError
from harness.experiment.run import run_experiment
from tests.same import assert_same
from tests.tiny import tiny_config

SIZE = (96, 32)
HALVES, THIRDS = ["upper", "lower"], ["top", "middle", "bottom"]


def network(views: list[str], pooling: str = "class_token", branches: bool = True) -> Any:
    torch.manual_seed(0)
    options: Any = {"views": ["global", *views], "pooling": pooling, "branches": branches}
    return timm_model("test_vit", SIZE, **options).eval()


def images() -> Tensor:
    return torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(1))


def pooled(model: Any) -> Tensor:
    """What the necks receive, by hooks on them: (B, V, C)."""
    found: list[Tensor] = []
    hooks = [neck.register_forward_pre_hook(lambda _, x: found.append(x[0]))
             for neck in model.heads.necks]  # fmt: skip
    with torch.no_grad():
        model(images())
    for hook in hooks:
        hook.remove()
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("pooling", ["class_token", "avg"])
def test_at_first_branches_are_the_plain_network(pooling: str) -> None:
    views = [*HALVES, *THIRDS]
    branched = network(views, pooling)
    assert isinstance(branched, BranchedNet) and len(branched.branches) == 2
    plain = network(views, pooling, branches=False)
    with torch.no_grad():
        torch.testing.assert_close(branched(images()), plain(images()))


def test_each_division_has_its_branch_and_the_global_view_both() -> None:
    views = ["top", "upper", "middle", "bottom", "lower", "pooled"]
    branched = network(views)
    before = pooled(branched)
    with torch.no_grad():
        branched.branches[0].get_parameter("0.mlp.fc2.bias").add_(
            torch.linspace(-1, 1, branched.dim)
        )
    after = pooled(branched)
    moved = [not torch.equal(after[:, v], before[:, v]) for v in range(6)]
    assert moved == [True, False, True, False, False, True], "global and halves"
    tokens = [token for _, token in branched._branches(images()) if token is not None]
    torch.testing.assert_close(after[:, 0], torch.stack(tokens).mean(dim=0))
    maps, token = branched.map_and_token(images())
    assert token is not None
    torch.testing.assert_close(token, after[:, 0])
    assert maps.shape == (4, branched.dim, 6, 2)
    with torch.no_grad():
        torch.testing.assert_close(branched(images())[:, -1], after[:, 0])


def test_all_parameters_are_trained_and_belong_to_layers() -> None:
    branched = network([*HALVES, *THIRDS]).train()
    branched(images()).square().sum().backward()
    trained = [p for p in branched.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    layered = {id(p) for layer in branched.layers() for p in layer}
    heads = {id(p) for p in branched.heads.parameters()}
    assert layered == {id(p) for p in branched.parameters()} - heads
    assert {id(p) for p in branched.layers()[-1]} == {id(p) for p in branched.branches.parameters()}


def test_halves_alone_have_one_branch() -> None:
    assert len(network(HALVES).branches) == 1


def test_micro_batches_and_copies() -> None:
    branched = network(HALVES)
    with torch.no_grad():
        whole = branched(images())
        torch.testing.assert_close(torch.cat([branched(x) for x in images().split(2)]), whole)
        assert torch.equal(copy.deepcopy(branched)(images()), whole)


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"model": "test_vit"}, "has no part views"),
        ({"model": "test_resnet", "views": ["global", "upper"]}, "ResNet is no plain vision"),
        ({"model": "test_vit", "views": ["global", "upper"], "freeze": ["norm.weight"]},
         "no part 'norm.weight'"),
    ],
)  # fmt: skip
def test_refused_with_the_cause(options: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        timm_model(size=SIZE, branches=True, **options)


def test_tmgf_on_two_branches_is_repeatable(tmp_path: Path) -> None:
    cell = ("method=tmgf", "backbone=timm", "backbone.model=test_vit", "backbone.branches=true",
            "backbone.views=[global,upper,lower,top,middle,bottom]", "backbone.pooling=class_token",
            "images.height=96", "images.width=32")  # fmt: skip
    one, other = (run_experiment(tiny_config(tmp_path / name, *cell)) for name in ("a", "b"))
    assert 0 < one.record["metrics"]["mAP"] <= 100
    assert_same(one, other)
