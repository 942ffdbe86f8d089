"""Features that look like those of a half-trained network, for timings without data or training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

#: images, identities, cameras of the data sets' parts
SIZES = {
    "market1501": {"train": (12_936, 751), "query": (3_368, 750), "gallery": (15_913, 750)},
    "msmt17": {"train": (32_621, 1_041), "query": (11_659, 3_060), "gallery": (82_161, 3_060)},
}
CAMERAS = {"market1501": 6, "msmt17": 15}


@dataclass(frozen=True)
class Images:
    """features: (N, V, D) float32, unit rows. identities, cameras: (N,) int64."""

    features: Tensor
    identities: Tensor
    cameras: Tensor


class People:
    """A population that images are drawn from: identity + camera + the day + noise.

    Identities lie in a space of few dimensions, cameras shift everybody alike, some images are far
    off (occlusions), and identities have very different numbers of images. With the defaults
    `eps=0.6` finds 400 to 800 clusters, and outliers, at Market-1501's and at MSMT17's size.

    Args:
        identities, cameras: how many there are.
        dim: D. views: V; views of one image share half of what is special about it.
        seed: everything follows from it.
    """

    def __init__(
        self, identities: int, cameras: int, dim: int = 2048, views: int = 1, seed: int = 0
    ) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.identities, self.cameras, self.dim, self.views = identities, cameras, dim, views
        inner = min(_INNER, dim)
        looks = self._normal(max(1, identities // 12), inner)  # the season's clothes
        self.people = looks[torch.arange(identities) % len(looks)]
        self.people = (1 - _OWN**2) ** 0.5 * self.people + _OWN * self._normal(identities, inner)
        self.shift = self._normal(cameras, inner)
        # how one camera sees one person: back, front, with or without the bag
        self.pose = self._normal(identities * cameras, inner)
        self.bases = [self._normal(inner, dim) / dim**0.5 for _ in range(views)]

    def images(self, count: int) -> Images:
        """Draw images; the popularity of identities and cameras is uneven."""
        popular = torch.rand(self.identities, generator=self.generator).pow_(1.5).add_(0.05)
        who = torch.multinomial(popular, count, replacement=True, generator=self.generator)
        seen = torch.rand(self.identities, self.cameras, generator=self.generator).pow_(2)
        where = torch.multinomial(seen[who], 1, generator=self.generator)[:, 0]
        own = self._normal(count, self.people.shape[1])
        occluded = torch.rand(count, 1, generator=self.generator).pow_(_RARITY)
        inner = self.people[who] + _CAMERA * self.shift[where]
        inner += _POSE * self.pose[who * self.cameras + where]
        features = torch.empty(count, self.views, self.dim)
        for view, basis in enumerate(self.bases):
            special = own if self.views == 1 else (own + self._normal(*own.shape)) / 2**0.5
            mixed = inner + special * (_NOISE + _OCCLUSION * occluded)
            features[:, view] = F.normalize(mixed @ basis, dim=-1)
        return Images(features, who, where)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


_INNER, _OWN, _CAMERA, _POSE, _NOISE, _OCCLUSION, _RARITY = 64, 0.65, 0.4, 0.65, 0.6, 2.0, 4.0


def clustered(count: int, identities: int, cameras: int, views: int = 1, dim: int = 2048) -> Images:
    """`count` images of a population, as the benchmarks use them."""
    return People(identities, cameras, dim, views).images(count)
