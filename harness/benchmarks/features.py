"""Synthetic features that resemble those of a half-trained network, for timings without data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

#: (images, identities) of each split
SIZES = {
    "market1501": {"train": (12_936, 751), "query": (3_368, 750), "gallery": (15_913, 750)},
    "msmt17": {"train": (32_621, 1_041), "query": (11_659, 3_060), "gallery": (82_161, 3_060)},
}
CAMERAS = {"market1501": 6, "msmt17": 15}

#: dimensions of a feature, and of the space of appearances
_DIM, _INNER = 2048, 64
#: weights of an identity's own appearance, the camera, the identity's pose before a camera, noise
#: and occlusion; the exponent makes strong occlusion rare
_OWN, _CAMERA, _POSE, _NOISE, _OCCLUSION, _RARITY = 0.65, 0.4, 0.65, 0.6, 2.0, 4.0


@dataclass(frozen=True)
class Images:
    """features: (N, V, D) float32, unit rows. identities, cameras: (N,) int64."""

    features: Tensor
    identities: Tensor
    cameras: Tensor


def synthetic_features(
    counts: Sequence[int], identities: int, cameras: int, views: int = 1, dim: int = _DIM
) -> list[Images]:
    """Draw sets of `counts` images, all of the same identities and cameras.

    A feature is the sum of its identity, its camera, both together, and noise. Identities have very
    different numbers of images, some images are occluded, and the views of an image share half of
    its noise. At the sizes of Market-1501 and MSMT17 `eps=0.6` finds 400 to 800 clusters, and
    outliers.
    """
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    clothes = normal(max(1, identities // 12), _INNER)  # identities dress alike
    appearance = clothes[torch.arange(identities) % len(clothes)]
    appearance = (1 - _OWN**2) ** 0.5 * appearance + _OWN * normal(identities, _INNER)
    shift = normal(cameras, _INNER)
    pose = normal(identities * cameras, _INNER)  # an identity before a camera: back, front, bag
    bases = [normal(_INNER, dim) / dim**0.5 for _ in range(views)]

    def draw(count: int) -> Images:
        frequency = torch.rand(identities, generator=generator).pow_(1.5).add_(0.05)
        ids = torch.multinomial(frequency, count, replacement=True, generator=generator)
        seen = torch.rand(identities, cameras, generator=generator).pow_(2)
        cams = torch.multinomial(seen[ids], 1, generator=generator)[:, 0]
        own = normal(count, _INNER)
        occluded = torch.rand(count, 1, generator=generator).pow_(_RARITY)
        signal = appearance[ids] + _CAMERA * shift[cams]
        signal += _POSE * pose[ids * cameras + cams]
        features = torch.empty(count, views, dim)
        for view, basis in enumerate(bases):
            noise = own if views == 1 else (own + normal(*own.shape)) / 2**0.5
            mixed = signal + noise * (_NOISE + _OCCLUSION * occluded)
            features[:, view] = F.normalize(mixed @ basis, dim=-1)
        return Images(features, ids, cams)

    return [draw(count) for count in counts]
