"""Features as somebody might bring them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.paths import ROOT


def people(count: int, each: int, dim: int = 16, spread: float = 0.1, seed: int = 0) -> np.ndarray:
    """Unit rows (count · each, D) float32, person after person."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, dim)).repeat(each, axis=0)
    rows += spread * rng.normal(size=rows.shape)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def write_test_set(folder: Path, spread: float = 0.9, seed: int = 0) -> dict[str, np.ndarray]:
    """q.npz and g.npz of 10 people in `folder`, with cams and names; all arrays as q_… and g_…."""
    rng = np.random.default_rng(seed)
    features = people(10, 8, spread=spread, seed=seed)
    ids, cams = np.arange(10).repeat(8), rng.integers(0, 3, 80)
    names = np.array([f"{i}.jpg" for i in range(80)])
    every = np.arange(80)
    arrays: dict[str, np.ndarray] = {}
    for side, rows in (("q", every % 8 == 0), ("g", every % 8 != 0)):
        one = {
            "features": features[rows], "ids": ids[rows], "cams": cams[rows], "names": names[rows]
        }  # fmt: skip
        np.savez(folder / f"{side}.npz", **one)
        arrays |= {f"{side}_{key}": value for key, value in one.items()}
    return arrays


#: what a start must not wait for
SLOW = ("torchvision", "hydra", "pandas", "optuna", "sklearn")


def slow_imports(folder: Path, *arguments: str) -> set[str]:
    """Which of SLOW a process has imported once it has run a command."""
    code = (
        "import sys\nfrom harness.cli.main import main\nmain(sys.argv[1:])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HARNESS")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=kept | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    modules = set(done.stderr.splitlines()[-1].split())
    assert "harness.cli.main" in modules
    return modules & set(SLOW)
