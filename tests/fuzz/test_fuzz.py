"""Whatever a command is given, it ends with a result or with an error that says what is wrong.

By default a few hundred cases from a fixed seed. `-m slow` runs thousands from a fresh seed, which
is printed; `FUZZ_SEED=SEED` repeats it, `FUZZ_CASES=TARGET:N` a single case, and `FUZZ_COUNT=N`
sets the number of cases of each target.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path

import pytest

from harness.experiment.run import run_experiment
from harness.experiment.run_files import RunFiles
from tests.fuzz.generate import TARGETS, Runs, cases
from tests.fuzz.invariant import violations
from tests.tiny import TINY, tiny_config

#: cases of each target by default: about a minute in all
COUNTS = {"overrides": 15, "tables_of_images": 12, "folders_of_images": 4, "archives": 25,
          "arrays": 30, "stores": 20, "checkpoints": 8, "networks": 12,
          "exported_files": 20}  # fmt: skip
#: times as many with `-m slow`
LONG = 16


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A finished run with features, and one that was stopped while its student trained."""
    folder = tmp_path_factory.mktemp("runs")
    finished = ("method=cluster_contrast", *TINY, "evaluation.keep_features=true")
    stopped = ("method=mskd", *TINY)
    run_experiment(tiny_config(folder, finished[0], finished[-1]))
    save, calls = RunFiles.save_checkpoint, []

    def stop(*arguments: object) -> None:
        save(*arguments)  # type: ignore[arg-type]
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFiles, "save_checkpoint", stop)
        run_experiment(tiny_config(folder, *stopped[:1]))
    return Runs(folder, finished, stopped)


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder, and what they change of the process is changed back."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("sys.argv", ["harness"])
    for name in ("HARNESS_PLUGINS", "HYDRA_FULL_ERROR", "HARNESS_DATA", "HARNESS_SEARCHES",
                 "HARNESS_ZOO"):  # fmt: skip
        monkeypatch.setenv(name, "")


def fuzz(target: str, runs: Runs, folder: Path, seed: int, count: int) -> None:
    """Run the cases of a target, and fail with all that break the rules."""
    only, _, number = os.environ.get("FUZZ_CASES", "").partition(":")
    if only not in ("", target):
        pytest.skip(f"FUZZ_CASES={only}:{number}")
    numbers = [int(number)] if number else range(count)
    found: list[str] = []
    start = time.perf_counter()
    for number_, draw in cases(target, seed, numbers):
        place = folder / f"{target}-{number_}"
        place.mkdir()
        broken = violations(TARGETS[target](draw, place, runs), place)
        found += [f"FUZZ_SEED={seed} FUZZ_CASES={target}:{number_}\n{text}" for text in broken]
        shutil.rmtree(place)
    here = list((folder / "here").iterdir())
    took = time.perf_counter() - start
    print(f"{target}: {len(numbers)} cases, seed {seed}, {len(found)} at fault, {took:.0f} s")
    assert not found, "\n\n".join(found)
    assert not here, f"{here}: made in the current folder"


@pytest.mark.parametrize("target", TARGETS)
def test_no_case_ends_in_a_traceback(target: str, runs: Runs, tmp_path: Path) -> None:
    count = int(os.environ.get("FUZZ_COUNT", COUNTS[target]))
    fuzz(target, runs, tmp_path, int(os.environ.get("FUZZ_SEED", 0)), count)


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_case_of_thousands_ends_in_a_traceback(target: str, runs: Runs, tmp_path: Path) -> None:
    count = int(os.environ.get("FUZZ_COUNT", LONG * COUNTS[target]))
    seed = int(os.environ.get("FUZZ_SEED", secrets.randbelow(10**6)))
    fuzz(target, runs, tmp_path, seed, count)
