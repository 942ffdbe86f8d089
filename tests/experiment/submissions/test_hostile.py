"""Submissions made to harm the reviewer's machine: nothing is executed, unpacked or followed."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.experiment.submissions import Reference, validate
from harness.experiment.submissions.layout import LARGEST, QUERIES
from harness.experiment.submissions.untrusted import check_npz, read_strict
from tests.experiment.submissions.forge import edit, failures, reason, run_of, seal, seal_config
from tests.fuzz.odd import odd_array, odd_bytes, odd_json, pick

Copy = Callable[[str], Path]


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def pickled(path: Path, trap: Path) -> None:
    np.savez(path, allow_pickle=True, train_ap=np.array([Harmful(trap)], dtype=object))


def pickle_alone(path: Path, trap: Path) -> None:
    path.write_bytes(pickle.dumps(Harmful(trap)))


def npy(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    """The header of an array, without its content."""
    stream = io.BytesIO()
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue()


def bomb(path: Path, _: Path) -> None:
    """A hundred megabytes of zeros in less than one."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("train_ap.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy((25 << 20,)))
        for _number in range(100):
            member.write(bytes(1 << 20))


def many(path: Path, _: Path) -> None:
    np.savez(path, **{f"a{number}": np.zeros(1) for number in range(500)})  # type: ignore[arg-type]


def huge_header(path: Path, _: Path) -> None:
    """An array that claims to be larger than any memory."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_ap.npy", npy((1 << 60,)))


def outside(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../train_ap.npy", npy((0,)))


def structured(path: Path, _: Path) -> None:
    np.savez(path, train_ap=np.zeros(3, dtype=[("a", "f4"), ("b", "O")]))


def commented(path: Path, _: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"x" * 1000


ARCHIVES = {"pickle in an array": pickled, "pickle": pickle_alone, "bomb": bomb, "many": many,
            "huge header": huge_header, "outside": outside, "structured": structured,
            "comment": commented}  # fmt: skip


@pytest.mark.parametrize("name", ["per_query.npz", "train_features.npz"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_archives(copy: Copy, reference: Reference, tmp_path: Path, kind: str, name: str) -> None:
    folder, trap = copy("one"), tmp_path / "trap"
    if (kind, name) == ("bomb", "train_features.npz"):
        return  # features may be as large
    ARCHIVES[kind](run_of(folder) / name, trap)
    assert "contents" in failures(validate(seal(folder), reference))
    assert not trap.exists()


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / QUERIES
    bomb(path, tmp_path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="more than"):
        check_npz(path, LARGEST[QUERIES])


def links(folder: Path, run: Path) -> None:
    (run / "history.json").rename(folder.parent / "moved.json")
    (run / "history.json").symlink_to(folder.parent / "moved.json")


def linked_run(folder: Path, run: Path) -> None:
    run.rename(folder.parent / run.name)
    run.symlink_to(folder.parent / run.name)


def nested(folder: Path, run: Path) -> None:
    (run / "more").mkdir()


def extra(folder: Path, run: Path) -> None:
    (run / "setup.py").write_text("raise SystemExit")


def hidden(folder: Path, run: Path) -> None:
    (folder / ".git").write_text("gitdir: elsewhere")


def network(folder: Path, run: Path) -> None:
    (run / "train.pt").write_bytes(pickle.dumps(1))


def pipe(folder: Path, run: Path) -> None:
    os.mkfifo(run / "train_features.npz")


def large(folder: Path, run: Path) -> None:
    with (run / "history.json").open("ab") as file:
        file.truncate(LARGEST["history.json"] + 1)


def missing(folder: Path, run: Path) -> None:
    (run / "history.json").unlink()


def without_manifest(folder: Path, run: Path) -> None:
    (folder / "submission.json").unlink()


def linked_manifest(folder: Path, run: Path) -> None:
    (folder / "submission.json").rename(folder.parent / "m.json")
    (folder / "submission.json").symlink_to(folder.parent / "m.json")


LAYOUTS = {f.__name__: f for f in (links, linked_run, nested, extra, hidden, network, pipe, large,
                                   missing, without_manifest, linked_manifest)}  # fmt: skip


@pytest.mark.parametrize("kind", LAYOUTS)
def test_layouts(copy: Copy, reference: Reference, kind: str) -> None:
    folder = copy("bare")
    LAYOUTS[kind](folder, run_of(folder))
    verdict = validate(folder, reference)
    assert failures(verdict) == {"files"}
    assert len(verdict.checks) == 1  # nothing else was read


@pytest.mark.parametrize("path", ["../secret.json", "/etc/passwd", "x/../../secret.json"])
def test_paths_in_the_manifest_are_never_opened(
    copy: Copy, reference: Reference, path: str
) -> None:
    folder = copy("one")
    (folder.parent / "secret.json").write_text("{}")
    entry = {"size": 2, "sha256": "0" * 64}
    edit(folder / "submission.json", lambda m: m["files"].update({path: entry}))
    assert failures(validate(folder, reference)) == {"files"}


def test_runs_in_the_manifest_are_folders_of_the_submission(
    copy: Copy, reference: Reference
) -> None:
    folder = copy("one")
    edit(folder / "submission.json",
         lambda m: m["runs"].update({"../one": next(iter(m["runs"].values()))}))  # fmt: skip
    assert failures(validate(folder, reference)) == {"files"}


VALUES: dict[str, tuple[str, ...]] = {
    "os.system": ("objective", "_target_"),
    "harness.core.files.write_text": ("labeler", "_target_"),
    "harness.components.labelers.KMeans": ("objective", "_target_"),
    "subprocess.run": ("dataset", "_target_"),
    "${oc.env:HOME}": ("selection",),
    "${seed}": ("optimizer", "name"),
    "builtins.eval": ("images", "_target_"),
    "harness.components.objectives.ClusterMemory": ("stages", "train", "_target_"),
    "???": ("backbone", "pooling"),
}


@pytest.mark.parametrize("value", VALUES)
def test_values_of_the_configuration(copy: Copy, reference: Reference, value: str) -> None:
    folder, (*path, last) = copy("bare"), VALUES[value]

    def change(config: Any) -> None:
        for key in path:
            config = config[key]
        config[last] = value

    edit(run_of(folder) / "config.json", change)
    seal_config(folder)
    assert failures(validate(seal(folder), reference)) == {"configuration"}


def test_hidden_arguments_are_refused(copy: Copy, reference: Reference) -> None:
    folder = copy("bare")
    edit(
        run_of(folder) / "config.json", lambda c: c["labeler"].update(_args_=["x"], _partial_=True)
    )
    seal_config(folder)
    verdict = validate(seal(folder), reference)
    assert failures(verdict) == {"configuration"}
    assert "labeler._args_" in reason(verdict, "configuration")


def test_parts_of_plugins_are_not_imported(copy: Copy, reference: Reference) -> None:
    """A method of one's own is not installed here: what depends on it is unknown."""
    folder = copy("bare")

    def change(config: Any) -> None:
        config["method"]["name"] = "mine"
        config["objective"]["_target_"] = "harness_plugins.methods.mine.method.Mine"

    edit(run_of(folder) / "config.json", change)
    seal_config(folder)
    edit(run_of(folder) / "record.json", lambda r: r["experiment"].update(method="mine"))
    edit(folder / "submission.json",
         lambda m: next(iter(m["runs"].values())).update(method="mine"))  # fmt: skip
    verdict = validate(seal(folder), reference)
    assert verdict.passes
    unsure = {c.name for c in verdict.checks if c.outcome == "unknown"}
    assert {"card", "protocol"} <= unsure


@pytest.mark.parametrize(
    "text",
    ['{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"a": 1' + "0" * 400 + "}", "[" * 100_000,
     '{"a": "' + "x" * 5000 + '"}', '"\xff', "{", '{"a": Infinity}'],
)  # fmt: skip
def test_json_is_strict(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError):
        read_strict(path)


@pytest.mark.parametrize("file", ["record.json", "config.json", "history.json"])
@pytest.mark.parametrize(
    "value", ["/home/someone/x.pth", "C:\\Users\\x", "see ~/runs", "file:///x"]
)
def test_paths_of_a_machine_are_caught(
    copy: Copy, reference: Reference, file: str, value: str
) -> None:
    folder = copy("bare")
    edit(run_of(folder) / file, lambda c: (c[0] if isinstance(c, list) else c).update(note=value))
    verdict = validate(seal(folder), reference)
    assert failures(verdict) == {"contents"}
    assert "note: an absolute path" in reason(verdict, "contents")


def test_huge_data_sets_are_not_laid_out(copy: Copy, reference: Reference) -> None:
    folder = copy("bare")
    edit(run_of(folder) / "config.json", lambda c: c["dataset"].update(identities=10**9))
    seal_config(folder)
    validate(seal(folder), reference)  # ends


def test_random_damage_is_never_a_traceback(copy: Copy, reference: Reference) -> None:
    """Every file in turn, with values of other kinds, cut, or with odd arrays."""
    folder = copy("one")
    run = run_of(folder)
    originals = {path: path.read_bytes() for path in (*run.iterdir(), folder / "submission.json")}
    draw = np.random.default_rng(int(os.environ.get("FUZZ_SEED", 0)))
    for _ in range(int(os.environ.get("FUZZ_SUBMISSIONS", 40))):
        path = pick(draw, sorted(originals))
        if draw.random() < 0.2:
            path.write_bytes(odd_bytes(draw, originals[path]))
        elif path.suffix == ".json":
            text = odd_json(draw, json.loads(originals[path]))
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        else:
            with np.load(path) as content:
                arrays = {key: content[key] for key in content.files}
            key = pick(draw, sorted(key for key, array in arrays.items() if array.ndim))
            arrays[key] = odd_array(draw, arrays[key])
            np.savez(path, **arrays)
        if path.name == "config.json" and draw.random() < 0.7:
            try:
                seal_config(folder)
            except (ValueError, TypeError, AttributeError):
                path.write_bytes(originals[path])
        if path.name != "submission.json":
            seal(folder)
        verdict = validate(folder, reference)
        for check in verdict.checks:
            assert check.reason.isprintable()
        for path, content in originals.items():
            path.write_bytes(content)
