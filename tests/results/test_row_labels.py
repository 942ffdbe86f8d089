"""Row labels: the default row keeps its name, others name only what differs from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.core import plugins
from harness.experiment.compose import compose
from harness.results.comparisons import comparisons
from harness.results.row_labels import _text, defaults, flat, is_default, recipe
from tests.conftest import Command
from tests.results.records import measure, record, write


def add(store: Path, method: str, *overrides: str, mAP: float = 50.0, **options: Any) -> None:
    """A finished run with the configuration that overrides give."""
    name = f"{method}-{len(list(store.glob('*')))}".replace("/", "_")
    plain = OmegaConf.to_container(compose([f"method={method}", *overrides]), resolve=True)
    assert isinstance(plain, dict)
    content = record(plain["method"]["name"], settings=name, train=mAP, **options)
    (write(store, name, content) / "config.json").write_text(json.dumps(plain))


def labels(store: Path) -> list[str]:
    (only,) = comparisons(store)
    return sorted(only.rows["method"])


def test_the_default_row_keeps_its_name(tmp_path: Path) -> None:
    add(tmp_path, "mskd")
    assert labels(tmp_path) == ["mskd"]
    add(tmp_path, "mskd", "labeler.eps=0.5")
    assert labels(tmp_path) == ["mskd", "mskd [eps=0.5]"]
    add(tmp_path, "mskd", "neighbours.k1=20", "objective.temperature=0.1")
    assert labels(tmp_path) == ["mskd", "mskd [eps=0.5]", "mskd [k1=20, temperature=0.1]"]


def test_names_are_as_short_as_they_are_clear(tmp_path: Path) -> None:
    add(tmp_path, "mskd", "labeler.part_weight=0.3")
    add(tmp_path, "mskd", "objective.part_weight=0.3")
    add(tmp_path, "mskd", "optimizer.lr=0.2", "optimizer.gamma=0.2", "optimizer.weight_decay=0.2",
        "labeler.eps=0.5")  # fmt: skip
    assert labels(tmp_path) == [
        "mskd [eps=0.5, gamma=0.2, lr=0.2, …]",
        "mskd [labeler.part_weight=0.3]",
        "mskd [objective.part_weight=0.3]",
    ]


def test_long_values_are_cut_unless_rows_would_read_alike(tmp_path: Path) -> None:
    for weights in ("a", "b"):
        add(tmp_path, "mskd", f"backbone.weights=/home/user/weights/of-a-very-long-name-{weights}")
    first, second = labels(tmp_path)
    assert first != second and max(map(len, (first, second))) < 40
    add(tmp_path, "mskd", "backbone.weights=/home/user/weights/short")
    assert "mskd [weights=short]" in labels(tmp_path)


METHODS = plugins.find()["methods"]
NAMES = [*METHODS, *(f"{name}/{v}" for name, plugin in METHODS.items() for v in plugin.variants)]


@pytest.mark.parametrize("place", range(len(NAMES)), ids=NAMES)
def test_defaults_are_those_of_the_composed_configuration(place: int) -> None:
    """Under each protocol in turn; and with a labeler that is not the method's own."""
    protocol = ("common", "published", "demo", "debug")[place % 4]
    given = [f"method={NAMES[place]}", f"protocol={protocol}", "dataset=synthetic"]
    for labeler in ((), ("labeler=kmeans",)) if "mskd" in NAMES[place] else ((),):
        config = compose([*given, *labeler])
        plain = OmegaConf.to_container(config, resolve=True)
        options = {k: v for k, v in flat(plain).items() if k.split(".")[0] != "data"}
        node = recipe(config.method.name, METHODS.values())
        assert node is not None
        default = defaults(node, options)
        other = {key for key in options if not is_default(key, options, default)}
        assert not other - {"store"}, {key: options[key] for key in other}


def test_a_variant_has_defaults_of_its_own(tmp_path: Path) -> None:
    add(tmp_path, "mskd/online")
    add(tmp_path, "mskd/online", "labeler.eps=0.5")
    assert labels(tmp_path) == ["mskd_online", "mskd_online [eps=0.5]"]


def test_a_variant_is_named_even_if_it_is_the_only_row(tmp_path: Path) -> None:
    """By options of the method; those on the protocol card are the same for all rows."""
    add(tmp_path, "mskd", "labeler.eps=0.5", "optimizer.lr=0.2", "backbone.weights=none")
    assert labels(tmp_path) == ["mskd [eps=0.5]"]
    add(tmp_path, "mskd", "labeler.eps=0.5", "neighbours.k1=20", mAP=60.0)
    assert labels(tmp_path) == [
        "mskd [eps=0.5, k1=20]", "mskd [weights=none, eps=0.5, lr=0.2]"
    ]  # fmt: skip
    add(tmp_path, "mskd", "labeler=kmeans", "labeler.clusters=7")
    assert "mskd [labeler=kmeans, clusters=7]" in labels(tmp_path)


def test_neither_costs_nor_published_numbers_stand_beside_a_variant(tmp_path: Path) -> None:
    store = tmp_path / "runs"
    add(store, "cluster_contrast", "labeler.eps=0.9")
    measure(store, "epyc", cluster_contrast=1.0)
    (only,) = comparisons(store)
    assert list(only.rows["method"]) == ["cluster_contrast [eps=0.9]"]
    assert only.rows["cost"].isna().all() and "published_mAP" not in only.rows
    add(store, "cluster_contrast", mAP=60.0)
    (both,) = comparisons(store)
    costs = dict(zip(both.rows["method"], both.rows["cost"].fillna(0), strict=True))
    assert costs == {"cluster_contrast": 1.0, "cluster_contrast [eps=0.9]": 0.0}
    published = both.rows.set_index("method")["published_mAP"].dropna()
    assert list(published.index) == ["cluster_contrast"]


def test_without_the_plugin_rows_name_what_differs(tmp_path: Path) -> None:
    """And parts by their option, never by the path of a class."""
    for labeler in ("jaccard_dbscan", "kmeans"):
        add(tmp_path, "cluster_contrast", f"labeler={labeler}")
        folder = sorted(tmp_path.glob("*"))[-1]
        content = json.loads((folder / "record.json").read_text())
        content["experiment"]["method"] = "gone"
        (folder / "record.json").write_text(json.dumps(content))
    found = labels(tmp_path)
    assert len(found) == 2 and "labeler=kmeans" in " ".join(found)
    assert "harness." not in " ".join(found)


def test_the_comparison_of_the_readme_works_among_variants(
    tmp_path: Path, command: Command
) -> None:
    import numpy as np

    for place, (method, *overrides) in enumerate(
        [("mskd",), ("mskd", "labeler.eps=0.5"), ("cluster_contrast",),
         ("cluster_contrast", "objective.hard=true"), ("cluster_contrast", "labeler.eps=0.4")]
    ):  # fmt: skip
        add(tmp_path, method, *overrides, mAP=50.0 + place)
        arrays: dict[str, Any] = {"train_ap": np.random.default_rng(place).random(50),
                                  "train_first_match_rank": np.ones(50, int)}  # fmt: skip
        np.savez(sorted(tmp_path.glob("*"), key=lambda p: int(p.name.split("-")[-1]))[-1]
                 / "per_query.npz", **arrays)  # fmt: skip
    answer = command("table", "--store", str(tmp_path), "--compare", "mskd", "cluster_contrast")
    assert answer.status == 0, answer.err
    assert "cluster_contrast" in answer.out and "[" not in answer.out.split("Percentage")[0]


def test_a_list_has_no_quotation_marks() -> None:
    key, views = "backbone.views", ["global", "upper", "lower", "top", "middle"]
    assert _text(key, views[:2], [key]) == "views=[global, upper]"
    assert _text(key, views, [key]) == "views=[global, upper, lower, …", "papers break it at spaces"
