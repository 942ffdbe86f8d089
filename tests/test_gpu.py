"""Whole cells on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from harness.recipe import build_backbone
from harness.run import run_cell
from tests.conftest import Command
from tests.standalone.own_features import write_test_set
from tests.test_training import CROSSED
from tests.tiny import tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_mskd_cell(tmp_path: Path, precision: str) -> None:
    """Teacher and student run through, bank and augmentation on the device."""
    config = tiny_config(tmp_path, "method=mskd", f"train.precision={precision}")
    config.device = "cuda"
    run = run_cell(config)
    assert run.record["memory_mib"]["device"] > 0
    assert run.record["protocol"]["precision"] == precision
    assert 0 < run.record["metrics"]["mAP"] <= 100


OTHERS = {
    "hhcl": ("method=hhcl",),
    "strong baseline": ("method=strong_baseline",),
    "MMT": ("method=mmt",),
    "ICE": ("method=ice/aware", "images.blur=0.5", "batch.sampler=camera"),
    **{name: ("method=cluster_contrast", *changes) for name, changes in CROSSED.items()},
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_cells(tmp_path: Path, case: str) -> None:
    """Every objective and distiller has its state where the embeddings are."""
    config = tiny_config(tmp_path, *OTHERS[case])
    config.device = "cuda"
    assert 0 < run_cell(config).record["metrics"]["mAP"] <= 100


@pytest.mark.parametrize("setting", [("cap", "inter_epoch=0"), ("pplr", "camera_weight=0.5")])
def test_objectives_with_cameras(tmp_path: Path, setting: tuple[str, str]) -> None:
    """Proxies, agreement scores and classifiers lie where the embeddings do."""
    method, option = setting
    config = tiny_config(tmp_path, f"method={method}", f"objective.{option}")
    config.device = "cuda"
    assert 0 < run_cell(config).record["metrics"]["mAP"] <= 100


def test_untrained_metrics_equal_those_of_the_cpu(tmp_path: Path) -> None:
    cpu = run_cell(tiny_config(tmp_path / "cpu", "method=direct_transfer"))
    config = tiny_config(tmp_path / "gpu", "method=direct_transfer")
    config.device = "cuda"
    gpu = run_cell(config)
    assert gpu.record["metrics"]["mAP"] == pytest.approx(cpu.record["metrics"]["mAP"], abs=0.5)


def test_fp32_gradients_are_fp32(tmp_path: Path) -> None:
    """With train.precision=fp32 the backward convolutions do not fall back to TF32."""
    from harness.precision import arithmetic, fp32_as

    config = tiny_config(tmp_path, "method=direct_transfer")
    torch.manual_seed(0)
    backbone = build_backbone(config.backbone)
    images = torch.randn(8, 3, 32, 16)

    def gradient(device: str) -> torch.Tensor:
        network = build_backbone(config.backbone).to(device)
        network.load_state_dict(backbone.state_dict())
        with fp32_as("fp32"):
            with arithmetic("fp32", torch.device(device)):
                out = network(images.to(device))
            out.square().sum().backward()
        (first, *_) = [p.grad for p in network.parameters() if p.grad is not None]
        return first.cpu()

    torch.testing.assert_close(gradient("cuda"), gradient("cpu"), rtol=1e-4, atol=1e-4)


def test_own_features_on_the_device(command: Command, tmp_path: Path) -> None:
    """`harness label` and `harness score` give what they give on the CPU."""
    arrays = write_test_set(tmp_path)
    np.save(tmp_path / "f.npy", arrays["g_features"])
    answers = {}
    for device in ("cpu", "cuda"):
        on = ("--json", "--device", device)
        label = command("label", "f.npy", "labeler.k1=8", "--out", f"{device}.npy", *on)
        score = command("score", "q.npz", "g.npz", "--rerank", *on)
        answers[device] = json.loads(label.out), json.loads(score.out)
    cpu, cuda = answers["cpu"], answers["cuda"]
    assert np.array_equal(np.load(tmp_path / "cpu.npy"), np.load(tmp_path / "cuda.npy"))
    for key in ("metrics", "reranked"):
        assert cuda[1][key] == pytest.approx(cpu[1][key])
    assert cuda[0]["peak_mib"]["device"] > 0
