"""Values that Hydra reads in quotes only."""

from __future__ import annotations

import shlex

import pytest

from harness.core.errors import ConfigError
from harness.experiment.compose import compose, quoted

ARGUMENTS = ("method=direct_transfer", "dataset=market1501")
PATHS = [
    "/zoë/人", "/a#b", "/a=b", "~/a", "/a,b", "/a[1]", "/a{b}", '/a"b', "/zoë's", "/a\\", "/a b",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_a_quoted_path_is_read_literally(path: str) -> None:
    assert compose([*ARGUMENTS, f"data.root={quoted(path)}"]).data.root == path


@pytest.mark.parametrize("path", PATHS[:-2])
def test_an_error_says_what_to_type(path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose([*ARGUMENTS, f"data.root={path}"])
    typed = caught.value.hint[caught.value.hint.index("'data.root") :]
    (argument,) = shlex.split(typed.rstrip("."))
    assert compose([*ARGUMENTS, argument]).data.root == path
