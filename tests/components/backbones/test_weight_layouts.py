"""State dicts of other repositories load without hand work; what does not fit is explained."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from harness.components.backbones import mobilenet_v2, small, timm_model
from harness.components.backbones.position_embeddings import resize_positions
from harness.components.backbones.weight_layouts import find_state, load_trunk, without_prefix
from harness.components.backbones.weights import describe_weights, initial_state
from harness.core.errors import ConfigError, DataError
from tests.experiment.distributed_runs import run_whole
from tests.tiny import tiny_config


def tiny_state() -> dict[str, Tensor]:
    """Of the trunk of `small` with one stage, with values of their own."""
    torch.manual_seed(3)
    state = small(widths=(4,), strides=(1,)).trunk.state_dict()
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Any]:
    return {prefix + key: value for key, value in state.items()}


STATE = tiny_state()
HEADS = {"classifier.weight": torch.ones(751, 4), "bottleneck.weight": torch.ones(4)}
LAYOUTS: dict[str, Any] = {
    "plain": STATE,
    "module": prefixed("module.", STATE),
    "module and base": prefixed("module.base.", STATE) | prefixed("module.", HEADS),
    "net": {"net": STATE, "acc": 0.5, "epoch": 3},
    "model": {"model": STATE, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
    "state_dict": {"state_dict": prefixed("backbone.", STATE) | HEADS, "best": np.float64(0.5)},
    "teacher and student": {
        "student": prefixed("module.backbone.", {k: v + 1 for k, v in STATE.items()}),
        "teacher": prefixed("backbone.", STATE) | {"head.mlp.0.weight": torch.ones(2, 4)},
        "args": argparse.Namespace(lr=0.1, data="x"), "epoch": np.int64(3),
    },
    "nested": {"state_dict": {"model": prefixed("encoder_q.", STATE)}, "lr": np.float32(0.1)},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str, tmp_path: Path) -> None:
    torch.save(LAYOUTS[layout], tmp_path / "weights.pth")
    loaded = small(widths=(4,), strides=(1,), weights=str(tmp_path / "weights.pth"))
    for key, value in loaded.trunk.state_dict().items():
        assert torch.equal(value, STATE[key]), key


def test_safetensors(tmp_path: Path) -> None:
    save_file(prefixed("module.", STATE), tmp_path / "w.safetensors")
    loaded = small(widths=(4,), strides=(1,), weights=str(tmp_path / "w.safetensors"))
    assert all(torch.equal(v, STATE[k]) for k, v in loaded.trunk.state_dict().items())
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "w.safetensors").read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read as weights"):
        small(widths=(4,), strides=(1,), weights=str(tmp_path / "cut.safetensors"))


def test_what_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(prefixed("module.", STATE | HEADS), tmp_path / "named.pth")
    small(widths=(4,), strides=(1,), weights=str(tmp_path / "named.pth"))
    said = capsys.readouterr().err
    assert "2 not used here (classifier.weight (751, 4), bottleneck.weight (4,))" in said


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    broken = STATE | {"0.0.weight": STATE["0.0.weight"].clone().fill_(torch.nan)}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(DataError, match=r"has weights that are not finite: 1 \(0\.0\.weight\)"):
        small(widths=(4,), strides=(1,), weights=str(tmp_path / "nan.pth"))


@pytest.mark.parametrize(
    "content",
    [{}, {"epoch": 3}, [1, 2], torch.ones(3), {"model": {"lr": 1}}, {3: torch.ones(1)},
     {"w": torch.ones(3).to_sparse()}],
)  # fmt: skip
def test_files_without_weights(content: Any) -> None:
    with pytest.raises(DataError, match="holds no state dict"):
        find_state(content, "x.pth")


def reason(state: dict[str, Tensor], trunk: nn.Module) -> str:
    before = {key: value.clone() for key, value in trunk.state_dict().items()}
    with pytest.raises(DataError) as refusal:
        load_trunk(trunk, state, "x.pth")
    assert all(torch.equal(v, before[k]) for k, v in trunk.state_dict().items()), "untouched"
    return f"{refusal.value.cause} | {refusal.value.hint}"


def test_the_likely_reason_is_given() -> None:
    trunk = small(widths=(4,), strides=(1,)).trunk
    wider = small(widths=(8,), strides=(1,)).trunk.state_dict()
    renamed = {f"block{i}_{k.replace('.', '_')}": v for i, (k, v) in enumerate(STATE.items())}
    assert "another width or depth" in reason(wider, trunk)
    assert "(8, 3, 3, 3) for (4, 3, 3, 3)" in reason(wider, trunk)
    assert "The shapes are those of this backbone, but the names are not" in reason(renamed, trunk)
    other = {"patch_embed.proj.weight": torch.ones(8, 3, 16, 16), "norm.weight": torch.ones(8)}
    assert "No weight has a name of this network" in reason(other, trunk)


def test_a_prefix_is_removed_only_if_it_helps() -> None:
    own = {"a.weight": torch.ones(1), "b.weight": torch.ones(1)}
    assert without_prefix(own, own) is own
    found = without_prefix(prefixed("x.y.", own) | {"z": torch.ones(1)}, own)
    assert found.keys() == own.keys()


# ------------------------------------------------------------------------------- transformers


SIZE = (64, 32)


def test_positions_are_resized_as_timm_does(tmp_path: Path) -> None:
    """Weights of 160×160 pixels for 64×32: as timm's `img_size=` with the same weights."""
    source = timm.create_model("test_vit", num_classes=0)
    torch.save(source.state_dict(), tmp_path / "vit.pth")
    theirs: Any = timm.create_model(
        "test_vit", num_classes=0, img_size=SIZE, pretrained=True,
        pretrained_cfg_overlay={"file": str(tmp_path / "vit.pth"), "num_classes": 0},
    ).eval()  # fmt: skip
    ours = timm_model("test_vit", SIZE, weights=str(tmp_path / "vit.pth")).eval()
    torch.testing.assert_close(ours.model.pos_embed, theirs.pos_embed, rtol=0, atol=1e-6)
    x = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        tokens = theirs.forward_features(x)
        maps, token = ours.trunk(x)
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens[:, 1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(token, tokens[:, 0], rtol=0, atol=1e-6)


def test_a_dino_checkpoint_of_pedestrians_with_overlapping_patches(tmp_path: Path) -> None:
    """As TransReID-SSL and PASS save them: 256×128 pixels, hence a grid of 16×8 patches."""
    source = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=(256, 128))
    state = prefixed("backbone.", source.state_dict()) | {"head.last_layer.weight": torch.ones(9)}
    torch.save({"teacher": state, "args": argparse.Namespace(arch="vit")}, tmp_path / "lup.pth")
    plain = timm_model("vit_tiny_patch16_224", (256, 128), weights=str(tmp_path / "lup.pth"))
    own = source.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in plain.model.state_dict().items())
    overlapping = timm_model(
        "vit_tiny_patch16_224", (256, 128), weights=str(tmp_path / "lup.pth"), patch_stride=12
    )
    resized = timm.layers.resample_abs_pos_embed(own["pos_embed"], [21, 10], [16, 8])
    found = overlapping.model.state_dict()["pos_embed"]
    torch.testing.assert_close(found, resized)
    torch.save(overlapping.model.state_dict(), tmp_path / "again.pth")  # 21×10 patches
    back = timm_model("vit_tiny_patch16_224", (256, 128), weights=str(tmp_path / "again.pth"))
    expected = timm.layers.resample_abs_pos_embed(found, [16, 8], [21, 10])
    torch.testing.assert_close(back.model.state_dict()["pos_embed"], expected)


def clip_state(model: nn.Module) -> dict[str, Tensor]:
    """timm's ViT with OpenAI's names of CLIP's image encoder, beside a text encoder."""
    found: dict[str, Tensor] = {"logit_scale": torch.ones(()), "text_projection": torch.ones(4, 4)}
    names = {
        "norm_pre": "ln_pre", "norm": "ln_post", "norm1": "ln_1", "norm2": "ln_2",
        "attn.qkv.weight": "attn.in_proj_weight", "attn.qkv.bias": "attn.in_proj_bias",
        "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    for key, value in model.state_dict().items():
        if key == "cls_token":
            found["visual.class_embedding"] = value[0, 0]
        elif key == "pos_embed":
            found["visual.positional_embedding"] = value[0]
        elif key == "patch_embed.proj.weight":
            found["visual.conv1.weight"] = value
        else:
            block, _, rest = key.removeprefix("blocks.").partition(".")
            inner, outer = (
                (rest, f"transformer.resblocks.{block}.") if "blocks." in key else (key, "")
            )
            for ours, theirs in names.items():
                if inner == ours or inner.startswith(f"{ours}."):
                    inner = theirs + inner.removeprefix(ours)
                    break
            found[f"visual.{outer}{inner}"] = value
    return found


def test_clips_image_encoder(tmp_path: Path) -> None:
    source = timm.create_model(
        "vit_base_patch16_clip_224.openai", num_classes=0, img_size=SIZE, depth=2
    )
    torch.save(clip_state(source), tmp_path / "clip.pt")
    made = timm.create_model("vit_base_patch16_clip_224", num_classes=0, img_size=SIZE, depth=2)
    from harness.components.backbones.timm_models import _load

    state, origin = initial_state(str(tmp_path / "clip.pt"), "")
    _load(made, state, origin, SIZE)
    own = source.state_dict()
    assert all(torch.equal(v, own[k]) for k, v in made.state_dict().items())


@pytest.mark.parametrize(("size", "prefix"), [((192, 64), 1), ((160, 64), 4), ((96, 96), 1)])
def test_positions_of_pedestrians_fit_other_aspects(
    tmp_path: Path, size: tuple[int, int], prefix: int
) -> None:
    """Weights of 16×8 patches (LUPerson) serve 384×128 pixels, as TMGF has them."""
    options: dict[str, Any] = {"num_classes": 0, "reg_tokens": prefix - 1, "no_embed_class": False}
    source = timm.create_model("test_vit", img_size=(256, 128), **options)
    target = timm.create_model("test_vit", img_size=size, **options)
    patches = [side // 16 for side in size]
    state = resize_positions(dict(source.state_dict()), target, size, "FILE")
    expected = timm.layers.resample_abs_pos_embed(
        source.pos_embed, patches, [16, 8], num_prefix_tokens=prefix
    )
    torch.testing.assert_close(state["pos_embed"], expected, rtol=0, atol=0)
    assert state["pos_embed"].shape == target.pos_embed.shape


def test_positions_that_are_no_grid(tmp_path: Path) -> None:
    state = timm.create_model("test_vit", num_classes=0).state_dict()
    torch.save(state | {"pos_embed": torch.zeros(1, 12, 64)}, tmp_path / "odd.pth")
    with pytest.raises(DataError, match="12 position embeddings, which are no grid for 1 further"):
        timm_model("test_vit", SIZE, weights=str(tmp_path / "odd.pth"))


# -------------------------------------------------------------------------------- other origins


def test_a_finished_run(tmp_path: Path) -> None:
    """Its folder, or its name in the store: the trunk of its last stage."""
    run, _ = run_whole(tmp_path, ("method=cluster_contrast", "train.epochs=1"))
    state, _ = initial_state(str(run.folder), "")
    trunk = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
    for weights in (str(run.folder), run.name):
        again, _ = run_whole(
            tmp_path,
            ("method=direct_transfer", f"backbone.weights={weights}", f"name=w{len(weights)}"),
        )
        assert "train.pt sha256:" in again.record["protocol"]["weights"]
        assert again.record["metrics"] != run.record["metrics"] or trunk
    network = small(widths=(8, 16), strides=(1, 2), weights=str(run.folder))
    assert all(torch.equal(v, trunk[k]) for k, v in network.trunk.state_dict().items())
    with pytest.raises(ConfigError, match="a folder without the record of a finished run"):
        describe_weights(str(tmp_path))


@pytest.mark.parametrize(
    ("weights", "cause"),
    [
        ("https://example.org/w.pth", "must end with #sha256="),
        ("https://example.org/w.pth#sha256=12", "must end with #sha256="),
        ("hf-hub:nobody", "names no repository"),
        ("timm:nosuch", "timm has no model 'nosuch'"),
        ("w.pth", "there is no such file"),
    ],
)
def test_refused_before_anything_is_read(weights: str, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        initial_state(weights, "resnet50")


def test_offline_hubs_are_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"cannot be (reached|downloaded)") as refusal:
        initial_state("hf-hub:nobody/nothing", "")
    assert "backbone.weights=PATH" in refusal.value.hint
    with pytest.raises(DataError, match=r"timm's weights of resnet10t\.c3_in1k cannot be had"):
        timm_model("resnet10t.c3_in1k", (64, 32), pretrained=True)
    assert describe_weights("timm:resnet10t.c3_in1k") == "timm:resnet10t.c3_in1k"


def test_on_the_card(tmp_path: Path) -> None:
    from harness.experiment.plan import make_plan

    card = make_plan(
        tiny_config(tmp_path, "method=mskd", "backbone=vit_small", "images.height=64",
                    "images.width=32"), "fp32"
    ).card  # fmt: skip
    assert card["weights"] == "timm vit_small_patch16_224.dino"
    assert card["backbone"] == "vit_small_patch16_224.dino"
    assert card["pooling"] == "class_token" and "normalization" not in card
    card = make_plan(
        tiny_config(tmp_path, "method=mskd", "backbone=clip_vit_base", "backbone.patch_stride=12"),
        "fp32",
    ).card
    assert card["normalization"].startswith("mean 0.481455 0.457827 0.408211, std")
    assert card["backbone"] == (
        "vit_base_patch16_clip_quickgelu_224.openai, freeze ['patch_embed'], patch_stride 12"
    )


def test_mobilenet_of_torchvision_in_a_checkpoint(tmp_path: Path) -> None:
    state = mobilenet_v2("none").trunk.state_dict()
    torch.save({"model": prefixed("module.", state)}, tmp_path / "m.pth")
    assert mobilenet_v2(str(tmp_path / "m.pth")).dim == 1280
