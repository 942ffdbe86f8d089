"""What joins the class token: PASS's part tokens and CLIP's projection, against plain formulas."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from harness.components.backbones import timm_model
from harness.components.backbones.timm_models import TimmNet, _load
from harness.components.backbones.weights import initial_state
from harness.core.errors import ConfigError, DataError
from tests.components.backbones.test_weight_layouts import clip_state

SIZE = (64, 32)
TINY = {"model": "test_vit", "size": SIZE, "pooling": "class_token"}


def images(count: int = 8) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def made(**options: Any) -> TimmNet:
    torch.manual_seed(0)
    return timm_model(**(TINY | options))


# ------------------------------------------------------------------------------- part tokens


def pass_state(seed: int = 1) -> dict[str, Tensor]:
    """A checkpoint by the names of PASS's authors: tokens and positions of the parts apart."""
    torch.manual_seed(seed)
    state = timm.create_model("test_vit", num_classes=0, img_size=SIZE).state_dict()
    state = {key: torch.randn_like(value) / 8 for key, value in state.items()}
    state["pos_embed"] = state["pos_embed"][:, 1:]
    apart = ["part_token1", "part_token2", "part_token3"]
    apart += ["cls_pos", "part1_pos", "part2_pos", "part3_pos"]
    return state | {key: torch.randn(1, 1, 64) for key in apart}


def tokens(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The class token and the three part tokens after the last norm, (B, 4, C), by the formulas."""
    plain: Any = timm.create_model("test_vit", num_classes=0, img_size=SIZE).eval()
    plain.load_state_dict({k: v for k, v in state.items() if k in plain.state_dict()} | {
        "pos_embed": torch.zeros(1, 9, 64)
    })  # fmt: skip
    parts = zip(
        ("cls_token", "part_token1", "part_token2", "part_token3"),
        ("cls_pos", "part1_pos", "part2_pos", "part3_pos"),
        strict=True,
    )
    first = [(state[token] + state[place]).expand(len(x), -1, -1) for token, place in parts]
    with torch.no_grad():
        patches = plain.patch_embed(x).flatten(1, 2)
        found = torch.cat([*first, patches + state["pos_embed"]], dim=1)
        return plain.norm(plain.blocks(found))[:, :4]


@pytest.mark.parametrize("fusion", ["cat", "mean"])
def test_part_tokens_of_the_authors_checkpoint(fusion: str, tmp_path: Path) -> None:
    state = pass_state()
    teacher = {f"backbone.{k}": v for k, v in state.items()} | {"head.last": torch.ones(3)}
    torch.save({"teacher": teacher}, tmp_path / "pass.pth")
    network = made(weights=str(tmp_path / "pass.pth"), part_tokens=3, part_fusion=fusion).eval()
    with torch.no_grad():
        maps, token = network.trunk(images())
    c, *p = tokens(state, images()).unbind(dim=1)
    mean = p[0] / 3 + p[1] / 3 + p[2] / 3
    expected = torch.cat([c, mean], dim=1) if fusion == "cat" else (c + mean) / 2
    assert token is not None and maps.shape == (8, 64, 4, 2)
    torch.testing.assert_close(token, expected, rtol=1e-5, atol=1e-5)
    assert network.dim == expected.shape[1] == network(images()).shape[2]


def test_part_tokens_one_neck_normalizes_the_joined_feature() -> None:
    network = made(part_tokens=3).train()
    maps, token = network.trunk(images())
    assert token is not None
    expected = nn.BatchNorm1d(128)(token)
    torch.testing.assert_close(network.heads(maps, token)[:, 0], expected)


def test_part_tokens_are_resized_with_the_input(tmp_path: Path) -> None:
    """Positions of the tokens stay, those of the patches are resized."""
    torch.save(pass_state(), tmp_path / "pass.pth")
    larger = made(weights=str(tmp_path / "pass.pth"), part_tokens=3, size=(128, 64))
    state = larger.model.state_dict()
    assert state["pos_embed"].shape == (1, 4 + 8 * 4, 64)
    names = ("cls_pos", "part1_pos", "part2_pos", "part3_pos")
    kept = torch.cat([pass_state()[key] for key in names], dim=1)
    torch.testing.assert_close(state["pos_embed"][:, :4], kept)
    torch.save(state, tmp_path / "own.pth")  # as the harness saves it
    again = made(weights=str(tmp_path / "own.pth"), part_tokens=3, size=(128, 64))
    assert torch.equal(again.model.state_dict()["pos_embed"], state["pos_embed"])


def test_other_weights_lack_part_tokens(tmp_path: Path) -> None:
    plain = timm.create_model("test_vit", num_classes=0, img_size=SIZE).state_dict()
    torch.save(plain, tmp_path / "dino.pth")
    with pytest.raises(DataError, match=r"reg_token|position embeddings"):
        made(weights=str(tmp_path / "dino.pth"), part_tokens=3)
    torch.save({k: v for k, v in pass_state().items() if k != "part2_pos"}, tmp_path / "cut.pth")
    with pytest.raises(DataError):
        made(weights=str(tmp_path / "cut.pth"), part_tokens=3)


# -------------------------------------------------------------------------------- projection


def test_two_norms_are_one_over_the_joined_feature() -> None:
    """PCL-CLIP: [BN(c), BN(W c)], W without bias."""
    network = made(projection=24).train()
    maps, token = network.trunk(images())
    weight = network.model.get_parameter("head.weight")
    assert token is not None and weight.shape == (24, 64)
    c = token[:, :64]
    torch.testing.assert_close(token[:, 64:], c @ weight.T)
    expected = torch.cat([nn.BatchNorm1d(64)(c), nn.BatchNorm1d(24)(c @ weight.T)], dim=1)
    torch.testing.assert_close(network.heads(maps, token)[:, 0], expected)
    assert network.dim == 88 and "head.bias" not in network.model.state_dict()
    network(images()).square().sum().backward()
    assert weight.grad is not None


def test_clips_projection_is_kept(tmp_path: Path) -> None:
    """`visual.proj` (C, 512) of OpenAI's weights; the features are those of x @ proj."""
    from harness.components.backbones.class_tokens import add_projection

    name = "vit_base_patch16_clip_quickgelu_224.openai"
    options: dict[str, Any] = {"num_classes": 0, "img_size": SIZE, "depth": 1}
    torch.manual_seed(0)
    source, own = (timm.create_model(name, **options) for _ in range(2))
    proj = torch.randn(768, 512)
    torch.save(clip_state(source) | {"visual.proj": proj}, tmp_path / "clip.pt")
    add_projection(own, 512, name)
    _load(own, *initial_state(str(tmp_path / "clip.pt"), ""), SIZE)
    assert torch.equal(own.get_parameter("head.weight"), proj.T)
    torch.save(clip_state(source), tmp_path / "without.pt")
    with pytest.raises(DataError, match=r"1 missing \(head\.weight\)"):
        _load(own, *initial_state(str(tmp_path / "without.pt"), ""), SIZE)


# ----------------------------------------------------------------------------------- refusals


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pooling": ({"part_tokens": 3, "pooling": "avg"}, "part_tokens=3 joins the class token, but"),
    "views": ({"projection": 8, "views": ["global", "upper"]}, r"than the part views \['upper'\]"),
    "both": ({"projection": 8, "part_tokens": 3}, "exclude each other"),
    "no token": ({"projection": 8, "model": "test_resnet"}, "test_resnet has no class token"),
    "no parts": ({"part_tokens": 3, "model": "test_resnet"}, "part_tokens do not exist for every"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_cause(case: str) -> None:
    options, cause = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        made(**options)
    assert re.search(cause, f"{caught.value.cause} {caught.value.hint}")
