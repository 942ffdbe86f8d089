"""What a transformer's class token is joined with: PASS's part tokens, CLIP's projection."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from harness.components.backbones.weight_layouts import State
from harness.core.errors import ConfigError

PartTokens = Annotated[
    NonNegativeInt, Field(description="learned tokens beside the class token, of PASS: 3")
]
PartFusion = Annotated[
    Literal["cat", "mean"],
    Field(description="how the part tokens' mean joins the class token: appended, or averaged"),
]
Projection = Annotated[
    PositiveInt | None,
    Field(description="features of CLIP's projection of the class token, appended to it: 512"),
]


class ClassToken(nn.Module):
    """The feature of the global view from a transformer's tokens (B, 1 + P + h·w, C).

    - the class token c, (B, C);
    - with P part tokens p_i, PASS (Zhu et al., ECCV 2022): [c, mean_i p_i], (B, 2C), or with
      `fusion=mean` (c + mean_i p_i) / 2, (B, C);
    - with a projection W, PCL-CLIP (Li and Gong, 2023): [c, W c], (B, C + projection).
    """

    def __init__(self, parts: int = 0, fusion: str = "cat", projection: bool = False) -> None:
        super().__init__()
        self.parts, self.fusion, self.projection = parts, fusion, projection

    def forward(self, tokens: Tensor, model: Any) -> Tensor:
        token = tokens[:, 0]
        if self.parts:
            mean = tokens[:, 1 : 1 + self.parts].mean(dim=1)
            return torch.cat([token, mean], dim=1) if self.fusion == "cat" else (token + mean) / 2
        return torch.cat([token, model.head(token)], dim=1) if self.projection else token


def add_projection(model: Any, width: int, name: str) -> None:
    """Give a timm transformer a linear head without bias, as CLIP's image encoder has, in place.

    Raises:
        ConfigError: the model has no class token.
    """
    if getattr(model, "cls_token", None) is None:
        raise ConfigError(
            f"backbone.projection={width}: {name} has no class token to project.",
            "Set backbone.projection=null.",
        )
    model.head = nn.Linear(int(model.num_features), width, bias=False)


def join_part_tokens(state: State) -> State:
    """PASS's weights in timm's layout: tokens and positions of the parts stand in one tensor each.

    The authors keep `part_token1` … and the positions `cls_pos`, `part1_pos` … apart; timm calls
    such tokens registers. Other weights stay as they are.
    """
    count = sum(key.startswith("part_token") for key in state)
    own = ["cls_pos", *(f"part{i}_pos" for i in range(1, count + 1))]
    tokens = [f"part_token{i}" for i in range(1, count + 1)]
    if not count or not {"pos_embed", *own, *tokens} <= state.keys():
        return state
    joined = {key: value for key, value in state.items() if key not in {*own, *tokens}}
    joined["reg_token"] = torch.cat([state[key] for key in tokens], dim=1)
    joined["pos_embed"] = torch.cat([*(state[key] for key in own), state["pos_embed"]], dim=1)
    return joined
