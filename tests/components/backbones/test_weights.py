"""Initial weights: what fits, what does not, what is said about it, and what must never run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from harness.components.backbones import describe_weights, resnet, small
from harness.components.backbones.weight_layouts import load_trunk
from harness.components.backbones.weights import imagenet_state, read_state
from harness.core.errors import ConfigError, DataError


def trunk() -> nn.Module:
    """Three keys: 0.weight, 0.bias and the counter that may be missing."""
    return nn.Sequential(nn.BatchNorm1d(3))


def saved(path: Path, state: Any) -> Path:
    """A file of weights."""
    torch.save(state, path)
    return path


def full_state(module: nn.Module) -> dict[str, Tensor]:
    """Other values for every key."""
    return {key: torch.full_like(value, 7) for key, value in module.state_dict().items()}


def test_weights_are_loaded_without_the_classifier() -> None:
    module = trunk()
    state = full_state(module) | {"fc.weight": torch.ones(2), "classifier.bias": torch.ones(2)}
    load_trunk(module, state, "x")
    assert all((value == 7).all() for value in module.state_dict().values())


def test_old_files_without_counters_and_in_half_precision_fit() -> None:
    module = trunk()
    state = {k: v.half() for k, v in full_state(module).items() if "num_batches" not in k}
    load_trunk(module, state, "x")
    assert module.state_dict()["0.weight"].dtype == torch.float32
    assert module.state_dict()["0.weight"].tolist() == [7.0] * 3


def test_what_does_not_fit_is_named_and_nothing_is_loaded() -> None:
    module = trunk()
    state = full_state(module)
    del state["0.bias"]
    state["other.bias"] = torch.ones(3)
    state["0.weight"] = torch.ones(4)
    with pytest.raises(DataError) as refusal:
        load_trunk(module, state, "x.pth")
    for words in ("x.pth", "1 missing (0.bias)", "1 unknown (other.bias)",
                  "1 of another shape (0.weight (4,) for (3,))"):  # fmt: skip
        assert words in refusal.value.cause
    assert "harness list backbones" in refusal.value.hint
    assert module.state_dict()["0.running_mean"].tolist() == [0.0] * 3


def test_long_lists_are_cut() -> None:
    with pytest.raises(DataError, match=r"6 unknown \(k0, k1, k2, k3 and 2 more\)"):
        load_trunk(trunk(), {f"k{i}": torch.ones(1) for i in range(6)}, "x")


def test_a_network_of_another_depth(tmp_path: Path) -> None:
    path = saved(tmp_path / "r18.pth", torchvision.models.resnet18(weights=None).state_dict())
    with pytest.raises(DataError, match=r"r18\.pth do not fit.*layer1\.2\.conv1\.weight"):
        resnet("resnet34", weights=str(path))


def test_a_checkpoint_with_a_state_dict_inside(tmp_path: Path) -> None:
    network = small(widths=(4,), strides=(1,))
    state = full_state(network.trunk)
    plain = saved(tmp_path / "a.pth", state)
    wrapped = saved(tmp_path / "b.pth", {"state_dict": state, "epoch": 3})
    for path in (plain, wrapped):
        loaded = small(widths=(4,), strides=(1,), weights=str(path))
        assert all((value == 7).all() for value in loaded.trunk.state_dict().values())


class Bomb:
    """Runs code when it is unpickled by a careless reader."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_no_code_runs_on_loading(tmp_path: Path) -> None:
    mark = tmp_path / "exploded"
    files = [saved(tmp_path / "a.pth", {"w": Bomb(mark)}), tmp_path / "b.pth"]
    files[1].write_bytes(pickle.dumps(Bomb(mark), protocol=2))
    for file in files:
        with pytest.raises(DataError, match="cannot be read as weights") as refusal:
            read_state(file)
        assert "weights_only" not in str(refusal.value), "torch advises to run its code"
        assert not mark.exists()
    pickle.loads(files[1].read_bytes())
    assert mark.exists(), "the bomb would have worked"


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04"])
def test_damaged_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.pth cannot be read"):
        read_state(path)


@pytest.mark.parametrize("content", [torch.ones(3), [1, 2], {"epoch": 3}, {1: torch.ones(1)}])
def test_a_file_of_something_else(tmp_path: Path, content: object) -> None:
    with pytest.raises(DataError, match=r"a\.pth holds no state dict"):
        read_state(saved(tmp_path / "a.pth", content))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        describe_weights(str(tmp_path / "a.pth"))
    with pytest.raises(DataError, match="cannot be read"):
        read_state(tmp_path / "a.pth")


def test_describe_weights_tells_content_and_no_place(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.pth").write_bytes(b"abc")
    first, second = (describe_weights(str(tmp_path / name / "w.pth")) for name in ("a", "b"))
    # SHA-256 of "abc" (FIPS 180-2, appendix B.1)
    assert first == second == "w.pth sha256:ba7816bf8f01cfea"
    assert describe_weights("none") == "none"
    assert describe_weights("imagenet") == "imagenet (torchvision)"


def test_no_internet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(DataError) as refusal:
        imagenet_state("resnet18")
    assert "Name or service not known" in refusal.value.cause
    assert str(tmp_path / "hub" / "checkpoints") in refusal.value.hint
    assert "resnet18-f37072fd.pth" in refusal.value.hint
    assert "backbone.weights=PATH" in refusal.value.hint


def test_small_has_no_imagenet_weights() -> None:
    with pytest.raises(ConfigError, match="no ImageNet weights"):
        small(weights="imagenet")
