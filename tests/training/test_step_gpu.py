"""Real out-of-memory errors, and NCCL: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from harness.core import errors
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.core.distributed.together import the_run, together
from tests.experiment.distributed_runs import CELLS
from tests.tiny import tiny_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
#: large enough for activations to be most of the memory
LARGE = (
    "batch.identities=4", "batch.images=32", "batch.samples_per_bn=16", "images.height=256",
    "images.width=128", "backbone.widths=[32,64]", "backbone.weights=none", "train.epochs=1",
)  # fmt: skip


def _on_gpu(folder: Path, *overrides: str) -> Run:
    config = tiny_config(folder, *overrides)
    config.device = "cuda"
    return run_experiment(config)


def _assert_close(one: Run, other: Run) -> None:
    """Equal up to the order of sums."""
    for ours, theirs in zip(one.history(), other.history(), strict=True):
        assert ours["clusters"] == theirs["clusters"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


@pytest.mark.parametrize("method", ["cluster_contrast", "mmt"])
def test_a_gpu_with_too_little_memory(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (f"method={method}", *LARGE)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    whole = _on_gpu(tmp_path / "whole", *settings)
    peak = torch.cuda.max_memory_reserved()
    errors._noticed.clear()
    torch.cuda.empty_cache()
    try:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(0.6 * peak / total)
        small = _on_gpu(tmp_path / "small", *settings)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "short of memory" in capsys.readouterr().err
    _assert_close(whole, small)


def _cells_by_nccl(folder: Path) -> None:
    for name in ("mskd", "mmt", "cap"):
        _on_gpu(folder / name, *CELLS[name])
    _on_gpu(folder / "whole batch", "method=ice", "train.epochs=1")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_result_of_one(tmp_path: Path) -> None:
    together(2, _cells_by_nccl, tmp_path / "two")
    _cells_by_nccl(tmp_path / "one")
    for folder in (tmp_path / "one").iterdir():
        one, two = the_run(folder), the_run(tmp_path / "two" / folder.name)
        assert two.record["processes"] == [2] and one.name == two.name
        _assert_close(one, two)
