"""Every command and Python block of docs/ is executed, or says why not: `<!-- not run: … -->`.

Commands that read committed records run as they are, on a copy of some of them. `harness run` and
`harness search` are composed into a recipe, as they are before training. Commands that need a
trained network, or take minutes, are parsed with their own parser. On the pages in `SESSIONS`, all
commands and Python blocks run one after another, on tiny experiments.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.cli.main import COMMANDS
from harness.cli.parser import Parser
from harness.core import plugins
from harness.experiment import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import register
from harness.results.store import Store
from tests.conftest import Command
from tests.datasets.fakes import paint
from tests.docs.blocks import Block, blocks
from tests.paths import ROOT
from tests.test_readme import combinations
from tests.tiny import tiny

PAGES = sorted((ROOT / "docs").glob("*.md"))
#: blocks that these tests execute, in a way of their own
ELSEWHERE = {
    "docs/add-a-method.md": "tests/methods/test_add_a_method.py",
    "docs/use-a-model.md": "tests/test_readme.py",
}
#: pages whose blocks run one after another, each in an empty folder
SESSIONS = ("get-started", "use-without-training", "api", "add-a-data-set", "add-a-backbone")
LONG = ("get-started",)
#: commands that read records, and run as they are
EXECUTED = ("table", "list", "diff")
#: parsed only, because of what they would need or do
PARSED = {
    "bench": "takes minutes", "verify": "takes minutes", "report": "executed on a session's page",
    "eval": "needs a network", "show": "needs a network", "embed": "needs a network",
    "export": "needs a network", "zoo": "needs a network", "rerun": "trains", "rm": "removes runs",
    "submit": "needs a run", "validate": "needs a submission",
    "prepare": "needs a data set", "label": "needs a file", "score": "needs a file",
}  # fmt: skip
#: languages of blocks that are data, text, or an example in another file
DATA = ("csv", "bibtex", "markdown", "text", "json")
RUNS = ("mskd-synthetic-s0", "mskd-synthetic-s1", "cluster_contrast-synthetic-s0",
        "cluster_contrast-synthetic-s1", "direct_transfer-market1501-s0")  # fmt: skip
ALL = [block for page in PAGES for block in blocks(page, ROOT)]


class ParsedError(Exception):
    """A command's own parser has accepted its line."""


def stop_when_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, commands stop when their line is parsed."""
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(Parser, name)

        def stop(self: Parser, arguments: Sequence[str], parse: Any = parse) -> None:
            parse(self, arguments)
            raise ParsedError

        monkeypatch.setattr(Parser, name, stop)


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """A store with some of the committed records."""
    store = tmp_path / "results" / "runs"
    for name in RUNS:
        for folder in (ROOT / "results" / "leaderboard").glob(f"{name}-*"):
            shutil.copytree(folder, store / folder.name)
    return store


@pytest.fixture
def forget() -> Iterator[None]:
    """Unregister the plug-ins of a test."""
    modules, path = set(sys.modules), list(sys.path)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(plugins.ALIAS):
            del sys.modules[name]
    register()


def own(block: Block) -> bool:
    """Whether a test here executes the block."""
    session = Path(block.page).stem in SESSIONS
    return not (block.reason or block.page in ELSEWHERE or session)


COMMAND_BLOCKS = [block for block in ALL if own(block) and block.language == ""]


@pytest.mark.parametrize("block", COMMAND_BLOCKS, ids=lambda block: block.place)
def test_commands(block: Block, command: Command, records: Path) -> None:
    for line in block.lines:
        words = shlex.split(line)
        if words[0] == "torchrun":  # the rest is the same command in one process
            words = words[words.index("-m") + 1 :]
        assert words[0] == "harness", f"{block.place}: {line}: mark it <!-- not run: REASON -->"
        name, *rest = words[1:]
        assert name in COMMANDS, f"{block.place}: {line}"
        if name == "run":
            composed(rest)
        elif name in EXECUTED or name == "search":
            rest += ["--cfg", "job"] if name == "search" else []
            answer = command(name, *named(rest, records))
            assert answer.status == 0, f"{block.place}: {line}\n{answer.err}"
            assert answer.out or answer.err or "--output" in line
        else:
            assert name in PARSED, f"{line}: say in EXECUTED or PARSED how it is tested"
            with pytest.MonkeyPatch.context() as patch:
                stop_when_parsed(patch)
                with pytest.raises(ParsedError):
                    command(name, *rest)


def named(words: Sequence[str], store: Path) -> list[str]:
    """A command's words with names of runs for RUN."""
    names = iter(sorted(run.name for run in Store(store).runs() if run.finished))
    return [next(names) if word == "RUN" else word for word in words]


def composed(words: Sequence[str]) -> None:
    """Compose what `harness run` is given, for each method of a sweep."""
    # launchers are optional packages and not part of the configuration
    overrides = [word for word in words if "=" in word and not word.startswith("hydra")]
    for choice in combinations(overrides):
        make_recipe(compose.compose(choice))


def test_every_block_is_executed_or_marked() -> None:
    """A block in another language, or a page's Python that no test executes, needs a reason."""
    for block in ALL:
        if not own(block) or block.language in ("", *DATA):
            continue
        if block.language == "yaml":
            assert isinstance(yaml.safe_load(block.text), dict), block.place
            continue
        raise AssertionError(
            f"{block.place}: no test executes it; mark it <!-- not run: REASON -->"
        )


def test_marks_have_a_block() -> None:
    """A mark that stands elsewhere marks nothing."""
    for page in PAGES:
        marks = page.read_text(encoding="utf-8").count("<!-- not run: ")
        assert marks == sum(bool(block.reason) for block in blocks(page, ROOT)), page


def test_other_tests_name_their_pages() -> None:
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text(encoding="utf-8")


# ---- sessions


@pytest.mark.usefixtures("forget")
@pytest.mark.parametrize(
    "page", [pytest.param(p, marks=[pytest.mark.slow] * (p in LONG)) for p in SESSIONS]
)
def test_session(page: str, command: Command, tmp_path: Path) -> None:
    """The files of a page are written; its blocks run in order, with tiny experiments."""
    path = ROOT / "docs" / f"{page}.md"
    files = written(path.read_text(encoding="utf-8"), tmp_path)
    if page == "add-a-data-set":
        courtyard(tmp_path / "data" / "courtyard")
    names: dict[str, Any] = {}
    executed = 0
    for block in blocks(path, ROOT):
        if block.reason or block.text in files or block.language in DATA:
            continue
        executed += 1
        if block.language == "python":
            python = block.text.replace('"dataset=synthetic"', "*tiny")
            names["tiny"] = [word for word in tiny(tmp_path) if not word.startswith("store=")]
            exec(compile(python, block.place, "exec"), names)
            continue
        assert block.language == "", block.place
        for line in block.lines:
            words = shlex.split(line)
            while match := re.fullmatch(r"(\w+)=(\w+)", words[0]):
                if match[1] == "PYTHONPATH":
                    sys.path.insert(0, str(tmp_path / match[2]))
                words = words[1:]
            assert words.pop(0) == "harness", block.place
            if "run" in words:
                words += made_small(words, tmp_path)
            answer = command(*named(words, tmp_path / "results" / "runs"))
            assert answer.status == 0, f"{block.place}: {line}\n{answer.err}"
    assert executed, "guard against a pattern that finds nothing"


def written(text: str, folder: Path) -> set[str]:
    """Write the files that a page has the reader write: "`mine/FILE`:" and a block."""
    found = re.findall(r"^`(mine/\S+)`:\n\n```\w+\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    for name, content in found:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return {content for _, content in found}


def made_small(words: Sequence[str], folder: Path) -> list[str]:
    """Overrides that make an experiment tiny, without those that its own words exclude."""
    small = [word for word in tiny(folder) if not word.startswith(("dataset=", "store="))]
    if any(word.startswith("backbone=") for word in words):
        small = [word for word in small if not word.startswith("backbone.")]
    if not any(word == "dataset=synthetic" for word in words):
        small = [word for word in small if not word.startswith("dataset.")]
        small += ["neighbours.k1=4", "neighbours.k2=1", "labeler.min_samples=1"]
        small += ["batch.identities=2", "batch.images=2"]
    return small


def courtyard(folder: Path) -> None:
    """The images that the page's data set consists of: noise, equal for no two."""
    for part, first, identities, images in (
        ("train", 1, 8, 3), ("query", 9, 4, 1), ("gallery", 9, 4, 2),
    ):  # fmt: skip
        people, cameras, numbers = range(first, first + identities), (1, 2), range(images)
        names = [f"{i:04}_c{c}_{n}.png" for i in people for c in cameras for n in numbers]
        paint(folder / part, names)
