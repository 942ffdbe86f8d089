"""State dicts as other repositories save them, brought to the names of a network here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.errors import DataError, say_once

State = dict[str, Tensor]

#: keys of checkpoints that hold a network, the preferred first: of a teacher and its student, the
#: teacher is what self-supervised methods publish
CONTAINERS = ("teacher", "state_dict", "model_state_dict", "model", "net", "network", "student")
#: counters that files of old versions of torch lack, and that change nothing
OPTIONAL = ("num_batches_tracked", "relative_position_index", "attn_mask")
SHOWN = 4


def find_state(content: Any, origin: str) -> State:
    """The state dict in a checkpoint, at any depth of `CONTAINERS`.

    Raises:
        DataError: there is none, or a weight is not finite.
    """
    state = content
    while isinstance(state, Mapping):
        inner = next(
            (state[key] for key in CONTAINERS if isinstance(state.get(key), Mapping)), None
        )
        if inner is None:
            break
        state = inner
    entries: dict[Any, Any] = dict(state) if isinstance(state, Mapping) else {}
    tensors = {str(key): value for key, value in entries.items() if isinstance(value, Tensor)}
    plain = all(t.layout == torch.strided and not t.is_quantized for t in tensors.values())
    if not tensors or not plain or not all(isinstance(key, str) for key in entries):
        raise DataError(
            f"{origin} holds no state dict of names and dense tensors.",
            "Save module.state_dict() with torch.save.",
        )
    bad = [
        key for key, value in tensors.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]  # fmt: skip
    if bad:
        raise DataError(
            f"{origin} has weights that are not finite: {len(bad)} ({_shown(bad)}).",
            "The training that made them diverged: use another checkpoint.",
        )
    return tensors


def load_trunk(
    trunk: nn.Module, state: State, origin: str, adapt: Callable[[State], State] = lambda s: s
) -> None:
    """Load a state dict of any known layout into a network without its head.

    A prefix that all names share (`module.`, `backbone.`, …) is removed. What else the file holds,
    such as classifiers, is left out and named.

    Args:
        adapt: converts names and shapes further.

    Raises:
        DataError: a weight of the network is missing or has another shape; lists them, with the
            likely reason. The network is left as it was.
    """
    own = trunk.state_dict()
    found = adapt(without_prefix(state, own))
    missing = [key for key in own if key not in found and not key.endswith(OPTIONAL)]
    wrong = [key for key in own if key in found and own[key].shape != found[key].shape]
    extra = [key for key in found if key not in own]
    if missing or wrong:
        raise _misfit(own, found, missing, wrong, extra, origin)
    dropped = [f"{key} {tuple(found[key].shape)}" for key in extra if not key.endswith(OPTIONAL)]
    if dropped:
        say_once(f"weights of {origin}: {len(dropped)} not used here ({_shown(dropped)})")
    kept = {key: value.to(own[key].dtype) for key, value in found.items() if key in own}
    trunk.load_state_dict(kept, strict=False)


def without_prefix(state: State, own: Iterable[str]) -> State:
    """The state dict without the prefix under which most of a network's names stand."""
    names = set(own)
    prefixes = Counter[str]()
    for key in state:
        at = -1
        while (at := key.find(".", at + 1)) >= 0:
            if key[at + 1 :] in names:
                prefixes[key[: at + 1]] += 1
                break
    direct = len(names & state.keys())
    prefix, count = max(prefixes.items(), key=lambda item: item[1], default=("", 0))
    if count <= direct:
        return state
    return {key.removeprefix(prefix): v for key, v in state.items() if key.startswith(prefix)}


def _misfit(
    own: State, found: State, missing: list[str], wrong: list[str], extra: list[str], origin: str
) -> DataError:
    lines = []
    if missing:
        lines.append(f"{len(missing)} missing ({_shown(missing)})")
    if extra:
        lines.append(f"{len(extra)} unknown ({_shown(extra)})")
    if wrong:
        shapes = [f"{k} {tuple(found[k].shape)} for {tuple(own[k].shape)}" for k in wrong]
        lines.append(f"{len(wrong)} of another shape ({_shown(shapes)})")
    return DataError(
        f"The weights of {origin} do not fit the backbone: {'; '.join(lines)}.",
        _reason(own, found, missing, wrong),
    )


def _reason(own: State, found: State, missing: list[str], wrong: list[str]) -> str:
    """The likely reason of a misfit, as a hint."""
    needed = sum(not key.endswith(OPTIONAL) for key in own)
    if len(missing) == needed:
        shapes = Counter(tuple(v.shape) for v in own.values())
        alike = sum((shapes & Counter(tuple(v.shape) for v in found.values())).values())
        if alike > 0.9 * len(own):
            return (
                "The shapes are those of this backbone, but the names are not: rename the keys of "
                "the file to those that are missing."
            )
        return (
            "No weight has a name of this network: choose the backbone that they belong to "
            "(harness list backbones)."
        )
    if wrong and not missing:
        return (
            "The names are those of this backbone, but it has another width or depth, or another "
            "patch size: choose that variant."
        )
    if len(missing) < 0.1 * needed:
        return "Almost all fit: the file is incomplete, or of a variant with other norms or stem."
    return "Choose the backbone that they belong to (harness list backbones)."


def _shown(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{', '.join(names[:SHOWN])}{more}"
