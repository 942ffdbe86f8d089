"""Any field of the records by any other, and nothing averaged or mixed that should not be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.core.errors import ConfigError
from harness.results.pivots import pivot
from harness.results.store import Store
from harness.results.table_model import Table
from tests.conftest import Command
from tests.results.records import record, write


def tables(
    store: Path, rows: str, columns: str, metrics: str = "mAP", **options: Any
) -> list[Table]:
    return pivot(
        Store(store).runs(), store, rows.split(","), columns.split(",") if columns else (),
        metrics.split(","), **options,
    )  # fmt: skip


def text(table: Table) -> list[list[str]]:
    heads = [" ".join(filter(None, (c.group, c.title))) for c in table.columns]
    return [heads, *([cell.text for cell in row] for row in table.rows)]


def run(store: Path, name: str, mAP: float, config: dict[str, Any], **options: Any) -> None:
    content = record(options.pop("method", "mskd"), train=mAP, **options)
    folder = write(store, name, content)
    (folder / "config.json").write_text(json.dumps(config))


def test_an_option_by_data_sets(tmp_path: Path) -> None:
    for eps in (0.6, 0.45, 0.5):
        for dataset in ("market1501", "synthetic"):
            for seed in range(2):
                run(tmp_path, f"{eps}-{dataset}-{seed}", 100 * eps + seed,
                    {"labeler": {"eps": eps}, "seed": seed},
                    seed=seed, dataset=dataset, settings=f"{eps}")  # fmt: skip
    (only,) = tables(tmp_path, "labeler.eps", "dataset")
    assert text(only) == [
        ["labeler.eps", "Market-1501 mAP", "synthetic mAP"],
        ["0.45", "45.5 ± 0.7", "45.5 ± 0.7"],
        ["0.5", "50.5 ± 0.7", "50.5 ± 0.7"],
        ["0.6", "60.5 ± 0.7", "60.5 ± 0.7"],
    ]
    (only,) = tables(tmp_path, "seed,labeler.eps", "", "mAP,seeds", dataset="synthetic")
    assert text(only)[:2] == [["Seed", "labeler.eps", "mAP", "Seeds"], ["0", "0.45", "45.0", "1"]]


def test_what_is_no_field_is_not_averaged(tmp_path: Path) -> None:
    """Methods, variants, cameras and checkpoints that were not asked for get a column."""
    run(tmp_path, "a", 50.0, {"labeler": {"eps": 0.5}}, settings="1")
    run(tmp_path, "b", 60.0, {"labeler": {"eps": 0.6}}, settings="2")
    run(tmp_path, "c", 70.0, {}, method="cap")
    run(tmp_path, "d", 80.0, {}, method="cap", seed=1, card={"selection": "oracle"}, settings="3")
    (only,) = tables(tmp_path, "dataset", "")
    assert text(only) == [
        ["Data set", "Method", "Checkpoint", "mAP"],
        ["Market-1501", "cap [11111111]", "last", "70.0"],
        ["Market-1501", "cap [3]", "best on test (oracle)", "80.0"],
        ["Market-1501", "mskd", "last", "60.0"],
        ["Market-1501", "mskd [eps=0.5]", "last", "50.0"],
    ]


def test_protocols_stand_apart_or_are_a_field(tmp_path: Path) -> None:
    run(tmp_path, "a", 50.0, {})
    run(tmp_path, "b", 60.0, {}, card={"input": "384x128"}, settings="2")
    apart = tables(tmp_path, "method", "dataset")
    assert [each.rows[0][-1].text for each in apart] in (["50.0", "60.0"], ["60.0", "50.0"])
    (by_line,) = tables(tmp_path, "input", "method")
    assert text(by_line)[1:] == [["256x128", "50.0"], ["384x128", "60.0"]]
    assert len([note for note in by_line.notes if note.startswith("Protocol")]) == 2
    (by_name,) = tables(tmp_path, "method", "protocol")
    assert all("common (" in head for head in text(by_name)[0][2:])
    assert text(by_name)[1].count("50.0") == text(by_name)[1].count("60.0") == 1


def test_other_data_of_one_name_are_another_column(tmp_path: Path) -> None:
    for place, fingerprint in enumerate(("a" * 32, "b" * 32)):
        folder = write(tmp_path, f"run{place}", record(train=50.0 + place) | {
            "dataset": {"fingerprint": fingerprint, "not_as_published": ["x"] * place},
        })  # fmt: skip
        assert folder.is_dir()
    (only,) = tables(tmp_path, "method", "dataset")
    assert text(only)[0][2:] == ["Market-1501 aaaaaaaa mAP", "Market-1501 bbbbbbbb mAP"]
    assert text(only)[1][2:] == ["50.0", "51.0"]
    assert any("not the published data set" in note for note in only.notes)


def test_leads_are_those_of_a_column(tmp_path: Path) -> None:
    for dataset, leads in (("market1501", (0.3, 0.1)), ("synthetic", (0.1, 0.3))):
        for method, lead in zip(("one", "two"), leads, strict=True):
            ap = np.clip(np.random.default_rng(0).random(200) * 0.5 + lead, 0, 1)
            content = record(method, dataset=dataset, train=float(100 * ap.mean()))
            arrays: dict[str, Any] = {"train_ap": ap, "train_first_match_rank": np.ones(200, int)}
            np.savez(write(tmp_path, f"{method}-{dataset}", content) / "per_query.npz", **arrays)
    (only,) = tables(tmp_path, "method", "dataset")
    marks = {row[0].text: [cell.mark for cell in row[2:]] for row in only.rows}
    assert marks == {"one": ["best", "second"], "two": ["second", "best"]}


@pytest.mark.parametrize("metric", ["hours", "gpu_hours", "images_per_second", "cost"])
def test_the_speed_of_runs_is_no_metric(tmp_path: Path, metric: str) -> None:
    write(tmp_path, "a", record(train=50.0))
    with pytest.raises(ConfigError, match=f"There is no metric '{metric}'"):
        tables(tmp_path, "method", "", metric)


@pytest.mark.parametrize("field", ["device", "images_per_second", "gpu_hours", "mAP", "seconds"])
def test_any_column_can_be_a_field(tmp_path: Path, field: str) -> None:
    for seed in range(2):
        write(tmp_path, f"run{seed}", record(seed=seed, train=50.0))
    for rows, columns in ((field, "dataset"), ("method", field)):
        (only,) = tables(tmp_path, rows, columns, "mAP,seeds")
        assert any(cell.text.startswith("50.0") for row in only.rows for cell in row)


def test_a_setting_does_not_mix_sources_of_one_name(tmp_path: Path) -> None:
    for name, fingerprint, mAP in (("a", "1" * 32, 40.0), ("b", "2" * 32, 60.0)):
        content = record("spcl_uda", card={"setting": "UDA, source personx"}, train=mAP)
        write(tmp_path, name, content | {"source": {"name": "personx", "fingerprint": fingerprint}})
    run(tmp_path, "c", 50.0, {}, method="spcl")
    (only,) = tables(tmp_path, "method,setting", "")
    assert [row[:2] + row[-1:] for row in text(only)[1:]] == [
        ["spcl_uda", "UDA, source personx (data 11111111)", "40.0"],
        ["spcl", "USL", "50.0"],
        ["spcl_uda", "UDA, source personx (data 22222222)", "60.0"],
    ]


def test_command(tmp_path: Path, command: Command) -> None:
    run(tmp_path, "a", 50.0, {"labeler": {"eps": 0.6}})
    run(tmp_path, "b", 60.0, {}, method="cap")
    run(tmp_path, "c", 90.0, {}, method="buc", card={"selection": "oracle"})
    store = ["--store", str(tmp_path), "--rows", "method", "--columns", "dataset"]
    for style, said in {"markdown": "| cap | yes | 60.0 |", "csv": "cap,yes,60.0",
                        "latex": "CAP~\\cite{cap} & yes & ", "html": "<td>cap</td>",
                        "terminal": "cap     yes"}.items():  # fmt: skip
        answer = command("table", *store, "--format", style, "--selection", "last")
        assert answer.status == 0 and said in answer.out and "buc" not in answer.out, style

    def order(*words: str) -> list[str]:
        out = command("table", *store, "--format", "csv", *words).out
        return [line.split(",")[0] for line in out.splitlines()[1:]]

    assert order() == ["mskd", "cap", "buc"]
    assert order("--reverse") == ["buc", "cap", "mskd"]
    assert order("--sort", "method") == ["buc", "cap", "mskd"]
    for words, said in {
        "--rows labeler.epss": "Did you mean 'labeler.eps'?",
        "--rows metod": "Did you mean 'method'?",
        "--rows method --columns method": "rows and columns at once",
        "--metrics maP": "no metric 'maP'",
        "--sort mapp": "no such column",
        "--sort cost": "Sort by a metric or by method",
        "--sort hours": "show no measured costs",
        "--selection first": "invalid choice",
    }.items():
        answer = command("table", *store, *words.split())
        assert answer.status == 2 and said in answer.err, (words, answer.err)


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished runs"):
        tables(tmp_path, "method", "dataset")
