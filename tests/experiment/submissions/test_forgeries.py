"""Forged results are caught, each by the check that is made for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.hashing import card_hash, settings_digest
from harness.experiment.submissions import Reference, validate
from tests.experiment.submissions.forge import (
    edit,
    edit_arrays,
    edit_card,
    failures,
    outcomes,
    reason,
    run_of,
    seal,
    seal_config,
)

Copy = Callable[[str], Path]


@pytest.mark.parametrize("name", ["one", "two", "untrained", "adapted", "supervised", "bare"])
def test_honest_submissions_pass(packed: dict[str, Path], reference: Reference, name: str) -> None:
    verdict = validate(packed[name], reference)
    assert verdict.passes, [c for c in verdict.checks if c.outcome == "FAILED"]
    unsure = {check for check, outcome in outcomes(verdict).items() if outcome == "unknown"}
    assert unsure == {"repeats"} | ({"features"} if name == "bare" else set())


def raise_map(metrics: Any, points: float = 1.0) -> None:
    metrics["mAP"] += points


def forge_record(folder: Path) -> None:
    def change(record: Any) -> None:
        raise_map(record["metrics"])
        raise_map(record["stages"]["train"]["metrics"])

    edit(run_of(folder) / "record.json", change)


def forge_record_and_history(folder: Path) -> None:
    forge_record(folder)
    edit(run_of(folder) / "history.json", lambda rows: raise_map(rows[-1]))


def forge_queries(folder: Path) -> None:
    """A first match at rank 1 for all, in the per-query results, the record and the history."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["train_ap"] = np.minimum(1, arrays["train_ap"] + np.float32(0.1))

    run = run_of(folder)
    edit_arrays(run / "per_query.npz", change)
    with np.load(run / "per_query.npz") as arrays:
        value = 100 * float(arrays["train_ap"].astype(np.float64).mean())
    edit(run / "record.json", lambda r: r["metrics"].update(mAP=value))
    edit(run / "record.json", lambda r: r["stages"]["train"]["metrics"].update(mAP=value))
    edit(run / "history.json", lambda rows: rows[-1].update(mAP=value))


def forge_card(folder: Path) -> None:
    edit_card(folder, batch="16 x 16")


def forge_card_alone(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r["protocol"].update(batch="16 x 16"))


def forge_cameras(folder: Path) -> None:
    edit_card(folder, cameras=False)


def forge_config(folder: Path) -> None:
    edit(run_of(folder) / "config.json", lambda c: c["optimizer"].update(lr=0.5))
    seal_config(folder)


def forge_config_and_card(folder: Path) -> None:
    forge_config(folder)
    card = json.loads((run_of(folder) / "record.json").read_text())["protocol"]
    edit_card(folder, optimizer=card["optimizer"].replace("lr 0.003", "lr 0.5"))


def forge_config_alone(folder: Path) -> None:
    edit(run_of(folder) / "config.json", lambda c: c["labeler"].update(eps=0.3))


def forge_published(folder: Path) -> None:
    """A run by another protocol, named `published`."""
    edit(run_of(folder) / "config.json", lambda c: c["protocol"].update(name="published"))
    seal_config(folder)
    edit_card(folder, name="published")
    edit(run_of(folder) / "record.json", lambda r: r["experiment"].update(protocol="published"))


def forge_version(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r["environment"].update(harness="9.9.9"))


def forge_earlier_version(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r["environment"].update(harness="0.0.1"))
    edit_card(folder, precision="fp64")


def forge_fingerprint(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r["dataset"].update(fingerprint="0" * 32))


def forge_counts(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r["dataset"].update(train=10_000))


def forge_data_name(folder: Path) -> None:
    """Results on synthetic people as those on Market-1501."""
    edit(run_of(folder) / "config.json", lambda c: c["dataset"].update(name="market1501"))
    seal_config(folder)

    def change(record: Any) -> None:
        record["experiment"]["dataset"] = record["dataset"]["name"] = "market1501"

    edit(run_of(folder) / "record.json", change)
    edit(
        folder / "submission.json",
        lambda m: next(iter(m["runs"].values())).update(dataset="market1501"),
    )


def forge_loss(folder: Path) -> None:
    edit(run_of(folder) / "history.json", lambda rows: rows[0].pop("loss"))


def forge_epochs(folder: Path) -> None:
    edit(run_of(folder) / "history.json", lambda rows: rows.pop(0))


def forge_speed(folder: Path) -> None:
    edit(
        run_of(folder) / "record.json",
        lambda r: r["stages"]["train"].update(images_per_second=1e9),
    )


def forge_seconds(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r.update(seconds=0.01))


def forge_hours(folder: Path) -> None:
    edit(run_of(folder) / "record.json", lambda r: r.update(device_hours=0.5))


def forge_truth(folder: Path) -> None:
    """One identity for all images: everything is a match."""

    def change(arrays: dict[str, np.ndarray]) -> None:
        arrays["query_ids"][:] = arrays["gallery_ids"][:] = 1

    edit_arrays(run_of(folder) / "train_features.npz", change)


def forge_features_of_other_images(folder: Path) -> None:
    edit_arrays(
        run_of(folder) / "train_features.npz",
        lambda arrays: arrays.update(fingerprint=np.array("1" * 32)),
    )


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "mAP of the record": (forge_record, "metrics"),
    "mAP of record and history": (forge_record_and_history, "metrics"),
    "per-query results": (forge_queries, "features"),
    "card with its hash": (forge_card, "card"),
    "card without its hash": (forge_card_alone, "schema"),
    "no cameras on the card": (forge_cameras, "card"),
    "learning rate": (forge_config, "card"),
    "learning rate on the card, too": (forge_config_and_card, "protocol"),
    "configuration without its hash": (forge_config_alone, "settings"),
    "published": (forge_published, "protocol"),
    "later version": (forge_version, "version"),
    "earlier version with another card": (forge_earlier_version, "version"),
    "fingerprint": (forge_fingerprint, "data set"),
    "number of images": (forge_counts, "data set"),
    "name of the data set": (forge_data_name, "data set"),
    "a missing loss": (forge_loss, "history"),
    "a missing epoch": (forge_epochs, "history"),
    "speed": (forge_speed, "cost"),
    "seconds": (forge_seconds, "cost"),
    "device hours": (forge_hours, "cost"),
    "ground truth": (forge_truth, "features"),
    "features of other images": (forge_features_of_other_images, "features"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forgery_is_caught(copy: Copy, reference: Reference, forgery: str) -> None:
    forge, check = FORGERIES[forgery]
    folder = copy("one")
    forge(folder)
    assert "files" in failures(validate(folder, reference))  # submission.json tells
    verdict = validate(seal(folder), reference)
    assert not verdict.passes
    assert check in failures(verdict), outcomes(verdict)


def test_consistent_forgeries_are_caught_by_nothing_else(copy: Copy, reference: Reference) -> None:
    """Each layer of checks is needed: without features, forged per-query results pass."""
    folder = copy("bare")
    forge_queries(folder)
    assert validate(seal(folder), reference).passes


def test_features_of_another_run_are_caught(copy: Copy, reference: Reference) -> None:
    folder = copy("two")
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())
    shutil.copy(second / "train_features.npz", first / "train_features.npz")
    assert failures(validate(seal(folder), reference)) == {"features"}


def test_a_seed_under_another_number_is_caught(copy: Copy, reference: Reference) -> None:
    folder = copy("one")
    run = run_of(folder)
    other = folder / run.name.replace("-s0-", "-s7-")
    shutil.copytree(run, other)
    edit(other / "config.json", lambda c: c.update(seed=7))
    edit(folder / "submission.json", lambda m: m["runs"].update(
        {other.name: {**m["runs"][run.name], "seed": 7}}))  # fmt: skip
    config = json.loads((other / "config.json").read_text())

    def change(record: Any) -> None:
        record["experiment"]["seed"] = 7
        record["config"] = settings_digest(config)

    edit(other / "record.json", change)
    verdict = validate(seal(folder), reference)
    assert failures(verdict) == {"repeats"}
    assert "every query has the result" in reason(verdict, "repeats")


def test_a_seed_with_nearly_the_results_of_another_is_caught(
    copy: Copy, reference: Reference
) -> None:
    folder = copy("two")
    first, second = sorted(path for path in folder.iterdir() if path.is_dir())
    shutil.copy(first / "per_query.npz", second / "per_query.npz")
    edit_arrays(
        second / "per_query.npz",
        lambda a: a.update(train_ap=np.nextafter(a["train_ap"], np.float32(0))),
    )
    verdict = validate(seal(folder), reference)
    assert "repeats" in failures(verdict)


# ------------------------------------------------------------------------------ labels and methods


def forget_labels(folder: Path) -> None:
    """A network that saw labels, as one that saw none."""
    edit(run_of(folder) / "config.json", lambda c: c.update(source=None))
    seal_config(folder)

    def change(record: Any) -> None:
        record["protocol"].pop("setting")
        record["protocol"]["hash"] = card_hash(record["protocol"])

    edit(run_of(folder) / "record.json", change)


@pytest.mark.parametrize("name", ["supervised", "adapted"])
@pytest.mark.parametrize("everywhere", [False, True])
def test_labels_that_are_not_told_are_caught(
    copy: Copy, reference: Reference, name: str, everywhere: bool
) -> None:
    folder = copy(name)
    forget_labels(folder)
    if everywhere:
        edit(run_of(folder) / "record.json", lambda r: r.pop("source"))
    assert {"card"} <= failures(validate(seal(folder), reference))


def test_own_labels_as_those_of_a_source_are_caught(copy: Copy, reference: Reference) -> None:
    folder = copy("adapted")

    def change(record: Any) -> None:
        record["source"]["fingerprint"] = record["dataset"]["fingerprint"]

    edit(run_of(folder) / "record.json", change)
    assert failures(validate(seal(folder), reference)) == {"data set"}


def test_another_method_under_a_name_is_caught(copy: Copy, reference: Reference) -> None:
    """Cluster Contrast trains one stage, MSKD two."""
    folder = copy("one")
    edit(run_of(folder) / "config.json", lambda c: c["method"].update(name="mskd"))
    seal_config(folder)
    edit(run_of(folder) / "record.json", lambda r: r["experiment"].update(method="mskd"))
    edit(folder / "submission.json", lambda m: m["runs"][run_of(folder).name].update(method="mskd"))
    verdict = validate(seal(folder), reference)
    assert "protocol" in failures(verdict)
    assert "its stages are train; those of mskd are teacher, student" in reason(verdict, "protocol")


def test_a_known_result_is_a_duplicate(store: Path, packed: dict[str, Path]) -> None:
    known = Reference(leaderboard=store)
    assert failures(validate(packed["one"], known)) == {"repeats"}


def test_untrained_seeds_may_be_equal(copy: Copy, reference: Reference) -> None:
    """Their results are those of the initial network."""
    folder = copy("untrained")
    run = run_of(folder)
    other = folder / run.name.replace("-s0-", "-s1-")
    shutil.copytree(run, other)
    edit(other / "config.json", lambda c: c.update(seed=1))
    config = json.loads((other / "config.json").read_text())
    edit(other / "record.json", lambda r: r["experiment"].update(seed=1))
    edit(other / "record.json", lambda r: r.update(config=settings_digest(config)))
    edit(folder / "submission.json", lambda m: m["runs"].update(
        {other.name: {**m["runs"][run.name], "seed": 1}}))  # fmt: skip
    assert validate(seal(folder), reference).passes


def test_an_earlier_version_with_the_same_card_passes(copy: Copy, reference: Reference) -> None:
    folder = copy("bare")
    edit(run_of(folder) / "record.json", lambda r: r["environment"].update(harness="0.0.1"))
    verdict = validate(seal(folder), reference)
    assert verdict.passes
    assert any("0.0.1" in check.reason for check in verdict.checks)


def test_differences_from_published_settings_are_named(copy: Copy, reference: Reference) -> None:
    folder = copy("one")
    forge_published(folder)
    text = reason(validate(seal(folder), reference), "protocol")
    assert "input: 64x32 in the record, not 256x128" in text and "more" in text
