"""The golden case of O2CAP: labels, camera proxies, the two terms, and the memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.components.objectives import AssociatedProxies
from harness.components.objectives.proxies import (
    Proxies,
    intra_camera,
    sum_of_camera_means,
)
from harness.conformance.cases import THROUGH_NORM, Check, Vectors, case, gradient
from harness.conformance.labels import jaccard_dbscan


@case("o2cap")
def o2cap(z: Vectors) -> Iterator[Check]:
    """From features to two steps of the loss, its terms, their gradients, and the memory."""
    for size in ("main", "two"):
        yield from jaccard_dbscan(z, f"{size}_")
        features, labels, cameras = z.tensors(
            *(f"{size}_{x}" for x in ("features", "labels", "cams"))
        )
        objective = AssociatedProxies(
            z.number(f"{size}_temp"), z.number(f"{size}_momentum"),
            negatives=int(z[f"{size}_bg_knn"]), positives=int(z[f"{size}_posK"]),
            image_share=z.number(f"{size}_balance_w"),
        )  # fmt: skip
        objective.start_epoch(features[:, None], labels, cameras)
        assert objective.proxies is not None
        # numbered as the authors do: by label, then by camera
        ours = objective.proxies
        order = torch.argsort(ours.labels * (int(cameras.max()) + 1) + ours.cameras)
        of_image = torch.where(labels < 0, -1, torch.argsort(order)[ours.of_image])
        proxies = Proxies(
            ours.features[:, order], ours.labels[order], ours.cameras[order], of_image
        )
        yield from z.close(f"{size}_*", THROUGH_NORM, proxies=proxies.features[0])
        yield from z.equal(f"{size}_proxy_*", labels=proxies.labels, cams=proxies.cameras)
        yield from z.equal(f"{size}_*", proxy_of_image=of_image)
        objective.proxies = proxies
        for step in (1, 2):
            yield from _step(z, size, step, objective)


def _step(z: Vectors, size: str, step: int, objective: AssociatedProxies) -> Iterator[Check]:
    proxies = objective.proxies
    assert proxies is not None
    x = z.tensor(f"{size}_inputs{step}")[:, None].requires_grad_()
    indices = z.tensor(f"{size}_indexes{step}")
    own = proxies.of_image[indices]
    cameras = proxies.cameras[own]
    yield from z.equal(f"{size}_*{step}", cams=cameras)

    # the published gradients are for rows that are already normalized
    def check(name: str, term: Tensor) -> Iterator[Check]:
        key = "grad" if name == "loss" else f"{name}_grad"
        ours = {name: term, key: gradient(term, x)[:, 0]}
        return z.close(f"{size}_*{step}", THROUGH_NORM, **ours)

    offline, online = objective.samples(x, own, proxies)
    yield from check("offline", objective.reduce(offline, cameras)[0])
    yield from check("online", objective.reduce(online, cameras)[0])
    similarity = x[:, 0] @ proxies.features[0].T
    intra = intra_camera(similarity, own, proxies.cameras, objective.temperature)
    yield from check("intra", sum_of_camera_means(intra, cameras))
    yield from check("loss", objective.terms(x, own, proxies)[0])
    objective(x, proxies.labels[own], indices)
    objective.update()
    yield from z.close(f"{size}_*{step}", THROUGH_NORM, memory=proxies.features[0])
