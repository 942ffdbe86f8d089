"""Equality of two runs, bit for bit."""

from __future__ import annotations

import numpy as np
import torch

from harness.results.store import Run


def weights(run: Run) -> dict[str, torch.Tensor]:
    """All weights of a run, by stage and name."""
    return {
        f"{path.stem}/{key}": value
        for path in sorted(run.folder.glob("*.pt"))
        for key, value in torch.load(path, weights_only=True).items()
    }


def assert_same(one: Run, other: Run) -> None:
    """Compare metrics, per-query results, history (except times) and weights."""
    assert one.record["stages"].keys() == other.record["stages"].keys()
    assert one.record["metrics"] == other.record["metrics"]
    for name, stage in one.record["stages"].items():
        assert stage["metrics"] == other.record["stages"][name]["metrics"]
    with (
        np.load(one.folder / "per_query.npz") as a,
        np.load(other.folder / "per_query.npz") as b,
    ):
        assert a.files == b.files
        for key in a.files:
            np.testing.assert_array_equal(a[key], b[key])
    timed = ("second", "cpu_share")
    histories = [
        [{k: v for k, v in row.items() if not any(t in k for t in timed)} for row in run.history()]
        for run in (one, other)
    ]
    assert histories[0] == histories[1]
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys() and a
    for key, value in a.items():
        assert torch.equal(value, b[key]), key
