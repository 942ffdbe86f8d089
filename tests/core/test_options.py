"""Options are declared once, and everything else about them follows from the declaration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf
from pydantic import BaseModel, Field, PositiveInt

from harness.components import backbones, distillers, labelers, objectives
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.core.options import REQUIRED, Option, check_options, options_of
from harness.core.paths import CONF
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.experiment.stages import build, build_labeler, build_objective

if TYPE_CHECKING:
    from torch import Tensor as OnlyForTypeCheckers


class Plain:
    """A plug-in part without declarations: type hints at most."""

    def __init__(  # type: ignore[no-untyped-def]
        self,
        k: int = 30,
        eps: float = 0.6,
        hard: bool = False,
        most: int | None = None,
        name: str = "x",
        root: str | Path = "data",
        views: Sequence[str] = ("global",),
        sizes: Mapping[str, int] | None = None,
        rest: Any = None,
        bare=1,
    ) -> None:
        pass


class Declared:
    """A part with everything that can be declared."""

    def __init__(
        self,
        teacher: Backbone,
        k1: Annotated[int, Field(ge=1, description="neighbors")] = 30,
        eps: Annotated[float, Field(gt=0, le=1, description="radius")] = 0.6,
        search: Literal["auto", "torch", "faiss"] = "auto",
        stride: Literal[1, 2] = 1,
        iterations: PositiveInt | Literal["auto"] = "auto",
        widths: Annotated[Sequence[PositiveInt], Field(min_length=1)] = (16, 32),
        views: Sequence[Literal["global", "upper"]] = ("global",),
    ) -> None:
        pass


class Inner(BaseModel):
    lr: Annotated[float, Field(gt=0)] = 0.1


class Section(BaseModel):
    """A section of the configuration."""

    epochs: Annotated[int, Field(ge=1, description="epochs of a stage")] = 50
    precision: Literal["fp32", "bf16"] = "fp32"
    inner: Inner | None = None
    of: Inner = Inner()


def refusal(target: Callable[..., Any], **values: Any) -> tuple[str, str]:
    with pytest.raises(ConfigError) as raised:
        check_options(target, values, "part")
    return raised.value.cause, raised.value.hint


# ------------------------------------------------------------------------------------ declarations


def test_an_option_knows_its_kind_range_default_and_meaning() -> None:
    found = {option.name: option for option in options_of(Declared)}
    assert found["k1"] == Option("k1", "a whole number", "k1 ≥ 1", 30, "neighbors")
    assert found["eps"] == Option("eps", "a number", "0 < eps ≤ 1", 0.6, "radius")
    assert found["search"].choices == ("auto", "torch", "faiss")
    assert found["search"].kind == "auto, torch or faiss"
    assert found["iterations"].kind == "a whole number or auto"
    assert found["iterations"].range == "iterations > 0"
    assert found["widths"].kind == "a list (each entry a whole number)"
    assert found["widths"].range == "each entry > 0 and 1 or more entries"
    assert "teacher" not in found, "an object, not an option"


def test_hints_without_a_declaration_give_the_kind() -> None:
    kinds = {option.name: option.kind for option in options_of(Plain)}
    assert kinds == {
        "k": "a whole number", "eps": "a number", "hard": "true or false",
        "most": "a whole number or null", "name": "text", "root": "text or a path",
        "views": "a list (each entry text)", "sizes": "keys and values or null",
        "rest": "anything", "bare": "anything",
    }  # fmt: skip


def test_a_model_declares_options_too() -> None:
    epochs, precision, _, of = options_of(Section)
    assert epochs == Option("epochs", "a whole number", "epochs ≥ 1", 50, "epochs of a stage")
    assert precision.choices == ("fp32", "bf16")
    assert of.default == Inner()


def parts() -> list[tuple[str, str, Callable[..., Any]]]:
    found = []
    for group in ("backbone", "labeler", "objective", "distiller"):
        for path in sorted((CONF / group).glob("*.yaml")):
            node = OmegaConf.load(path)
            assert isinstance(node, DictConfig)
            if node.get("_target_") is not None:
                found.append((group, path.stem, get_object(node._target_)))
    return found


@pytest.mark.parametrize(("group", "name", "target"), parts())
def test_every_part_declares_each_option(group: str, name: str, target: Callable[..., Any]) -> None:
    options = options_of(target)
    assert (options or name == "identities") and all(option.meaning for option in options)
    node = compose(["method=direct_transfer", "objective=cluster_memory", f"{group}={name}"])[group]
    values = {str(key): node[key] for key in node if key != "_target_"}
    values = {k: list(v) if isinstance(v, ListConfig) else v for k, v in values.items()}
    assert set(values) <= {option.name for option in options}
    check_options(target, values, group)
    defaults = {option.name: option.default for option in options}
    check_options(target, {k: v for k, v in defaults.items() if v is not REQUIRED}, group)


# ------------------------------------------------------------------------------------------ checks


@pytest.mark.parametrize(
    "options",
    [
        {}, {"k": 3}, {"eps": 1}, {"eps": 0.5}, {"hard": True}, {"most": None}, {"most": 3},
        {"name": 3}, {"views": ["a"]}, {"views": ("a",)}, {"rest": object()}, {"root": Path("a")},
        {"sizes": {"a": 1}}, {"bare": "x"},
    ],
)  # fmt: skip
def test_what_fits_is_taken(options: dict[str, Any]) -> None:
    check_options(Plain, options, "part")


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"k": 2.5}, "part.k=2.5 must be a whole number."),
        ({"k": "3"}, "part.k='3' must be a whole number."),
        ({"k": True}, "part.k=true must be a whole number."),
        ({"k": None}, "part.k=null must be a whole number."),
        ({"eps": "x"}, "part.eps=x must be a number."),
        ({"eps": False}, "part.eps=false must be a number."),
        ({"eps": float("nan")}, "part.eps=nan must be a number."),
        ({"eps": float("inf")}, "part.eps=inf must be a number."),
        ({"hard": "maybe"}, "part.hard=maybe must be true or false."),
        ({"hard": 1}, "part.hard=1 must be true or false."),
        ({"most": "few"}, "part.most=few must be a whole number or null."),
        ({"name": None}, "part.name=null must be text."),
        ({"views": "global"}, "part.views=global must be a list (each entry text)."),
        ({"kk": 3}, "There is no option 'part.kk'."),
    ],
)
def test_a_wrong_kind_is_named(options: dict[str, Any], cause: str) -> None:
    assert refusal(Plain, **options)[0] == cause


@pytest.mark.parametrize(
    ("options", "cause", "hint"),
    [
        ({"k1": 0}, "part.k1=0 is out of range: k1 ≥ 1.", "The default is 30."),
        ({"k1": 2.5}, "part.k1=2.5 must be a whole number, k1 ≥ 1.", "The default is 30."),
        ({"eps": 2}, "part.eps=2 is out of range: 0 < eps ≤ 1.", "The default is 0.6."),
        ({"eps": float("nan")}, "part.eps=nan is out of range: 0 < eps ≤ 1.", "default is 0.6."),
        ({"search": "fais"}, "part.search=fais must be auto, torch or faiss.", "mean 'faiss'?"),
        ({"search": 3}, "part.search=3 must be auto, torch or faiss.", "The default is auto."),
        ({"stride": 3}, "part.stride=3 must be 1 or 2.", "The default is 1."),
        ({"stride": True}, "part.stride=true must be 1 or 2.", "The default is 1."),
        ({"iterations": 0}, "part.iterations=0 is out of range: iterations > 0.", "is auto."),
        ({"widths": []}, "part.widths=[] is out of range: each entry > 0 and 1 or more", "[16, "),
        ({"views": ["global", "uper"]}, "part.views=[global, uper] must be a list", "'upper'?"),
        ({"k": 3}, "There is no option 'part.k'.", "Did you mean 'k1'?"),
        ({"none_such": 3}, "There is no option 'part.none_such'.", "Known: eps, iterations, k1,"),
    ],
)
def test_a_declared_option_says_what_is_allowed(
    options: dict[str, Any], cause: str, hint: str
) -> None:
    found = refusal(Declared, **options)
    assert found[0].startswith(cause) and hint in found[1]


def test_sections_are_checked_by_the_same_rules() -> None:
    check_options(Section, {"epochs": 3, "inner": None, "of": {"lr": 1}})
    with pytest.raises(ConfigError, match=r"^epochs=0 is out of range"):
        check_options(Section, {"epochs": 0})
    assert refusal(Section, of={"lr": 0})[0] == "part.of.lr=0 is out of range: lr > 0."
    assert refusal(Section, of=3)[0] == "part.of=3 must hold keys and values."
    assert refusal(Section, epoch=3) == (
        "There is no option 'part.epoch'.", "Did you mean 'epochs'?"
    )  # fmt: skip


def test_what_cannot_be_read_says_nothing_about_values() -> None:
    def hinted_for_type_checkers(k: int, x: OnlyForTypeCheckers) -> None: ...

    def open_ended(k: int, **others: Any) -> None: ...

    check_options(hinted_for_type_checkers, {"k": 2.5})
    check_options(open_ended, {"whatever": 1})
    with pytest.raises(ConfigError, match="no option 'kk'"):
        check_options(hinted_for_type_checkers, {"kk": 1})
    with pytest.raises(ConfigError, match=r"k=2\.5 must be"):
        check_options(open_ended, {"k": 2.5})


# ------------------------------------------------------------------------------ the shipped parts

NAN, INF = float("nan"), float("inf")
REFUSED: list[tuple[Callable[..., Any], dict[str, list[Any]]]] = [
    (labelers.JaccardDBSCAN, {
        "eps": [0.0, 1.01, NAN], "min_samples": [0, 2.5], "k1": [0], "k2": [0, 2.5],
        "part_weight": [0.5, -0.1], "search": ["annoy"],
    }),
    (labelers.SelfPaced, {
        "gap": [-0.01, NAN], "eps": [0.0], "min_samples": [0], "search": ["annoy"],
    }),
    (labelers.KMeans, {
        "clusters": [1, 10.5], "iterations": [0], "restarts": [0], "seed": [-1, 1 << 31],
        "views": ["upper"],
    }),
    (labelers.Infomap, {
        "k1": [1], "min_similarity": [0.0, 1.1, NAN], "min_images": [0], "seed": [0],
        "search": ["annoy"],
    }),
    (labelers.BottomUp, {"share": [0.0, 1.0, NAN], "size_penalty": [-0.1, INF, NAN]}),
    (backbones.resnet, {
        "last_stride": [3], "neck": ["embeding"], "arch": ["resnet55"], "stride_in": ["2x2"],
        "views": [["global", "uper"]], "pooling": ["gme"],
    }),
    (backbones.small, {"widths": [[], [0]], "strides": [[0]]}),
    (objectives.AssociatedProxies, {
        "temperature": [0.0], "momentum": [1.1], "part_weight": [-0.1], "negatives": [0, 2.5],
        "positives": [0], "image_share": [-0.1, 1.1], "by_camera": ["maybe"],
    }),
    (objectives.CameraProxies, {
        "temperature": [0.0], "momentum": [1.1], "inter_epoch": [-1], "part_weight": [-0.1],
    }),
    (objectives.ClusterMemory, {
        "temperature": [0.0], "momentum": [-0.1, 1.1], "part_weight": [2.0], "hard": ["maybe"],
    }),
    (objectives.ExclusiveMemory, {
        "scale": [0.0], "dropout": [1.0], "momentum": [2.0], "part_weight": [-1.0],
    }),
    (objectives.HardHybridMemory, {
        "temperature": [0.0], "momentum": [-0.1], "smoothing": [1.1], "hard_weight": [-1.0],
    }),
    (objectives.HybridMemory, {"temperature": [0.0], "momentum": [1.1], "part_weight": [-1.0]}),
    (objectives.PartRefinement, {
        "beta": [1.5], "smoothing": [-1], "neighbours": [0], "max_clusters": [0],
        "aals_epoch": [-1], "camera_weight": [-0.5], "camera_temperature": [0],
    }),
    (objectives.ProxyContrast, {
        "temperature": [0.0], "camera_temperature": [-1.0], "smoothing": [1.1],
        "camera_weight": [-1.0], "part_weight": [2.0],
    }),
    (objectives.SoftmaxTriplet, {
        "smoothing": [1.5], "margin": [-0.1], "part_weight": [2.0], "triplet_weight": [-1.0],
        "max_clusters": [0], "softmax_weight": [-1.0],
    }),
    (distillers.InstanceTeacher, {
        "hard_weight": [-1.0], "soft_weight": [-1.0], "hard_temperature": [0.0],
        "soft_temperature": [-1.0], "soft_factor": [-1.0], "alpha": [1.1],
    }),
    (distillers.MeanTeacher, {
        "alpha": [1.5, -0.1], "weight": [-1.0], "batch_norm": ["both"],
    }),
    (distillers.MutualTeachers, {
        "softmax_weight": [-0.1], "triplet_weight": [-1], "alpha": [2],
    }),
    (distillers.OfflineTeacher, {"weight": [-1.0, INF], "batch_norm": ["both"]}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [(target, name, value) for target, options in REFUSED for name in options
     for value in options[name]],
)  # fmt: skip
def test_bad_values_of_the_parts(target: Callable[..., Any], name: str, value: Any) -> None:
    cause, hint = refusal(target, **{name: value})
    assert cause.startswith(f"part.{name}=") and hint


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


def test_options_of_data_sets_are_checked() -> None:
    node = compose(["method=direct_transfer", "dataset=synthetic"]).dataset
    node = OmegaConf.create({"_target_": node._target_, "identities": 2.5})
    with pytest.raises(ConfigError, match=r"dataset\.identities=2\.5 must be a whole number"):
        build(node, "dataset synthetic")
