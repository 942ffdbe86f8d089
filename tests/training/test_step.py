"""Batches that do not fit into memory are split, with equal results."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import pytest
import torch
from torch import Tensor

from harness.components.backbones import set_samples_per_bn, small
from harness.components.backbones.reid_net import ReIDNet
from harness.core import errors
from harness.core.errors import ConfigError, TrainingError
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.training.micro_batches import MicroBatches
from tests.experiment.distributed_runs import (
    CELLS,
    GROUPS,
    assert_alike,
    assert_states_alike,
    run_whole,
)
from tests.tiny import tiny, tiny_config


def _little_memory(patch: pytest.MonkeyPatch, images: int, when: str) -> list[int]:
    """Limit training to so many images at once; returns the list of trained micro-batch sizes."""
    forward, sizes = ReIDNet.forward, []

    def limited(self: ReIDNet, batch: Tensor) -> Tensor:
        embeddings = forward(self, batch)  # running statistics have moved when memory ends
        if self.training:
            sizes.append(len(batch))
            if len(batch) > images and when == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
            if len(batch) > images and embeddings.requires_grad:
                embeddings.register_hook(_out_of_memory)
        return embeddings

    patch.setattr(ReIDNet, "forward", limited)
    return sizes


def _out_of_memory(_: Tensor) -> NoReturn:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")


SOONER = ("mskd", "ice", "pplr", "cap", "spcl")  # the others in the slow tests


@pytest.mark.parametrize(
    "cell", [c if c in SOONER else pytest.param(c, marks=pytest.mark.slow) for c in CELLS]
)
def test_out_of_memory_splits_batches(
    cell: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Memory runs out in the middle of a step, and the step is repeated in micro-batches."""
    when = "backward" if cell in ("mskd", "ice") else "forward"
    whole, expected = run_whole(tmp_path / "whole", CELLS[cell])
    errors._noticed.clear()
    with monkeypatch.context() as patch:
        sizes = _little_memory(patch, 4 if cell == "mskd" else 8, when)
        split, state = run_whole(tmp_path / "split", CELLS[cell])
    assert max(sizes) == 16 and {4 if cell == "mskd" else 8} <= set(sizes)
    assert_alike(whole, split)
    assert state.keys() == expected.keys()
    for stage, tensors in expected.items():
        assert_states_alike(tensors, state[stage])
    said = [line for line in capsys.readouterr().err.splitlines() if "short of memory" in line]
    assert len(said) == len(set(said)) == (2 if cell == "mskd" else 1), "said once a size"


@pytest.mark.slow
@pytest.mark.parametrize("size", [4, 8, 12])  # 12 leaves a rest of 4
@pytest.mark.parametrize("cell", CELLS)
def test_micro_batches_of_a_given_size(cell: str, size: int, tmp_path: Path) -> None:
    settings = (*CELLS[cell], "train.epochs=1")
    whole, expected = run_whole(tmp_path / "whole", settings)
    split, state = run_whole(tmp_path / "split", (*settings, f"train.micro_batch={size}"))
    assert_alike(whole, split)
    for stage, tensors in expected.items():
        assert_states_alike(tensors, state[stage])


def test_micro_batches_are_recomputed_for_their_gradients() -> None:
    """Against the whole batch in double precision, statistics and gradients exactly."""
    torch.manual_seed(0)
    images, weight = torch.randn(12, 3, 16, 8).double(), torch.randn(12, 2, 8).double()
    results = {}
    for size in (0, 4):
        torch.manual_seed(1)
        network = small(widths=(4, 8), strides=(1, 2), views=("global", "upper")).double()
        set_samples_per_bn(network, 4)
        seen: list[Tensor] = []
        network.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0]))
        embeddings = MicroBatches(size).embed(network, images)
        loss = (embeddings * weight).sum().square()  # of all at once, not a sum over images
        loss.backward()
        assert [len(piece) for piece in seen] == ([4] * 6 if size else [12])
        results[size] = (
            embeddings.detach(),
            [p.grad for p in network.parameters() if p.grad is not None],
            network.state_dict(),
        )
    torch.testing.assert_close(results[4], results[0], rtol=1e-9, atol=1e-12)
    tracked = [v for k, v in results[4][2].items() if k.endswith("num_batches_tracked")]
    assert {int(count) for count in tracked} == {1}


def test_without_gradients_micro_batches_are_computed_once() -> None:
    network = small(widths=(4,), strides=(1,))
    set_samples_per_bn(network, 4)
    sizes: list[int] = []
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with torch.no_grad():
        MicroBatches(4).embed(network, torch.randn(12, 3, 16, 8))
    assert sizes == [4, 4, 4]


def test_calling_a_network_never_splits_its_batch() -> None:
    """Splitting is explicit, in `MicroBatches.embed` alone: no state outside changes a call."""
    network = small(widths=(4,), strides=(1,)).eval()
    images, sizes = torch.randn(6, 3, 16, 8), list[int]()
    network.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    whole = network(images)
    assert torch.allclose(MicroBatches(2).embed(network, images), whole, atol=1e-6)
    assert torch.equal(network(images), whole)
    assert sizes == [6, 2, 2, 2, 6]


@pytest.mark.parametrize(
    ("settings", "images", "hint"),
    [
        ((GROUPS,), 3, "torchrun"),  # a group has to be computed at once
        (("batch.samples_per_bn=0",), 8, "batch.samples_per_bn"),
        ((GROUPS, "train.micro_batch=8"), 4, "train.micro_batch=4"),
    ],
)
def test_the_smallest_micro_batch_that_does_not_fit_raises_with_a_hint(
    settings: tuple[str, ...],
    images: int,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _little_memory(monkeypatch, images, "forward")
    with pytest.raises(TrainingError, match="does not hold") as problem:
        run_experiment(tiny_config(tmp_path, "method=cluster_contrast", *settings))
    assert hint in problem.value.hint


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ((GROUPS, "train.micro_batch=6"), "splits batch-norm groups of 4"),
        (("train.micro_batch=8",), "over the whole batch of 16"),
        (("train.micro_batch=0",), "micro_batch ≥ 1"),
        (("train.micro_batch=many",), "or auto"),
    ],
)
def test_refused_when_composed(settings: tuple[str, ...], reason: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        make_recipe(compose(tiny(tmp_path, "method=cluster_contrast", *settings)))


def test_micro_batches_are_no_setting_of_the_experiment(tmp_path: Path) -> None:
    """Nor of a stage: they do not change the name, the card or the stored configuration."""
    from harness.experiment.plan import make_plan

    plain, cut, staged = (
        tiny_config(tmp_path, "method=cluster_contrast", GROUPS, *changes)
        for changes in ((), ("train.micro_batch=4",), ("stages.train.train.micro_batch=4",))
    )
    for config in (cut, staged):
        assert make_plan(config, "fp32").name == make_plan(plain, "fp32").name
        assert make_plan(config, "fp32").card == make_plan(plain, "fp32").card
    assert make_plan(cut, "fp32").settings == make_plan(plain, "fp32").settings
