"""Curves of one run: panels, ticks, odd histories."""

from __future__ import annotations

import json
from pathlib import Path

from harness.results.figures.curves import curves
from harness.results.store import Run
from tests.conftest import Command
from tests.results.records import record, write


def test_curves_of_odd_histories(tmp_path: Path, command: Command) -> None:
    folder = write(tmp_path / "results" / "runs", "floor", record("direct_transfer", initial=3.0))
    answer = command("show", "floor", "curves")
    assert answer.status == 2 and "no epochs" in answer.err
    rows = [{"stage": "train", "epoch": e, "loss": 2.0 - e, "clusters": None} for e in range(2)]
    (folder / "history.json").write_text(json.dumps(rows))
    picture = curves(Run(folder))
    shown = [axes.get_title(loc="left") for axes in picture.axes if axes.axison]
    assert shown == ["Training loss"]


def test_throughput_names_other_work_and_a_chart_of_zeros_is_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path, "busy", record("supervised", train=3.0))
    rows = [
        {"stage": "train", "epoch": epoch, "clusters": 9, "outliers": 0, "images_per_second": 50.0,
         "cpu_share": share}
        for epoch, share in enumerate((0.97, 0.5))
    ]  # fmt: skip
    (folder / "history.json").write_text(json.dumps(rows))
    shown = [axes.get_title(loc="left") for axes in curves(Run(folder)).axes if axes.axison]
    assert shown == ["Clusters", "Images/s (other work: 3 to 50 %)"]
    rows[0]["outliers"] = 4
    (folder / "history.json").write_text(json.dumps(rows))
    shown = [axes.get_title(loc="left") for axes in curves(Run(folder)).axes if axes.axison]
    assert "Outliers" in shown


def test_ticks_of_epochs_are_integers(tmp_path: Path) -> None:
    folder = write(tmp_path, "short", record("mskd", student=3.0))
    for epochs, label in ((range(1), "epoch"), (range(-1, 2), "epoch (below 0: warm-up)")):
        rows = [{"stage": "student", "epoch": epoch, "loss": 2.0} for epoch in epochs]
        (folder / "history.json").write_text(json.dumps(rows))
        axes = curves(Run(folder)).axes[0]
        assert axes.get_xlabel() == label
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks == list(epochs)
