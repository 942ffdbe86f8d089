"""Whole experiments on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.experiment.run import run_experiment
from harness.experiment.stages import build_backbone
from harness.results.store import Run
from tests.conftest import Command
from tests.experiment.standalone.own_features import write_test_set
from tests.tiny import tiny_config
from tests.training.test_trainer import CROSSED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def run_on_gpu(folder: Path, *overrides: str) -> Run:
    """Run a tiny experiment on the GPU."""
    return run_experiment(tiny_config(folder, *overrides, "device=cuda"))


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_mskd(tmp_path: Path, precision: str) -> None:
    """Teacher and student train, with image cache and augmentation on the device."""
    run = run_on_gpu(tmp_path, "method=mskd", f"train.precision={precision}")
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
def test_other_methods(tmp_path: Path, case: str) -> None:
    """Every objective and distiller keeps its state on the device."""
    assert 0 < run_on_gpu(tmp_path, *OTHERS[case]).record["metrics"]["mAP"] <= 100


@pytest.mark.parametrize("setting", [("cap", "inter_epoch=0"), ("pplr", "camera_weight=0.5")])
def test_objectives_with_cameras(tmp_path: Path, setting: tuple[str, str]) -> None:
    """Proxies, agreement scores and classifiers are on the device."""
    method, option = setting
    run = run_on_gpu(tmp_path, f"method={method}", f"objective.{option}")
    assert 0 < run.record["metrics"]["mAP"] <= 100


def test_untrained_metrics_equal_those_of_the_cpu(tmp_path: Path) -> None:
    cpu = run_experiment(tiny_config(tmp_path / "cpu", "method=direct_transfer"))
    gpu = run_on_gpu(tmp_path / "gpu", "method=direct_transfer")
    assert gpu.record["metrics"]["mAP"] == pytest.approx(cpu.record["metrics"]["mAP"], abs=0.5)


def test_fp32_gradients_are_fp32(tmp_path: Path) -> None:
    """With train.precision=fp32, backward convolutions do not use TF32."""
    from harness.core.precision import arithmetic, fp32_as

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


def test_label_and_score_on_the_device(command: Command, tmp_path: Path) -> None:
    """`harness label` and `harness score` give the same results as on the CPU."""
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


def test_fp16(tmp_path: Path) -> None:
    """Training with a gradient scaler has a finite loss, close to that of fp32."""
    losses = [
        run_on_gpu(tmp_path / x, "method=mskd", f"train.precision={x}").history()[0]["loss"]
        for x in ("fp32", "fp16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("location", ["pinned", "mmap"])
def test_cache_locations_give_the_same_run(tmp_path: Path, location: str) -> None:
    """Batches copied to the GPU equal those of an image cache on the GPU: equal first losses."""
    runs = {}
    for place in ("device", location):
        overrides = ("method=ice", "images.blur=0.5", f"data.cache_location={place}")
        runs[place] = run_on_gpu(tmp_path / place, *overrides)
        assert runs[place].record["pipeline"]["image_cache"] == place
    assert runs["device"].name == runs[location].name
    rows = [runs[place].history()[0] for place in ("device", location)]
    assert rows[1]["clusters"] == rows[0]["clusters"]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-3)


def test_copied_batches_equal_those_of_the_device() -> None:
    """Many batches without pause: no buffer is overwritten while it is being copied."""
    from harness.core.seeds import generator
    from harness.data.augment import Augment
    from harness.data.prefetcher import ImageReader, Prefetcher

    device = torch.device("cuda")
    image_cache = np.random.default_rng(0).integers(0, 256, (256, 256, 128, 3), dtype=np.uint8)
    augment = Augment((256, 128))
    drawn = [torch.randint(256, (128,), generator=generator(1, i)) for i in range(40)]
    sources: dict[str, Any] = {
        "device": torch.from_numpy(image_cache).cuda(),
        "pinned": torch.from_numpy(image_cache).pin_memory(),
        "mmap": image_cache,
    }
    sums = {}
    for name, source in sources.items():
        reader, draws = ImageReader(source, device), generator(2)

        def batches(reader: ImageReader = reader, draws: torch.Generator = draws) -> Any:
            for indices in drawn:
                images, rows = reader.rows(indices)
                parameters = augment.draw(len(indices), draws)
                yield augment.apply(images, parameters, indices=rows, device=device)

        with Prefetcher(batches(), device) as prefetched:
            # sums of integers are exact in any order
            sums[name] = [(x * 1024).round().long().sum().item() for x in prefetched]
        assert prefetched.waited >= 0
        spans = [reader.span(start, start + 64) for start in range(0, 256, 64)]
        np.testing.assert_array_equal(
            torch.cat([torch.as_tensor(s) for s in spans]).cpu(), image_cache
        )
    assert sums["pinned"] == sums["device"] == sums["mmap"]


def test_optimizers_are_fused(tmp_path: Path) -> None:
    from harness.training.optimizers import load_state, make_optimizer

    settings = {"lr": 0.1, "weight_decay": 0.0, "step": 20, "gamma": 0.1}
    for name in ("adam", "sgd"):
        weight = torch.nn.Parameter(torch.ones(4, device="cuda"))
        optimizer = make_optimizer({**settings, "name": name}, [weight], [])
        assert optimizer.param_groups[0]["fused"]
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        there = make_optimizer({**settings, "name": name}, [torch.nn.Parameter(torch.ones(4))], [])
        load_state(there, optimizer.state_dict())  # a GPU's checkpoint resumes on a CPU
        there.param_groups[0]["params"][0].grad = torch.ones(4)
        there.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "mode"),
    [("mskd", "default"), *((m, "max-autotune") for m in ("mskd", "mmt", "ice", "spcl"))],
)
def test_compiled_networks(tmp_path: Path, method: str, mode: str) -> None:
    """CUDA graphs reuse the memory of outputs, without effect on objectives and teachers."""
    losses = [
        run_on_gpu(tmp_path / x, f"method={method}", f"train.compile={x}").history()[0]["loss"]
        for x in ("off", mode)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_throughput_is_recorded(tmp_path: Path) -> None:
    record = run_on_gpu(tmp_path, "method=mskd", "train.precision=bf16").record
    assert record["pipeline"]["image_cache"] == "device"
    assert record["environment"]["device"] != "CPU"
    assert record["memory_mib"]["device"] > 0 and record["device_hours"] > 0
    for stage in record["stages"].values():
        assert 0 <= stage["waiting"] <= 1


def test_bench_methods_on_the_device(command: Command) -> None:
    small = ("protocol=debug", "dataset.identities=24", "images.height=32", "images.width=16")
    answer = command("bench", "methods", *small, "images.pad=2", "--seconds", "0.05",
                     "--repeats", "2", "--retries", "0", "--json")  # fmt: skip
    assert answer.status == 0, answer.err
    for method in json.loads(answer.out)["methods"].values():
        for stage in method["stages"].values():
            assert stage["memory_mib"]["device_above"] > 0 and stage["hours"] > 0


def test_bench_on_the_device(command: Command) -> None:
    small = ("protocol=debug", "dataset.identities=6", "images.height=32", "images.width=16")
    for what in ("train", "extract", "augment"):
        answer = command("bench", what, *small, "images.pad=2", "--images", "48", "--steps", "3",
                         "--repeats", "2", "--baseline", "--workers", "1", "--json")  # fmt: skip
        assert answer.status == 0, answer.err
        found = json.loads(answer.out)
        assert found["ratios"]["baseline"]["images_per_second"] > 0
        assert found["candidates"]["harness"]["memory_mib"]["device_above"] > 0
        assert ("baseline_tf32" in found["candidates"]) == (what != "augment")
