"""Communities of the nearest-neighbor graph, by Infomap: Cluster Contrast's other labeler."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from harness.components.labelers.neighbours import Search, nearest
from harness.components.labelers.timer import COLLAPSED, FEW, MANY, Timer, count_labels
from harness.core.errors import ConfigError, HarnessError
from harness.core.interfaces import PseudoLabeler, PseudoLabels, check_features
from harness.core.precision import exact_matmul

_CHUNK = 256  # images whose neighbors' features are gathered at once


class Infomap(PseudoLabeler):
    """Infomap on the directed graph of similar neighbours, of the global view.

    Rosvall, Bergstrom, *Maps of random walks on complex networks reveal community structure*, PNAS
    2008: the partition that describes a random walk on the graph in the fewest bits, with two
    levels. Image i links to each of its k1 nearest images j with cosine similarity s(i, j) ≥
    min_similarity, with weight s(i, j). Communities of fewer than min_images images, and images
    without links, are outliers; labels are numbered by their first image.

    The defaults are those reported for the Infomap variant of Cluster Contrast (Dai et al.,
    *Cluster Contrast for Unsupervised Person Re-Identification*, ACCV 2022), whose code calls them
    k1 = 15, eps = 0.5 and k2 = 4. No golden case checks them: the authors' code may not count the
    image itself among the k1, or may exclude a similarity of exactly min_similarity.
    """

    def __init__(
        self,
        *,
        k1: Annotated[int, Field(ge=2, description="linked neighbors, itself included")] = 15,
        min_similarity: Annotated[
            float, Field(gt=0, le=1, description="lowest cosine similarity of a link")
        ] = 0.5,
        min_images: Annotated[PositiveInt, Field(description="fewest images of a cluster")] = 4,
        seed: Annotated[int, Field(ge=1, lt=1 << 31, description="seed of all epochs")] = 1,
        search: Search = "auto",
    ) -> None:
        try:  # the package, before an epoch's features are extracted
            _communities(np.array([0, 1]), np.array([1, 0]), np.ones(2), seed=1)
        except HarnessError as error:
            raise ConfigError(error.cause, 'pip install "usl-reid-harness[infomap]"') from error
        self.k1 = self.min_images = k1
        self.min_similarity = min_similarity
        self.min_size = min_images
        self.seed = seed
        self.search = search

    def label(self, features: Tensor, cameras: Tensor | None = None) -> PseudoLabels:
        """Statistics: clusters, outliers, links and the seconds of each step."""
        check_features(features, minimum=self.k1)
        timer = Timer(features)
        view = features[:, 0].float()
        ranks = nearest(view, self.k1, self.search)
        timer.lap("search")
        sources, targets, weights = self._links(view, ranks)
        modules = -1 - np.arange(len(view))  # an image without a link is its own community
        if len(sources):
            images, found = _communities(sources, targets, weights, self.seed)
            modules[images] = found
        labels = _numbered(modules, self.min_size)
        timer.lap("cluster")
        stats = count_labels(labels) | {"links": len(sources)}
        return PseudoLabels(torch.from_numpy(labels), stats | timer.seconds)

    def describe(self) -> str:
        return f"min_similarity {self.min_similarity:g}, min_images {self.min_size}, k1 {self.k1}"

    def hint(self, labels: PseudoLabels) -> str:
        if labels.scattered >= MANY:
            return (
                "Most images have no cluster: lower labeler.min_similarity or labeler.min_images."
            )
        if labels.scattered <= FEW:
            return (
                "Nearly all images are in large clusters: raise labeler.min_similarity or lower "
                f"labeler.k1. {COLLAPSED}"
            )
        return (
            "The share of outliers is moderate: keep the number of links, and set labeler.k1 to "
            "about the number of images of a person."
        )

    def _links(self, view: Tensor, ranks: Tensor) -> tuple[np.ndarray, ...]:
        """Source images, target images and similarities of the links: (E,) each."""
        with exact_matmul(view.device):
            chunks = zip(view.split(_CHUNK), ranks.split(_CHUNK), strict=True)
            similarity = torch.cat([torch.einsum("nd,nkd->nk", x, view[j]) for x, j in chunks])
        near = similarity >= self.min_similarity
        near[:, 0] = False  # the image itself
        source, place = near.nonzero(as_tuple=True)
        links = source, ranks[source, place], similarity[source, place]
        return tuple(part.cpu().numpy() for part in links)


def _numbered(modules: np.ndarray, min_images: int) -> np.ndarray:
    """Labels from 0 in the order of their first images, -1 for modules of too few images."""
    _, first, module, sizes = np.unique(
        modules, return_index=True, return_inverse=True, return_counts=True
    )
    large = sizes >= min_images
    order = np.argsort(np.where(large, first, len(modules)), kind="stable")
    number = np.full(len(sizes), -1, dtype=np.int64)
    number[order[: large.sum()]] = np.arange(large.sum())
    return number[module]


def _communities(
    sources: np.ndarray, targets: np.ndarray, weights: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run Infomap on links (E,): the images that have any (M,), and their communities (M,).

    It runs in a separate process, since the SWIG wrappers of infomap and faiss confuse each other's
    iterators and crash when loaded together.
    """
    given = io.BytesIO()
    np.savez(given, sources=sources, targets=targets, weights=weights)
    command = [sys.executable, "-c", _SCRIPT, str(seed)]
    done = subprocess.run(command, input=given.getvalue(), capture_output=True, check=False)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no message"])[-1]
        raise HarnessError(
            f"Infomap failed (status {done.returncode}: {last}).", "Choose another labeler."
        )
    found = np.load(io.BytesIO(done.stdout), allow_pickle=False)
    return found[0], found[1]


# Reads links from standard input as an npz, and writes communities to standard output as an npy.
_SCRIPT = """
import io, os, sys
sys.path[:] = [folder for folder in sys.path if folder]  # never import from the current folder
import numpy as np
from infomap import Infomap
out = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # prints must not mix with the answer
with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as links:
    rows = [links[name].tolist() for name in ("sources", "targets", "weights")]
network = Infomap(f"--two-level --directed --silent --no-file-output --seed {sys.argv[1]}")
network.add_links(zip(*rows))
result = network.run()
# older releases have the second way only, and newer ones will drop it
modules = result.modules() if hasattr(result, "modules") else network.get_modules()
answer = io.BytesIO()
np.save(answer, np.array([list(modules.keys()), list(modules.values())], dtype=np.int64))
out.write(answer.getvalue())
out.close()
"""
