"""Curves of one run over epochs: accuracy, loss, clusters and their quality, throughput."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.core.errors import ConfigError
from harness.results.figures.style import drawn, figure, heading, style
from harness.results.palette import FAINT
from harness.results.schema import is_number
from harness.results.store import Run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: title → keys of the history, and their names in the legend
PANELS: dict[str, dict[str, str]] = {
    "Accuracy on the test set, %": {"mAP": "mAP", "rank1": "Rank-1"},
    "Training loss": {"loss": ""},
    "Clusters": {"clusters": ""},
    "Outliers": {"outliers": ""},
    "Clusters against identities": {"ari": "ARI", "nmi": "NMI"},
    "Images/s": {"images_per_second": ""},
}
DASHES = ("-", "--", ":", "-.")


@drawn
def curves(run: Run) -> Figure:
    """A panel for each quantity, a color for each stage, a line style for each measure.

    Raises:
        ConfigError: the run has no epochs. HarnessError: its history is damaged.
    """
    from matplotlib.ticker import MaxNLocator

    history = run.history()
    if not history:
        cause, hint = f"{run.name} has no epochs to draw.", "Methods without training have none."
        raise ConfigError(cause, hint)
    stages = list(dict.fromkeys(str(row["stage"]) for row in history))
    known = {key for row in history for key, value in row.items() if is_number(value)}
    shown = {title: keys for title, keys in PANELS.items() if known & keys.keys()}
    if not any(row.get("outliers") for row in history):
        shown.pop("Outliers", None)
    epochs = [row["epoch"] for row in history]
    xlabel = "epoch (below 0: warm-up)" if min(epochs) < 0 else "epoch"
    lines = -(-len(shown) // 3)
    picture = figure(9.0, 2.5 * lines + 0.4)
    grid = picture.subplots(lines, 3, squeeze=False, gridspec_kw={"hspace": 0.55, "wspace": 0.22})
    panels = [axes for line in grid for axes in line]
    for axes, (title, keys) in zip(panels, shown.items(), strict=False):
        axes.set_title(title + (_other_work(history) if title == "Images/s" else ""))
        axes.set_xlabel(xlabel, color=FAINT)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for place, stage in enumerate(stages):
            rows = [row for row in history if row["stage"] == stage]
            for dash, (key, name) in zip(DASHES, keys.items(), strict=False):
                label = " ".join([stage if len(stages) > 1 else "", name]).strip() or None
                points = [(row["epoch"], row[key]) for row in rows if is_number(row.get(key))]
                if points:
                    x, y = zip(*points, strict=True)
                    axes.plot(x, y, linestyle=dash, markersize=3, label=label, **style(place))
        counts = {row["identities"] for row in history if row.get("identities")}
        if title == "Clusters" and len(counts) == 1:
            axes.axhline(*counts, color=FAINT, linewidth=0.9, linestyle=":", label="identities")
        if axes.get_legend_handles_labels()[1]:
            axes.legend(fontsize=6.5, frameon=False, handlelength=2.6)
        axes.set_ylim(bottom=0, top=1 if "against" in title else None)
        axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    heading(picture, run.name, left=0.04)
    picture.subplots_adjust(left=0.04, right=0.99, top=1 - 0.5 / picture.get_figheight())
    return picture


def _other_work(history: Sequence[Mapping[str, Any]]) -> str:
    """The share of the CPU that other work took during the run, for a title."""
    shares = [100 - 100 * row["cpu_share"] for row in history if is_number(row.get("cpu_share"))]
    if not shares:
        return ""
    low, high = f"{min(shares):.0f}", f"{max(shares):.0f}"
    return f" (other work: {low} %)" if low == high else f" (other work: {low} to {high} %)"
