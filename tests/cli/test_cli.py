"""The command line: help, what is said about a slip, and that Hydra is all there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.cli.main import COMMANDS
from harness.cli.parser import FLAGS, report_error
from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.results.store import Store
from tests.conftest import Command
from tests.paths import ROOT
from tests.tiny import tiny


@pytest.mark.parametrize("command_line", [[], ["--help"], ["-h"], ["help"]])
def test_help_of_the_whole(command: Command, command_line: list[str]) -> None:
    answer = command(*command_line)
    assert answer.status == 0
    _fits_a_screen(answer.out)
    for name in COMMANDS:
        assert f"\n  {name} " in answer.out


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(command: Command, name: str) -> None:
    answer = command(name, "--help")
    assert answer.status == 0
    _fits_a_screen(answer.out)
    assert f"harness {name}" in answer.out.splitlines()[0]


def _fits_a_screen(text: str) -> None:
    lines = text.splitlines()
    assert text.startswith("example:")
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100


#: a path that is too long, and one below the home folder of a user who does not exist
NO_PATHS = ("x" * 5000, "~nobody-of-that-name/x")


@pytest.mark.parametrize("path", NO_PATHS, ids=["too long", "unknown user"])
@pytest.mark.parametrize(
    "words",
    [["table", "--store", "PATH"], ["report", "--store", "PATH"],
     ["diff", "PATH", "PATH"], ["show", "PATH"], ["eval", "PATH"], ["rerun", "PATH"],
     ["rm", "PATH"], ["score", "PATH", "PATH"], ["prepare", "dataset=folder", "source='PATH'"],
     ["label", "PATH", "--out", "x.npy"], ["embed", "PATH", "PATH", "--out", "x.npz"],
     ["embed", "PATH", ".", "--out", "x.npz"], ["export", "PATH"], ["zoo", "add", "PATH"],
     ["validate", "PATH"], ["run", "method=mskd", "data.root='PATH'"],
     ["run", "method=mskd", "dataset=synthetic", "backbone.weights='PATH'"]],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_path_that_cannot_exist(command: Command, words: list[str], path: str) -> None:
    answer = command(*(word.replace("PATH", path) for word in words))
    assert answer.status in (1, 2)
    assert answer.err.startswith("error: ") and "Traceback" not in answer.err


def test_a_list_of_a_store_whose_path_is_too_long(command: Command) -> None:
    answer = command("list", "runs", "--store", NO_PATHS[0])
    assert answer.status in (1, 2)
    assert answer.err.startswith("error: ") and "Traceback" not in answer.err


def test_a_file_that_may_not_be_read(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the system refuses a file, the answer names it."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "secret.json")

    monkeypatch.setattr("harness.results.store.Store.runs", refuse)
    answer = command("list", "runs")
    assert answer.status == 1
    assert answer.err.startswith("error: secret.json: Permission denied.\n  Check the path")


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    """Names of files may hold any bytes; what is printed shows those that are no text."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    listed = subprocess.run(
        [sys.executable, "-m", "harness", "list", "runs", "--store", str(tmp_path)],
        cwd=ROOT, env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"}, capture_output=True,
        check=False,
    )  # fmt: skip
    assert listed.returncode == 0, listed.stderr
    assert b"caf\\udce9   unfinished" in listed.stdout


def test_version(command: Command) -> None:
    assert command("--version").out.startswith("harness 0.")


#: what was typed → what has to be in the answer
SLIPS = {
    "rum method=mskd": ["no command 'rum'", "'run'"],
    "method=mskd": ["'harness run method=mskd'"],
    "list metods": ["no list of 'metods'", "'methods'"],
    "table --format htm": ["'htm'", "markdown"],
    "eval": ["required: run", "harness eval RUN"],
    "eval nothing": ["no run 'nothing'"],
    "eval RUN --ranks 1,a": ["--ranks: '1,a' must be numbers of 1 or more, as 1,3,50"],
    "eval RUN --ranks 1,": ["--ranks: '1,' must be numbers of 1 or more"],
    "rerun RUN data.root=[": ["'data.root=[' cannot be read", "'data.root=\"…\"'"],
    "rerun RUN data.root=2024-13-01": ["cannot be read: month must be in 1..12"],
    "show RUN --seed -1": ["--seed: '-1' must be a whole number from 0"],
    "bench train --retries -1": ["--retries: '-1' must be a whole number from 0"],
    "bench train --workers -1": ["--workers: '-1' must be a whole number from 0"],
    "bench eval --scale nan": ["--scale: 'nan' must be a number above 0, up to 1"],
    "bench eval --scale inf": ["--scale: 'inf' must be a number above 0, up to 1"],
    "bench eval --scale -1": ["--scale: '-1' must be a number above 0, up to 1"],
    "bench gpu --minutes nan": ["--minutes: 'nan' must be a number above 0"],
    "table": ["no finished runs", "harness run method=mskd"],
    "export nothing": ["no run 'nothing'"],
    "export RUN --format onx": ["'onx'", "onnx"],
    "zoo ad RUN": ["'ad'", "add"],
    "zoo add nothing": ["no run 'nothing'"],
    "verify nowhere": ["nowhere", "mskd_loss.npz"],
    "--plugins": ["--plugins needs a folder"],
    "--plugins=nowhere list": ["nowhere does not exist"],
    "run": ["No method", "cluster_contrast, dcmip, direct_transfer"],
    "run -m": ["No method"],
    "run mthod=mskd": ["no option 'mthod'", "'method'"],
    "run mskd": ["'mskd' is not a setting", "method=mskd"],
    "run method=mkd": ["no method 'mkd'", "'mskd'"],
    "run method=null": ["no method 'null'"],
    "run method=mskd dataset=market": ["no dataset 'market'", "'market1501'"],
    "run method=mskd backbone=resnet5": ["no backbone 'resnet5'", "'resnet50'"],
    "run method=mskd labeler=jacard_dbscan": ["no labeler", "'jaccard_dbscan'"],
    "run method=mskd protocol=comon": ["no protocol 'comon'", "'common'"],
    "run method=mskd experiment=market1501": ["no experiment", "'market1501_"],
    "run method=mskd +experiment=market1501": ["no experiment", "'market1501_"],
    "run method=mskd,mks -m": ["no method 'mks'"],
    "run method=mskd trian.epochs=3": ["no option 'trian.epochs'", "'train.epochs'"],
    "run method=mskd selecton=last": ["no option 'selecton'", "'selection'"],
    "run method=mskd data.rot=x": ["no option 'data.rot'", "'data.root'"],
    "run method=mskd labeler.epss=1": ["no option 'labeler.epss'", "'labeler.eps'"],
    "run method=mskd dataset=synthetic dataset.identites=3": ["'dataset.identities'"],
    "run method=mskd stages.techer.train.epochs=3": ["no stage 'techer'", "'teacher'"],
    "run method=mskd +stages.techer={}": ["no stage 'techer'", "'teacher'"],
    "run method=direct_transfer stages.teacher.train.epochs=3": ["no stage", "does not train"],
    "run method=mskd stages.teacher.train.epoch=3": ["stages.teacher.train.epoch", "train.epochs"],
    "run method=mskd selection=lats": ["selection=lats", "'last'"],
    "run method=mskd train.precision=fp33": ["train.precision=fp33", "'fp32'"],
    "run method=mskd device=cdua": ["device=cdua", "'cuda'"],
    "run method=mskd train.epochs=abc": ["train.epochs=abc", "whole number"],
    "run method=mskd seed=[": ["'seed=['", "KEY=VALUE"],
    "run method=mskd seed=0,1": ["'seed=0,1' gives more than one value", "Add -m"],
    "run method=mskd dataset=[market1501,msmt17],cuhk03": ["Add -m"],
    "run method=mskd data.root=/a=b": ["cannot be read", "'data.root=\"/a=b\"'"],
    "run method=mskd data.root=/a#b": ["cannot be read", "'data.root=\"/a#b\"'"],
    "run method=mskd data.root=~/a": ["cannot be read", "'data.root=\"~/a\"'"],
    "run method=mskd data.root=/a,b": ["Add -m", "'data.root=\"/a,b\"'"],
    "run method=mskd data.root=/a[b]": ["cannot be read", "'data.root=\"/a[b]\"'"],
    "run method=mskd data.root=/zoë": ["with ë needs quotes", "'data.root=\"/zoë\"'"],
    "run method=mskd data.root=/人#": ["with # 人 needs quotes", "'data.root=\"/人#\"'"],
    'run method=mskd data.root=/a"b': ["needs quotes", '\'data.root="/a\\"b"\''],
    "run method=mskd data.root='/a#": ["cannot be read"],
    "prepare dataset=market1501 data.root=/a~b": ["needs quotes", "'data.root=\"/a~b\"'"],
    "run method=3": ["no method '3'", "Did you mean '3c'?"],
    "run method=mskd labeler=0.5": ["no labeler '0.5'", "jaccard_dbscan"],
    "run method=mskd labeler=[1]": ["no labeler '[1]'", "jaccard_dbscan"],
    "run method=mskd labeler={a:1}": ["no labeler '{a:1}'", "jaccard_dbscan"],
    "run method=mskd dataset=7": ["no dataset '7'", "market1501"],
    "run method=mskd experiment=3": ["no experiment '3'", "market1501_small"],
    "run method=mskd protocol=true": ["no protocol 'true'", "common"],
    "run method=mskd stages=3": ["stages=3 must hold keys and values"],
    "run method=mskd stages=[1]": ["must hold keys and values"],
    "run method=mskd stages.teacher=3": ["stages.teacher=3 must hold keys and values"],
    "run method=mskd device=gpu": ["device=gpu is unknown", "'cuda'"],
    "run method=mskd device=gpu:1": ["device=gpu:1 is unknown", "'cuda'"],
    "run method=mskd ~labeler": ["~labeler removes something", "labeler=NAME"],
    "run method=mskd ~optimizer": ["~optimizer removes something", "optimizer.KEY=VALUE"],
    "run method=mskd ~dataset": ["~dataset removes something", "dataset=NAME"],
    "run method=mskd labeler.gap=0.1": ["no option 'labeler.gap'", "labeler=self_paced"],
    "run method=cluster_contrast distiller.teacher=X": ["no option", "add distiller=offline_t"],
    "run method=mskd --resolve": ["--resolve needs --cfg", "--cfg job"],
    "run method=mskd --cfg job --multirun": ["Only one of"],
    "run method=mskd ++optimizer.weight_deca=1": ["optimizer.weight_deca", "weight_decay"],
    "run method=mskd +train.epoch=3": ["train.epoch", "'epochs'"],
    "run method=mskd ++evaluation.rank=true": ["evaluation.rank", "'rerank'"],
    "run method=mskd ++trian.epochs=3": ["no option 'trian'", "'train'"],
    "run method=mskd dataset=folder": ["dataset.csv"],
    "run method=mskd backbone.weights=none.pth": ["none.pth", "no such file"],
}


@pytest.mark.parametrize("typed", SLIPS)
def test_a_slip_is_answered_with_what_was_meant(
    command: Command, tmp_path: Path, typed: str
) -> None:
    answer = command(*typed.split())
    assert answer.status == 2
    assert answer.err.startswith("error: ")
    assert "Traceback" not in answer.err
    for words in SLIPS[typed]:
        assert words in answer.err
    assert not answer.out
    assert not list(tmp_path.glob("results/runs/[!.]*")), "refused, but only after some work"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "typed",
    [
        ["method=mskd", "--cfg", "job"],
        ["--cfg", "job", "method=mskd"],
        ["--cfg", "job", "--resolve", "method=mskd", "dataset=synthetic", "~labeler.search"],
    ],
)
def test_cfg_job_prints_the_configuration(
    command: Command, tmp_path: Path, typed: list[str]
) -> None:
    answer = command("run", *typed)
    assert answer.status == 0
    config = yaml.safe_load(answer.out)
    assert config["method"]["name"] == "mskd"
    assert config["labeler"]["part_weight"] == 0.15
    assert ("search" in config["labeler"]) == ("~labeler.search" not in typed)
    assert not list(tmp_path.iterdir())


def test_experiment_with_and_without_plus(command: Command) -> None:
    plain, plus = (
        command("run", "method=mskd", f"{sign}experiment=market1501_small", "--cfg", "job").out
        for sign in ("", "+")
    )
    assert plain == plus
    assert yaml.safe_load(plain)["protocol"]["name"] == "market1501_small"
    changed = command("run", "--cfg", "job", "method=mskd", "+experiment=market1501_small",
                      "train.epochs=3")  # fmt: skip
    assert yaml.safe_load(changed.out)["train"]["epochs"] == 3, "the command line wins"


def test_a_stage_is_changed_with_or_without_plus() -> None:
    for sign in ("", "+", "++"):
        config = compose(["method=mskd", f"{sign}stages.teacher.train.epochs=3"])
        assert config.stages.teacher.train.epochs == 3
        assert config.stages.teacher.distiller is None


def test_multirun_runs_every_combination(command: Command, tmp_path: Path) -> None:
    # flags may stand among the overrides
    answer = command("run", "method=direct_transfer", "-m", "seed=0,1", *tiny(tmp_path))
    assert answer.status == 0
    names = sorted(path.name for path in (tmp_path / "runs").glob("[!.]*"))
    assert [name.split("-")[:3] for name in names] == [
        ["direct_transfer", "synthetic", "s0"],
        ["direct_transfer", "synthetic", "s1"],
    ]
    assert names[0].split("-")[3] == names[1].split("-")[3], "repeats share their settings' hash"


def test_a_tilde_is_the_home_folder_in_every_command(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / "own" / "methods").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    store, data = 'store="~/runs"', 'data.root="~/data"'
    words = [word for word in tiny(home) if not word.startswith(("store=", "data.root="))]
    answer = command("run", "-m", "method=direct_transfer", "seed=0,1", store, data, *words)
    assert answer.status == 0, answer.err
    assert (home / "runs" / ".multirun").is_dir()
    name = next((home / "runs").glob("[!.]*")).name
    for typed in (
        ["table"], ["table", "--cross"], ["table", "--rows", "method"], ["list", "runs"],
        ["table", "--format", "csv", "--output", "~/table.csv"], ["diff", name, name],
        ["report", "--output", "~/report.html"], ["eval", name, "--data-root", "~/data"],
        ["show", name, "ranked", "--data-root", "~/data"], ["submit", name, "--output", "~/sent"],
        ["rm", name, "--yes"],
    ):  # fmt: skip
        answer = command(*typed, "--store", "~/runs")
        assert answer.status == 0, (typed, answer.err)
        assert name in answer.out or typed[0] not in ("list", "eval", "rm")
    assert command("--plugins", "~/own", "list", "methods").status == 0
    assert not (tmp_path / "~").exists()
    answer = command("eval", "x", "--store", "~no-such-user/runs")
    assert "no run 'x' in ~no-such-user/runs" in answer.err


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        ("direct_transfer,cluster_contrast", {"cluster_contrast", "direct_transfer"}),
        ("glob([direct*,no_*])", {"direct_transfer"}),  # and no variant of any method
        ("direct_transfer,mskd/online", {"direct_transfer", "mskd_online"}),
    ],
)
def test_multirun_over_methods(
    command: Command, tmp_path: Path, methods: str, expected: set[str]
) -> None:
    short = [*tiny(tmp_path), "train.epochs=1", "train.iterations=1"]
    answer = command("run", "-m", f"method={methods}", *short)
    assert answer.status == 0, answer.err
    ran = {run.record["experiment"]["method"] for run in Store(tmp_path / "runs").runs()}
    assert ran == expected


def test_multirun_over_methods_names_what_is_misspelt(command: Command, tmp_path: Path) -> None:
    for wrong, right in (("selecton=last", "'selection'"), ("method=mskd,capp", "'cap'")):
        given = [] if wrong.startswith("method") else ["method=direct_transfer,mskd"]
        answer = command("run", "-m", *given, wrong, *tiny(tmp_path))
        assert answer.status == 2 and f"Did you mean {right}?" in answer.err, answer.err


def test_multirun_over_methods_with_an_option_of_some_parts(
    command: Command, tmp_path: Path
) -> None:
    """A sweep is composed once without a method, whose parts are then the usual ones."""
    given = ("run", "-m", "method=mskd,mskd/online", *tiny(tmp_path))
    refused = command(*given, "distiller.weight=0.5")
    assert refused.status == 2 and "++distiller.weight=0.5" in refused.err
    short = ("train.epochs=1", "train.iterations=1", "stages.student.train.warmup_epochs=0")
    answer = command(*given, "++distiller.weight=0.5", *short)
    assert answer.status == 0, answer.err
    weights = [run.config()["distiller"]["weight"] for run in Store(tmp_path / "runs").runs()]
    assert weights == [0.5, 0.5]


def test_one_failing_cell_does_not_stop_the_others(command: Command, tmp_path: Path) -> None:
    answer = command(
        "run", "-m", "method=direct_transfer", "selection=lats,last", *tiny(tmp_path)
    )  # fmt: skip
    assert answer.status == 1
    assert "1 of 2 runs failed" in answer.err and "selection=lats" in answer.err
    assert "Traceback" not in answer.err
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 1


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("harness run method=", {"method=cluster_contrast", "method=mskd"}),
        ("harness run method=mskd dataset=mark", {"dataset=market1501"}),
        ("harness run method=mskd labeler.e", {"labeler.eps="}),
    ],
)
@pytest.mark.parametrize("typed", [["-sc", "query=bash"], ["run", "-sc", "query=bash"]])
def test_completion(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    offered: set[str],
    typed: list[str],
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_POINT", str(len(line)))
    answer = command(*typed)
    assert answer.status == 0
    words = set(answer.out.split())
    assert words >= offered  # and others, as methods are added
    assert all(word.startswith(line.split()[-1]) for word in words)


@pytest.mark.parametrize(
    "typed",
    [["-sc", "query=bash"], *(["list", what] for what in ("methods", "objectives", "backbones"))],
)
def test_completion_and_lists_do_without_torch(tmp_path: Path, typed: list[str]) -> None:
    code = (
        "import sys\nfrom harness.cli.main import main\nmain(sys.argv[1:])\n"
        "print(sorted({'torch', 'pandas', 'optuna'} & set(sys.modules)), file=sys.stderr)"
    )
    line = "harness run method=mskd dataset=mark"
    done = subprocess.run(
        [sys.executable, "-c", code, *typed], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COMP_LINE": line, "COMP_POINT": str(len(line))},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("hint", "shown"),
    [
        ("Set HARNESS_DATA or data.root= to the folder", "Set HARNESS_DATA or --data-root to"),
        ("Use device=auto or device=cpu, or install", "Use --device auto or --device cpu, or"),
        ("Choose another folder: store= for runs.", "Choose another folder: --store for runs."),
        ("It needs locks: store=DIR.", "It needs locks: --store DIR."),
        ("Use overwrite=always.", "Use overwrite=always."),
        ("There is no 'data.root=x'.", "There is no 'data.root=x'."),
    ],
)
def test_hints_name_the_flags_of_the_command(
    hint: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`harness eval` takes --data-root, `harness run` takes data.root=."""
    report_error(ConfigError("wrong", hint), FLAGS)
    assert shown in capsys.readouterr().err
    report_error(ConfigError("wrong", hint))
    assert hint in capsys.readouterr().err


def test_commands_with_flags_suggest_flags(command: Command) -> None:
    assert "harness: --device gpu" not in command("run", "method=mskd", "device=gpu").err
    answer = command("label", "x.npy", "--out", "y.npy", "--device", "gpu")
    assert "--device gpu is unknown" in answer.err and "'cuda'" in answer.err
    where = command("bench", "train", "dataset=market1501", "data.root=nowhere")
    assert "data.root=" in where.err and "--data-root" not in where.err, "bench has no such flag"


@pytest.mark.slow  # Hydra prepares its overrides for each of 145 groups
def test_hydras_own_help(command: Command) -> None:
    answer = command("run", "--hydra-help")
    assert answer.status == 0
    assert "--multirun" in answer.out


def test_lists(command: Command) -> None:
    for what, known in {
        "methods": ["mskd", "cluster_contrast", "direct_transfer"],
        "datasets": ["market1501", "folder", "synthetic"],
        "backbones": ["mobilenet_v2", "resnet50", "small"],
        "labelers": ["jaccard_dbscan", "self_paced", "kmeans", "infomap", "bottom_up"],
        "objectives": ["cluster_memory"],
        "distillers": ["offline_teacher"],
        "protocols": ["common", "published", "demo", "debug"],
        "experiments": [
            "market1501_cpu",
            "market1501_cpu_resnet50",
            "market1501_gpu",
            "market1501_small",
        ],
    }.items():
        answer = command("list", what)
        assert answer.status == 0
        rows = {line.split()[0]: line for line in answer.out.splitlines()}
        assert rows.keys() >= set(known)
        assert all(len(rows[name].split()) > 1 for name in known), "each says what it is"
        assert not any(line.endswith((",", " the", " of", " and")) for line in rows.values())
    assert command("list", "method").out == command("list", "methods").out
    assert command("list", "runs").out == "No runs.\n"


def test_list_of_searches(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Presets of finished searches, for `+search=NAME`."""
    monkeypatch.setenv("HARNESS_SEARCHES", str(tmp_path / "mine"))
    (tmp_path / "mine" / "better").mkdir(parents=True)
    (tmp_path / "mine" / "better" / "preset.yaml").write_text("# Trial 3. And more.\nseed: 1\n")
    for what in ("searches", "search"):
        rows = [line.split() for line in command("list", what).out.splitlines()]
        assert ["better", "Trial", "3"] in rows


def test_the_command_line_itself_imports_nothing_heavy() -> None:
    code = "import sys, harness.cli.main, harness.core.errors; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    modules = set(done.stdout.split())
    assert "harness.cli.main" in modules
    assert not modules & {"torch", "numpy", "scipy", "hydra", "omegaconf", "rich", "pandas"}


def test_a_real_process(tmp_path: Path) -> None:
    """What only a process can show: the exit status, nothing on the wrong stream."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HARNESS")}
    done = subprocess.run(
        [sys.executable, "-m", "harness", "run", "method=mskd", "selecton=last"],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: There is no option 'selecton'.",
        "  Did you mean 'selection'?",
    ]
