"""The style of figures, and writing them to files."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

from harness.core.files import write_atomically
from harness.results.palette import FAINT, INK, LIGHT, LINE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")
FORMATS = ("png", "svg", "pdf")
#: markers; with eight colors they distinguish 48 series
MARKS = ("o", "s", "^", "D", "v", "P")
SETTINGS: Any = {  # matplotlib has a type for each key
    "font.size": 8, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.edgecolor": FAINT, "axes.linewidth": 0.6, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": LINE,
    "grid.linewidth": 0.5, "xtick.color": FAINT, "ytick.color": FAINT, "text.color": INK,
    "lines.linewidth": 1.4, "savefig.dpi": 160, "svg.hashsalt": "harness", "svg.fonttype": "none",
    "pdf.fonttype": 42,  # embed text as text, as journals require
}  # fmt: skip


def drawn(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Decorate a function that draws, so that it uses the common style."""

    @wraps(draw)
    def styled(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Figure:
        from matplotlib import rc_context

        with rc_context(SETTINGS):
            return draw(*args, **kwargs)

    return styled


def figure(width: float, height: float) -> Figure:
    """An empty figure of a size in inches; it needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made


def fill(picture: Figure, top: float, **options: float) -> None:
    """Let the panels fill a figure below a heading of `top` inches."""
    high = 1 - top / picture.get_figheight()
    picture.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=high, **options)


def heading(picture: Figure, text: str, left: float = 0.01) -> None:
    """Write a heading in the upper left."""
    top = 1 - 0.04 / picture.get_figheight()
    picture.suptitle(text, x=left, y=top, ha="left", va="top", fontsize=8)


def style(place: int) -> dict[str, Any]:
    """Color and marker of the n-th series."""
    row, column = divmod(place, len(LIGHT))
    return {"color": LIGHT[column], "marker": MARKS[row % len(MARKS)]}


def save(picture: Figure, path: Path) -> Path:
    """Write a figure atomically, in the format of the file's suffix."""
    from matplotlib import rc_context

    kind = path.suffix[1:]
    kinds: dict[str, dict[str, Any]] = {
        "png": {"pil_kwargs": {"optimize": True}},
        "svg": {"metadata": {"Date": None}},  # the same figure gives the same file
        "pdf": {"metadata": {"CreationDate": None}},
    }
    buffer = io.BytesIO()
    with rc_context(SETTINGS):
        picture.savefig(buffer, format=kind, bbox_inches="tight", pad_inches=0.08, **kinds[kind])
    write_atomically(path, lambda file: file.write(buffer.getvalue()))
    return path
