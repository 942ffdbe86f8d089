"""The table of crossings: every method with every other part, found by asking the recipe.

Each crossing is composed as `harness run` composes it, its recipe is made, and its objective and
distiller are built around a small network. What that refuses, `harness run` refuses, before any
work; what it lets pass, trains (tests/experiment/test_combinations.py).
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
from harness.core import plugins
from harness.core.errors import HarnessError
from harness.core.interfaces import PseudoLabeler
from harness.core.paths import CONF
from harness.experiment import resolvers  # noqa: F401 (configurations refer to them)
from harness.experiment.part_checks import check_images
from harness.experiment.recipe import make_recipe
from harness.experiment.stages import build_distiller, build_objective

GROUPS = ("distiller", "labeler", "objective", "backbone")
#: where a finished run has to be named, and where a classifier needs a row for every image
RUN, MAX = "RUN", "MAX"
#: training images of Market-1501
IMAGES = 12_936
HEAD = """\
# Crossings

Made by `harness list crossings --format markdown`; not to be edited. A method is a recipe of parts,
and another part can stand in for its own:

```
harness run method=cluster_contrast labeler=infomap backbone=resnet50_views
harness run method=cluster_contrast distiller=offline_teacher distiller.teacher=RUN
```

**own** is the method's own part, **yes** composes and trains. **RUN** needs a finished run of equal
views to teach: `distiller.teacher=RUN`. **MAX** needs a classifier with a row for each of the N
training images: `objective.max_clusters=N`. A number is refused before any work, for the reason
below the table. All of it under `protocol=common` and for 12,936 training images, as Market-1501
has, with every other setting as the method and the part have it.

What a method says of a part (an eps, a momentum) holds for its own part only; another part comes
with its defaults, in `harness/conf/`. In tables a crossing is a row of its own,
`mskd [distiller=mean_teacher]`, without published numbers beside it.
"""


@dataclass(frozen=True)
class Combination:
    """A method with one part chosen: `own`, `yes`, `RUN`, `MAX`, or '' with why it is refused.

    reason: cause and hint of a refusal, else ''.
    """

    method: str
    group: str
    option: str
    verdict: str
    reason: str = ""

    @property
    def overrides(self) -> list[str]:
        """What `harness run` is given for it; a teacher's run is to be put in for RUN."""
        more = {RUN: [f"distiller.teacher={RUN}"], MAX: [f"objective.max_clusters={IMAGES}"]}
        return [f"method={self.method}", f"{self.group}={self.option}", *more.get(self.verdict, [])]


def options(group: str) -> list[str]:
    """The harness's own options for a part; `none` is one of distillers only."""
    names = [path.stem for path in sorted((CONF / group).glob("*.yaml"))]
    return [name for name in names if name != "none" or group == "distiller"]


def crossings() -> Iterator[Combination]:
    """All of them, method by method. Methods that do not train have none."""
    found = plugins.register()["methods"]
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("harness.conf", version_base="1.3"):
        for method in sorted(found):
            base = _composed(f"method={method}")
            if not base.stages:
                continue
            for group in GROUPS:
                for option in options(group):
                    yield _crossing(method, group, option, base)


def _composed(*overrides: str) -> DictConfig:
    return hydra.compose("config", ["protocol=common", *overrides])


def _crossing(method: str, group: str, option: str, base: DictConfig) -> Combination:
    if group == "backbone" and not (CONF / "method_overrides_views" / f"{option}.yaml").is_file():
        # its views are the method's, and a recipe asks for nothing else: no need to compose it
        return Combination(method, group, option, "own" if option == "resnet50" else "yes")
    config = _composed(f"method={method}", f"{group}={option}")
    if config[group] == base[group]:
        return Combination(method, group, option, "own")
    tried = {"yes": config}
    if group == "distiller" and config.distiller.get("teacher") is not None:
        tried[RUN] = config.copy()
        tried[RUN].distiller.teacher = RUN
    if group in ("labeler", "objective") and config.objective.get("max_clusters") is not None:
        tried[MAX] = config.copy()
        tried[MAX].objective.max_clusters = IMAGES
    reason = ""
    for verdict, trial in tried.items():
        try:
            _check(trial)
            return Combination(method, group, option, verdict)
        except HarnessError as error:
            reason = reason or f"{error.cause} {error.hint}".strip()
    return Combination(method, group, option, "", reason)


def _check(config: DictConfig) -> None:
    """Make the recipe, and build what is cheap to build, around a network of few weights.

    Raises:
        HarnessError: what `harness run` would refuse it for.
    """
    recipe = make_recipe(config)
    labelers: list[Any] = [get_class(stage.config.labeler._target_) for stage in recipe.stages]
    if any(kind.max_clusters is not PseudoLabeler.max_clusters for kind in labelers):
        check_images(recipe, IMAGES)  # which builds them; Infomap, say, may not be installed
    for stage in recipe.stages:
        views = stage.config.backbone.get("views", ["global"])
        student, teacher = (small(widths=[4], strides=[1], views=views) for _ in range(2))
        objective = build_objective(stage)
        objective.prepare(len(student.views), student.dim, images=64)
        needs_teacher = stage.teacher_run or stage.teacher_stage
        distiller = build_distiller(stage, teacher if needs_teacher else None, student)
        if distiller is not None:
            distiller.prepare(objective)


# ---------------------------------------------------------------------------------- as text


def page(found: Sequence[Combination]) -> str:
    """All tables in Markdown, with the reasons for refusals below each."""
    text = HEAD
    for group in GROUPS:
        cells = {(c.method, c.option): c for c in found if c.group == group}
        names = options(group)
        reasons: dict[str, int] = {}
        text += f"\n## Methods × {group}s\n\n| method | " + " | ".join(names) + " |\n"
        text += "| --- |" + " :---: |" * len(names) + "\n"
        for method in dict.fromkeys(c.method for c in found):
            row = []
            for name in names:
                cell = cells[method, name]
                if cell.verdict:
                    row.append(f"**{cell.verdict}**" if cell.verdict == "own" else cell.verdict)
                else:
                    row.append(str(reasons.setdefault(cell.reason, len(reasons) + 1)))
            text += f"| `{method}` | " + " | ".join(row) + " |\n"
        if reasons:
            text += "\n" + "".join(f"{n}. {reason}\n" for reason, n in reasons.items())
    return text
