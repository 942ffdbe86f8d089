"""Commands that only read records start without the libraries that train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.results.records import record, write

HEAVY = ("torch", "sklearn", "hydra", "numba", "matplotlib")
COMMAND = """
import sys
from harness.cli.main import main
main(sys.argv[2:])
print("imported:", *(name for name in sys.argv[1].split(",") if name in sys.modules))
"""


@pytest.mark.parametrize(
    "words",
    [("table",), ("table", "--by-dataset", "--format", "latex"), ("table", "--cross"),
     ("report", "--output", "report.html"), ("list", "runs"), ("diff", "mskd-0", "mskd-1")],
    ids=" ".join,
)  # fmt: skip
def test_commands_that_read_records_do_without_torch(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    for method in ("mskd", "cluster_contrast"):
        for seed in range(2):
            write(tmp_path / "runs", f"{method}-{seed}", record(method, seed, settings=str(seed)))
    command = [sys.executable, "-c", COMMAND, ",".join(HEAVY), *words, "--store", "runs"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "imported:"
