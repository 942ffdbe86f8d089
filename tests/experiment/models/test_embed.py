"""`harness embed`: what the file holds, and that an interruption loses and mixes nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from harness.core.errors import DataError, HarnessError
from harness.evaluation import kept_features
from harness.experiment.models import embed as embedding
from harness.experiment.models import model as models
from harness.experiment.models.embed import embed_to_file
from harness.experiment.models.inputs import find_images
from harness.experiment.models.load import load_model
from harness.experiment.models.model import Model
from harness.results.store import Run
from tests.conftest import Command


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of eight images, so that 32 are several."""
    monkeypatch.setattr(models, "CHUNK", 8)


def arrays_of(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as content:
        return {key: content[key] for key in content.files}


def test_command_equals_the_test_of_the_run(
    command: Command, run: Run, people: Path, tmp_path: Path
) -> None:
    """Kept features, in the order of the data set, and their score is that of the record."""
    kept = kept_features.load(run.folder, "train")
    assert kept is not None
    for split, features in (("query", kept.query), ("gallery", kept.gallery)):
        words = [str(people / "list.csv"), "--split", split, "--out", f"{split}.npz"]
        answer = command("embed", str(run.folder), *words, "--device", "cpu", "--threads", "1")
        assert answer.status == 0, answer.err
        found = arrays_of(tmp_path / f"{split}.npz")
        assert set(found) == {"features", "names", "ids", "cams"}
        assert found["features"].dtype == np.float32
        np.testing.assert_allclose(found["features"], features.numpy(), atol=1e-3)
        assert f"{len(features)} × 8" in answer.out and "32×16 pixels" in answer.err
    assert found["names"].tolist()[:2] == ["4_1.png", "4_2.png"]
    assert found["ids"].tolist()[:4] == [5, 5, 5, 6] and found["cams"].tolist()[:2] == [1, 2]
    answer = command("score", "query.npz", "gallery.npz")
    assert f"mAP {run.record['metrics']['mAP']:.1f} " in answer.out
    again = command("embed", str(run.folder), str(people), "--out", "query.npz")
    assert again.status == 2 and "query.npz exists" in again.err
    words = ["--out", "all.npz", "--views", "all", "--precision", "bf16", "--batch", "5"]
    assert command("embed", str(run.folder), str(people), *words).status == 0
    answer = command("label", "all.npz", "--out", "labels.npy", "labeler.k1=4", "labeler.k2=1")
    assert answer.status == 0 and "32 images, 2 views of 8" in answer.out, answer


@pytest.mark.usefixtures("chunks")
def test_it_continues_where_it_stopped(
    model: Model, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = find_images([people])
    whole, stopped = tmp_path / "whole.npz", tmp_path / "stopped.npz"
    embed_to_file(model, images, whole, batch=4)
    assert [path.name for path in tmp_path.glob("whole*")] == ["whole.npz"]
    extract, calls = Model.extract, []

    def counted(self: Model, *arguments: Any) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return extract(self, *arguments)

    monkeypatch.setattr(Model, "extract", counted)
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(model, images, stopped, batch=4)
    assert not stopped.exists()
    first, second = sorted((tmp_path / "stopped.npz.part").glob("*.npz"))
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1  # a flipped bit: this chunk is computed again
    second.write_bytes(content)
    done = embed_to_file(model, images, stopped, batch=4)
    assert done.continued == 8 and len(calls) == 6
    assert arrays_of(stopped).keys() == {"features", "names"}
    for key, values in arrays_of(whole).items():
        np.testing.assert_array_equal(arrays_of(stopped)[key], values)
    assert not first.parent.exists()


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("change", ["model", "precision", "images", "order", "views"])
def test_chunks_of_another_job_are_not_used(
    model: Model, run: Run, people: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:  # fmt: skip
    copies = tmp_path / "images"
    copies.mkdir()
    for path in people.glob("[0-5]*.png"):
        (copies / path.name).write_bytes(path.read_bytes())
    paths = sorted(copies.glob("*.png"))
    target = tmp_path / "f.npz"
    monkeypatch.setattr(embedding, "_write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        embed_to_file(model, find_images(paths), target)
    monkeypatch.undo()
    other, options = model, {}
    if change == "model":
        other = Model(model.network, model.description, "0" * 32, model.device, "fp32")
    elif change == "precision":
        other = load_model(run.folder, device="cpu", precision="bf16")
    elif change == "images":
        Image.new("RGB", (16, 32), "red").save(paths[0])
        os.utime(paths[0], (time.time() + 5,) * 2)
    elif change == "order":
        paths.reverse()
    else:
        options = {"views": "all"}
    done = embed_to_file(other, find_images(paths), target, **options)  # type: ignore[arg-type]
    assert done.continued == 0
    fresh = other.embed(paths, **options)  # type: ignore[arg-type]
    np.testing.assert_allclose(arrays_of(target)["features"], fresh, atol=1e-6)


def test_a_list_with_duplicates(model: Model, people: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("3_0.png\n1_1.png\n3_0.png\n")
    embed_to_file(model, find_images([path], root=people), tmp_path / "f.npz")
    found = arrays_of(tmp_path / "f.npz")
    assert found["names"].tolist() == ["3_0.png", "1_1.png", "3_0.png"]
    np.testing.assert_array_equal(found["features"][0], found["features"][2])


def test_damaged_images(
    command: Command, model: Model, run: Run, people: Path, tmp_path: Path
) -> None:
    """All are named before the network runs where their first bytes show it."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "c.png", "d.png"):
        (folder / name).write_bytes((people / "0_0.png").read_bytes())
    (folder / "b.jpg").write_text("no image")
    (folder / "e.jpg").touch()
    answer = command("embed", str(run.folder), str(folder), "--out", "f.npz")
    assert answer.status == 2 and not (tmp_path / "f.npz.part").exists()
    assert "2 of 5 images cannot be decoded: b.jpg, e.jpg" in answer.err
    assert "--on-bad-image skip" in answer.err and "Traceback" not in answer.err
    content = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(content[: len(content) // 2])  # truncated
    words = ["--out", "f.npz", "--on-bad-image", "skip"]
    answer = command("embed", str(run.folder), str(folder), *words)
    assert answer.status == 0 and "left out: 3 images" in answer.err
    assert arrays_of(tmp_path / "f.npz")["names"].tolist() == ["a.png", "d.png"]
    (folder / "b.jpg").unlink()
    (folder / "e.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images cannot be decoded: c\.png"):
        embed_to_file(model, find_images([folder]), tmp_path / "g.npz")
    with pytest.raises(DataError, match="None of the 1 images"):
        truncated = find_images([folder / "c.png"])
        embed_to_file(model, truncated, tmp_path / "g.npz", on_bad_image="skip")


def test_two_at_once(model: Model, people: Path, tmp_path: Path) -> None:
    (tmp_path / "f.npz.part").mkdir()
    with (
        FileLock(tmp_path / "f.npz.part" / ".lock"),
        pytest.raises(HarnessError, match="Another process writes"),
    ):
        embed_to_file(model, find_images([people]), tmp_path / "f.npz")


def test_slips(command: Command, run: Run, people: Path) -> None:
    cases = {
        f"{run.folder} --out f.npz": "required: images",
        f"{run.folder} {people}": "required: --out",
        f"{run.folder} {people} --out f.npy": "does not end in .npz",
        f"{run.folder} {people}/nowhere --out f.npz": "no file or folder",
        f"nothing {people} --out f.npz": "There is no run 'nothing'",
        f"{run.folder} {people} --out f.npz --batch 0": "A batch of 0",
        f"{run.folder} {people} --out f.npz --stage x": "no stage 'x'",
        f"{run.folder} {people} --out f.npz --device cdua": "--device cdua",
        f"{run.folder} {people} --out f.npz --precision fp16 --device cpu": "needs a GPU",
    }
    for words, message in cases.items():
        answer = command("embed", *words.split())
        assert answer.status == 2 and message in answer.err, (words, answer)
        assert "\n  " in answer.err and "Traceback" not in answer.err
