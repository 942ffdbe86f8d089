"""The options reference: complete, and docs/options.md as it is generated."""

from __future__ import annotations

import pytest

from harness.core.errors import ConfigError
from harness.experiment.options_reference import groups, markdown
from tests.conftest import Command
from tests.paths import ROOT


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == markdown(), "harness list options --format markdown --output docs/options.md"


def test_every_option_has_a_meaning() -> None:
    for group in groups():
        for option in group.options:
            named = f"{group.prefix}{option.name}"
            assert option.meaning or group.title.startswith("dataset="), named


def test_options_of_one_group() -> None:
    assert [group.title for group in groups("optimizer")] == ["optimizer"]
    assert [group.title for group in groups("self_paced")] == ["labeler=self_paced"]
    assert {group.prefix for group in groups("labeler")} == {"labeler."}
    with pytest.raises(ConfigError, match="no options of 'optimzer'") as problem:
        groups("optimzer")
    assert "Did you mean 'optimizer'?" in problem.value.hint


def test_the_command_lists_them(command: Command) -> None:
    answer = command("list", "options", "train")
    assert answer.status == 0
    assert "train.warmup_epochs" in answer.out and "1 ≤ epochs" in answer.out
    assert command("list", "methods", "train").status == 2
