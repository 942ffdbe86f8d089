"""Tables: which runs stand in one, what is averaged, and how it is written."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.results import formats, published
from harness.results.comparisons import Comparison, comparisons
from harness.results.pivots import pivot
from harness.results.store import Store
from harness.results.table_model import leaderboard
from tests.conftest import Command
from tests.results.records import CARD, card, record, write


def markdown(comparison: Comparison) -> str:
    return formats.markdown([leaderboard(comparison)])


def rows(store: Path) -> pd.DataFrame:
    """The rows of the only table, by method."""
    (only,) = comparisons(store)
    return only.rows.set_index("method")


def test_mean_and_standard_deviation_over_seeds(tmp_path: Path) -> None:
    for seed, mAP in enumerate((10.0, 11.0, 15.0)):
        write(tmp_path, f"mskd-{seed}", record(seed=seed, teacher=mAP - 4, student=mAP))
    table = rows(tmp_path)
    # (10 + 11 + 15) / 3 = 12; deviations −2, −1, 3; √((4 + 1 + 9) / (3 − 1)) = √7
    assert table.loc["mskd", "mAP"] == pytest.approx(12.0)
    assert table.loc["mskd", "mAP_std"] == pytest.approx(7**0.5)
    assert table.loc["mskd", "rank1"] == pytest.approx(32.0)
    assert table.loc["mskd", "mINP_std"] == pytest.approx(7**0.5 / 2)
    assert table.loc["mskd", "seeds"] == 3
    assert table.loc["mskd (teacher)", "mAP"] == pytest.approx(8.0)
    (only,) = comparisons(tmp_path)
    text = markdown(only)
    assert "| mskd | yes | 12.0 ± 2.6 | 32.0 ± 2.6 | 42.0 ± 2.6 | 47.0 ± 2.6 | 6.0 ± 1.3 |" in text
    assert "| mskd (teacher) | yes | 8.0 ± 2.6 |" in text


def test_one_seed_has_no_deviation(tmp_path: Path) -> None:
    write(tmp_path, "a", record(student=70.0))
    assert rows(tmp_path)["mAP_std"].isna().all()
    (only,) = comparisons(tmp_path)
    assert "| 70.0 | 90.0 |" in markdown(only)


def test_protocols_of_one_name_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, "a", record(train=70.0))
    other = {"input": "128x64", "backbone": "small"}
    write(tmp_path, "b", record(train=60.0, card=other))
    titles = sorted(leaderboard(found).title for found in comparisons(tmp_path))
    assert titles == sorted([
        f"market1501, protocol common ({CARD['hash']})",
        f"market1501, protocol common (small, {card(**other)['hash']})",
    ])  # fmt: skip


def test_rows_are_sorted_by_map(tmp_path: Path) -> None:
    write(tmp_path, "a", record("high", train=80.0))
    write(tmp_path, "b", record("low", initial=2.0))
    write(tmp_path, "c", record("mskd", teacher=30.0, student=40.0))
    assert rows(tmp_path).index.tolist() == ["low", "mskd (teacher)", "mskd", "high"]


def test_different_protocols_never_share_a_table(tmp_path: Path) -> None:
    write(tmp_path, "a", record("one", train=50.0))
    write(tmp_path, "b", record("two", train=51.0, card={"hash": "bbbbbbbb"}))  # the same name
    write(tmp_path, "c", record("three", train=52.0, dataset="synthetic"))
    found = [(t.dataset, t.card["hash"], t.rows["method"].tolist()) for t in comparisons(tmp_path)]
    assert found == [
        ("market1501", CARD["hash"], ["one"]),
        ("market1501", card(hash="bbbbbbbb")["hash"], ["two"]),
        ("synthetic", CARD["hash"], ["three"]),
    ]
    only = list(comparisons(tmp_path, "synthetic"))
    assert [t.dataset for t in only] == ["synthetic"]


def test_cameras_and_selection_may_share_a_table_but_not_a_row(tmp_path: Path) -> None:
    write(tmp_path, "a", record(train=50.0))
    write(tmp_path, "b", record(train=60.0, settings="22222222", card={"selection": "oracle"}))
    write(tmp_path, "c", record(train=40.0, settings="33333333", card={"cameras": False}))
    (only,) = comparisons(tmp_path)
    assert only.rows["mAP"].tolist() == [40.0, 50.0, 60.0]
    assert only.rows["cameras"].tolist() == ["no", "yes", "yes"]
    text = markdown(only)
    assert "| Checkpoint |" in text
    assert text.count("best on test (oracle)") == 1


def test_variants_are_not_averaged(tmp_path: Path) -> None:
    write(tmp_path, "a", record(seed=0, train=50.0))
    write(tmp_path, "b", record(seed=1, train=60.0, settings="22222222"))
    write(tmp_path, "c", record("other", train=70.0))
    table = rows(tmp_path)
    assert table.loc["mskd [11111111]", "mAP"] == 50.0
    assert table.loc["mskd [22222222]", "mAP"] == 60.0
    assert table.loc["other", "mAP"] == 70.0, "a method of one variant needs no hash"


def test_a_copy_of_a_cell_is_no_repeat(tmp_path: Path) -> None:
    write(tmp_path, "a", record(seed=0, train=50.0))
    write(tmp_path, "a-copy", record(seed=0, train=50.0))
    write(tmp_path, "b", record(seed=1, train=53.0))
    table = rows(tmp_path)
    assert table.loc["mskd", "mAP"] == pytest.approx(51.5)
    assert table.loc["mskd", "seeds"] == 2


# ------------------------------------------------------------------------- the gap, searches


def gap(store: Path) -> dict[str, float]:
    """The gap that MSKD and direct transfer close; nothing without bounds."""
    (found,) = (t for t in comparisons(store, gap=True) if "mskd" in set(t.rows["name"]))
    if found.bounds is None:
        return {}
    closed = found.rows.set_index("method")["gap_closed"].dropna()
    return {str(label): float(value) for label, value in closed.items()}


@pytest.fixture
def bounded(tmp_path: Path) -> Path:
    """A store with the bounds 10 and 90, and MSKD at 50."""
    write(tmp_path, "floor", record("direct_transfer", initial=10.0))
    write(tmp_path, "ceiling", record("supervised", card={"setting": "supervised"}, train=90.0))
    write(tmp_path, "mskd", record(train=50.0))
    return tmp_path


def test_bounds_are_runs_with_the_last_checkpoint(bounded: Path) -> None:
    assert gap(bounded) == {"direct_transfer": 0.0, "mskd": 50.0}
    oracle = {"setting": "supervised", "selection": "oracle"}
    write(bounded, "oracle", record("supervised", settings="2", card=oracle, train=99.0))
    assert gap(bounded) == {"direct_transfer": 0.0, "mskd": 50.0}


def test_bounds_are_runs_with_the_default_options(bounded: Path) -> None:
    own = {"setting": "supervised"}
    config = OmegaConf.to_container(compose(["method=supervised"]), resolve=True)
    (bounded / "ceiling" / "config.json").write_text(json.dumps(config))
    changed = write(bounded, "other", record("supervised", settings="2", card=own, train=20.0))
    config = compose(["method=supervised", "objective.margin=0.9"])
    (changed / "config.json").write_text(json.dumps(OmegaConf.to_container(config, resolve=True)))
    assert gap(bounded) == {"direct_transfer": 0.0, "mskd": 50.0}
    (bounded / "ceiling" / "record.json").unlink()
    assert gap(bounded) == {}


def test_runs_of_several_cards_are_no_bound_unless_one_is_the_tables_own(bounded: Path) -> None:
    fast = {"precision": "bf16"}
    write(bounded, "fast", record("direct_transfer", settings="2", card=fast, initial=20.0))
    assert gap(bounded) == {"direct_transfer": 0.0, "mskd": 50.0}
    both = {"setting": "supervised", "precision": "bf16"}
    write(bounded, "top", record("supervised", settings="2", card=both, train=99.0))
    assert gap(bounded) == {}


def test_a_run_that_is_removed_after_the_store_was_read_changes_no_table(tmp_path: Path) -> None:
    tuned = {"search": "mskd-1", "criterion": "valid", "by": "mAP", "trials": 30}
    folder = write(tmp_path, "a", record(train=50.0, card={"tuned": tuned}))
    write(tmp_path, "b", record(train=40.0))
    (found,) = comparisons(tmp_path)
    shutil.rmtree(folder)
    notes = leaderboard(found).notes
    assert "Searches that settings come from: mskd-1: 30 trials, optimizing mAP." in notes


# ------------------------------------------------------------------------- published numbers

PUBLISHED = """method,dataset,mAP,rank1
mskd,market1501,85.7,94.3
mskd,msmt17,39.5,67.9
half,market1501,50.0,
"""


@pytest.fixture
def other_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another list of published numbers."""
    monkeypatch.setattr(
        published, "table", lambda: pd.read_csv(io.StringIO(PUBLISHED)).assign(source="")
    )


@pytest.mark.usefixtures("other_numbers")
@pytest.mark.parametrize("name", ["common", "published"])
def test_published_numbers_stand_beside_what_reproduces_them(tmp_path: Path, name: str) -> None:
    card = {"name": name}
    write(tmp_path, "a", record(teacher=60.0, student=70.0, card=card))
    write(tmp_path, "b", record("half", train=80.0, card=card))
    write(tmp_path, "c", record("unknown", train=90.0, card=card))
    (only,) = comparisons(tmp_path)
    body = [line for line in markdown(only).splitlines() if line.startswith("|")]
    assert body[0].endswith("| Published mAP | Published Rank-1 |")
    assert [[cell.strip() for cell in line.split("|")[-3:-1]] for line in body[2:]] == [
        ["–", "–"],  # a teacher is no published result
        ["85.7", "94.3"],
        ["50.0", "–"],
        ["–", "–"],
    ]


@pytest.mark.usefixtures("other_numbers")
@pytest.mark.parametrize(
    ("dataset", "card"),
    [("market1501", {"name": "market1501_small"}), ("synthetic", {"name": "common"})],
)
def test_and_nowhere_else(tmp_path: Path, dataset: str, card: dict[str, Any]) -> None:
    write(tmp_path, "a", record(dataset=dataset, card=card))
    (only,) = comparisons(tmp_path)
    assert "Published" not in markdown(only)
    assert "85.7" not in markdown(only)


def crossed(folder: Path, method: str, part: str, target: str | None) -> None:
    """Give a run the configuration of its method, with another part."""
    config = OmegaConf.to_container(compose([f"method={method}"]), resolve=True)
    assert isinstance(config, dict)
    if part:
        config[part] = {"_target_": target}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_crossing_is_another_method(tmp_path: Path) -> None:
    """Its row says so even where it is the only one, and no published number stands beside it."""
    for name, method, part, target in (
        ("a", "mskd", "", None),
        ("b", "mskd", "distiller", None),
        ("c", "cluster_contrast", "labeler", "harness.components.labelers.Infomap"),
        ("d", "direct_transfer", "", None),
        ("e", "cluster_contrast", "objective", "mine.Loss"),
        ("f", "cluster_contrast", "distiller", "harness.components.distillers.OfflineTeacher"),
    ):
        crossed(
            write(tmp_path, name, record(method, settings=name, train=50.0)), method, part, target
        )
    table = rows(tmp_path)
    assert table["published_mAP"].dropna().to_dict() == {"mskd": 85.7, "direct_transfer": 2.2}
    assert set(table.index) == {
        "mskd", "mskd [distiller=none]", "cluster_contrast [labeler=infomap]", "direct_transfer",
        "cluster_contrast [objective=Loss]", "cluster_contrast [distiller=offline_teacher]",
    }  # fmt: skip


def test_a_method_of_a_plugin_keeps_its_name_with_a_part_of_the_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own labeler is no other part, whether the plug-in folder is given or not."""
    plugin, store = tmp_path / "plugin", tmp_path / "runs"
    target = "harness.components.labelers.JaccardDBSCAN"
    for file, text in {
        "methods/mine/config.yaml": "defaults: [{override /labeler: close}]\nstages: {train: {}}\n",
        "conf/labeler/close.yaml": f"_target_: {target}\neps: 0.45\n",
    }.items():
        (plugin / file).parent.mkdir(parents=True)
        (plugin / file).write_text(text)
    run = write(store, "a", record("mine", train=50.0))
    with monkeypatch.context() as patch:
        patch.setenv("HARNESS_PLUGINS", str(plugin))
        crossed(run, "mine", "labeler", target)
        assert set(rows(store).index) == {"mine"}
    assert set(rows(store).index) == {"mine"}


def test_a_variant_has_published_numbers_of_its_own(tmp_path: Path) -> None:
    folder = write(tmp_path, "a", record("cluster_contrast_infomap", train=50.0))
    crossed(folder, "cluster_contrast/infomap", "", None)
    folder = write(tmp_path, "b", record("mskd_online", train=60.0))
    crossed(folder, "mskd/online", "", None)
    table = rows(tmp_path)
    assert table["published_mAP"].dropna().to_dict() == {"cluster_contrast_infomap": 83.0}
    (only,) = comparisons(tmp_path)
    assert "cluster_contrast_infomap: authors' README figure" in markdown(only)


def test_a_number_with_cameras_is_no_match_for_a_run_without(tmp_path: Path) -> None:
    write(tmp_path, "a", record("cap", train=50.0, card={"cameras": False}))
    write(tmp_path, "b", record("cap", train=60.0, settings="22222222"))
    write(tmp_path, "c", record("buc", train=40.0, card={"cameras": False}))
    table = rows(tmp_path)
    beside = table["published_mAP"].fillna(0).tolist()
    assert beside == [38.3, 0.0, 79.2]


# -------------------------------------------------------------------------------------- as text


def test_the_protocol_stands_with_every_table(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "a", record())
    for style in ("markdown", "terminal"):
        answer = command("table", "--store", str(tmp_path), "--format", style)
        assert answer.status == 0
        text = " ".join(answer.out.split())
        assert f"Protocol `common` ({CARD['hash']}): input 256x128; selection last." in text
        assert "market1501, protocol common" in text


def test_terminal_shows_every_column_and_variants(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "a", record("cluster_contrast", seed=0, train=50.0))
    write(tmp_path, "b", record("cluster_contrast", seed=1, train=51.0))
    write(tmp_path, "c", record("cluster_contrast", train=52.0, settings="22222222"))
    out = command("table", "--store", str(tmp_path)).out
    assert "cluster_contrast [11111111]  yes      50.5 ± 0.7" in out
    assert "cluster_contrast [22222222]  yes            52.0" in out
    for column in ("Rank-1", "Rank-5", "Rank-10", "mINP", "Seeds"):
        assert column in out
    assert "…" not in out


@pytest.mark.parametrize(("columns", "missing"), [(100, 0), (64, 4), (30, 7)])
def test_a_narrow_terminal_has_fewer_columns_and_whole_names(
    columns: int, missing: int, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a", record("cluster_contrast", card={"input": "32x16"}, train=50.0))
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    monkeypatch.setenv("COLUMNS", str(columns))
    out = re.sub(r"\x1b\[[0-9;]*m", "", command("table", "--store", str(tmp_path)).out)
    assert "cluster_contrast" in out and "mAP" in out and "Rank-1" in out
    left_out = re.search(r"Not shown in so narrow a terminal: ([^.]+)\.", " ".join(out.split()))
    names = left_out[1].split(", ") if left_out else []
    published = ["Published mAP", "Published Rank-1"]
    assert names == ["Rank-10", "Rank-5", "mINP", "Cameras", *published, "Seeds"][:missing]


def test_a_narrow_terminal_leaves_out_published_numbers(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a", record("mskd", train=50.0))
    monkeypatch.setenv("FORCE_COLOR", "1")
    for columns, shown in (("100", True), ("30", False)):
        monkeypatch.setenv("COLUMNS", columns)
        out = command("table", "--store", str(tmp_path)).out
        assert ("Published mAP" in " ".join(out.split())) is not shown, "named where it is left out"
        assert "50.0" in out and ("85.7" in out) is shown


def test_csv(tmp_path: Path, command: Command) -> None:
    write(tmp_path, "a", record(seed=0, train=50.0))
    write(tmp_path, "b", record(seed=1, train=51.0))
    write(tmp_path, "c", record(dataset="synthetic", train=70.0))
    out = command("table", "--store", str(tmp_path), "--format", "csv").out
    parsed = {row["dataset"]: row for row in csv.DictReader(io.StringIO(out))}
    assert float(parsed["market1501"]["mAP"]) == 50.5
    assert float(parsed["market1501"]["mAP_std"]) == pytest.approx(0.5**0.5)
    assert parsed["market1501"]["protocol_hash"] == CARD["hash"]
    assert parsed["synthetic"]["mAP_std"] == ""


def test_metrics_choose_the_columns_of_numbers(tmp_path: Path, command: Command) -> None:
    for seed in range(2):
        write(tmp_path, f"run{seed}", record(seed=seed, train=50.0))
    base = ("table", "--store", str(tmp_path), "--metrics", "rank10,seeds,mAP", "--format")
    out = command(*base, "markdown").out
    assert "| Method | Cameras | Rank-10 | Seeds | mAP | Published mAP |" in out
    head = command(*base, "csv").out.splitlines()[0].split(",")
    assert {"method", "rank10", "rank10_std", "seeds", "mAP", "protocol_hash"} <= {*head}
    assert not {"rank1", "rank1_std", "mINP", "hours"} & {*head}


def test_output_to_a_file(tmp_path: Path, command: Command) -> None:
    write(tmp_path / "runs", "a", record())
    base = ("table", "--store", "runs")
    printed = command(*base, "--format", "markdown").out
    assert command(*base, "--format", "markdown", "--output", "new/t.md").out == ""
    assert (tmp_path / "new" / "t.md").read_text(encoding="utf-8") == printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--compare", "mskd"), "--compare mskd names one row, and a comparison takes two. "
                                "Name another: mskd (teacher)"),
        (("--compare", "mskd", "mksd"), "There is no row 'mksd'. Did you mean 'mskd'"),
        (("--metrics", "map"), "There is no metric 'map'. Known: cost, hours"),
        (("--metrics", "mAP", "--published"), "--metrics does not apply to --published"),
        (("--where", "nonsense", "--published"), "--where does not apply to --published"),
        (("--published", "--cross"), "--cross does not apply to --published"),
        (("--published", "--compare"), "--compare does not apply to --published"),
        (("--sort", "nonsense", "--cross"), "--sort does not apply to --cross"),
        (("--sort", "mAP", "--compare"), "--sort does not apply to --compare"),
        (("--reverse", "--compare"), "--reverse does not apply to --compare"),
        (("--selection", "oracle"), "Without --where and --selection, harness table shows all"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_said(
    tmp_path: Path, command: Command, words: tuple[str, ...], said: str
) -> None:
    write(tmp_path, "a", record())
    answer = command("table", "--store", str(tmp_path), *words)
    assert answer.status == 2
    assert said in " ".join(answer.err.split())


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished runs"):
        list(comparisons(tmp_path))
    write(tmp_path, "bad", "{")
    with pytest.raises(ConfigError, match="1 damaged"):
        list(comparisons(tmp_path))
    write(tmp_path, "good", record())
    with pytest.raises(ConfigError, match="Did you mean 'market1501'"):
        list(comparisons(tmp_path, "market1510"))


def test_other_data_under_one_name_is_another_table(tmp_path: Path) -> None:
    for seed, fingerprint in enumerate(("aaaa", "aaaa", "bbbb")):
        content = record(seed=seed) | {"dataset": {"fingerprint": fingerprint * 8}}
        write(tmp_path, f"run{seed}", content)
    tables = list(comparisons(tmp_path))
    assert [list(t.rows["seeds"]) for t in tables] == [[2, 2], [1, 1]]
    assert "data aaaaaaaa" in tables[0].title and "data bbbbbbbb" in tables[1].title


def test_variants_say_what_sets_them_apart(tmp_path: Path) -> None:
    for eps in (0.5, 0.6):
        folder = write(tmp_path, f"run{eps}", record(settings=str(eps), train=50.0))
        config = {"seed": 0, "labeler": {"eps": eps, "k1": 30}}
        (folder / "config.json").write_text(json.dumps(config))
    (table,) = comparisons(tmp_path)
    assert sorted(table.rows["method"]) == ["mskd", "mskd [eps=0.5]"]


def test_data_that_are_not_as_published_are_marked(tmp_path: Path) -> None:
    """In the title and below the table; and no published number stands beside them."""
    genuine = record(student=70.0) | {"dataset": {"fingerprint": "a" * 32, "not_as_published": []}}
    other = record(student=71.0) | {
        "dataset": {"fingerprint": "b" * 32, "not_as_published": ["queries: 3,367, not 3,368"]}
    }
    write(tmp_path, "a", genuine)
    write(tmp_path, "b", other)
    first, second = map(markdown, comparisons(tmp_path))
    assert "not as published" not in first and "Published mAP" in first
    assert "### market1501 (data bbbbbbbb), not as published, protocol common" in second
    assert "not the published data set" in second and "queries: 3,367, not 3,368" in second
    assert "Published mAP" not in second


def test_labeled_sources_of_one_name_are_in_tables_of_their_own(
    tmp_path: Path, command: Command
) -> None:
    """A subset of a source, or another seed of a rendered one, is another source."""
    uda = {"setting": "UDA, source personx"}
    for name, fingerprint, mAP in (("a", "1" * 32, 40.0), ("b", "2" * 32, 60.0)):
        content = record("spcl_uda", card=uda, settings=name, train=mAP)
        source = {"name": "personx", "fingerprint": fingerprint, "alone": False}
        write(tmp_path, name, content | {"source": source})
    write(tmp_path, "c", record("spcl", settings="c", train=50.0))
    found = {table.title: list(table.rows["mAP"]) for table in comparisons(tmp_path)}
    end = "with labels (UDA), protocol common"
    assert found == {
        "market1501, protocol common": [50.0],
        f"market1501, domain adaptation from personx (data 11111111) {end}": [40.0],
        f"market1501, domain adaptation from personx (data 22222222) {end}": [60.0],
    }
    shown = command("table", "--store", str(tmp_path), "--gap")
    assert shown.status == 0 and "no gap is known" in shown.err
    runs = list(Store(tmp_path).runs())
    titles = [table.title for table in pivot(runs, tmp_path, ["method"], ["seed"])]
    assert len(titles) == 3 and sum("(data " in title for title in titles) == 2
