"""Measured figures as files (`results/bench/WHAT-DEVICE.json`), and the table that shows them."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from harness.core.environment import commit, cpu_name, device_name
from harness.core.errors import DataError, HarnessError
from harness.core.files import make_folder, write_json, write_text

FOLDER = Path("results/bench")
#: between these lines of a page the table stands
BEGIN, END = "<!-- figures: harness bench page --output -->", "<!-- end of figures -->"


def machine(device: torch.device) -> dict[str, Any]:
    """What figures were measured on, and when."""
    return {
        "device": device_name(device) if device.type == "cuda" else cpu_name(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def file_name(figures: Mapping[str, Any]) -> str:
    """`train-nvidia-h200.json`."""
    device = re.sub(r"[^a-z0-9]+", "-", str(figures["machine"]["device"]).lower()).strip("-")
    return f"{figures['what']}-{device}.json"


def save(figures: Mapping[str, Any], output: str) -> Path:
    """Write figures to a file, or into a folder under their own name."""
    path = Path(output).expanduser()
    if path.suffix != ".json":
        path = path / file_name(figures)
    make_folder(path.parent)
    write_json(path, figures)
    return path


def load(folder: Path = FOLDER) -> list[dict[str, Any]]:
    """All figures of a folder, by file name.

    Raises:
        DataError: a file that cannot be read.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}).", "Measure it again.") from error
    return found


def table(figures: Iterable[Mapping[str, Any]]) -> str:
    """Markdown: one line a file, and below what has to be known of the machines."""
    lines = [
        "| what | machine | setting | images/s | plain pipeline | ratio | by work of cores | "
        "waiting for data |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    notes = []
    for each in figures:
        m, ours = each["machine"], each["harness"]
        text = f"{m['device']}, {m['date']}"
        if each.get("note"):
            notes.append(f"{each['what']}: {each['note']}")
        lines.append(
            f"| {each['what']} | {text} | {_setting(each)} | {_number(ours['images_per_second'])} |"
            f" {_plain(each)} | {_ratio(each, 'ratio')} | {_ratio(each, 'ratio_per_core')} |"
            f" {_waiting(each)} |"
        )
    return "\n".join([*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])])


def _setting(figures: Mapping[str, Any]) -> str:
    s = figures["setting"]
    told = f"{s['input']}, batches of {s['batch']}"
    if figures["what"] != "augment":
        told = f"{s['backbone']}, {len(s['views'])} views, {told}, {s['precision']}"
        told += "" if s["compile"] == "off" else f", compiled ({s['compile']})"
    return f"{told}, image_cache: {s['image_cache']}, {s['dataset']}"


def _plain(figures: Mapping[str, Any]) -> str:
    plain = figures.get("reference")
    if plain is None:
        return "–"
    workers = plain["workers"]
    several = "" if workers == 1 else "s"
    return f"{_number(plain['images_per_second'])} ({workers} worker{several})"


def _ratio(figures: Mapping[str, Any], key: str) -> str:
    return f"{figures[key]:.1f} ×" if key in figures else "–"


def _waiting(figures: Mapping[str, Any]) -> str:
    return f"{100 * figures['harness']['waiting']:.2f} %" if figures["what"] == "train" else "–"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two lines of a page.

    Raises:
        HarnessError: the page has no such lines.
    """
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise HarnessError(f"{page} has no lines '{BEGIN}' and '{END}'.")
    write_text(page, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
