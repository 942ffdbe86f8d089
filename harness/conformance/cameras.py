"""Golden cases of CAP, ICE and PPLR: camera proxies, their losses, and part agreement."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from harness.components.distillers import InstanceTeacher
from harness.components.labelers import JaccardDBSCAN, distance_rows, encode, nearest
from harness.components.objectives import CameraProxies, PartRefinement, ProxyContrast
from harness.components.objectives import part_refinement as pplr
from harness.components.objectives import proxy_contrast as ice
from harness.components.objectives.classification import soft_triplet
from harness.components.objectives.memory import cluster_means
from harness.components.objectives.part_refinement import cross_agreement
from harness.components.objectives.proxies import (
    HARD_NEGATIVES,
    Proxies,
    camera_proxies,
    cross_camera,
    ice_camera,
)
from harness.components.objectives.views import view_cross_entropies
from harness.conformance.cases import DISTANCE, Check, Vectors, case, close, gradient
from harness.core.interfaces import Backbone, Batch

#: ICE's proxies were made in float32 by its authors' code
IN_FLOAT32 = 1e-7
SIZES = ("few", "many")


def _proxies(z: Vectors, prefix: str, features: Tensor, of_image: Tensor) -> Proxies:
    labels, cameras = z.tensors(f"{prefix}_proxy_labels", f"{prefix}_proxy_cams")
    return Proxies(features, labels, cameras, of_image)


# ------------------------------------------------------------------------------------------- CAP


@case("cap_proxies")
def cap_proxies(z: Vectors) -> Iterator[Check]:
    """From features and cameras to distances, labels and proxies."""
    features, cameras = z.tensors("features", "cams")
    k1, k2 = int(z["k1"]), int(z["k2"])
    encoding = encode(features, nearest(features, k1), k1, k2)
    rows = distance_rows([encoding], torch.arange(len(z["dist_first40"])))
    labeler = JaccardDBSCAN(eps=z.number("eps"), min_samples=int(z["min_samples"]), k1=k1, k2=k2)
    labels = labeler.label(features[:, None]).labels
    proxies = camera_proxies(features, z.tensor("labels"), cameras)
    yield from z.close("*", DISTANCE, dist_first40=rows, proxies=proxies.features)
    counts = torch.bincount(proxies.cameras)
    yield from z.equal("*", labels=labels, proxies_per_camera=counts)
    yield from z.equal("*", proxy_label_of_image=proxies.of_image)


@case("cap_loss")
def cap_loss(z: Vectors) -> Iterator[Check]:
    """Loss, gradient and memory over two steps, before and after the loss across cameras."""
    yield from z.equal("*", crosscam_epoch=CameraProxies().inter_epoch, bg_knn=HARD_NEGATIVES)
    for size in SIZES:
        labels, cameras = z.tensors(f"{size}_data_labels", f"{size}_data_cams")
        numbered = camera_proxies(torch.ones(len(labels), 1), labels, cameras)
        yield from z.equal(f"{size}_proxy_*", labels=numbered.labels, cams=numbered.cameras)
        for kind in ("intra", "both"):
            name = f"{size}_{kind}"
            objective = CameraProxies(z.number("temperature"), z.number("memory_rate"))
            objective.has_inter_camera = kind == "both"
            memory = z.tensor(f"{size}_memory0")[None]
            objective.proxies = _proxies(z, size, memory, numbered.of_image)
            for step in (1, 2):
                x = z.tensor(f"{size}_inputs{step}")[:, None].requires_grad_()
                targets, indices = z.tensors(f"{size}_targets{step}", f"{size}_indexes{step}")
                # the published gradient is for rows that are already normalized
                own = numbered.of_image[indices]
                grad = gradient(objective.terms(x, own, objective.proxies)[0], x)[:, 0]
                loss = objective(x, targets, indices)
                objective.update()
                yield from z.close(f"{name}_*{step}", loss=loss, grad=grad, memory=memory[0])


# ------------------------------------------------------------------------------------------- ICE


@case("ice_losses")
def ice_losses(z: Vectors) -> Iterator[Check]:
    """Cluster centers, proxies, the four terms and their gradients."""
    yield from z.equal("*", bg_knn=HARD_NEGATIVES)
    for size in SIZES:
        data = (f"{size}_data_{what}" for what in ("features", "labels", "cams"))
        features, labels, cameras = z.tensors(*data)
        centers = cluster_means(features[:, None], labels)[0]
        yield from z.close(f"{size}_*", centers=centers)
        ours = camera_proxies(features, labels, cameras)
        yield from z.close(f"{size}_*", IN_FLOAT32, proxies=ours.features)
        yield from z.equal(f"{size}_proxy_*", labels=ours.labels, cams=ours.cameras)
        proxies = _proxies(z, size, z.tensor(f"{size}_proxies"), ours.of_image)
        x = z.tensor(f"{size}_student_view1").requires_grad_()
        y, u = z.tensors(f"{size}_teacher_view2", f"{size}_teacher_weak")
        targets, cams = z.tensors(f"{size}_targets", f"{size}_cams")
        tau_c, epsilon = z.number("tau_c"), z.number("epsilon")
        terms = {
            "ccl": ice.cluster_contrast(x, centers, targets, tau_c, epsilon),
            "vcl": ice.hard_instance(x, y, targets, z.number("tau_v")),
            "cam": ice_camera(x, targets, cams, proxies, z.number("cam_temperature")),
            "kl": ice.consistency(x, y, u, z.number("scale_kl"), z.number("kl_factor")),
        }
        for name, term in terms.items():
            yield from z.close(f"{size}_*_{name}", loss=term, grad=gradient(term, x))
        loss = torch.stack(list(terms.values())).sum()
        yield from z.close(f"{size}_*", loss=loss, grad=gradient(loss, x))
        yield from _ice_step(z, size, centers, proxies)


class _Fixed(Backbone):
    """A network whose parameters are its embeddings; for images (B, D) it returns the images."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.views, self.dim = ("global",), rows.shape[1]
        self.rows = nn.Parameter(rows)

    def forward(self, images: Tensor) -> Tensor:
        return images[:, None]


def _ice_step(z: Vectors, size: str, centers: Tensor, proxies: Proxies) -> Iterator[Check]:
    """The sum of the four terms from the method's components, and the teacher's update."""
    tau_c, tau_cam = z.number("tau_c"), z.number("cam_temperature")
    objective = ProxyContrast(tau_c, z.number("epsilon"), 1.0, tau_cam)
    objective.centers = centers[None]
    cameras, labels = z.tensors(f"{size}_cams", f"{size}_targets")
    # an image's proxy only determines its camera: take any proxy of that camera
    of_image = (proxies.cameras == cameras[:, None]).to(torch.int64).argmax(dim=1)
    objective.proxies = Proxies(proxies.features[None], proxies.labels, proxies.cameras, of_image)
    one, two, weak = z.tensors(*(f"{size}_teacher_{view}" for view in ("view1", "view2", "weak")))
    distiller = InstanceTeacher(
        _Fixed(one), alpha=z.number("alpha"), hard_temperature=z.number("tau_v"),
        soft_temperature=z.number("scale_kl"), soft_factor=z.number("kl_factor"),
    )  # fmt: skip
    x = z.tensor(f"{size}_student_view1").requires_grad_()
    indices = torch.arange(len(cameras))
    batch = Batch(one, labels, indices, (two,), weak)
    loss = objective(x[:, None], labels, indices) + distiller(x[:, None], batch, objective)
    yield from z.close(f"{size}_*", loss=loss, grad=gradient(loss, x))
    for view in ("view1", "view2"):
        average = _Fixed(z.tensor(f"{size}_teacher_{view}"))
        student = _Fixed(z.tensor(f"{size}_student_{view}"))
        InstanceTeacher(average, alpha=z.number("alpha")).step(student)
        yield from z.close(f"{size}_teacher_{view}_*", after_ema=average.rows)


# ------------------------------------------------------------------------------------------ PPLR


@case("pplr_score")
def pplr_score(z: Vectors) -> Iterator[Check]:
    """Agreement scores from features."""
    score = cross_agreement(_views(z, "features"), int(z["k"]))
    yield from z.close("*", DISTANCE, score=score)


@case("pplr_losses")
def pplr_losses(z: Vectors) -> Iterator[Check]:
    """Each term alone, then whole steps, before and after AALS, with and without cameras."""
    yield from z.equal("*", num_hards=HARD_NEGATIVES)
    labels, cameras, agreement = z.tensors("targets", "cams", "agreement")
    logits = _views(z, "logits").transpose(0, 1).requires_grad_()
    embeddings = _views(z, "emb").requires_grad_()

    pglr = pplr.refined_global(logits, labels, agreement, z.number("beta"))
    grad = gradient(pglr, logits)
    yield from z.close("pglr_*", loss=pglr, grad=grad[0])
    yield close("pglr_grad of the parts", grad[1:].abs().max(), 0.0)
    aals = pplr.smoothed_by_agreement(logits[1], labels, agreement[:, 0])
    smooth = view_cross_entropies(logits[1:], labels, z.number("epsilon"))[0]
    triplet = soft_triplet(embeddings[:, 0], labels)
    yield from z.close("aals_part0_*", loss=aals, grad=gradient(aals, logits)[1])
    yield from z.close("ce_smooth_part0_*", loss=smooth, grad=gradient(smooth, logits)[1])
    yield from z.close("softtriplet_*", loss=triplet, grad=gradient(triplet, embeddings)[:, 0])
    temperature = z.number("cam_temperature")
    for size in SIZES:
        term = cross_camera(embeddings, labels, cameras, _both(z, size), temperature)[0]
        yield from z.close(f"{size}_cam_*", loss=term, grad=gradient(term, embeddings)[:, 0])
    for kind, epoch in itertools.product(("plain", "cam"), (4, 5)):
        yield from _pplr_step(z, kind, epoch, embeddings, logits)


def _views(z: Vectors, name: str) -> Tensor:
    """The global view (B, X) and the parts (B, X, P) as (B, 1 + P, X)."""
    whole, parts = z.tensors(f"{name}_global", f"{name}_part")
    return torch.cat([whole[:, None], parts.transpose(1, 2)], dim=1)


def _both(z: Vectors, size: str) -> Proxies:
    """Proxies of the global view and of the parts."""
    whole, parts = z.tensors(f"{size}_proxies", f"{size}_proxies_part")
    return _proxies(z, size, torch.cat([whole[None], parts]), torch.empty(0, dtype=torch.int64))


def _pplr_step(z: Vectors, kind: str, epoch: int, x: Tensor, logits: Tensor) -> Iterator[Check]:
    name, uses_cameras = f"step_{kind}_epoch{epoch}", kind == "cam"
    labels, cameras, agreement = z.tensors("targets", "cams", "agreement")
    weight = z.number("lambda_cam") if uses_cameras else 0.0
    objective = PartRefinement(
        beta=z.number("beta"), smoothing=z.number("epsilon"), camera_weight=weight,
        aals_epoch=int(z["aals_epoch"]),
    )  # fmt: skip
    objective.has_aals = epoch >= objective.aals_epoch
    objective.proxies = _both(z, "many") if uses_cameras else None
    terms = objective.terms(x, logits, labels, agreement, cameras if uses_cameras else None)
    loss = terms.total(weight)
    ours = {"gce": terms.refined, "tri": terms.triplet, "pce": terms.parts, "loss": loss}
    by_x, by_logits = gradient(loss, x), gradient(loss, logits)
    ours |= {"grad_emb_global": by_x[:, 0], "grad_logits_global": by_logits[0]}
    ours["grad_logits_part"] = by_logits[1:].permute(1, 2, 0)
    if uses_cameras:
        ours |= {"grad_emb_part": by_x[:, 1:].transpose(1, 2), "cam": terms.camera}
    yield from z.close(f"{name}_*", **ours)
