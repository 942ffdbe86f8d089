"""Any model of timm, the library of pretrained image models, as a backbone."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar, cast

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from harness.components.backbones.branches import Branched
from harness.components.backbones.class_tokens import (
    ClassToken,
    PartFusion,
    PartTokens,
    Projection,
    add_projection,
    join_part_tokens,
)
from harness.components.backbones.convolution_stem import Stem, use_convolution_stem
from harness.components.backbones.depthwise import speed_up_depthwise
from harness.components.backbones.freezing import Freeze
from harness.components.backbones.pooling import Neck, TokenPooling, ViewNames
from harness.components.backbones.position_embeddings import overlap_patches, resize_positions
from harness.components.backbones.reid_net import ReIDNet
from harness.components.backbones.weight_layouts import State, load_trunk
from harness.components.backbones.weights import Weights, initial_state
from harness.core.errors import ConfigError, DataError, first_line
from harness.core.preprocessing import Color, Interpolation, Preprocessing
from harness.core.views import POOLED

Share = Annotated[float, Field(ge=0, lt=1)]
Rgb = Annotated[Sequence[float], Field(min_length=3, max_length=3)]
Build = TypeVar("Build", bound=Callable[..., Any])


class TimmTrunk(nn.Module):
    """A timm model without its head: (B, 3, H, W) → maps (B, C, h, w), and a class token (B, C).

    A transformer's patch tokens become a map. The token is None for models without class tokens;
    it is wider than C where `ClassToken` joins it with others.
    """

    def __init__(self, model: nn.Module, token: ClassToken | None = None) -> None:
        super().__init__()
        self.model: Any = model
        self.token = token or ClassToken()
        self.prefix = int(getattr(model, "num_prefix_tokens", 0))
        self.has_class_token = self.prefix > 0 and getattr(model, "cls_token", None) is not None
        self.channels_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.split(self.model.forward_features(images))

    def split(self, found: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model's last features as a map and a class token."""
        if found.dim() == 4:
            return found.permute(0, 3, 1, 2) if self.channels_last else found, None
        height, width = self.model.patch_embed.grid_size
        maps = found[:, self.prefix :].transpose(1, 2).unflatten(2, (int(height), int(width)))
        return maps, self.token(found, self.model) if self.has_class_token else None


class TimmNet(ReIDNet):
    """View heads on a `TimmTrunk`."""

    trunk: TimmTrunk

    def map_and_token(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found: tuple[Tensor, Tensor | None] = self.trunk(images)
        return found

    @property
    def model(self) -> nn.Module:
        found: nn.Module = self.trunk.model
        return found

    def layers(self) -> list[list[nn.Parameter]]:
        from timm.models import group_parameters

        if not hasattr(self.model, "group_matcher"):  # some models of timm, such as MetaFormer
            return super().layers()
        matcher = self.trunk.model.group_matcher(coarse=False)
        return list(group_parameters(self.model, matcher, return_values=True).values())


class BranchedNet(Branched, TimmNet):
    """A `TimmNet` whose last block is `Branched`."""


def preprocessing(
    model: str, mean: Sequence[float] | None = None, std: Sequence[float] | None = None,
    interpolation: str | None = None, **_: Any,
) -> Preprocessing:  # fmt: skip
    """What a model's own weights were trained with, by timm's `pretrained_cfg`, or as given.

    Raises:
        ConfigError: there is no such model, or a value is impossible.
    """
    known = _pretrained_cfg(model)
    average, deviation = (
        cast("Color", tuple(map(float, given or own)))  # its length is checked below
        for given, own in ((mean, known.mean), (std, known.std))
    )
    return Preprocessing(average, deviation, interpolation or known.interpolation)


def _with_preprocessing(build: Build) -> Build:
    build.preprocessing = preprocessing  # type: ignore[attr-defined]  # see `Backbone`
    return build


@_with_preprocessing
def timm_model(
    model: Annotated[str, Field(description="a name of timm.list_models(), with or without a tag")],
    size: Annotated[
        Sequence[PositiveInt], Field(min_length=2, max_length=2, description="input, (H, W)")
    ],
    pretrained: Annotated[bool, Field(description="timm's own weights of this name")] = False,
    weights: Weights = "none",
    pooling: TokenPooling = "avg",
    views: ViewNames = ("global",),
    patch_stride: Annotated[
        PositiveInt | None,
        Field(description="pixels between patches, below the patch size they overlap (TransReID)"),
    ] = None,
    output_stride: Annotated[
        Literal[8, 16, 32] | None, Field(description="pixels per position of a CNN's last map")
    ] = None,
    branches: Annotated[
        bool,
        Field(description="copy a ViT's last block for halves and for thirds (TMGF)"),
    ] = False,
    drop_path: Annotated[Share, Field(description="largest rate of stochastic depth")] = 0.0,
    checkpointing: Annotated[
        bool, Field(description="keep fewer activations, compute them again; same results")
    ] = False,
    mean: Annotated[Rgb | None, Field(description="of RGB values; null: of timm's weights")] = None,
    std: Annotated[Rgb | None, Field(description="of RGB values; null: of timm's weights")] = None,
    interpolation: Annotated[
        Interpolation | None, Field(description="of resizing; null: of timm's weights")
    ] = None,
    stem: Stem = "patch",
    part_tokens: PartTokens = 0,
    part_fusion: PartFusion = "cat",
    projection: Projection = None,
    neck: Neck = "bn",
    freeze: Freeze = (),
) -> TimmNet:
    """A model of timm without its head, (B, 3, H, W) → (B, V, D) with D = its number of features.

    Position embeddings are resized to the input. With part tokens or a projection, the class token
    has more features (see `ClassToken`), and is the only view.

    Raises:
        ConfigError: no such model, an option that it does not have, or an unsupported model.
        DataError: weights that cannot be had or do not fit.
    """
    import timm

    from harness.components.backbones import activated_norms  # imports timm

    activated_norms.register()
    if pretrained and weights != "none":
        raise ConfigError(
            f"backbone.pretrained=true and backbone.weights={weights} exclude each other.",
            "Set backbone.pretrained=false, or backbone.weights=none.",
        )
    _check_token(pooling, views, part_tokens, projection)
    cfg, (height, width) = _pretrained_cfg(model), (int(side) for side in size)
    options: dict[str, Any] = {}
    if cfg.fixed_input_size:
        options["img_size"] = (height, width)
    if drop_path:
        options["drop_path_rate"] = drop_path
    if output_stride is not None:
        options["output_stride"] = output_stride
    if part_tokens:
        options["reg_tokens"] = part_tokens
    try:
        made: Any = timm.create_model(model, pretrained=False, num_classes=0, **options)
    except (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{model} cannot be built for {height}×{width} pixels: {first_line(error)}",
            "Images' sides must be multiples of the patch size; drop_path, output_stride and "
            "part_tokens do not exist for every model.",
        ) from error
    if stem == "ics":
        if patch_stride is not None:
            raise ConfigError(
                f"backbone.patch_stride={patch_stride}: the stem ics has no overlapping patches.",
                "Set backbone.patch_stride=null or backbone.stem=patch.",
            )
        use_convolution_stem(made, model)
    if projection is not None:
        add_projection(made, projection, model)
    if patch_stride is not None:
        overlap_patches(made, patch_stride, (height, width), model)
    if pretrained:
        weights = f"timm:{model}"
    if weights != "none":
        state, origin = initial_state(weights, model)
        _load(made, state, origin, (height, width))
    if checkpointing:
        made.set_grad_checkpointing(True)
    speed_up_depthwise(made)
    trunk = TimmTrunk(made, ClassToken(part_tokens, part_fusion, projection is not None))
    channels = _channels(trunk, (height, width), model, pooling == "class_token")
    if pooling == "class_token" and not trunk.has_class_token:
        raise ConfigError(
            f"backbone.pooling=class_token: {model} has no class token.",
            "Use backbone.pooling=avg or gem.",
        )
    kind = BranchedNet if branches else TimmNet
    network = kind(trunk, channels, views, pooling, neck, freeze)
    network.preprocessing = preprocessing(model, mean, std, interpolation)
    return network


def _check_token(
    pooling: str, views: Sequence[str], part_tokens: int, projection: int | None
) -> None:
    """Refuse part tokens and projections that the global view would not contain."""
    if not part_tokens and projection is None:
        return
    given = f"backbone.part_tokens={part_tokens}" if part_tokens else ""
    given = given or f"backbone.projection={projection}"
    if part_tokens and projection is not None:
        raise ConfigError(
            f"{given} and backbone.projection={projection} exclude each other.",
            "Set backbone.part_tokens=0 or backbone.projection=null.",
        )
    if pooling != "class_token":
        raise ConfigError(
            f"{given} joins the class token, but backbone.pooling={pooling}.",
            "Set backbone.pooling=class_token.",
        )
    if parts := [view for view in views if view not in ("global", POOLED)]:
        raise ConfigError(
            f"{given} gives the global view more features than the part views {parts} have.",
            "Set backbone.views=[global].",
        )


def _pretrained_cfg(model: str) -> Any:
    """timm's `pretrained_cfg` of a model; raises ConfigError if there is no such model."""
    import timm

    architecture, _, tag = model.partition(".")
    if not timm.is_model(architecture):
        near = get_close_matches(architecture, timm.list_models(), 3)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ConfigError(
            f"timm has no model '{model}'.",
            f"{hint}timm.list_models('*vit*') lists names; vit_small_patch16_224 is one.",
        )
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        hint = f"Known: {', '.join(tags)}." if tags else "There are none."
        raise ConfigError(f"timm has no weights '{tag}' of {architecture}.", hint)
    return timm.models.get_pretrained_cfg(model)


def _load(made: nn.Module, state: State, origin: str, size: tuple[int, int]) -> None:
    """Load weights of any known layout into a timm model."""
    convert = getattr(importlib.import_module(type(made).__module__), "checkpoint_filter_fn", None)

    def adapt(found: State) -> State:
        found = resize_positions(join_part_tokens(found), made, size, origin)
        if convert is None:
            return found
        try:
            return convert(found, made)
        except (KeyError, RuntimeError, AttributeError, ValueError) as error:
            raise DataError(
                f"The weights of {origin} cannot be converted for timm's {type(made).__name__}: "
                f"{first_line(error)}",
                "They belong to another architecture, or to a layout that timm does not know.",
            ) from error

    load_trunk(made, state, origin, adapt)


@torch.no_grad()
def _channels(trunk: TimmTrunk, size: tuple[int, int], model: str, of_token: bool) -> int:
    """The number of channels of the last map, or of the class token if there is one.

    Raises:
        ConfigError: the model has no map.
    """
    trunk.eval()
    try:
        maps, token = trunk(torch.zeros(1, 3, *size))
    except Exception as error:
        raise ConfigError(
            f"{model} has no feature map for images of {size[0]}×{size[1]}: {first_line(error)}",
            "Use images whose sides are multiples of the patch size (images.height, images.width), "
            "a CNN, or a transformer with patch tokens on a grid.",
        ) from error
    finally:
        trunk.train()
    return int((maps if token is None or not of_token else token).shape[1])
