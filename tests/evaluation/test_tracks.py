"""Ranking of tracks instead of images, against a ranking written out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from harness.data.image_files import ImageFiles
from harness.data.types import ReIDData, Split
from harness.evaluation.distances import distance_blocks, track_blocks
from harness.evaluation.evaluator import Evaluator
from harness.evaluation.ground_truth import GroundTruth
from harness.evaluation.protocol import EvaluationProtocol
from harness.evaluation.ranking import rank
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan


def gallery(count: int = 60) -> Split:
    """Twenty tracks of three images, of five identities in four cameras."""
    track = np.random.default_rng(0).permutation(np.repeat(np.arange(20), count // 20))
    files = ImageFiles(Path("nowhere"), [f"{i}.jpg" for i in range(count)])
    return Split(files, track % 5, (track // 5) % 4, track)


def features(count: int, seed: int) -> torch.Tensor:
    rows = torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def test_the_distance_to_a_track_is_that_of_its_nearest_image() -> None:
    split = gallery()
    assert split.tracks is not None
    query, images = features(9, 1), features(60, 2)
    for block in (4, 100):
        blocks = list(track_blocks(distance_blocks(query, images, block), split.tracks))
        found = torch.cat([rows for _, rows in blocks])
        plain = torch.cat([rows for _, rows in distance_blocks(query, images, block)])
        for track in range(20):
            nearest = plain[:, split.tracks == track].min(dim=1).values
            torch.testing.assert_close(found[:, track], nearest, rtol=0, atol=0)


def test_average_precision_over_tracks() -> None:
    """Against a loop over sorted tracks; tracks of the query's identity and camera are junk."""
    split = gallery()
    assert split.tracks is not None and split.cameras is not None
    query, images = features(9, 1), features(60, 2)
    ids, cams = np.arange(9) % 5, np.arange(9) % 4
    query_split = Split(ImageFiles(Path("nowhere"), [f"{q}.jpg" for q in range(9)]), ids, cams)
    tracks = GroundTruth.of(query_split, split).of_tracks()
    distances = track_blocks(distance_blocks(query, images), split.tracks)
    result = rank(None, None, tracks, distances=distances)
    assert result.gallery == 20
    plain = torch.cat([rows for _, rows in distance_blocks(query, images)]).numpy()
    for q in range(9):
        nearest = {t: plain[q, split.tracks == t].min() for t in range(20)}
        kept = [t for t in nearest if (t % 5, t // 5 % 4) != (ids[q], cams[q])]
        order = sorted(kept, key=lambda t: nearest[t])
        hits = [place for place, t in enumerate(order, start=1) if t % 5 == ids[q]]
        expected = np.mean([n / place for n, place in enumerate(hits, start=1)])
        assert abs(result.ap[q] - expected) < 1e-9
    # the evaluator does the same with a gallery that has tracks
    evaluator = object.__new__(Evaluator)
    evaluator.protocol = EvaluationProtocol()
    evaluator.data = ReIDData("made", query_split, query_split, split)
    np.testing.assert_array_equal(evaluator.score(query, images).ap, result.ap)


def test_without_cameras_the_track_that_contains_the_query_is_removed() -> None:
    """Queries are the images 0 … 8 of the gallery, which has them under other paths."""
    split = gallery()
    assert split.tracks is not None
    originals = np.array([f"{i}" for i in range(60)])
    files = ImageFiles(Path("nowhere"), [f"query/{q}.jpg" for q in range(9)])
    queries = Split(files, split.identities[:9], None, None, originals[:9])
    truth = GroundTruth.of(queries, replace(split, originals=originals)).without_cameras()
    images = features(60, 2)
    tracks = truth.of_tracks()
    found = rank(None, None, tracks, distances=track_blocks(
        distance_blocks(images[:9], images), split.tracks))  # fmt: skip
    plain = torch.cat([rows for _, rows in distance_blocks(images[:9], images)]).numpy()
    for q in range(9):
        nearest = {t: plain[q, split.tracks == t].min() for t in range(20) if t != split.tracks[q]}
        order = sorted(nearest, key=lambda t: nearest[t])
        hits = [place for place, t in enumerate(order, start=1) if t % 5 == split.identities[q]]
        expected = np.mean([n / place for n, place in enumerate(hits, start=1)])
        assert abs(found.ap[q] - expected) < 1e-9


def test_the_protocol_card_says_that_tracks_are_ranked() -> None:
    """Rows of tracks and of images never share a table."""
    plain, tracks = (
        make_plan(compose(["method=direct_transfer", "dataset=veri776", *more]), "fp32").card
        for more in ([], ["dataset.tracks=true"])
    )
    assert "image to track" in tracks["evaluation"] and "track" not in plain["evaluation"]
    assert plain["hash"] != tracks["hash"]
