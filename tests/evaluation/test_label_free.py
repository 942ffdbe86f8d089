"""Label-free criteria: what they reward and what they penalize."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.components.backbones import small
from harness.core.errors import ConfigError, HarnessError
from harness.evaluation.label_free import CRITERIA, Reference, label_free, read_label_free
from harness.experiment.compose import compose
from harness.training.extraction import extract

REFERENCE = Reference(k1=8, k2=3)


def features(spread: float, camera_shift: float, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features of 20 identities in three cameras, each with a shift, and of the mirror images.

    Returns:
        (N, D), (N, D) and cameras (N,).
    """
    generator = torch.Generator().manual_seed(seed)
    identities = torch.arange(20).repeat_interleave(9)
    cameras = torch.arange(180) % 3
    centers = torch.randn(20, 32, generator=generator)
    shifts = camera_shift * torch.randn(3, 32, generator=generator)
    clean = centers[identities] + shifts[cameras]
    pair = [
        F.normalize(clean + spread * torch.randn(180, 32, generator=generator), dim=-1)
        for _ in range(2)
    ]
    return pair[0], pair[1], cameras


def measured(spread: float, camera_shift: float) -> dict[str, float]:
    x, y, cameras = features(spread, camera_shift)
    return label_free(CRITERIA, x, y, REFERENCE, cameras)


@pytest.mark.parametrize("name", CRITERIA)
def test_tighter_identities_are_better(name: str) -> None:
    tight, loose, noise = (measured(spread, 0.0)[name] for spread in (0.2, 0.7, 30.0))
    assert 100 >= tight > loose > noise
    assert noise < 12


def test_only_cross_camera_detects_features_that_encode_the_camera() -> None:
    fair, biased = measured(0.4, 0.0), measured(0.2, 3.0)
    assert biased["cross_camera"] < 0.5 * fair["cross_camera"]
    assert biased["neighbours"] > 2 * biased["cross_camera"], "it mistakes cameras for identities"


def test_perfect_features() -> None:
    x, _, cameras = features(0.0, 0.0)
    found = label_free(CRITERIA, x, x, Reference(k1=9, k2=1), cameras)  # with the image itself
    assert found["stability"] == 100
    assert found["silhouette"] > 99
    found = label_free(CRITERIA, x, x, Reference(k1=8, k2=1), cameras)  # without
    assert found["neighbours"] == 100
    assert found["cross_camera"] == 75  # of an image's 8 neighbors, 6 are of other cameras


@pytest.mark.parametrize("name", CRITERIA[1:])
def test_they_need_no_cameras(name: str) -> None:
    x, y, cameras = features(0.3, 0.3)
    assert label_free([name], x, y, REFERENCE) == label_free([name], x, y, REFERENCE, cameras)


def test_cross_camera_needs_cameras() -> None:
    x, y, _ = features(0.3, 0.3)
    with pytest.raises(ConfigError, match="needs cameras"):
        label_free(["cross_camera"], x, y, REFERENCE)


def test_one_cluster_is_no_stability() -> None:
    x = F.normalize(torch.ones(60, 4) + 0.001 * torch.randn(60, 4), dim=-1)
    found = label_free(["stability", "silhouette"], x, x, Reference(k1=30, k2=6, eps=0.9))
    assert found == {"stability": 0.0, "silhouette": 0.0}


@pytest.mark.parametrize("name", ["neighbours", "cross_camera"])
def test_a_collapsed_network_has_no_overlap(name: str) -> None:
    """All features are equal, so every order of the neighbors is right."""
    x = F.normalize(torch.ones(180, 4), dim=-1)
    assert label_free([name], x, x, REFERENCE, torch.arange(180) % 3) == {name: 0.0}


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize(("value", "message"), [(torch.nan, "not finite"), (2.0, "not L2-norm")])
def test_features_that_rank_nothing_are_refused(name: str, value: float, message: str) -> None:
    x, y, cameras = features(0.3, 0.3)
    y[7] *= value
    with pytest.raises(HarnessError, match=message):
        label_free([name], x, y, REFERENCE, cameras)


def test_too_many_pairs_for_the_silhouette(monkeypatch: pytest.MonkeyPatch) -> None:
    """The labeler's hint, a lower eps, does not apply."""
    monkeypatch.setattr("harness.components.labelers.jaccard._MAX_PAIRS", 10)
    x, y, _ = features(0.3, 0.3)
    with pytest.raises(HarnessError, match="silhouette is not possible for 180") as error:
        label_free(["silhouette"], x, y, REFERENCE)
    assert "label_free=cross_camera" in error.value.hint


def test_options() -> None:
    config = compose(["method=mskd", "dataset=synthetic"])
    assert read_label_free(config) == ((), Reference())
    config.evaluation.label_free = ["silhouette"]
    assert read_label_free(config) == (("silhouette",), Reference(k1=15, k2=4))
    config.evaluation.reference = {"k1": 20, "eps": 0.5}
    assert read_label_free(config)[1] == Reference(k1=20, k2=4, eps=0.5)
    for key, value, message in (
        ("label_free", ["silhouete"], "Did you mean 'silhouette'"),
        ("reference", {"k3": 1}, "no option 'evaluation.reference.k3'"),
        ("reference", {"k1": 2, "k2": 3}, "1 ≤ k2 ≤ k1"),
        ("reference", {"k2": 0}, "evaluation.reference.k2=0"),
        ("reference", {"eps": 1.5}, "evaluation.reference.eps=1.5"),
    ):
        broken = config.copy()
        broken.evaluation[key] = value
        with pytest.raises(ConfigError, match="evaluation") as error:
            read_label_free(broken)
        assert message in str(error.value)


def test_mirror_images_are_flipped_batch_by_batch() -> None:
    torch.manual_seed(0)
    network, device = small(widths=(8, 16), strides=(1, 2)), torch.device("cpu")
    images = np.random.default_rng(0).integers(0, 255, (11, 16, 8, 3), dtype=np.uint8)
    found = extract(network, images, device, batch=4, mirrored=True)
    whole = extract(network, np.ascontiguousarray(images[:, :, ::-1]), device, batch=4)
    assert torch.equal(found, whole)
    assert not torch.equal(found, extract(network, images, device, batch=4))
