"""`harness score`: mAP, CMC and mINP of anybody's features, by the rule that all methods share."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.errors import DataError
from harness.core.files import write_atomically, write_json
from harness.evaluation.ranking import RANKS, RankingResult, rank
from harness.experiment.standalone.arrays import ArrayFile
from harness.experiment.standalone.features import feature_shape, read_features
from harness.experiment.standalone.report import Report, check_output, make_output_folder


def score_features(
    query: str,
    gallery: str,
    *,
    rerank: bool = False,
    no_cams: bool = False,
    out: str | None = None,
    per_query: str | None = None,
    device: str = "auto",
    threads: int = 0,
    force: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """Rank a gallery for each query, print the metrics, and write them if asked to.

    Args:
        query, gallery: .npz files with `features` (N, D) or (N, V, D), of which view 0 is ranked,
            `ids` (N,), -1 being junk, and maybe `cams` (N,) and `names` (N,).
        rerank: measure the k-reciprocal re-ranked distances as well.
        no_cams: evaluate as if there were no cameras: nothing is removed from a query's gallery
            but junk and, where both files have names, the image of its name.
        out: a .json to write, of what is returned.
        per_query: an .npz to write: ids, ap, inp, first_match_rank of each query (NaN, NaN and 0
            without a match), names if there are, and the same of the re-ranked as reranked_….
        device, threads: `auto`, `cpu` or `cuda`; CPU threads, 0 for all.
        force: overwrite these.
        json: print one JSON object, and notes on stderr.

    Returns:
        What `json` prints: metrics in percent, with `rerank` also reranked ones, counts, seconds,
        peak memory.

    Raises:
        ConfigError, DataError: bad options or files, before any work.
    """
    report = Report(device, threads, json)
    sources = ArrayFile(query), ArrayFile(gallery)
    target = None if out is None else Path(out).expanduser()
    details = None if per_query is None else Path(per_query).expanduser()
    inputs = {"the query file": sources[0].path, "the gallery file": sources[1].path}
    check_output("--out", target, ".json", force, inputs)
    check_output("--per-query", details, ".npz", force, inputs)
    sizes = _shapes(*sources)
    sides = [_Side.of(source, shape[0]) for source, shape in zip(sources, sizes, strict=True)]
    rule = _same_rule(sides, sources, no_cams)
    matches = _matches(*sides)
    if not matches.any():
        raise _no_match(*sides)
    make_output_folder("--out", target)
    make_output_folder("--per-query", details)

    shown = f"{sizes[0][0]} queries, {sizes[1][0]} gallery images, {sizes[0][2]} dimensions"
    report.say(f"{shown}; {report.where()}")
    if rule:
        report.say(rule)
    with report.stage("read"):
        read = [read_features(source, views=1) for source in sources]
        for one in read:
            if one.note:
                report.say(one.note)
        mib = round(sum(one.mib for one in read), 1)
        q, g = (one.values[:, 0].to(report.device) for one in read)
        del read, one  # on a GPU, the host's copies are not needed any more
    measure = partial(
        rank,
        query_ids=sides[0].ids,
        gallery_ids=sides[1].ids,
        query_cams=sides[0].cams,
        gallery_cams=sides[1].cams,
        query_names=sides[0].names,
        gallery_names=sides[1].names,
    )
    results: dict[str, RankingResult] = {}
    with report.stage("rank"):
        results["metrics"] = measure(q, g)
    if rerank:
        from harness.evaluation.reranking import rerank_blocks  # brings the labelers along

        with report.stage("rerank"):
            results["reranked"] = measure(None, None, distances=rerank_blocks(q, g))
    report.seconds["all"] = sum(report.seconds.values())

    counts = results["metrics"].as_dict()
    result: dict[str, Any] = {
        "query": str(sources[0].path),
        "gallery": str(sources[1].path),
        "cameras": sides[0].cams is not None,
        "queries": counts["queries"],
        "queries_without_match": counts["queries_without_match"],
        "gallery_images": counts["gallery"],
        **{key: _metrics(value) for key, value in results.items()},
        **report.costs(mib),
    }
    if target is not None:
        write_json(target, result)
    if details is not None:
        arrays = _by_query(results, sides[0])
        write_atomically(details, lambda file: np.savez_compressed(file, **arrays))
    if json:
        print(jsonlib.dumps(result, allow_nan=False))
        return result
    for key, value in results.items():
        say_metrics(report, "re-ranked" if key == "reranked" else "ranking", _metrics(value))
    report.say(f"queries   {counts['queries']}, {counts['queries_without_match']} without a match")
    report.say_costs(mib)
    for path in filter(None, (target, details)):
        report.say(f"written   {path}")
    return result


def say_metrics(report: Report, what: str, metrics: dict[str, float]) -> None:
    """One line of metrics in percent."""
    ranks = "  ".join(f"Rank-{k} {metrics[f'rank{k}']:.1f}" for k in RANKS)
    report.say(f"{what:<9} mAP {metrics['mAP']:.1f}  {ranks}  mINP {metrics['mINP']:.1f}")


@dataclass
class _Side:
    """Queries or gallery but for their features."""

    ids: np.ndarray
    cams: np.ndarray | None
    names: list[str] | None

    @classmethod
    def of(cls, source: ArrayFile, images: int) -> _Side:
        ids = source.integers("ids", images)
        cams = source.integers("cams", images) if "cams" in source else None
        names = None
        if "names" in source:
            stored = source.vector("names", images, "US", "strings")
            if stored.dtype.kind == "S":
                stored = np.char.decode(stored, "utf-8", "replace")
            names = stored.tolist()
        return cls(ids, cams, names)


def _shapes(query: ArrayFile, gallery: ArrayFile) -> list[tuple[int, int, int]]:
    """N, V, D of both sides."""
    for source in (query, gallery):
        if source.single:
            raise DataError(
                f"{source.path} is a single array; features and ids are needed.",
                "numpy.savez(FILE, features=…, ids=…, cams=…)",
            )
        for name in ("features", "ids"):
            source.header(name)
    shapes = [feature_shape(source.header("features")) for source in (query, gallery)]
    if shapes[0][2] != shapes[1][2]:
        raise DataError(
            f"Query features have {shapes[0][2]} dimensions, gallery features {shapes[1][2]}.",
            "Both have to come from one network.",
        )
    return shapes


def _same_rule(sides: list[_Side], sources: tuple[ArrayFile, ArrayFile], no_cams: bool) -> str:
    """Take cameras, or names, only where both sides have them. Says so where that matters.

    Raises:
        DataError: one side has cameras and the other has none, or names that are not unique.
    """
    if no_cams:
        for side in sides:
            side.cams = None
    without = [s.path for s, side in zip(sources, sides, strict=True) if side.cams is None]
    if len(without) == 1:
        raise DataError(
            f"{without[0]} has no cams, the other file has.",
            "Add them, or leave cameras out of account: --no-cams.",
        )
    if not without:
        return ""
    gallery = sides[1].names
    if sides[0].names is None or gallery is None:
        return "Without cams and names nothing is removed, not even a query's own image."
    if len(set(gallery)) < len(gallery):
        raise DataError(
            f"'names' of {sources[1].path} are not unique, so a query's own image is not either.",
            "Use paths within the data set as names, or leave `names` out.",
        )
    return "Without cams only a query's own image, the one of its name, is removed."


def _matches(query: _Side, gallery: _Side) -> np.ndarray:
    """How many correct images each query has to find: (Q,) int64."""
    real = gallery.ids >= 0
    found = _count(query.ids, gallery.ids[real])
    if query.cams is not None and gallery.cams is not None:
        both = np.concatenate([query.ids, gallery.ids]), np.concatenate([query.cams, gallery.cams])
        ids, cams = (np.unique(values, return_inverse=True)[1] for values in both)
        pairs = ids * (int(cams.max()) + 1) + cams
        seen = pairs[: len(query.ids)], pairs[len(query.ids) :]
        return found - _count(seen[0], seen[1][real])
    if query.names is not None and gallery.names is not None:
        identity = dict(zip(gallery.names, gallery.ids.tolist(), strict=True))
        own = [identity.get(name, -1) for name in query.names]
        found -= (query.ids == own) & (query.ids >= 0)
    return found


def _count(wanted: np.ndarray, among: np.ndarray) -> np.ndarray:
    """How often each of `wanted` (Q,) is among others."""
    among = np.sort(among)
    return np.searchsorted(among, wanted, "right") - np.searchsorted(among, wanted, "left")


def _no_match(query: _Side, gallery: _Side) -> DataError:
    common = int((_count(query.ids, gallery.ids[gallery.ids >= 0]) > 0).sum())
    if not common:
        return DataError(
            f"None of the {len(query.ids)} queries has an identity that the gallery has.",
            "Check that both files are of one data set, and how `ids` were made.",
        )
    hint = "Check how `cams` were made; --no-cams leaves them out of account."
    if query.cams is None:
        hint = "The gallery holds but the queries themselves: check how it was split."
    return DataError(
        f"None of the {len(query.ids)} queries has a correct image to find: {common} have images "
        "of their identity in the gallery, but all of these are removed.",
        hint,
    )


def _metrics(result: RankingResult) -> dict[str, float]:
    counts = ("queries", "queries_without_match", "gallery")
    return {key: value for key, value in result.as_dict().items() if key not in counts}


def _by_query(results: dict[str, RankingResult], query: _Side) -> dict[str, Any]:
    arrays = {"ids": query.ids}
    if query.names is not None:
        arrays["names"] = np.asarray(query.names)
    for key, result in results.items():
        prefix = "" if key == "metrics" else f"{key}_"
        for name in ("ap", "inp", "first_match_rank"):
            arrays[prefix + name] = getattr(result, name)
    return arrays
