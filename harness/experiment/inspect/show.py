"""`harness show RUN`: figures of a finished run, written to its folder."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.components.backbones.pooling import band
from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.files import expanded
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.experiment.evaluate import data_folders
from harness.experiment.inspect.activation_maps import shares as view_shares
from harness.experiment.inspect.embedding import embed
from harness.experiment.inspect.rankings import CHOICES, rankings
from harness.experiment.inspect.trained_stage import TrainedStage
from harness.results.figures import embedding, maps, ranked
from harness.results.figures.curves import curves
from harness.results.figures.style import save
from harness.results.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class FigureOptions:
    """Options of the figures: see `harness show --help`."""

    queries: str = "worst"
    count: int = 8
    top: int = 10
    seed: int = 0
    method: str = "tsne"
    identities: int = 16


def _ranked(stage: TrainedStage, options: FigureOptions) -> Figure:
    found = rankings(stage, options.queries, options.count, options.top, options.seed)
    data, query, gallery = stage.test.data, stage.test.query_cache, stage.test.gallery_cache
    assert query is not None and gallery is not None
    which = options.queries if options.queries in CHOICES else "chosen"
    rule = ", re-ranked" if stage.test.protocol.rerank else ""
    return ranked.draw(
        ranked.Images(query.images, data.query.images.name, data.query.cameras),
        ranked.Images(gallery.images, data.gallery.images.name, data.gallery.cameras),
        found,
        f"{stage.title}: {which} queries{rule}",
    )


def _embedding(stage: TrainedStage, options: FigureOptions) -> Figure:
    found = embed(stage, options.method, options.identities, options.seed)
    labeler = f"; {found.labeler}" if found.labeler else ""
    name = embedding.METHODS[options.method]
    return embedding.draw(found, f"{stage.title}: {name} of training features{labeler}")


def _maps(stage: TrainedStage, options: FigureOptions) -> Figure:
    network = stage.backbone  # refuse missing weights before images are decoded
    source = stage.example_images.images
    count = min(options.count, len(source))
    chosen = np.random.default_rng(options.seed).choice(len(source), count, replace=False)
    images = np.array(source[np.sort(chosen)])
    shares = {view: share.numpy() for view, share in view_shares(network, images).items()}
    rows = {view: band(view, share.shape[1]) for view, share in shares.items()}
    title = (
        f"{stage.title}: where each view’s feature comes from.\n"
        "Bright: a large share of the feature. Pale: outside of the view."
    )
    return maps.draw(images, shares, rows, title)


KINDS: dict[str, Callable[[TrainedStage, FigureOptions], Figure]] = {
    "ranked": _ranked,
    "embedding": _embedding,
    "curves": lambda stage, _: curves(stage.run),
    "maps": _maps,
}


def show_run(
    run: str,
    kinds: Sequence[str] = (),
    stage: str | None = None,
    output: str | None = None,
    style: str = "png",
    options: FigureOptions | None = None,
    store: str = "results/runs",
    data_root: str | None = None,
    cache: str | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> list[Path]:
    """Draw figures, and print the paths of their files.

    Args:
        kinds: of `KINDS`; if empty, all that can be drawn, with the reason for those that cannot.
        output: a folder; by default `figures` in the run's folder. style: png, svg or pdf.
        changes: `dataset.KEY=VALUE`, for data that have moved (records have no paths).

    Raises:
        HarnessError: no such run, kind or stage, weights that were not kept, missing data.
    """
    options = options or FigureOptions()
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"There is no figure '{kind}'.", did_you_mean(kind, KINDS))
    if options.count < 1 or options.top < 1:
        raise ConfigError("--count and --top must be 1 or more.")
    found = Store(Path(store)).find(run)
    folder = expanded(output) if output else found.folder / "figures"
    folders = data_folders(data_root, cache)
    written, refused = [], []
    with Reporter() as reporter:
        trained = TrainedStage(found, stage, *folders, resolve_device(device), reporter, changes)
        for kind in kinds or KINDS:
            try:
                picture = KINDS[kind](trained, options)
            except HarnessError as error:
                if kinds:
                    raise
                refused.append((kind, error))
                continue
            name = kind if kind == "curves" else f"{kind}-{trained.name}"
            written.append(save(picture, folder / f"{name}.{style}"))
    for path in written:
        print(path)
    if not written:
        raise refused[0][1]
    for kind, problem in refused:
        print(f"left out: {kind}: {problem.cause}", file=sys.stderr)
    return written
