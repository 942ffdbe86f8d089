"""The log of a run: what the terminal showed, without colors, and never in a run's way."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from harness.core import errors
from harness.core.errors import TrainingError, say_once
from harness.core.progress import Reporter, epoch_line

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"


def reporter(terminal: bool = True) -> Reporter:
    return Reporter(Console(file=io.StringIO(), force_terminal=terminal, width=40))


@pytest.mark.parametrize(
    ("share", "speed"),
    [(None, "113 images/s"), (0.95, "113 images/s"),
     (0.49, "113 images/s (other work took 51% of the CPU)")],
)  # fmt: skip
def test_a_speed_beside_other_work_is_told_so(share: float | None, speed: str) -> None:
    row = {"stage": "train", "epoch": 3, "images_per_second": 112.6, "mAP": 28.41}
    row |= {} if share is None else {"cpu_share": share}
    assert epoch_line(row) == f"train   3  {speed}  mAP 28.4"


def test_the_log_holds_lines_notices_and_the_error(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    line = "a long line that a terminal of forty columns would break [into] two, é \udcff"
    with pytest.raises(TrainingError), reporter(terminal=True) as shown:
        shown.say("before the log")
        shown.log_to(path)
        shown.say(line)
        shown.phase("a bar that leaves no line")(1, 2)
        say_once(f"a notice of {tmp_path}")
        raise TrainingError("no clusters", "Raise labeler.eps.")
    first, *others = path.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(TIME, first)
    assert others == [
        line.replace("\udcff", "\\udcff"), f"note: a notice of {tmp_path}",
        "error: no clusters", "  Raise labeler.eps.",
    ]  # fmt: skip
    assert not errors.listeners


@pytest.mark.parametrize(
    ("error", "last"), [(KeyboardInterrupt(), "Stopped"), (ValueError("odd"), "ValueError: odd")]
)
def test_how_a_run_ended_is_in_its_log(error: BaseException, last: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), reporter() as shown:
        shown.log_to(tmp_path / "log.txt")
        raise error
    assert last in (tmp_path / "log.txt").read_text().splitlines()[-1]


def test_a_log_is_continued(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with reporter() as shown:
            shown.log_to(tmp_path / "log.txt")
            shown.say(text)
    assert re.fullmatch(f"{TIME}\none\n{TIME}\ntwo\n", (tmp_path / "log.txt").read_text())


@pytest.mark.parametrize("path", ["/dev/full", "missing/log.txt", "."])
def test_a_log_that_cannot_be_written_stops_nothing(path: str, tmp_path: Path) -> None:
    if path == "/dev/full" and not Path(path).exists():
        pytest.skip("no /dev/full here")
    with reporter() as shown:
        shown.log_to(tmp_path / path)
        shown.say("a line")
    assert isinstance(shown.console.file, io.StringIO)
    assert "a line" in shown.console.file.getvalue()
