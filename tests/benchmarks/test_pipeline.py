"""Figures of the pipeline: measured, written, shown; and the steps that wait for a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision import transforms as T

from harness.benchmarks import figures, gpu, reference
from harness.benchmarks.gpu import Step, go
from harness.core.errors import HarnessError
from harness.data.augment import normalize
from harness.data.image_cache import build_image_cache
from harness.data.image_files import ImageFiles
from harness.data.image_source import Subset
from tests.conftest import Command
from tests.paths import ROOT

SMALL = ("protocol=debug", "dataset.identities=6", "backbone.widths=[8,16]",
         "backbone.strides=[1,2]", "images.height=32", "images.width=16", "images.pad=2",
         "train.precision=fp32")  # fmt: skip
OPTIONS = ("--device", "cpu", "--repeats", "2", "--images", "48", "--json")


@pytest.mark.parametrize("what", ["train", "extract", "augment"])
def test_measured_beside_a_plain_pipeline(what: str, command: Command, tmp_path: Path) -> None:
    output = ("--output", "figures", "--note", "a small one")
    answer = command(
        "bench", what, *SMALL, *OPTIONS, "--steps", "3", "--reference", "--workers", "0", *output
    )
    assert answer.status == 0, answer.err
    found = json.loads(answer.out)
    assert found["what"] == what and found["note"] == "a small one"
    assert found["setting"]["batch"] == 16 and found["setting"]["image_cache"] == "mmap"
    for name in ("harness", "reference"):
        one = found[name]
        assert len(one["rounds"]) == 2 and min(one["rounds"]) > 0
        assert min(one["rounds"]) <= one["images_per_second"] <= max(one["rounds"])
        assert 0 <= one["waiting"] <= 1 and one["images_per_core_second"] > 0
    assert found["ratio"] > 0 and found["reference"]["workers"] == 0
    assert found["machine"]["threads"] == torch.get_num_threads()
    (path,) = (tmp_path / "figures").glob("*.json")
    assert path.name == figures.file_name(found) and path.name.startswith(f"{what}-")
    assert json.loads(path.read_text()) == found
    page = command("bench", "page", "--folder", "figures")
    assert f"| {what} |" in page.out and "a small one" in page.out


def test_table_on_a_terminal(command: Command) -> None:
    answer = command("bench", "train", *SMALL, *OPTIONS[:-1], "--steps", "1")
    assert answer.status == 0 and "waiting for data" in answer.out and "images/s" in answer.out


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("method=direct_transfer",), "does not train"),
        (("--images", "8"), "8 images are fewer than a batch of 16"),
        (("--repeats", "0"), "1 repeat"),
        (("batch.imagse=2",), "imagse"),
        (("train.precision=fp16",), "needs a GPU"),
        (("data.cache_location=pinned",), "needs a GPU"),
    ],
)
def test_refused(arguments: tuple[str, ...], answer: str, command: Command) -> None:
    found = command("bench", "augment", *SMALL, "--device", "cpu", "--images", "48", *arguments)
    assert found.status == 2 and answer in found.err


def test_the_plain_pipeline_sees_the_same_images(tmp_path: Path) -> None:
    """Files, decoded and resized by PIL: what the image cache holds, but for augmentation."""
    from harness.benchmarks.setting import Setting

    setting = Setting(SMALL, torch.device("cpu"), 20, tmp_path)
    assert isinstance(setting.files, ImageFiles), "JPEGs were written, as nothing was on disk"
    plain = setting.plain(train=False)
    pixels = torch.stack([plain[i][0] for i in range(4)])
    assert torch.equal(pixels, normalize(np.asarray(setting.image_cache[:4])))
    train = setting.plain(train=True)
    kinds = [type(step) for step in train.transform.transforms]
    assert kinds == [T.Resize, T.RandomHorizontalFlip, T.Pad, T.RandomCrop, T.ToTensor,
                     T.Normalize, T.RandomErasing]  # fmt: skip
    again = reference.as_files(Subset(setting.files, np.arange(3)), tmp_path / "nowhere")
    assert len(build_image_cache(again, (32, 16), tmp_path / "again")) == 3, (
        "files are taken as they are"
    )


# -------------------------------------------------------------------------------- figures and page


def test_committed_figures_are_shown_in_the_docs() -> None:
    found = figures.load(ROOT / "results" / "bench")
    assert {each["what"] for each in found} >= {"train", "extract", "augment"}
    page = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
    assert figures.table(found) in page, "harness bench page --output docs/pipeline.md"
    for each in found:
        assert each["machine"]["device"] and each["harness"]["rounds"]
        text = json.dumps(each)
        assert "/work" not in text and "/home" not in text


def test_a_page_is_written_between_its_lines(command: Command, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n")
    assert command("bench", "page", "--folder", "none", "--output", "page.md").status == 0
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "| what |" in text
    assert "old" not in text
    page.write_text("no lines")
    assert command("bench", "page", "--output", "page.md").status == 1
    assert page.read_text() == "no lines"


# ----------------------------------------------------------------------------- what waits for a GPU


def step(name: str, code: str) -> Step:
    return Step(name, ("-c", code))


def test_steps_go_on_where_they_stopped(tmp_path: Path) -> None:
    told: list[str] = []
    log = tmp_path / "log"
    write = f"open({str(log)!r}, 'a').write({{!r}})"
    todo = [
        step("one", write.format("1")),
        step("two", "import time; time.sleep(60)"),
        step("three", write.format("3")),
    ]
    marks = tmp_path / "marks"
    assert go(todo, marks, "v1", 2 / 60, told.append) == ["two", "three"]
    todo[1] = step("two", write.format("2"))
    assert go(todo, marks, "v1", None, told.append) == []
    assert log.read_text() == "123" and "one: done before" in told
    assert go(todo, marks, "v2", None, told.append) == []
    assert log.read_text() == "123123", "another commit or another GPU begins anew"


def test_a_step_that_fails_ends_it(tmp_path: Path) -> None:
    todo = [step("bad", "raise SystemExit(3)"), step("never", "")]
    with pytest.raises(HarnessError, match="'bad' failed with status 3"):
        go(todo, tmp_path, "v", None, lambda text: None)
    assert not (tmp_path / "never").exists()


def test_the_steps_are_commands_that_there_are(command: Command, monkeypatch: Any) -> None:
    """Each would be understood on a machine with a GPU."""
    from harness.experiment.compose import compose
    from harness.experiment.recipe import make_recipe

    names = []
    for each in gpu.steps("results/runs"):
        names.append(each.name)
        if each.command[:2] != ("-m", "harness"):
            assert each.command[:3] == ("-m", "pytest", "-m") and "gpu" in each.command[3]
            continue
        words = list(each.command[2:])
        if words[0] == "run":
            make_recipe(compose([word for word in words[1:] if "=" in word]))
        elif words[0] == "bench":
            monkeypatch.setattr(
                "harness.benchmarks.command._measure", lambda *a, **k: names.append("ok")
            )
            assert command(*words).status == 0
    assert names.count("ok") == 4 and "MSKD as published" in names


@pytest.mark.skipif(torch.cuda.is_available(), reason="would begin")
def test_without_a_gpu_it_says_so(command: Command) -> None:
    answer = command("bench", "gpu")
    assert answer.status == 2 and "no GPU" in answer.err
