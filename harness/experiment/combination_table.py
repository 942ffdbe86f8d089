"""The table of combinations: every method with every other part that can replace its own.

Each combination is composed as `harness run` composes it, its recipe is made, and its objective and
distiller are built around a small network. What this refuses, `harness run` refuses before any
work; what it accepts trains (tests/experiment/test_combinations.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_class
from omegaconf import DictConfig

from harness.components.backbones import small
from harness.core.errors import HarnessError
from harness.core.interfaces import PseudoLabeler
from harness.core.paths import CONF
from harness.core.plugins import load_config
from harness.core.variants import own_parts
from harness.experiment.labelled_source import check_source
from harness.experiment.part_checks import check_images
from harness.experiment.recipe import make_recipe
from harness.experiment.registration import register
from harness.experiment.stages import build_distiller, build_objective

GROUPS = ("distiller", "labeler", "objective", "backbone")
#: a finished run has to be named; a classifier needs a row for every image; a labeled source has to
#: be named
RUN, MAX, SOURCE = "RUN", "MAX", "SOURCE"
#: training images of Market-1501
IMAGES = 12_936
HEAD = """\
# Combinations

Written by `harness list combinations --format markdown`; do not edit. A method is a recipe of
parts, and another part can replace its own:

```
harness run method=cluster_contrast labeler=infomap backbone=resnet50_views
harness run method=cluster_contrast distiller=offline_teacher distiller.teacher=RUN
```

**own** is the method's own part, **yes** composes and trains. **RUN** needs a finished run with the
same views as its teacher: `distiller.teacher=RUN`. **MAX** needs a classifier with a row for each
of the N training images: `objective.max_clusters=N`. **SOURCE** needs a labeled source:
`source=NAME`. A number is refused before any work, for the
reason below the table. The table holds for `protocol=common` and 12,936 training images, as
Market-1501 has, with all other settings as the method and the part set them.

A method's settings for a part (an eps, a momentum) apply to its own part only; another part uses
its defaults, in `harness/conf/`. Tables show a combination as a row of its own,
`mskd [distiller=mean_teacher]`, without published numbers beside it.
"""


@dataclass(frozen=True)
class Combination:
    """A method with an option for one part.

    verdict: `own`, `yes`, `RUN`, `MAX`, `SOURCE`, or '' if it is refused, for `reason`.
    """

    method: str
    group: str
    option: str
    verdict: str
    reason: str = ""

    @property
    def overrides(self) -> list[str]:
        """What `harness run` needs; RUN stands for a teacher's run, SOURCE for a data set."""
        more = {RUN: [f"distiller.teacher={RUN}"], MAX: [f"objective.max_clusters={IMAGES}"],
                SOURCE: [f"source={SOURCE}"]}  # fmt: skip
        return [f"method={self.method}", f"{self.group}={self.option}", *more.get(self.verdict, [])]


def options(group: str) -> list[str]:
    """The built-in options for a part; `none` only for distillers."""
    names = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    return [name for name in names if name != "none" or group == "distiller"]


def combinations(methods: Sequence[str] = ()) -> Iterator[Combination]:
    """The combinations of some methods, by default all, method by method. Methods that do not train
    have none.
    """
    found = register()["methods"]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("harness.conf", version_base="1.3"):
        for method in sorted(methods or found):
            base = _composed(f"method={method}")
            own = own_parts(load_config(found[method].folder / "config.yaml"))
            if base.stages:
                for group in GROUPS:
                    for option in options(group):
                        yield _combination(method, group, option, base, "backbone" in own)


def _composed(*overrides: str) -> DictConfig:
    # not `compose.compose`, which prepares and checks each time: there are a few hundred
    return hydra.compose("config", ["protocol=common", *overrides])


def _combination(
    method: str, group: str, option: str, base: DictConfig, own_backbone: bool
) -> Combination:
    views = CONF / "method_overrides_views" / f"{option}.yaml"
    if group == "backbone" and not (own_backbone or views.is_file()):
        # it has the method's views, and a recipe depends on nothing else of a backbone
        return Combination(method, group, option, "own" if option == "resnet50" else "yes")
    config = _composed(f"method={method}", f"{group}={option}")
    if config[group] == base[group]:
        return Combination(method, group, option, "own")
    trials = {"yes": config}
    if group == "distiller" and config.distiller.get("teacher") is not None:
        trials[RUN] = config.copy()
        trials[RUN].distiller.teacher = RUN
    if group in ("labeler", "objective") and config.objective.get("max_clusters") is not None:
        trials[MAX] = config.copy()
        trials[MAX].objective.max_clusters = IMAGES
    if config.source is None:
        trials[SOURCE] = config.copy()
        trials[SOURCE].source = {"name": SOURCE}
    reason = ""
    for verdict, trial in trials.items():
        try:
            _check(trial)
            return Combination(method, group, option, verdict)
        except HarnessError as error:
            reason = reason or f"{error.cause} {error.hint}".strip()
    return Combination(method, group, option, "", reason)


def _check(config: DictConfig) -> None:
    """Make the recipe, and build objectives and distillers around a tiny network."""
    recipe = make_recipe(config)
    check_source(config, recipe.stages)
    labelers: list[Any] = [get_class(stage.config.labeler._target_) for stage in recipe.stages]
    if any(kind.max_clusters is not PseudoLabeler.max_clusters for kind in labelers):
        # builds them: only if needed, as a package (infomap) may not be installed
        check_images(recipe, IMAGES)
    for stage in recipe.stages:
        views = stage.config.backbone.get("views") or ["global"]
        student, teacher = (small(widths=[4], strides=[1], views=views) for _ in range(2))
        objective = build_objective(stage)
        objective.prepare(len(student.views), student.dim, images=64)
        needs_teacher = stage.teacher_run or stage.teacher_stage
        distiller = build_distiller(stage, teacher if needs_teacher else None, student)
        if distiller is not None:
            distiller.prepare(objective)


def page(found: Sequence[Combination]) -> str:
    """docs/combinations.md: a table for each part, with the reasons of refusals below."""
    text = HEAD
    for group in GROUPS:
        rows: dict[str, list[str]] = {}
        reasons: dict[str, int] = {}
        for one in found:
            if one.group == group:
                verdict = "**own**" if one.verdict == "own" else one.verdict
                refused = verdict or str(reasons.setdefault(one.reason, len(reasons) + 1))
                rows.setdefault(one.method, []).append(refused)
        names = options(group)
        text += f"\n## Methods × {group}s\n\n| method | " + " | ".join(names) + " |\n"
        text += "| --- |" + " :---: |" * len(names) + "\n"
        text += "".join(f"| `{method}` | {' | '.join(row)} |\n" for method, row in rows.items())
        if reasons:
            text += "\n" + "".join(f"{n}. {reason}\n" for reason, n in reasons.items())
    return text
