"""Across data sets: models tested elsewhere, the table of that, training that begins from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from harness.core.errors import ConfigError
from harness.evaluation.protocol import EvaluationProtocol
from harness.experiment import cross_domain as transfers
from harness.experiment.compose import compose
from harness.experiment.evaluate import evaluate_run
from harness.experiment.finished_networks import load_network
from harness.experiment.plan import make_plan
from harness.experiment.run import run_experiment
from harness.results.store import Run
from tests.conftest import Answer, Command
from tests.datasets.fakes import paint
from tests.results.records import record, write
from tests.tiny import tiny, tiny_config

OTHER = ("dataset=synthetic", "dataset.seed=3", "dataset.identities=8", "dataset.test_identities=5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transfers")


@pytest.fixture(scope="module")
def source(folder: Path) -> Run:
    """A model of one data set."""
    return run_experiment(tiny_config(folder, "method=cluster_contrast"))


@pytest.fixture(scope="module")
def tested(folder: Path, source: Run) -> dict[str, float]:
    """Its result on another, kept."""
    return evaluate_run(str(source.folder), OTHER, data_root=str(folder / "data"), save=True)


def other(folder: Path, *overrides: str) -> list[str]:
    """A cell on the other data set."""
    kept = [o for o in tiny(folder) if not o.startswith("dataset")]
    return [*kept, *OTHER, *overrides]


def evaluate(command: Command, run: Run, folder: Path, *more: str) -> Answer:
    return command("eval", str(run.folder), "--data-root", str(folder / "data"), *more)


# -------------------------------------------------------------------------------- tested elsewhere


def test_the_result_lies_beside_the_record(
    source: Run, tested: dict[str, float], folder: Path
) -> None:
    before = Run(source.folder).record
    (path,) = source.folder.glob("eval-*.json")
    result = json.loads(path.read_text())
    assert result["metrics"]["mAP"] == tested["mAP"] != before["metrics"]["mAP"]
    assert (result["trained_on"], result["tested_on"]) == ("synthetic", "synthetic")
    assert result["dataset"]["fingerprint"] != before["dataset"]["fingerprint"]
    assert result["protocol"] == before["protocol"], "nothing but the data is another"
    assert str(folder) not in path.read_text()
    with np.load(path.with_suffix(".npz")) as arrays:
        assert np.nanmean(arrays["train_ap"]) * 100 == pytest.approx(tested["mAP"], abs=1e-4)
        assert len(arrays["query_identity"]) == result["dataset"]["query"]


def test_another_rule_is_another_protocol(
    source: Run, tested: dict[str, float], folder: Path
) -> None:
    evaluate_run(str(source.folder), OTHER, data_root=str(folder / "data"), save=True)
    assert len(list(source.folder.glob("eval-*.json"))) == 1, "replaced"
    evaluate_run(
        str(source.folder),
        OTHER,
        protocol=EvaluationProtocol(rerank=True),
        data_root=str(folder / "data"),
        save=True,
    )
    rows = transfers.load(folder / "runs")
    assert len(rows) == 3 and rows["protocol_hash"].nunique() == 2
    next(p for p in source.folder.glob("eval-*.json") if "re-ranking" in p.read_text()).unlink()


def test_the_table(source: Run, tested: dict[str, float], folder: Path, command: Command) -> None:
    (source.folder / "eval-broken-00000000.json").write_text("{")  # of no interest
    store = str(folder / "runs")
    answer = command("table", "--cross", "--store", store, "--format", "markdown")
    assert answer.status == 0, answer.err
    head, row = (line for line in answer.out.splitlines() if line.startswith("| ")
                 and "---" not in line)  # fmt: skip
    assert "| Method | Trained on | Cameras |" in head
    own = Run(source.folder).record["metrics"]["mAP"]
    assert f"{tested['mAP']:.1f}" in row and f"{own:.1f}" in row
    assert "trained on → tested on, protocol debug" in answer.out
    paper = command("table", "--cross", "--store", store, "--format", "latex").out
    assert r"\caption{Results, trained on $\to$ tested on" in paper and "→" not in paper
    plain = command("table", "--store", store)
    assert f"{tested['mAP']:.1f}" not in plain.out.split("Protocol")[0], "no row of its own there"
    for wrong, word in (
        (["--by-dataset"], "excludes"),
        (["--dataset", "market1501"], "Nothing was tested on data set 'market1501'"),
        (["--where", "seed > 5"], "No finished run fits"),
    ):
        answer = command("table", "--cross", "--store", store, *wrong)
        assert answer.status == 2 and word in answer.err
    assert "no finished runs" in command("table", "--cross", "--store", str(folder)).err


def test_networks_of_other_images_of_one_name_are_not_averaged(tmp_path: Path) -> None:
    """Be they of the data set itself or of a labeled source; untrained ones have seen neither."""
    target = {"name": "synthetic", "not_as_published": None}

    def add(name: str, method: str, mAP: float, own: str, source: str = "") -> None:
        card = {"setting": "UDA, source personx"} if source else {}
        content = record(method, dataset="synthetic", settings=method, card=card, train=mAP)
        content["dataset"] = target | {"fingerprint": own * 32}
        if source:
            content["source"] = {"name": "personx", "fingerprint": source * 32}
        if method == "direct_transfer":
            content["stages"]["train"]["epoch"] = None
        write(tmp_path, name, content)
        other = {"name": "cuhk03", "fingerprint": "e" * 32}
        saved = {key: content[key] for key in ("schema", "protocol", "metrics")}
        result = saved | {"stage": "train", "dataset": other}
        (tmp_path / name / "eval-cuhk03-0.json").write_text(json.dumps(result))

    for place, images in enumerate("ab"):
        add(f"usl-{images}", "mskd", 40.0 + place, images)
        add(f"uda-{images}", "spcl_uda", 50.0 + place, "a", source=str(place))
        add(f"floor-{images}", "direct_transfer", 10.0, images)
    found: dict[tuple[str, str], str] = {}
    for table in transfers.tables(tmp_path, "cuhk03", None, ("mAP",)):
        found |= {(row[0].text, row[1].text): row[-1].text for row in table.rows}
    assert found == {
        ("direct_transfer", "–"): "10.0",
        ("mskd", "synthetic (aaaaaaaa)"): "40.0",
        ("mskd", "synthetic (bbbbbbbb)"): "41.0",
        ("spcl_uda", "personx → synthetic (00000000 → aaaaaaaa)"): "50.0",
        ("spcl_uda", "personx → synthetic (11111111 → aaaaaaaa)"): "51.0",
    }


def test_a_duplicate_under_another_name_counts_once(
    source: Run, tested: dict[str, float], folder: Path, tmp_path: Path, command: Command
) -> None:
    """In every table: duplicates are found by settings and seed, not by the folder's name."""
    for name in (source.name, "copy", "and-another"):
        shutil.copytree(source.folder, tmp_path / name)
    store = ["--store", str(tmp_path), "--format", "markdown"]
    for words in (["--cross"], ["--by-dataset", "--metrics", "mAP,seeds"], []):
        once = command("table", "--store", str(source.folder.parent), *store[2:], *words).out
        assert "±" not in once.partition("###")[2]
        assert command("table", *store, *words).out == once, words
    assert f"{tested['mAP']:.1f}" in command("table", *store, "--cross").out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["dataset=synthetik"], ["no dataset 'synthetik'", "synthetic"]),
        (["dataset=[synthetic,market1501]"], ["one data set at a time"]),
        (["dataset=market1501+msmt17"], ["one data set at a time"]),
        (["dataset=folder"], ["No value was given for dataset.csv"]),
        (["dataset=synthetic", "dataset.sed=3"], ["no option 'dataset.sed'", "seed"]),
        (["seed=3"], ["'seed=3' is not dataset.KEY=VALUE"]),
        (["dataset=market1501"], ["Market-1501 is not under"]),
    ],
)
def test_what_cannot_be_tested_on(
    source: Run, folder: Path, command: Command, changes: list[str], words: list[str]
) -> None:
    answer = evaluate(command, source, folder, *changes)
    assert answer.status == 2 and "Traceback" not in answer.err
    for word in words:
        assert word in answer.err


def test_data_without_a_test_part(
    source: Run, folder: Path, command: Command, tmp_path: Path
) -> None:
    paint(tmp_path, ["a.png"])
    (tmp_path / "list.csv").write_text("path,split\na.png,train\n")
    answer = command("eval", str(source.folder), "dataset=folder", "dataset.csv=list.csv",
                     "--data-root", str(tmp_path))  # fmt: skip
    assert answer.status == 2 and "folder has no test part" in answer.err


# -------------------------------------------------------------------------------- begun elsewhere


def test_without_training_it_is_the_test_elsewhere(
    source: Run, tested: dict[str, float], folder: Path
) -> None:
    run = run_experiment(compose(other(folder, "method=direct_transfer", f"init={source.folder}")))
    assert run.record["metrics"]["mAP"] == tested["mAP"]
    assert run.record["init"]["run"] == source.name
    (row,) = transfers.load(folder / "runs").query("run == @run.name").to_dict("records")
    assert row["trained_on"] == "synthetic"
    found, given = load_network(run, "initial"), load_network(source, "train")
    for key, value in given.state_dict().items():
        assert torch.equal(found.state_dict()[key], value)


def test_training_goes_on_from_there(source: Run, folder: Path, tmp_path: Path) -> None:
    given = other(folder, "method=cluster_contrast", f"init={source.folder}")
    run = run_experiment(compose([*given, f"store={tmp_path}"]))
    plain = make_plan(compose(other(folder, "method=cluster_contrast")), "fp32").name
    assert run.name != plain
    digest = run.record["init"]["digest"]
    assert run.record["protocol"]["weights"] == f"of a model trained on synthetic ({digest})"
    assert digest in (run.folder / "config.json").read_text()
    assert str(source.folder) not in (run.folder / "config.json").read_text()
    (row,) = transfers.load(tmp_path).to_dict("records")
    assert row["trained_on"] == "synthetic → synthetic"


def test_run_again_it_has_no_results_of_the_old_weights(folder: Path) -> None:
    config = tiny_config(folder, "method=direct_transfer", "name=again")
    run = run_experiment(config)
    evaluate_run(str(run.folder), OTHER, data_root=str(folder / "data"), save=True)
    assert len(list(run.folder.glob("eval-*"))) == 2
    config.overwrite = "always"
    run_experiment(config)
    assert not list(run.folder.glob("eval-*"))
    shutil.rmtree(run.folder)


def test_the_hash_is_of_the_weights_not_of_the_name(
    source: Run, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "another-name"
    copy.mkdir()
    for path in source.folder.glob("*.[jp]*"):
        (copy / path.name).write_bytes(path.read_bytes())
    plain = compose(other(folder, "method=cluster_contrast"))

    def begun(name: object) -> DictConfig:
        config = plain.copy()
        config.init = str(name)
        return config

    names = [make_plan(begun(begin), "fp32").name for begin in (source.folder, source.name, copy)]
    assert len({*names, make_plan(plain, "fp32").name}) == 2
    hashes = {make_plan(config, "fp32").card["hash"] for config in (plain, begun(copy))}
    state = torch.load(copy / "train.pt", weights_only=True)
    key = next(iter(state))
    torch.save(state | {key: state[key] + 1}, copy / "train.pt")
    assert make_plan(begun(copy), "fp32").name not in names
    assert len(hashes | {make_plan(begun(copy), "fp32").card["hash"]}) == 3


def test_init_that_does_not_fit_is_refused_before_any_work(
    source: Run, folder: Path, tmp_path: Path
) -> None:
    for change, word, cure in (
        ("backbone.widths=[8,24]", "size mismatch", "Add backbone.widths=[8,16], as that run has"),
        ("method=mskd", "Missing key", "Add backbone.views=[global],"),  # it has views of parts
    ):
        config = compose(
            other(folder, "method=cluster_contrast", f"init={source.folder}", f"store={tmp_path}",
                  change)
        )  # fmt: skip
        with pytest.raises(ConfigError, match=f"of another backbone: {word}") as refusal:
            run_experiment(config)
        assert cure in refusal.value.hint
    assert not list(tmp_path.glob("*/config.json"))


def test_init_that_is_not_there(source: Run, folder: Path, tmp_path: Path) -> None:
    plain = compose(other(folder, "method=direct_transfer"))

    def run(name: object) -> None:
        config = plain.copy()
        config.init = str(name)
        run_experiment(config)

    with pytest.raises(ConfigError, match="no run 'nothing'"):
        run("nothing")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "record.json"):
        (bare / name).write_bytes((source.folder / name).read_bytes())
    with pytest.raises(
        ConfigError, match=r"kept no weights of its stage 'train' \(train\.pt is missing\)"
    ):
        run(bare)
    (bare / "record.json").unlink()
    with pytest.raises(ConfigError, match="is not finished"):
        run(bare)
