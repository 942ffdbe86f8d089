from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.core.errors import ConfigError
from harness.experiment.compose import compose
from harness.experiment.options import check_options
from harness.experiment.recipe import make_recipe
from harness.experiment.stages import build_labeler, build_objective


class Part:
    """One with options of every kind."""

    def __init__(
        self,
        k: int = 30,
        eps: float = 0.6,
        hard: bool = False,
        most: int | None = None,
        name: str = "x",
        views: Sequence[str] = ("global",),
        rest: Any = None,
    ) -> None:
        pass


@pytest.mark.parametrize(
    "options",
    [
        {}, {"k": 3}, {"eps": 1}, {"eps": 0.5}, {"hard": True}, {"most": None}, {"most": 3},
        {"name": 3}, {"views": ["a"]}, {"rest": object()}, {"unheard_of": 1},
    ],
)  # fmt: skip
def test_what_fits_is_taken(options: dict[str, Any]) -> None:
    check_options(Part, options, "part")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 2.5}, "part.k=2.5 must be a whole number. Usual: 30."),
        ({"k": True}, "part.k=True must be a whole number."),
        ({"k": None}, "part.k=null must be a whole number."),
        ({"eps": "x"}, "part.eps=x must be a number. Usual: 0.6."),
        ({"eps": False}, "part.eps=False must be a number."),
        ({"hard": "maybe"}, "part.hard=maybe must be true or false. Usual: False."),
        ({"hard": 1}, "part.hard=1 must be true or false."),
        ({"most": "few"}, "part.most=few must be a whole number."),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_options(Part, options, "part")
    assert said in " ".join(str(caught.value).split())


@pytest.mark.parametrize(
    "change",
    ["objective.hard=maybe", "objective.temperature=null", "labeler.k2=2.5", "labeler.eps=x",
     "labeler.min_samples=2.5"],
)  # fmt: skip
def test_a_run_says_so_as_harness_label_does(change: str) -> None:
    config = compose(["method=cluster_contrast", "dataset=synthetic", "protocol=debug", change])
    with pytest.raises(ConfigError, match=change.replace(".", r"\.") + " must be "):
        stage = make_recipe(config).stages[0]
        build_labeler(stage), build_objective(stage)
