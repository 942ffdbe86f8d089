"""`harness show RUN`: pictures of a finished run, into its own folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.host_memory import keep_freed_memory
from harness.core.precision import resolve_device
from harness.core.progress import Reporter
from harness.experiment.figures.subject import Subject, find_stage
from harness.results.figures import embedding, maps, ranked
from harness.results.figures.curves import curves
from harness.results.figures.style import FORMATS, save
from harness.results.store import Run, Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Wanted:
    """What `harness show` is told of the pictures themselves.

    queries, count, top: which queries, how many, and how much of each list. seed: of what is drawn
    at random. method, identities: of the embedding. count is of maps, too.
    """

    queries: str = "worst"
    count: int = 8
    top: int = 10
    seed: int = 0
    method: str = "tsne"
    identities: int = 16


def show_run(
    run: str,
    kinds: Sequence[str] = (),
    stage: str | None = None,
    output: str | None = None,
    style: str = "png",
    wanted: Wanted | None = None,
    store: str = "results/runs",
    data_root: str | None = None,
    cache: str | None = None,
    device: str = "auto",
    changes: Sequence[str] = (),
) -> list[Path]:
    """Draw pictures and print their places.

    Args:
        kinds: of `KINDS`; none of them: all that can be drawn, with a word on what cannot.
        output: a folder; `figures` in the run's own if None. style: of `FORMATS`.
        changes: `dataset.KEY=VALUE`, for data that have moved (records hold no places).

    Raises:
        HarnessError: no such run, kind or stage, weights that were not kept, missing data.
    """
    wanted = wanted or Wanted()
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"There is no picture '{kind}'.", did_you_mean(kind, KINDS))
    if style not in FORMATS:
        raise ConfigError(f"--format {style} is unknown.", f"Known: {', '.join(FORMATS)}.")
    if wanted.count < 1 or wanted.top < 1:
        raise ConfigError("--count and --top must be 1 or more.")
    found = Store(Path(store)).find(run)
    folder = Path(output).expanduser() if output else found.folder / "figures"
    on = resolve_device(device)
    if on.type == "cpu":
        keep_freed_memory()
    root = Path(data_root or os.environ.get("HARNESS_DATA", "data")).expanduser()
    written, refused = [], []
    with Reporter() as reporter:
        place = Path(cache).expanduser() if cache else root / ".harness"
        subjects: list[Subject] = []

        def subject() -> Subject:
            if not subjects:
                name = find_stage(found, stage)
                subjects.append(Subject(found, name, root, place, on, reporter, changes))
            return subjects[0]

        for kind in kinds or KINDS:
            try:
                picture = KINDS[kind](found, subject, wanted)
            except HarnessError as error:
                if kinds:
                    raise
                refused.append((kind, error))
                continue
            name = kind if kind == "curves" else f"{kind}-{subject().stage}"
            written.append(save(picture, folder / f"{name}.{style}"))
    for path in written:
        print(path)
    if not written:
        raise refused[0][1]
    for kind, problem in refused:
        print(f"left out: {kind}: {problem.cause}", file=sys.stderr)
    return written


def _ranked(run: Run, subject: Callable[[], Subject], wanted: Wanted) -> Figure:
    it = subject()
    found = ranked.rankings(it, wanted.queries, wanted.count, wanted.top, wanted.seed)
    what = f"{wanted.queries} queries" if wanted.queries in ranked.CHOICES else "chosen queries"
    rule = ", re-ranked" if it.test.protocol.rerank else ""
    return ranked.draw(it, found, f"{run.name} ({it.stage}): {what}{rule}")


def _embedding(run: Run, subject: Callable[[], Subject], wanted: Wanted) -> Figure:
    it = subject()
    found = embedding.embed(it, wanted.method, wanted.identities, wanted.seed)
    name = {"tsne": "t-SNE", "umap": "UMAP"}[wanted.method]
    words = f"; {found.labeler}" if found.labeler else ""
    return embedding.draw(found, f"{run.name} ({it.stage}): {name} of training features{words}")


def _curves(run: Run, subject: Callable[[], Subject], wanted: Wanted) -> Figure:
    return curves(run)


def _maps(run: Run, subject: Callable[[], Subject], wanted: Wanted) -> Figure:
    it = subject()
    network = it.backbone  # whose lack is told before images are looked for
    image_cache = it.pictured
    count = min(wanted.count, len(image_cache))
    drawn = np.random.default_rng(wanted.seed).choice(len(image_cache), count, replace=False)
    images = np.array(image_cache.images[np.sort(drawn)])
    shares = maps.shares(network, images)
    title = (
        f"{run.name} ({it.stage}): where each view’s feature comes from.\n"
        "Bright: much of it. Pale: not seen by the view."
    )
    return maps.draw(images, shares, title)


KINDS: dict[str, Callable[[Run, Callable[[], Subject], Wanted], Figure]] = {
    "ranked": _ranked, "embedding": _embedding, "curves": _curves, "maps": _maps,
}  # fmt: skip
