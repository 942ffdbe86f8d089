"""Golden cases of CAP, ICE and PPLR: camera proxies, the losses on them, part agreement."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from harness.components.distillers import InstanceTeacher
from harness.components.labelers import JaccardDBSCAN, distance_rows, encode, nearest
from harness.components.objectives import CameraProxies, PartRefinement, ProxyContrast
from harness.components.objectives import instance_consistency as ice
from harness.components.objectives import part_refinement as pplr
from harness.components.objectives.classification import soft_triplet
from harness.components.objectives.memory import cluster_means, view_cross_entropies
from harness.components.objectives.part_refinement import cross_agreement
from harness.components.objectives.proxies import (
    HARD_NEGATIVES,
    Proxies,
    camera_proxies,
    cross_camera,
    ice_camera,
)
from harness.conformance.cases import Check, Vectors, case, close, equal
from harness.core.interfaces import Backbone, Batch

EXACT, DISTANCE = 1e-9, 2e-6
#: ICE's proxies were made in float32 by its authors' code
IN_FLOAT32 = 1e-7
FEW_MANY = ("few", "many")


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array))


def _grad(loss: Tensor, x: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, x, retain_graph=True)
    return gradient


def _proxies(z: Vectors, prefix: str, features: Tensor, of_image: Tensor) -> Proxies:
    labels, cameras = (_tensor(z[f"{prefix}_proxy_{what}"]) for what in ("labels", "cams"))
    return Proxies(features, labels, cameras, of_image)


# ------------------------------------------------------------------------------------------- CAP


@case("cap_proxies")
def cap_proxies(z: Vectors) -> Iterator[Check]:
    """From features and cameras to distances, labels and proxies."""
    features, cameras = _tensor(z["features"]), _tensor(z["cams"])
    k1, k2 = int(z["k1"]), int(z["k2"])
    encoding = encode(features, nearest(features, k1), k1, k2)
    rows = distance_rows([encoding], torch.arange(len(z["dist_first40"])))
    yield close("distance", rows, z["dist_first40"], DISTANCE)
    labeler = JaccardDBSCAN(eps=float(z["eps"]), min_samples=int(z["min_samples"]), k1=k1, k2=k2)
    labels = labeler.label(features[:, None]).labels
    yield equal("labels", labels, z["labels"])
    proxies = camera_proxies(features, _tensor(z["labels"]), cameras)
    yield close("proxies", proxies.features, z["proxies"], DISTANCE)
    counts = torch.bincount(proxies.cameras)
    yield equal("proxies of each camera", counts, z["proxies_per_camera"])
    yield equal("proxy of each image", proxies.of_image, z["proxy_label_of_image"])


@case("cap_loss")
def cap_loss(z: Vectors) -> Iterator[Check]:
    """Loss, gradient and memory over two steps, before and after the loss across cameras."""
    yield equal("first epoch across cameras", CameraProxies().inter_epoch, z["crosscam_epoch"])
    yield equal("negatives", HARD_NEGATIVES, z["bg_knn"])
    for size in FEW_MANY:
        labels, cameras = (_tensor(z[f"{size}_data_{what}"]) for what in ("labels", "cams"))
        numbered = camera_proxies(torch.ones(len(labels), 1), labels, cameras)
        yield equal(f"{size} proxy labels", numbered.labels, z[f"{size}_proxy_labels"])
        yield equal(f"{size} proxy cameras", numbered.cameras, z[f"{size}_proxy_cams"])
        for kind in ("intra", "both"):
            name = f"{size}_{kind}"
            objective = CameraProxies(float(z["temperature"]), float(z["memory_rate"]))
            objective.has_inter_camera = kind == "both"
            memory = _tensor(z[f"{size}_memory0"])[None]
            objective.proxies = _proxies(z, size, memory, numbered.of_image)
            for step in (1, 2):
                x = _tensor(z[f"{size}_inputs{step}"])[:, None].requires_grad_()
                indices = _tensor(z[f"{size}_indexes{step}"])
                # the published gradient is that of rows which are normalised already
                own = numbered.of_image[indices]
                gradient = _grad(objective.terms(x, own, objective.proxies)[0], x)[:, 0]
                loss = objective(x, _tensor(z[f"{size}_targets{step}"]), indices)
                objective.update()
                yield close(f"{name} loss {step}", loss, z[f"{name}_loss{step}"], EXACT)
                yield close(f"{name} gradient {step}", gradient, z[f"{name}_grad{step}"], EXACT)
                yield close(f"{name} memory {step}", memory[0], z[f"{name}_memory{step}"], EXACT)


# ------------------------------------------------------------------------------------------- ICE


@case("ice_losses")
def ice_losses(z: Vectors) -> Iterator[Check]:
    """Cluster centres, proxies, the four terms and their gradients."""
    yield equal("negatives", HARD_NEGATIVES, z["bg_knn"])
    for size in FEW_MANY:
        features, labels, cameras = (
            _tensor(z[f"{size}_data_{what}"]) for what in ("features", "labels", "cams")
        )
        centres = cluster_means(features[:, None], labels)[0]
        yield close(f"{size} centres", centres, z[f"{size}_centers"], EXACT)
        ours = camera_proxies(features, labels, cameras)
        yield close(f"{size} proxies", ours.features, z[f"{size}_proxies"], IN_FLOAT32)
        yield equal(f"{size} proxy labels", ours.labels, z[f"{size}_proxy_labels"])
        yield equal(f"{size} proxy cameras", ours.cameras, z[f"{size}_proxy_cams"])
        proxies = _proxies(z, size, _tensor(z[f"{size}_proxies"]), ours.of_image)
        x = _tensor(z[f"{size}_student_view1"]).requires_grad_()
        y, u = (_tensor(z[f"{size}_teacher_{what}"]) for what in ("view2", "weak"))
        targets, cams = _tensor(z[f"{size}_targets"]), _tensor(z[f"{size}_cams"])
        terms = {
            "ccl": ice.cluster_contrast(
                x, centres, targets, float(z["tau_c"]), float(z["epsilon"])
            ),
            "vcl": ice.hard_instance(x, y, targets, float(z["tau_v"])),
            "cam": ice_camera(x, targets, cams, proxies, float(z["cam_temperature"])),
            "kl": ice.consistency(x, y, u, float(z["scale_kl"]), float(z["kl_factor"])),
        }
        for name, term in terms.items():
            yield close(f"{size} {name}", term, z[f"{size}_loss_{name}"], EXACT)
            yield close(f"{size} {name} gradient", _grad(term, x), z[f"{size}_grad_{name}"], EXACT)
        loss = torch.stack(list(terms.values())).sum()
        yield close(f"{size} loss", loss, z[f"{size}_loss"], EXACT)
        yield close(f"{size} gradient", _grad(loss, x), z[f"{size}_grad"], EXACT)
        yield from _ice_step(z, size, centres, proxies)


class _Given(Backbone):
    """A network whose embeddings are its parameters; those of images (B, D) are the images."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.views, self.dim = ("global",), rows.shape[1]
        self.rows = nn.Parameter(rows)

    def forward(self, images: Tensor) -> Tensor:
        return images[:, None]


def _ice_step(z: Vectors, size: str, centres: Tensor, proxies: Proxies) -> Iterator[Check]:
    """The sum of the four terms from the method's parts, and the teacher's update."""
    objective = ProxyContrast(
        float(z["tau_c"]), float(z["epsilon"]), 1.0, float(z["cam_temperature"])
    )
    objective.centers = centres[None]
    cameras = _tensor(z[f"{size}_cams"])
    # the batch is of no images of the set: any proxy of a camera tells which camera it is
    of_image = (proxies.cameras == cameras[:, None]).to(torch.int64).argmax(dim=1)
    objective.proxies = Proxies(proxies.features[None], proxies.labels, proxies.cameras, of_image)
    student, teacher = (
        {key: _tensor(z[f"{size}_{who}_{key}"]) for key in ("view1", "view2", "weak")}
        for who in ("student", "teacher")
    )
    distiller = InstanceTeacher(
        _Given(teacher["view1"]),
        hard_temperature=float(z["tau_v"]),
        soft_temperature=float(z["scale_kl"]),
        soft_factor=float(z["kl_factor"]),
        alpha=float(z["alpha"]),
    )
    x = student["view1"].requires_grad_()
    labels, indices = _tensor(z[f"{size}_targets"]), torch.arange(len(cameras))
    batch = Batch(teacher["view1"], labels, indices, (teacher["view2"],), teacher["weak"])
    loss = objective(x[:, None], labels, indices) + distiller(x[:, None], batch, objective)
    yield close(f"{size} step loss", loss, z[f"{size}_loss"], EXACT)
    yield close(f"{size} step gradient", _grad(loss, x), z[f"{size}_grad"], EXACT)
    for view in ("view1", "view2"):
        average = _Given(teacher[view])
        InstanceTeacher(average, alpha=float(z["alpha"])).step(_Given(student[view].detach()))
        yield close(
            f"{size} teacher's update", average.rows, z[f"{size}_teacher_{view}_after_ema"], EXACT
        )


# ------------------------------------------------------------------------------------------ PPLR


@case("pplr_score")
def pplr_score(z: Vectors) -> Iterator[Check]:
    """Agreement scores from features."""
    whole, parts = _tensor(z["features_global"]), _tensor(z["features_part"])
    features = torch.cat([whole[:, None], parts.transpose(1, 2)], dim=1)
    yield close("score", cross_agreement(features, int(z["k"])), z["score"], DISTANCE)


@case("pplr_losses")
def pplr_losses(z: Vectors) -> Iterator[Check]:
    """Each term alone, then whole steps, before and after AALS, with and without cameras."""
    yield equal("negatives", HARD_NEGATIVES, z["num_hards"])
    labels, cameras = _tensor(z["targets"]), _tensor(z["cams"])
    agreement = _tensor(z["agreement"])
    logits = _views(z["logits_global"], z["logits_part"]).transpose(0, 1).requires_grad_()
    embeddings = _views(z["emb_global"], z["emb_part"]).requires_grad_()

    pglr = pplr.refined_global(logits, labels, agreement, float(z["beta"]))
    gradient = _grad(pglr, logits)
    yield close("PGLR", pglr, z["pglr_loss"], EXACT)
    yield close("PGLR gradient", gradient[0], z["pglr_grad"], EXACT)
    yield close("PGLR gradient of the parts", gradient[1:].abs().max(), 0.0, 0.0)
    aals = pplr.smoothed_by_agreement(logits[1], labels, agreement[:, 0])
    yield close("AALS", aals, z["aals_part0_loss"], EXACT)
    yield close("AALS gradient", _grad(aals, logits)[1], z["aals_part0_grad"], EXACT)
    smooth = view_cross_entropies(logits[1:], labels, float(z["epsilon"]))[0]
    yield close("label-smoothed CE", smooth, z["ce_smooth_part0_loss"], EXACT)
    yield close(
        "label-smoothed CE gradient", _grad(smooth, logits)[1], z["ce_smooth_part0_grad"], EXACT
    )
    triplet = soft_triplet(embeddings[:, 0], labels)
    yield close("triplet", triplet, z["softtriplet_loss"], EXACT)
    yield close("triplet gradient", _grad(triplet, embeddings)[:, 0], z["softtriplet_grad"], EXACT)
    for size in FEW_MANY:
        term = cross_camera(
            embeddings, labels, cameras, _both(z, size), float(z["cam_temperature"])
        )[0]
        yield close(f"{size} camera", term, z[f"{size}_cam_loss"], EXACT)
        yield close(
            f"{size} camera gradient",
            _grad(term, embeddings)[:, 0],
            z[f"{size}_cam_grad"],
            EXACT,
        )
    yield from _pplr_steps(z, embeddings, logits, labels, agreement, cameras)


def _views(whole: np.ndarray, parts: np.ndarray) -> Tensor:
    """(B, X) and (B, X, P) → (B, 1 + P, X)."""
    return torch.cat([_tensor(whole)[:, None], _tensor(parts).transpose(1, 2)], dim=1)


def _both(z: Vectors, size: str) -> Proxies:
    """Proxies of the global view and of the parts."""
    features = torch.cat([_tensor(z[f"{size}_proxies"])[None], _tensor(z[f"{size}_proxies_part"])])
    return _proxies(z, size, features, torch.empty(0, dtype=torch.int64))


def _pplr_steps(
    z: Vectors, x: Tensor, logits: Tensor, labels: Tensor, agreement: Tensor, cameras: Tensor
) -> Iterator[Check]:
    for kind in ("plain", "cam"):
        weight = float(z["lambda_cam"]) if kind == "cam" else 0.0
        for epoch in (4, 5):
            name = f"step_{kind}_epoch{epoch}"
            objective = PartRefinement(
                beta=float(z["beta"]), smoothing=float(z["epsilon"]), camera_weight=weight,
                aals_epoch=int(z["aals_epoch"]),
            )  # fmt: skip
            objective.has_aals = epoch >= objective.aals_epoch
            objective.proxies = _both(z, "many") if kind == "cam" else None
            known = cameras if kind == "cam" else None
            terms = objective.terms(x, logits, labels, agreement, known)
            loss = terms.total(weight)
            yield close(f"{name} PGLR", terms.refined, z[f"{name}_gce"], EXACT)
            yield close(f"{name} triplet", terms.triplet, z[f"{name}_tri"], EXACT)
            yield close(f"{name} parts", terms.parts, z[f"{name}_pce"], EXACT)
            yield close(f"{name} loss", loss, z[f"{name}_loss"], EXACT)
            by_x, by_logits = _grad(loss, x), _grad(loss, logits)
            for what, ours in (
                ("emb_global", by_x[:, 0]),
                ("logits_global", by_logits[0]),
                ("logits_part", by_logits[1:].permute(1, 2, 0)),
            ):
                theirs = z[f"{name}_grad_{what}"]
                yield close(f"{name} gradient of {what}", ours, theirs, EXACT)
            if kind == "cam":
                yield close(f"{name} camera", terms.camera, z[f"{name}_cam"], EXACT)
                theirs = z[f"{name}_grad_emb_part"]
                ours = by_x[:, 1:].transpose(1, 2)
                yield close(f"{name} gradient of emb_part", ours, theirs, EXACT)
