"""Whole cells on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.experiment.run import run_experiment
from harness.experiment.stages import build_backbone
from tests.conftest import Command
from tests.experiment.standalone.own_features import write_test_set
from tests.tiny import tiny_config
from tests.training.test_trainer import CROSSED

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_mskd_cell(tmp_path: Path, precision: str) -> None:
    """Teacher and student run through, image_cache and augmentation on the device."""
    config = tiny_config(tmp_path, "method=mskd", f"train.precision={precision}")
    config.device = "cuda"
    run = run_experiment(config)
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
    assert 0 < run_experiment(config).record["metrics"]["mAP"] <= 100


@pytest.mark.parametrize("setting", [("cap", "inter_epoch=0"), ("pplr", "camera_weight=0.5")])
def test_objectives_with_cameras(tmp_path: Path, setting: tuple[str, str]) -> None:
    """Proxies, agreement scores and classifiers lie where the embeddings do."""
    method, option = setting
    config = tiny_config(tmp_path, f"method={method}", f"objective.{option}")
    config.device = "cuda"
    assert 0 < run_experiment(config).record["metrics"]["mAP"] <= 100


def test_untrained_metrics_equal_those_of_the_cpu(tmp_path: Path) -> None:
    cpu = run_experiment(tiny_config(tmp_path / "cpu", "method=direct_transfer"))
    config = tiny_config(tmp_path / "gpu", "method=direct_transfer")
    config.device = "cuda"
    gpu = run_experiment(config)
    assert gpu.record["metrics"]["mAP"] == pytest.approx(cpu.record["metrics"]["mAP"], abs=0.5)


def test_fp32_gradients_are_fp32(tmp_path: Path) -> None:
    """With train.precision=fp32 the backward convolutions do not fall back to TF32."""
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


def test_fp16_cell(tmp_path: Path) -> None:
    """With a gradient scaler, to a finite loss that is close to fp32's."""
    runs = {}
    for precision in ("fp32", "fp16"):
        config = tiny_config(tmp_path / precision, "method=mskd", f"train.precision={precision}")
        config.device = "cuda"
        runs[precision] = run_experiment(config)
    first = [run.history()[0]["loss"] for run in runs.values()]
    assert first[1] == pytest.approx(first[0], rel=0.05)


@pytest.mark.parametrize("image_cache", ["pinned", "mmap"])
def test_places_of_the_bank_give_the_same_run(tmp_path: Path, image_cache: str) -> None:
    """Rows that are sent make the batches that an image cache on the GPU makes: equal first losses."""
    runs = {}
    for place in ("device", image_cache):
        config = tiny_config(
            tmp_path / place, "method=ice", "images.blur=0.5", f"data.cache_location={place}"
        )
        config.device = "cuda"
        runs[place] = run_experiment(config)
        assert runs[place].record["pipeline"]["image_cache"] == place
    assert runs["device"].name == runs[image_cache].name
    rows = [runs[place].history()[0] for place in ("device", image_cache)]
    assert rows[1]["clusters"] == rows[0]["clusters"]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-3)


def test_sent_batches_equal_those_of_the_device() -> None:
    """Many batches in a hurry: no buffer is overwritten while it is being copied."""
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

        def batches(
            reader: ImageReader = reader, draws: torch.Generator = draws
        ) -> Any:
            for indices in drawn:
                images, rows = reader.rows(indices)
                parameters = augment.draw(len(indices), draws)
                yield augment.apply(images, parameters, indices=rows, device=device)

        with Prefetcher(batches(), device) as feed:
            # integers: sums of them are exact in any order
            sums[name] = [(x * 1024).round().long().sum().item() for x in feed]
        assert feed.waited >= 0
        spans = [reader.span(start, start + 64) for start in range(0, 256, 64)]
        np.testing.assert_array_equal(
            torch.cat([torch.as_tensor(s) for s in spans]).cpu(), image_cache
        )
    assert sums["pinned"] == sums["device"] == sums["mmap"]


def test_optimisers_are_fused(tmp_path: Path) -> None:
    from harness.training.optimizers import load_state, make_optimizer

    settings = {"lr": 0.1, "weight_decay": 0.0, "step": 20, "gamma": 0.1}
    for name in ("adam", "sgd"):
        weight = torch.nn.Parameter(torch.ones(4, device="cuda"))
        optimizer = make_optimizer({**settings, "name": name}, [weight], [])
        assert optimizer.param_groups[0]["fused"]
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        there = make_optimizer({**settings, "name": name}, [torch.nn.Parameter(torch.ones(4))], [])
        load_state(there, optimizer.state_dict())  # a GPU's checkpoint goes on on a CPU
        there.param_groups[0]["params"][0].grad = torch.ones(4)
        there.step()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "mode"),
    [("mskd", "default"), *((m, "max-autotune") for m in ("mskd", "mmt", "ice", "spcl"))],
)
def test_compiled_cells(tmp_path: Path, method: str, mode: str) -> None:
    """CUDA graphs reuse the memory of outputs: objectives and teachers must not notice."""
    runs = {}
    for compiled in ("off", mode):
        config = tiny_config(tmp_path / compiled, f"method={method}", f"train.compile={compiled}")
        config.device = "cuda"
        runs[compiled] = run_experiment(config)
    first = [run.history()[0]["loss"] for run in runs.values()]
    assert first[1] == pytest.approx(first[0], rel=1e-2)


def test_throughput_is_recorded(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=mskd", "train.precision=bf16")
    config.device = "cuda"
    record = run_experiment(config).record
    assert (
        record["pipeline"]["image_cache"] == "device" and record["environment"]["device"] != "CPU"
    )
    assert record["memory_mib"]["device"] > 0 and record["device_hours"] > 0
    for stage in record["stages"].values():
        assert 0 <= stage["waiting"] <= 1


def test_bench_on_the_device(command: Command) -> None:
    small = ("protocol=debug", "dataset.identities=6", "images.height=32", "images.width=16")
    for what in ("train", "extract", "augment"):
        answer = command("bench", what, *small, "images.pad=2", "--images", "48", "--steps", "3",
                         "--repeats", "2", "--reference", "--workers", "1", "--json")  # fmt: skip
        assert answer.status == 0, answer.err
        found = json.loads(answer.out)
        assert found["ratio"] > 0 and found["harness"]["memory_mib"]["device"] > 0
        assert ("ratio_tf32" in found) == (what != "augment")
