"""Generated cases, by what they damage: a function of a random generator for each target."""

from __future__ import annotations

import copy
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.torch import load, save

from harness.core.precision import resolve_device, resolve_precision
from harness.core.progress import Reporter
from harness.experiment.compose import compose
from harness.experiment.models.description import KEY
from harness.experiment.models.export import export_model
from harness.experiment.models.load import SUFFIXES, model_of_run
from harness.experiment.part_checks import check_parts
from harness.experiment.plan import make_plan
from harness.experiment.prepare import check as check_images
from harness.experiment.prepare import place
from harness.experiment.registration import options
from harness.experiment.run import run_experiment
from harness.experiment.sections import check_complete
from harness.experiment.stages import make_dataset
from harness.results.store import Run
from tests.datasets.fakes import MARKET, in_folders, paint, picture
from tests.experiment.standalone.own_features import people, write_test_set
from tests.fuzz.invariant import Case, Command
from tests.fuzz.odd import (
    LONG,
    NOT_UTF8,
    WORDS,
    Draw,
    npy_of_shape,
    odd_array,
    odd_bytes,
    odd_json,
    odd_npz,
    odd_state,
    pick,
)
from tests.results.report.stores import add
from tests.tiny import TINY


@dataclass(frozen=True)
class Runs:
    """Real runs to damage: the folder with `runs/` and `data/`, and the overrides of each run."""

    folder: Path
    finished: Sequence[str]
    stopped: Sequence[str]


# ------------------------------------------------------------------------------- overrides

METHODS = ("mskd", "cluster_contrast", "strong_baseline", "spcl", "buc", "pplr/cameras",
           "direct_transfer")  # fmt: skip


def overrides(draw: Draw, folder: Path, _: Runs) -> Case:
    """Options of `harness run`, composed and checked as before a run, without training."""
    method = pick(draw, METHODS)
    words = [f"method={method}", *TINY, f"store={folder}/runs", f"data.root={folder}/data"]
    for _number in range(int(draw.integers(1, 4))):
        sign = pick(draw, ("", "", "", "", "", "++", "+", "~"))
        words.append(f"{sign}{_key(draw, method)}")
        if draw.random() < (0.1 if sign == "~" else 0.97):
            words[-1] += f"={_word(draw)}"
    if draw.random() < 0.15:
        tail = pick(draw, (["--cfg", "job"], ["--cfg", "job", "--resolve"], ["--resolve"]))
        return Case([["run", *words, *tail, *(["-m"] if draw.random() < 0.1 else [])]])
    return Case([partial(check, words)])


def _word(draw: Draw) -> str:
    if draw.random() < 0.1:
        return pick(draw, [name for names in options().values() for name in names])
    return pick(draw, WORDS)


@cache
def _keys(method: str) -> list[str]:
    config = compose([f"method={method}", "dataset=synthetic", "backbone=small"])
    dotted = _dotted(OmegaConf.to_container(config, resolve=False))
    return [*dotted, *options()]


def _dotted(node: object, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _dotted(value, f"{prefix}{key}.")


def _key(draw: Draw, method: str) -> str:
    key = pick(draw, _keys(method))
    action = draw.random()
    if action < 0.05:
        return key[:-1] or "x"
    if action < 0.1:
        return f"{key}.{pick(draw, ('x', '0', '_target_', 'name'))}"
    return key


def check(words: Sequence[str]) -> None:
    """What `harness run` checks before it trains."""
    config = compose(words)
    check_complete(config)
    precision = resolve_precision(str(config.train.precision), resolve_device(str(config.device)))
    check_parts(make_plan(config, precision))
    make_dataset(config)


# ------------------------------------------------------------------------------- without Hydra


_compose = cache(lambda *words: compose(words))


def composed(*words: str, **changes: object) -> DictConfig:
    """A configuration, composed once; `changes` are set in a copy."""
    config: DictConfig = copy.deepcopy(_compose(*words))
    for key, value in changes.items():
        OmegaConf.update(config, key, str(value) if isinstance(value, Path) else value)
    return config


def prepare(config: DictConfig, source: Path | None = None) -> None:
    """`harness prepare` of a composed configuration."""
    dataset, reporter = make_dataset(config), _silent()
    if source is not None:
        place(dataset, source, Path(str(config.data.root)), config, reporter)
    check_images(dataset.load(), config, reporter)


def run(config: DictConfig) -> None:
    """`harness run` of a composed configuration."""
    run_experiment(config, _silent())


def _silent() -> Reporter:
    return Reporter(Console(file=io.StringIO()))


# ------------------------------------------------------------------------------- own data

CELLS = ("", " ", "0", "1", "-1", "-2", "1.0", "-1.0", "nan", "1e3", "a", "ä", "10" * 30, "train",
         "query", "../x.jpg", "/etc/passwd", LONG, "a\0b", '"', "\r", NOT_UTF8)  # fmt: skip


def tables_of_images(draw: Draw, folder: Path, _: Runs) -> Case:
    """The CSV of dataset=folder."""
    names = [f"{split}/{i}.jpg" for split in ("train", "query", "gallery") for i in range(6)]
    paint(folder / "own", names)
    rows = [["path", "id", "camera", "split"]]
    rows += [[name, str(i % 3 + 1), str(i % 2), name.split("/")[0]] for i, name in enumerate(names)]
    for _number in range(int(draw.integers(1, 4))):
        row = pick(draw, rows)
        action = draw.random()
        if action < 0.6:
            row[int(draw.integers(len(row)))] = pick(draw, CELLS)
        elif action < 0.7:
            rows.append(list(row))
        elif action < 0.8:
            rows.remove(row)
        elif action < 0.9:
            place = int(draw.integers(len(row)))
            for other in rows[1:]:  # a whole column
                other[place % len(other)] = pick(draw, (*CELLS[:12], other[place % len(other)]))
        else:
            row.pop()
        if not rows:
            break
    text = pick(draw, ("\n", "\r\n", "\n", "\r")).join(pick(draw, (",", ",", ",", ";")).join(row)
                                                     for row in rows)  # fmt: skip
    content = text.encode(errors="surrogateescape")
    if draw.random() < 0.2:
        content = odd_bytes(draw, content)
    if draw.random() < 0.1:
        content = text.encode("utf-16", errors="replace")
    (folder / "own" / "images.csv").write_bytes(content)
    if draw.random() < 0.2:
        image = folder / "own" / pick(draw, names)
        image.write_bytes(odd_bytes(draw, image.read_bytes()))
    places = [f"data.root={folder}/own", "dataset.csv=images.csv", "images.height=32",
              "images.width=16"]  # fmt: skip
    skip = ["dataset.on_bad_image=skip"] * int(draw.random() < 0.3)
    writes = ["own/.harness*", "runs*"]
    if draw.random() < 0.1:  # composing takes most of the time of a command
        return Case([["prepare", "dataset=folder", *places, *skip]], writes)
    changes = {"data.root": folder / "own", "store": folder / "runs"}
    prepared = composed("method=direct_transfer", "dataset=folder", "backbone=small",
                        "backbone.weights=none", "protocol=debug", "device=cpu", *places[1:],
                        *skip, **changes)  # fmt: skip
    return Case([partial(prepare, prepared), partial(run, prepared)], writes)


def folders_of_images(draw: Draw, folder: Path, _: Runs) -> Case:
    """A folder whose CSV `prepare dataset=folder source=DIR` proposes."""
    patterns = (
        "{split}/{id}/{i}.jpg",
        "{split}/{id:04}_c{cam}_{i}.jpg",
        "{id}/{i}.png",
        "{i}.jpg",
        "{id}_{cam}/{i}.tif",
        "{split}/{id}_{i}.gif",
        "all/{id:04}_c{cam}s1_{i}.jpg",
    )
    pattern = pick(draw, patterns)
    splits = pick(draw, (("train", "query", "gallery"), ("train", "test"), ("a", "b")))
    for i in range(24):
        name = pattern.format(split=splits[i % len(splits)], id=i % 4, cam=i % 2 + 1, i=i)
        path = folder / "own" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(i).save(path)
    odd_names = ("x.txt", f"{NOT_UTF8}.jpg", "ä ö.jpg", ",.jpg", "'\".jpg", "a\nb.jpg", "#=~.jpg",
                 ".hidden.jpg", "x" * 200 + ".jpg", "UPPER.JPG", "no-image.jpg")  # fmt: skip
    for _number in range(int(draw.integers(0, 3))):
        parent = pick(draw, sorted({p.parent for p in (folder / "own").rglob("*.*")}))
        name = pick(draw, odd_names)
        if name == "no-image.jpg":
            (parent / name).write_bytes(odd_bytes(draw, b"GIF89a" * 20))
        else:
            picture(1).save(parent / name, "JPEG")
    if draw.random() < 0.2:
        (folder / "own" / "link").symlink_to(pick(draw, ("own", "..", "nowhere", ".")))
    words = pick(
        draw,
        ([], [], ["split_seed=abc"], ["split_seed=-1"], ["test_share=2"], ["test_share=0"],
         ["pattern=("], ["pattern=x"], ["pattern=(?P<id>\\d+)"],
         ["pattern=(?P<id>.*)_(?P<camera>.)"]),
    )  # fmt: skip
    return Case(
        [["prepare", "dataset=folder", f"source={folder}/own", f"data.root={folder}/data",
          "images.height=32", "images.width=16", "--yes", *words]],
        ["own/*.csv", "data*", "own/.harness*"],
    )  # fmt: skip


def archives(draw: Draw, folder: Path, _: Runs) -> Case:
    """An archive of a release for `prepare`."""
    files: dict[str, bytes] = {}
    for seed, name in enumerate(in_folders(MARKET)):
        buffer = io.BytesIO()
        picture(seed).save(buffer, "JPEG")
        files[f"Market-1501-v15.09.15/{name}"] = buffer.getvalue()
    names = list(files)
    for _number in range(int(draw.integers(0, 3))):
        action, name = draw.random(), pick(draw, names)
        if action < 0.3:
            files.pop(name, None)
        elif action < 0.6:
            files[name] = odd_bytes(draw, files.get(name, b"x"))
        else:
            files[pick(draw, _ODD_MEMBERS)] = b"x"
    path = folder / "source" / pick(draw, ("a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.zip"))
    path.parent.mkdir()
    if path.suffix == ".zip":
        _write_zip(draw, path, files)
    else:
        _write_tar(draw, path, files)
    if draw.random() < 0.5:
        path.write_bytes(odd_bytes(draw, path.read_bytes()))
    counts = ["dataset.check_counts=false"] * int(draw.random() < 0.9)
    dataset = pick(draw, ("market1501",) * 8 + ("dukemtmcreid", "msmt17", "cuhk03", "synthetic"))
    words = (f"dataset={dataset}", "images.height=32", "images.width=16")
    if draw.random() < 0.1:
        command = ["prepare", *words, f"source={path}", f"data.root={folder}/data", *counts]
        return Case([command], ["data*"])
    config = composed(
        "method=direct_transfer",
        *words,
        *counts * (dataset != "synthetic"),
        **{"data.root": folder / "data"},
    )
    return Case([partial(prepare, config, path)], ["data*"])


_ODD_MEMBERS = (
    "../up.jpg", "/absolute.jpg", "C:\\x.jpg", "a\\b.jpg", "x" * 300 + ".jpg", "ä.jpg", "", ".",
    "Market-1501-v15.09.15/query/../../up.jpg", "Market-1501-v15.09.15/query/0001_c1s1_1_00.jpg",
    "market-1501-V15.09.15/QUERY/0001_c1s1_001051_00.jpg", "a\0b.jpg", "__MACOSX/._x.jpg",
    "Market-1501-v15.09.15/query", "Market-1501-v15.09.15/query/0001_c1s1_001051_00.jpg/x.jpg",
)  # fmt: skip


def _write_zip(draw: Draw, path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(
        path, "w", pick(draw, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as zipped:
        for name, content in files.items():
            zipped.writestr(zipfile.ZipInfo(name) if name else zipfile.ZipInfo("/"), content)
        if draw.random() < 0.1:
            zipped.writestr("bomb.jpg", b"\0" * (1 << 20), zipfile.ZIP_DEFLATED)
        if draw.random() < 0.1:
            link = zipfile.ZipInfo("link.jpg")
            link.external_attr = 0o120777 << 16
            zipped.writestr(link, "/etc/passwd")


def _write_tar(draw: Draw, path: Path, files: dict[str, bytes]) -> None:
    mode: Any = {".tar": "w", ".gz": "w:gz", ".xz": "w:xz"}[path.suffix]
    with tarfile.open(path, mode, errors="surrogateescape") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if draw.random() < 0.2:
            info = tarfile.TarInfo(pick(draw, ("odd.jpg", f"{NOT_UTF8}.jpg")))
            info.type = pick(draw, (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE,
                                    tarfile.CHRTYPE, tarfile.REGTYPE, b"Z"))  # fmt: skip
            info.linkname = pick(draw, ("/etc/passwd", "../../x", "a", ""))
            archive.addfile(info)


# ------------------------------------------------------------------------------- arrays


def arrays(draw: Draw, folder: Path, _: Runs) -> Case:
    """Files of features and labels for `score` and `label`."""
    given = write_test_set(folder)
    writes = ["out*"]
    if draw.random() < 0.6:
        for side in pick(draw, ("q", "g", "qg")):
            own = {k[2:]: value for k, value in given.items() if k.startswith(f"{side}_")}
            odd_npz(draw, folder / f"{side}.npz", own)
        flags = pick(draw, ([], [], ["--rerank"], ["--no-cams"], ["--json"], ["--threads", "-1"],
                            ["--device", "nowhere"], ["--out", f"{folder}/out.json"],
                            ["--per-query", f"{folder}/out.npz"]))  # fmt: skip
        return Case([["score", f"{folder}/q.npz", f"{folder}/g.npz", *flags]], writes)
    path = folder / "features.npy"
    np.save(path, odd_array(draw, people(6, 8)), allow_pickle=True)
    action = draw.random()
    if action < 0.2:
        path.write_bytes(odd_bytes(draw, path.read_bytes()))
    elif action < 0.3:
        huge = ((10**9, 10**6), (2**62, 4), (-1, 4), (10**6, 10**3), (0, 4))
        path.write_bytes(npy_of_shape(pick(draw, huge)))
    words = [] if draw.random() < 0.3 else [f"labeler.{_labeler_key(draw)}={_word(draw)}"]
    labeler = pick(draw, ("jaccard_dbscan", "kmeans", "self_paced", "bottom_up", "none", "infomap"))
    out = pick(
        draw, ("out.npy",) * 6 + ("features.npy", "out.txt", "out/x/y.npy", f"out{LONG}.npy")
    )
    return Case(
        [["label", str(path), f"labeler={labeler}", *words, "--out", f"{folder}/{out}"]], writes
    )


def _labeler_key(draw: Draw) -> str:
    return pick(draw, ("eps", "min_samples", "k1", "k2", "clusters", "part_weight", "x", "_target_",
                       "search", "gap", "merge", "seed"))  # fmt: skip


# ------------------------------------------------------------------------------- stores

COMMANDS: tuple[tuple[str, ...], ...] = (
    ("table",), ("table", "--format", "csv"), ("table", "--format", "latex"),
    ("table", "--by-dataset"), ("table", "--cross"), ("table", "--compare"),
    ("table", "--rows", "labeler.eps", "--columns", "seed"), ("list", "runs"), ("list", "problems"),
    ("show", "cc-0", "curves"), ("rm", "cc-0", "--yes"), ("rerun",), ("rerun", "cc-1"),
    ("report", "--output", "out.html"), ("eval", "cc-0"),
)  # fmt: skip
CONDITIONS = ("seed < 3", "seed <", "a b", "__import__('os').mkdir('x')", "@pd", "seed == 'x'",
              "method", "1/0", "seed.real", "cameras and seed", "`x`", "")  # fmt: skip
FIELDS = ("method", "seed", "labeler.eps", "x", "", "mAP", "dataset,dataset", "run", "..", LONG)


def stores(draw: Draw, folder: Path, _: Runs) -> Case:
    """Records, configurations, histories and results by query of a store."""
    store = folder / "runs"
    for seed, name in enumerate(("cc-0", "cc-1", "mskd-0")):
        method = "mskd" if name.startswith("mskd") else "cluster_contrast"
        add(store, name, method, seed)
    evaluation = {
        "schema": 1, "run": "cc-0", "stage": "train", "trained_on": "a", "tested_on": "b",
        "protocol": json.loads((store / "cc-0/record.json").read_text())["protocol"],
        "metrics": {"mAP": 3.0}, "dataset": {"name": "b", "fingerprint": "1" * 32},
    }  # fmt: skip
    (store / "cc-0" / "eval-b-1.json").write_text(json.dumps(evaluation))
    (store / "cc-0" / "failed.json").write_text(json.dumps({"error": "it was odd"}))
    for _number in range(int(draw.integers(1, 4))):
        run = store / pick(draw, ("cc-0", "cc-0", "cc-1", "mskd-0"))
        name = pick(draw, ("record.json",) * 6 + ("config.json", "history.json", "per_query.npz",
                                                  "eval-b-1.json", "failed.json"))  # fmt: skip
        path, action = run / name, draw.random()
        if not path.is_file():
            continue
        if action < 0.05:
            path.unlink()
            path.mkdir()
        else:
            _damage(draw, path)
    if draw.random() < 0.1:
        (store / "cc-1").rename(store / pick(draw, (NOT_UTF8, "<b>", "a b", "x" * 250, "[", "-x")))
    chosen = list(pick(draw, COMMANDS))
    if chosen[0] == "table" and draw.random() < 0.3:
        more = (["--where", pick(draw, CONDITIONS)], ["--rows", pick(draw, FIELDS)],
                ["--sort", pick(draw, FIELDS)], ["--compare", pick(draw, FIELDS)],
                ["--dataset", pick(draw, FIELDS)])  # fmt: skip
        chosen += pick(draw, more)
    chosen = [str(folder / word) if word == "out.html" else word for word in chosen]
    return Case([[*chosen, "--store", str(store)]], _written_by(chosen))


def _written_by(command: Sequence[str]) -> list[str]:
    if command[0] == "rm":
        return ["runs/cc-0*"]
    if command[0] == "rerun":  # it may run what is unfinished
        return ["runs/cc-[01]*", "runs/mskd-0*", "runs/*/.lock", "data*"]
    return ["out.html", "runs/cc-0/figures*", "runs/*/.lock"]


# ------------------------------------------------------------------------------- networks


def checkpoints(draw: Draw, folder: Path, runs: Runs) -> Case:
    """The files of a run that was stopped, when it goes on."""
    store = _copied(runs, folder)
    stopped = _run_of(store, "mskd")
    names = ("checkpoint.pt",) * 6 + ("history.json", "config.json", "teacher.pt", "per_query.npz",
                                      "record.json")  # fmt: skip
    _damage(draw, stopped / pick(draw, names), depth=2)
    again = ["rerun", stopped.name, "--store", str(store), f"data.root={runs.folder}/data",
             "device=cpu"]  # fmt: skip
    places = {"store": store, "data.root": runs.folder / "data"}
    resume = partial(run, composed(*runs.stopped, **places))
    return Case([again if draw.random() < 0.3 else resume], [f"runs/{stopped.name}*"])


def networks(draw: Draw, folder: Path, runs: Runs) -> Case:
    """The files of a finished run, when it is tested, drawn or trained from."""
    store = _copied(runs, folder)
    finished = _run_of(store, "cluster_contrast")
    rest = ("train_features.npz", "record.json", "history.json", "per_query.npz")
    names = ("train.pt",) * 6 + ("config.json",) * 3 + rest
    _damage(draw, finished / pick(draw, names))
    name, places = finished.name, ["--store", str(store), "--data-root", f"{runs.folder}/data"]
    kind = pick(draw, ("ranked", "embedding", "curves", "maps"))
    base = {"store": store, "data.root": runs.folder / "data"}
    own, test = runs.finished, ("method=direct_transfer", *TINY)
    distilled = ("method=cluster_contrast", "distiller=offline_teacher", *TINY)
    weights = {"backbone.weights": finished / "train.pt"}
    commands: tuple[Callable[[], Command], ...] = (
        lambda: ["eval", name, "--images", *places], lambda: ["eval", name, "--save", *places],
        lambda: ["show", name, kind, *places],
        lambda: partial(run, composed(*test, init=name, **base)),
        lambda: partial(run, composed(*test, **weights, **base)),
        lambda: partial(run, composed(*distilled, **{"distiller.teacher": name}, **base)),
        lambda: partial(run, composed(*own, overwrite="backfill", **base)),
    )  # fmt: skip
    writes = [f"runs/{name}/eval*", f"runs/{name}/figures*", "runs/direct_transfer*",
              f"runs/{name}/.lock", "runs/cluster_contrast-*"]  # fmt: skip
    return Case([pick(draw, commands)()], writes)


@cache
def _exported(run: Path, style: str) -> bytes:
    return export_model(model_of_run(Run(run), "train", torch.device("cpu")), style).content


def exported_files(draw: Draw, folder: Path, runs: Runs) -> Case:
    """Files of `harness export`, their descriptions, and lists of images for `harness embed`."""
    style = pick(draw, ("safetensors", "safetensors", "torchscript"))
    content = _exported(_run_of(runs.folder / "runs", "cluster_contrast"), style)
    path, listed = folder / f"model{SUFFIXES[style]}", folder / pick(draw, ("l.csv", "l.txt"))
    paint(folder / "images", ("a.jpg", "b.jpg"))
    listed.write_text("path,id,camera\na.jpg,1,2\nb.jpg,,3\n" if "csv" in listed.name else "a.jpg")
    action = draw.random()
    if action < 0.3:
        content = odd_bytes(draw, content)
    elif style == "safetensors" and action < 0.8:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
        metadata[KEY] = odd_json(draw, json.loads(metadata[KEY]))
        content = save(load(content), metadata=metadata)
    else:
        listed.write_bytes(odd_bytes(draw, listed.read_bytes()))
    path.write_bytes(content)
    flags = pick(draw, ([], [], ["--views", "all"], ["--batch", "-1"], ["--split", "query"],
                        ["--on-bad-image", "skip"], ["--device", "nowhere"]))  # fmt: skip
    words = [str(path), str(listed), "--root", str(folder / "images"), "--out", f"{folder}/out.npz"]
    return Case([["embed", *words, *flags]], ["out*"])


def _copied(runs: Runs, folder: Path) -> Path:
    return Path(shutil.copytree(runs.folder / "runs", folder / "runs"))


def _run_of(store: Path, method: str) -> Path:
    return next(path for path in store.iterdir() if path.name.startswith(f"{method}-"))


def _damage(draw: Draw, path: Path, depth: int = 9) -> None:
    """Damage a file; what torch.save wrote, down to a depth."""
    action, content = draw.random(), path.read_bytes() if path.is_file() else b"{}"
    if path.is_file() and action < 0.1:
        path.unlink()
        return
    with suppress(Exception):  # it may be damaged already
        if path.suffix == ".json" and action < 0.95:
            path.write_text(odd_json(draw, json.loads(content)))
            return
        if path.suffix == ".pt" and action < 0.6:
            path.write_bytes(odd_state(draw, torch.load(path, weights_only=True), depth))
            return
        if path.suffix == ".npz" and action < 0.7:
            with np.load(path) as loaded:
                arrays_ = {key: loaded[key] for key in loaded.files}
            odd_npz(draw, path, arrays_)
            return
    path.write_bytes(odd_bytes(draw, content))


TARGETS: dict[str, Callable[[Draw, Path, Runs], Case]] = {
    target.__name__: target
    for target in (overrides, tables_of_images, folders_of_images, archives, arrays, stores,
                   checkpoints, networks, exported_files)
}  # fmt: skip


def cases(target: str, seed: int, numbers: Sequence[int]) -> Iterator[tuple[int, Draw]]:
    """The number and the random generator of each case: (target, seed, number) repeats it."""
    for number in numbers:
        yield number, np.random.default_rng([seed, number, list(TARGETS).index(target)])
