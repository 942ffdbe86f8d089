"""timm's models as backbones: their own features, in all that a training step does with them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.components.backbones import set_samples_per_bn, timm_model
from harness.components.backbones.batchnorm import Grouped
from harness.components.backbones.timm_models import TimmNet, preprocessing
from harness.core.errors import ConfigError
from harness.experiment.run import run_experiment
from harness.training.micro_batches import MicroBatches
from harness.training.trainer import Trainer
from tests.same import assert_same
from tests.tiny import tiny_config

#: of four families; transformers without and with register tokens, and with a distillation token
NAMES = (
    "resnet10t", "resnet18", "mobilenetv2_035", "mobilenetv3_small_050", "convnext_atto",
    "convnextv2_atto", "vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224",
    "vit_wee_patch16_reg1_gap_256", "vit_pwee_patch16_reg1_gap_256",
)  # fmt: skip
#: 64×32 would make oneDNN's bf16 convolution of 4×2 maps with stride 2 read beyond its input (AMX)
SIZE = (96, 64)


#: one of each family, and one with register tokens; the others are slow tests
SOONER = (
    "resnet10t", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224",
    "vit_wee_patch16_reg1_gap_256",
)  # fmt: skip
LATER = [pytest.param(name, marks=pytest.mark.slow) for name in NAMES if name not in SOONER]


@pytest.fixture(scope="module", params=[*SOONER, *LATER])
def network(request: pytest.FixtureRequest) -> TimmNet:
    """A network with random weights. Change a copy."""
    torch.manual_seed(0)
    return timm_model(request.param, SIZE, views=["global", "upper", "lower"])


def images(count: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def plain(network: TimmNet) -> nn.Module:
    """The same network as timm makes it."""
    kind: Any = network.model.pretrained_cfg
    fixed: dict[str, Any] = {"img_size": SIZE} if kind["fixed_input_size"] else {}
    model = timm.create_model(kind["architecture"], num_classes=0, **fixed)
    model.load_state_dict(network.model.state_dict())
    return model.eval()


def test_shapes(network: TimmNet) -> None:
    network.eval()
    with torch.no_grad():
        out = network(images())
    assert out.shape == (8, 3, network.dim) and out.dtype == torch.float32
    assert network.dim == network.model.num_features
    counted = sum(len(layer) for layer in network.layers())
    assert counted == len(list(network.model.parameters())) and len(network.layers()) > 2


def test_features_are_timms(network: TimmNet) -> None:
    """Equal before pooling: the map of a CNN, the tokens of a transformer."""
    model: Any = plain(network)
    with torch.no_grad():
        theirs = model.forward_features(images())
        maps, token = copy.deepcopy(network).eval().trunk(images())
    if theirs.dim() == 3:
        prefix = model.num_prefix_tokens
        rows = maps.flatten(2).transpose(1, 2)
        torch.testing.assert_close(rows, theirs[:, prefix:], rtol=0, atol=1e-6)
        assert maps.shape[2:] == (6, 4)
        if token is not None:
            torch.testing.assert_close(token, theirs[:, 0], rtol=0, atol=1e-6)
    else:
        torch.testing.assert_close(maps, theirs, rtol=0, atol=1e-6)


def gradients(network: TimmNet, embed: Any, precision: bool = False) -> tuple[Tensor, list[Tensor]]:
    network.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision):
        out = embed(network, images())
    (out.float() * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    trained = [p for p in network.parameters() if p.requires_grad]
    return out.detach(), [p.grad for p in trained if p.grad is not None]


def whole(network: TimmNet, batch: Tensor) -> Tensor:
    return network(batch)


@pytest.mark.parametrize("samples", [0, 4])
def test_micro_batches_give_the_same_gradients(network: TimmNet, samples: int) -> None:
    """Where there is batch norm, its groups are those of the whole batch."""
    if samples == 0 and any(isinstance(m, nn.BatchNorm2d) for m in network.trunk.modules()):
        pytest.skip("the whole batch cannot be split where it is normalized")
    one, other = copy.deepcopy(network), copy.deepcopy(network)
    for each in (one, other):
        set_samples_per_bn(each, samples or 4)  # the neck has batch norm, too
    out, expected = gradients(one, whole)
    pieces, found = gradients(other, MicroBatches(4).embed)
    torch.testing.assert_close(pieces, out, rtol=1e-4, atol=1e-4)
    # some gradients are 0 but for rounding: those of biases before a batch norm
    scale = max(float(b.abs().max()) for b in expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5 * scale)


def test_the_same_step_twice(network: TimmNet) -> None:
    runs = [gradients(copy.deepcopy(network), whole) for _ in range(2)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert all(torch.equal(a, b) for a, b in zip(runs[0][1], runs[1][1], strict=True))


def test_bf16(network: TimmNet) -> None:
    half, grads = gradients(copy.deepcopy(network), whole, precision=True)
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    assert all(torch.isfinite(grad).all() and grad.dtype == torch.float32 for grad in grads)
    network.eval()  # statistics of few positions would amplify the rounding
    with torch.no_grad():
        exact = network.trunk(images())[0]
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network.trunk(images())[0].float()
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.1


def test_batch_norms_are_grouped(network: TimmNet) -> None:
    """Activations after a norm are kept, and each group is normalized by itself."""
    grouped = copy.deepcopy(network)
    set_samples_per_bn(grouped, 4)
    norms = [m for m in grouped.trunk.modules() if isinstance(m, _BatchNorm)]
    assert all(isinstance(m, Grouped) for m in norms)
    grouped.train()
    alone = copy.deepcopy(network).train()
    with torch.no_grad():
        found = grouped.trunk(images())[0]
        expected = torch.cat([alone.trunk(part)[0] for part in images().split(4)])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------- whole runs


FAST, SLOW = ("test_efficientnet", "test_vit"), ("test_resnet", "test_convnext", *NAMES)


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_interrupted_and_resumed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = ("method=cluster_contrast", "backbone=timm", f"backbone.model={name}",
            "images.height=64", "images.width=32", "batch.samples_per_bn=8",
            "backbone.drop_path=0.1")  # fmt: skip
    reference = run_experiment(tiny_config(tmp_path / "whole", *cell))
    assert 0 < reference.record["metrics"]["mAP"] <= 100
    train = Trainer._train

    def stopped(self: Trainer, epoch: int, *rest: Any) -> None:
        if epoch == 1:
            raise KeyboardInterrupt
        train(self, epoch, *rest)

    monkeypatch.setattr(Trainer, "_train", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tiny_config(tmp_path / "parts", *cell))
    monkeypatch.undo()
    assert_same(reference, run_experiment(tiny_config(tmp_path / "parts", *cell)))


@pytest.mark.parametrize(("name", "has_none"), [("test_vit", True), ("test_resnet", False)])
def test_a_setting_without_effect_is_named(
    name: str, has_none: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("harness.core.errors._noticed", set())
    cell = ("method=cluster_contrast", "backbone=timm", f"backbone.model={name}", "train.epochs=1",
            "images.height=64", "images.width=32", "batch.samples_per_bn=8")  # fmt: skip
    run_experiment(tiny_config(tmp_path, *cell))
    assert ("the backbone has no batch norm" in capsys.readouterr().err) == has_none


# ------------------------------------------------------------------------------------ options


def test_class_tokens_and_views() -> None:
    model = timm_model("test_vit", (64, 32), pooling="class_token", views=["global", "upper"])
    model.eval()
    with torch.no_grad():
        maps, token = model.trunk(images()[:, :, :64, :32])
        pooled = model.heads.pooled(maps, token)
    assert token is not None
    torch.testing.assert_close(pooled[:, 0], token)
    torch.testing.assert_close(pooled[:, 1], maps[:, :, :2].mean((2, 3)))


def test_overlapping_patches() -> None:
    """TransReID: 256×128 pixels, patches of 16, 12 pixels apart, are 21 × 10 patches."""
    model = timm_model("vit_tiny_patch16_224", (256, 128), patch_stride=12).eval()
    with torch.no_grad():
        assert model.trunk(torch.zeros(1, 3, 256, 128))[0].shape == (1, 192, 21, 10)
    assert model.model.pos_embed.shape == (1, 211, 192)
    with pytest.raises(ConfigError, match="leaves gaps between patches of 16×16"):
        timm_model("vit_tiny_patch16_224", (256, 128), patch_stride=17)
    with pytest.raises(ConfigError, match="no patches with absolute positions"):
        timm_model("test_resnet", (64, 32), patch_stride=2)


def test_checkpointing_gives_the_same_gradients() -> None:
    torch.manual_seed(0)
    one = timm_model("test_vit", SIZE)
    other = copy.deepcopy(one)
    other.trunk.model.set_grad_checkpointing(True)
    for a, b in zip(gradients(one, whole)[1], gradients(other, whole)[1], strict=True):
        torch.testing.assert_close(a, b)


def test_output_stride_and_drop_path() -> None:
    finer = timm_model("test_resnet", (64, 64), output_stride=16).eval()
    coarse = timm_model("test_resnet", (64, 64)).eval()
    with torch.no_grad():
        heights = [n.trunk(torch.zeros(1, 3, 64, 64))[0].shape[2] for n in (finer, coarse)]
    assert heights == [4, 2]
    dropping = timm_model("test_vit", SIZE, drop_path=0.5).train()
    with torch.no_grad():
        assert not torch.equal(dropping.trunk(images())[0], dropping.trunk(images())[0])


def test_a_model_that_does_not_name_its_layers() -> None:
    """MetaFormers have no `group_matcher`; their children are the layers of the rates."""
    network = timm_model("poolformer_s12", SIZE)
    assert not hasattr(network.model, "group_matcher")
    layers = [parameter for layer in network.layers() for parameter in layer]
    assert {*map(id, layers)} == {*map(id, network.model.parameters())}
    assert len(network.layers()) > 2


def test_preprocessing_is_that_of_timms_weights() -> None:
    clip = preprocessing("vit_base_patch16_clip_224.openai")
    assert clip.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    half = preprocessing("vit_small_patch16_224", interpolation="bilinear")
    assert half.mean == half.std == (0.5, 0.5, 0.5) and half.interpolation == "bilinear"
    other = preprocessing("vit_small_patch16_224.dino", mean=[0.5] * 3, std=[0.25] * 3)
    assert (other.mean, other.std) == ((0.5,) * 3, (0.25,) * 3)
    assert timm_model("test_vit", SIZE, mean=[0.1] * 3).preprocessing.mean == (0.1,) * 3


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": ({"model": "vit_smal_patch16_224"}, "timm has no model 'vit_smal_patch16_224'"),
    "tag": ({"model": "vit_small_patch16_224.dinoo"}, "no weights 'dinoo' of vit_small"),
    "twice": ({"pretrained": True, "weights": "imagenet"}, "exclude each other"),
    "no token": ({"model": "test_resnet", "pooling": "class_token"}, "has no class token"),
    "size": ({"model": "test_vit", "size": (8, 8)}, "test_vit cannot be built for 8×8|no feature"),
    "no stride": ({"model": "test_vit", "output_stride": 8}, "cannot be built"),
    "color": ({"mean": [0.5, 0.5, 7]}, r"backbone.mean=\[0.5, 0.5, 7.0\] must be three numbers"),
    "no model": ({"model": ""}, "timm has no model ''"),
    "one color": ({"mean": [0.5]}, r"backbone.mean=\[0.5\] must be three numbers"),
    "freeze": ({"freeze": ["patch_embd"]}, "no part 'patch_embd' to freeze"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_the_cause(case: str) -> None:
    options, cause = REFUSED[case]
    with pytest.raises(ConfigError, match=cause):
        timm_model(**({"model": "test_vit", "size": SIZE} | options))
