"""Who is to be found by whom: identities, cameras and junk, laid out for ranking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import HarnessError

Integers = np.ndarray | Tensor | Sequence[int]


@dataclass(frozen=True, eq=False)
class Truth:
    """Who is who, and for each query where its identity stands in the gallery.

    by_identity: (G,) gallery indices sorted by identity; those of query q are
        by_identity[begin[q] : end[q]].
    itself: (Q,) gallery index of the query image, or -1.
    """

    query_ids: Tensor
    gallery_ids: Tensor
    query_cams: Tensor | None
    gallery_cams: Tensor | None
    itself: Tensor | None
    by_identity: Tensor
    begin: Tensor
    end: Tensor
    junk: Tensor

    @classmethod
    def of(
        cls,
        query_ids: Integers,
        gallery_ids: Integers,
        query_cams: Integers | None,
        gallery_cams: Integers | None,
        query_names: Sequence[str] | None,
        gallery_names: Sequence[str] | None,
    ) -> Truth:
        query, gallery = integers("query_ids", query_ids), integers("gallery_ids", gallery_ids)
        for what, values, ids in (
            ("query cameras", query_cams, query),
            ("gallery cameras", gallery_cams, gallery),
            ("query names", query_names, query),
            ("gallery names", gallery_names, gallery),
        ):
            if values is not None and len(values) != len(ids):
                raise HarnessError(f"{len(values)} {what} for {len(ids)} identities")
        itself = None
        if query_cams is None or gallery_cams is None:
            query_cams = gallery_cams = None
            if query_names is not None and gallery_names is not None:
                index = {name: i for i, name in enumerate(gallery_names)}
                itself = torch.tensor([index.get(name, -1) for name in query_names])
        by_identity = torch.argsort(gallery, stable=True)
        ordered = gallery[by_identity]
        return cls(
            query,
            gallery,
            None if query_cams is None else integers("query_cams", query_cams),
            None if gallery_cams is None else integers("gallery_cams", gallery_cams),
            itself,
            by_identity,
            torch.searchsorted(ordered, query),
            torch.searchsorted(ordered, query, right=True),
            (gallery < 0).nonzero().flatten(),
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What the compiled loop reads, in its order; empty where there is nothing."""
        nothing = torch.empty(0, dtype=torch.int64)
        cameras = (self.query_cams, self.gallery_cams)
        tensors = (self.begin, self.end, self.by_identity, self.junk, *cameras, self.itself)
        return tuple((nothing if t is None else t).cpu().numpy() for t in tensors)

    def to(self, device: torch.device) -> Truth:
        """The same on another device; itself if it is there already."""
        if self.query_ids.device == device:
            return self
        moved: dict[str, Any] = {k: v if v is None else v.to(device) for k, v in vars(self).items()}
        return Truth(**moved)


def integers(name: str, values: Integers) -> Tensor:
    """One list of integers, on the CPU."""
    tensor = torch.as_tensor(values).cpu()
    if tensor.dim() != 1 or tensor.is_floating_point():
        raise HarnessError(
            f"{name} must be a list of integers, not {tensor.dtype} {tuple(tensor.shape)}"
        )
    return tensor.to(torch.int64)


def no_valid_query(truth: Truth) -> HarnessError:
    known = int(((truth.end > truth.begin) & (truth.query_ids >= 0)).sum())
    if known == 0:
        why = "no query identity occurs in the gallery"
        hint = "Check that query and gallery come from one data set and how identities are parsed."
    else:
        why = f"{known} have gallery images of their identity, but all of these are removed"
        hint = "Check how cameras are parsed; cameras=None evaluates without the camera rule."
        if truth.query_cams is None:
            hint = "The gallery holds only the query images themselves: check how it was split."
    return HarnessError(
        f"none of the {len(truth.query_ids)} queries has a correct image to find: {why}", hint
    )
