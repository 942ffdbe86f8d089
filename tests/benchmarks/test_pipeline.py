"""`harness bench`: what it measures, prints, writes and refuses."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import transforms as T

from harness.benchmarks import bare_loop, dataloader_baseline, pipeline
from harness.benchmarks.dataloader_baseline import DecodedImages
from harness.benchmarks.harness_implementation import make_bench_trainer
from harness.benchmarks.pipeline import ROUNDS as PIPELINE
from harness.benchmarks.workload import DEFAULTS, Workload, as_files, with_defaults
from harness.core.precision import fp32_as
from harness.data.augment import normalize
from harness.data.image_cache import build_image_cache
from harness.data.image_files import ImageFiles
from harness.data.image_source import Subset
from harness.experiment.compose import compose
from harness.training.trainer import Trainer
from tests.conftest import Command
from tests.paths import ROOT

SMALL = ("protocol=debug", "dataset.identities=6", "backbone.widths=[8,16]",
         "backbone.strides=[1,2]", "backbone.weights=none", "images.height=32", "images.width=16",
         "images.pad=2", "train.precision=fp32")  # fmt: skip
ANY_LOAD = ("--max-load", "1", "--max-error", "99", "--retries", "0")
OPTIONS = ("--device", "cpu", "--repeats", "2", "--images", "48", *ANY_LOAD)


@pytest.mark.parametrize("what", ["train", "extract", "augment"])
def test_pipeline_beside_the_dataloader_baseline(
    what: str, command: Command, tmp_path: Path
) -> None:
    baseline = ("--baseline", "--workers", "0", "--output", "timings")
    answer = command("bench", what, *SMALL, *OPTIONS, "--steps", "3", *baseline, "--json")
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["what"] == what and found["setting"]["steps"] == 3
    assert found["setting"]["batch"] == 16 and found["setting"]["image_cache"] == "mmap"
    names = ("harness", "baseline") if what == "augment" else ("harness", "bare", "baseline")
    assert tuple(found["candidates"]) == names
    assert list(found["ratios"]) == list(names[1:])
    for name in names:
        one = found["candidates"][name]
        assert len(one["rounds"]) == 2 and min(one["rounds"]) > 0
        assert min(one["rounds"]) <= one["images_per_second"] <= max(one["rounds"])
        assert one["images_per_core_second"] > 0
        if name == "baseline" or (what == "train" and name == "harness"):
            assert 0 <= one["waiting"] <= 1
    assert found["ratios"]["baseline"]["images_per_second"] > 0
    assert found["candidates"]["baseline"]["workers"] == 0
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["disturbed"] == []
    assert found["load"]["bounds"] == {"load": 1.0, "error": 99.0}
    (path,) = (tmp_path / "timings").glob("*.json")
    assert path.name.startswith(f"{what}-") and json.loads(path.read_text()) == found


@pytest.mark.parametrize("fastest", [0, 1, 4, 8])
def test_the_fastest_number_of_workers_is_chosen(
    fastest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataloader_baseline, "cores", lambda: 8)

    def batches(images: object, drawn: list[object], workers: int, device: object) -> Iterator[int]:
        yield 0
        time.sleep(0.0 if workers == fastest else 0.05)
        yield 1

    monkeypatch.setattr(dataloader_baseline, "_load", batches)
    workload = Workload(SMALL, torch.device("cpu"), 20, tmp_path)
    images = DecodedImages(workload, augmented=False)
    assert dataloader_baseline.best_workers(images, workload, batches=2) == fastest


def test_without_workers_the_fastest_number_is_taken(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.benchmarks.pipeline.best_workers", lambda *rest, **more: 0)
    options = (*SMALL, *OPTIONS, "--steps", "1", "--baseline", "--json")
    found = json.loads(command("bench", "augment", *options).out)
    assert found["candidates"]["baseline"]["workers"] == 0


def captured(monkeypatch: pytest.MonkeyPatch) -> list[Trainer]:
    """The trainers that the bare loop makes."""
    made: list[Trainer] = []

    def make(workload: Workload) -> Trainer:
        made.append(make_bench_trainer(workload))
        return made[-1]

    monkeypatch.setattr(bare_loop, "make_bench_trainer", make)
    return made


@pytest.mark.parametrize("method", ["mskd", "ice", "pplr"])
def test_a_step_of_the_bare_loop_is_one_of_training(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload((*SMALL, f"method={method}"), torch.device("cpu"), 48, tmp_path)
    made = captured(monkeypatch)
    found = bare_loop.bare_train(workload, 2)()
    (bare,) = made
    usual = make_bench_trainer(workload)
    before = [p.detach().clone() for p in usual.components.backbone.parameters()]
    (batch,) = usual.batch_maker.make(0, iter(workload.drawn(1)), workload.labels, 1)
    with fp32_as("fp32"):
        for _ in range(2):
            usual.train_step(batch, False)
    pairs = zip(bare.trained.parameters(), usual.trained.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    after = usual.components.backbone.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert found.images == 2 * workload.batch


def test_the_bare_forward_pass_embeds_as_many_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workload = Workload(SMALL, torch.device("cpu"), 48, tmp_path)
    network, passed = workload.backbone(), list[int]()

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert not module.training and not torch.is_grad_enabled()
        passed.append(len(inputs[0]))

    network.register_forward_pre_hook(note)
    monkeypatch.setattr(workload, "backbone", lambda: network)
    found = bare_loop.bare_extract(workload, 3)()
    assert sum(passed) == found.images >= 3 * workload.batch


@pytest.mark.parametrize("method", ["spcl/uda", "supervised"])
def test_training_on_a_labeled_source_is_refused(method: str, command: Command) -> None:
    found = command("bench", "train", *SMALL, *OPTIONS, f"method={method}", "source=synthetic")
    assert found.status == 2 and "bench train has no labeled source" in found.err


def test_table_on_a_terminal(command: Command) -> None:
    answer = command("bench", "train", *SMALL, *OPTIONS, "--steps", "1")
    assert answer.status == 0, answer.err
    assert "waiting" in answer.out and "images_per_second" in answer.out


@pytest.mark.parametrize(
    ("arguments", "candidate", "key"),
    [
        (("labels", "--images", "400", "--views", "2"), "labels", "seconds_search"),
        (("eval", "--scale", "0.02"), "eval", "mAP"),
        (("eval", "--scale", "0.02", "--rerank"), "eval", "mAP"),
    ],
)
def test_synthetic_features(
    arguments: tuple[str, ...], candidate: str, key: str, command: Command
) -> None:
    common = ("bench", *arguments, "--repeats", "1", "--device", "cpu", "--retries", "0")
    found = json.loads(command(*common, "--json").out)
    assert set(found["candidates"]) == {"product", candidate}
    assert found["candidates"][candidate][key] > 0
    ratio = found["ratios"][candidate]["images_per_second"]
    answer = command(*common)
    assert ratio > 0 and f"times the images/s of {candidate}" in answer.out


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("method=direct_transfer",), "does not train"),
        (("--images", "8"), "8 images are fewer than a batch of 16"),
        (("--repeats", "0"), "must be a whole number from 1"),
        (("batch.imagse=2",), "imagse"),
        (("train.precision=fp16",), "needs a GPU"),
        (("data.cache_location=pinned",), "needs a GPU"),
        (("--max-load", "0"), "must be a number above 0"),
        (("--threads", "9999"), "--threads 9999 must be from 1"),
    ],
)
def test_refused(arguments: tuple[str, ...], answer: str, command: Command) -> None:
    found = command("bench", "augment", *SMALL, *OPTIONS, *arguments)
    assert found.status == 2 and answer in found.err


def test_a_folder_that_cannot_be_written_is_refused_first(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*rest: object, **more: object) -> None:
        pytest.fail("measured before the folder was checked")

    monkeypatch.setattr(pipeline, "measure", measure)
    (tmp_path / "file").write_text("")
    found = command("bench", "train", *OPTIONS, "--output", str(tmp_path / "file"))
    assert found.status == 2 and "is a file. \n  Give a folder" in found.err.replace(".\n", ". \n")
    found = command("bench", "train", *OPTIONS, "--output", str(tmp_path / "file" / "inside"))
    assert found.status in (1, 2) and "cannot be" in found.err and "Traceback" not in found.err


def test_unknown_benchmarks_are_refused(command: Command) -> None:
    found = command("bench", "tarin")
    assert found.status == 2 and "'train'" in found.err


def test_the_baseline_sees_the_same_images(tmp_path: Path) -> None:
    """ImageFiles decoded and resized by PIL equal the image cache, augmentation aside."""
    workload = Workload(SMALL, torch.device("cpu"), 20, tmp_path)
    assert isinstance(workload.files, ImageFiles), "synthetic images are written as JPEGs"
    plain = DecodedImages(workload, augmented=False)
    pixels = torch.stack([plain[i][0] for i in range(4)])
    assert torch.equal(pixels, normalize(np.asarray(workload.image_cache[:4])))
    augmented = DecodedImages(workload, augmented=True)
    kinds = [type(step) for step in augmented.transform.transforms]
    assert kinds == [T.Resize, T.RandomHorizontalFlip, T.Pad, T.RandomCrop, T.ToTensor,
                     T.Normalize, T.RandomErasing]  # fmt: skip
    again = as_files(Subset(workload.files, np.arange(3)), tmp_path / "nowhere")
    assert len(build_image_cache(again, (32, 16), tmp_path / "again")) == 3, "files stay"


def test_an_experiment_brings_its_own_data_set_and_protocol() -> None:
    found = with_defaults(DEFAULTS, ["+experiment=market1501_small", "method=hhcl"])
    config = compose(found)
    assert (config.dataset.name, config.protocol.name) == ("market1501", "market1501_small")
    assert config.method.name == "hhcl" and config.backbone.weights == "none"
    assert compose(with_defaults(DEFAULTS, ["batch.identities=4"])).dataset.name == "synthetic"


def test_committed_costs_are_in_the_docs() -> None:
    """Rows `method` | protocol | cost | ± of the page are those of a file."""
    page = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    told = set(re.findall(r"^\| `(\w+)` \| (\w+) \| ([\d.]+) \| (\d+ %) \|", page, re.MULTILINE))
    measured, days = set(), set()
    for path in (ROOT / "results" / "bench").glob("methods-*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        days.add(found["machine"]["date"])
        for name, one in found["methods"].items():
            error = f"{100 * one['cost_error']:.0f} %"
            measured.add((name, found["setting"]["protocol"], f"{one['cost']:.2f}", error))
    assert len(told) > 10 and told <= measured
    assert all(day in page for day in days)


def test_committed_timings_are_in_the_docs() -> None:
    page = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    kinds, used = set(), set()
    for path in (ROOT / "results" / "bench").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert "/work" not in text and "/home" not in text
        found = json.loads(text)
        kinds.add(found["what"])
        if found["what"] not in PIPELINE:
            continue
        assert found["machine"]["date"] in page and found["candidates"]["harness"]["rounds"]
        cells = [found["what"], str(found["setting"]["batch"])]
        for one in found["candidates"].values():
            rate = one["images_per_second"]
            cells.append(f"{rate:,.1f}" if rate < 150 else f"{rate:,.0f}")
        times = found["ratios"]["baseline"]
        by_clock_and_cpu = times["images_per_second"], times["images_per_core_second"]
        cells += [f"{ratio:.1f}" if ratio > 10 else f"{ratio:.2f}" for ratio in by_clock_and_cpu]
        if "bare" in found["ratios"]:
            cells.append(f"{found['ratios']['bare']['images_per_second']:.2f}")
        rows = [
            line for line in page.splitlines()
            if line.startswith("| ") and {*cells} <= {*re.split(r"[ |]+", line)}
        ]  # fmt: skip
        assert len(rows) == 1, (path.name, cells)
        used.add(rows[0])
    assert len(used) == 5
    assert kinds >= {"train", "extract", "augment"}
