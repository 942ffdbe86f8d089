"""`harness embed`: features of many images in a file, in chunks that an interruption keeps."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from filelock import FileLock, Timeout

from harness.core.arrays import read_npz
from harness.core.errors import ConfigError, DataError, HarnessError, first_line
from harness.core.files import make_folder, write_atomically
from harness.core.hashing import hexdigest, settings_digest
from harness.core.progress import Reporter
from harness.data.image_cache import find_bad
from harness.data.image_source import Subset
from harness.data.prefetcher import Prefetcher
from harness.experiment.models.inputs import SKIP, ImageList
from harness.experiment.models.model import Model, Views, cannot_decode, chunk_size
from harness.training.extraction import BATCH

OnBadImage = Literal["error", "skip"]


@dataclass(frozen=True)
class Embedded:
    """What was written.

    shape: of the features. skipped: names of images that cannot be decoded. continued: images
    whose features an interrupted call left. seconds: of this call.
    """

    shape: tuple[int, ...]
    skipped: list[str] = field(default_factory=list)
    continued: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class _Chunks:
    """The features of the images START … STOP − 1, one file for each chunk.

    job: digest of model, images and settings. A chunk's checksum includes it, so chunks of another
    job count as damaged, and are computed again.
    """

    folder: Path
    job: str

    def path(self, start: int) -> Path:
        return self.folder / f"{start:09}.npz"

    def _digest(self, start: int, features: np.ndarray, kept: np.ndarray) -> str:
        facts = f"{self.job} {start} {features.shape}"
        return hexdigest([facts.encode(), features.tobytes(), kept.astype("<i8").tobytes()])

    def load(self, start: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Features (K, V, D) and indices (K,) of a chunk; None if it is missing or damaged."""
        try:
            arrays = read_npz(self.path(start))
            features, kept = arrays["features"], arrays["kept"]
            if str(arrays["digest"]) == self._digest(start, features, kept):
                return features, kept
        except (OSError, ValueError, KeyError):
            pass
        return None

    def save(self, start: int, features: np.ndarray, kept: np.ndarray) -> None:
        arrays: dict[str, Any] = {
            "features": features, "kept": kept,
            "digest": np.array(self._digest(start, features, kept)),
        }  # fmt: skip
        write_atomically(self.path(start), lambda file: np.savez(file, **arrays))


def embed_to_file(
    model: Model,
    images: ImageList,
    target: Path,
    *,
    batch: int = BATCH,
    views: Views = "global",
    on_bad_image: OnBadImage = "error",
    reporter: Reporter | None = None,
) -> Embedded:
    """Write the features of images as `harness score` and `harness label` read them.

    The .npz has `features`, (N, D) or with all views (N, V, D), float32 and L2-normalized; `names`;
    and `ids` and `cams` where they are known: all in the order of `images`. Until it is complete,
    finished chunks are in the folder `TARGET.part`, where the next call continues.

    Raises:
        DataError: images cannot be decoded.
        HarnessError: features are not finite, another process writes the same file, or it cannot
            be written.
    """
    if on_bad_image not in ("error", "skip"):
        raise ConfigError(f"on_bad_image={on_bad_image} is unknown.", "Use error or skip.")
    started = time.perf_counter()
    chunk_size(batch)  # both refuse impossible values before any work
    model.count_views(views)
    part = target.with_name(f"{target.name}.part")
    with reporter or Reporter() as shown:
        if on_bad_image == "error":
            bad = images.without_header(shown.phase("checking images"))
            if bad:
                raise cannot_decode(bad, len(images), SKIP)
        make_folder(part)
        with _only_writer(part, target):
            job = _job(model, images, batch, views)
            done = _embed(model, images, _Chunks(part, job), batch, views, on_bad_image, shown)
            features, kept, continued = done
            if not len(kept):
                raise DataError(f"None of the {len(images)} images can be decoded.")
            _write(target, images, features if views == "all" else features[:, 0], kept)
    shutil.rmtree(part, ignore_errors=True)
    left_out = np.setdiff1d(np.arange(len(images)), kept)
    shape = features.shape if views == "all" else (len(features), features.shape[2])
    skipped = [images.name(int(index)) for index in left_out]
    return Embedded(shape, skipped, continued, time.perf_counter() - started)


def _write(target: Path, images: ImageList, features: np.ndarray, kept: np.ndarray) -> None:
    arrays: dict[str, Any] = {"features": features, "names": np.array(images.names)[kept]}
    for key, values in (("ids", images.ids), ("cams", images.cams)):
        if values is not None:
            arrays[key] = values[kept]
    write_atomically(target, lambda file: np.savez(file, **arrays))


def _job(model: Model, images: ImageList, batch: int, views: Views) -> str:
    """Digest of all that features depend on."""
    try:
        listed = images.fingerprint()
    except OSError as error:
        raise DataError(f"An image cannot be read: {error}.", "Was it moved?") from error
    settings = {"images": listed, "model": model.digest, "precision": model.precision,
                "device": model.device.type, "batch": batch, "views": views,
                "torch": torch.__version__}  # fmt: skip
    return settings_digest(settings)


def _embed(
    model: Model, images: ImageList, chunks: _Chunks, batch: int, views: Views,
    on_bad_image: OnBadImage, reporter: Reporter,
) -> tuple[np.ndarray, np.ndarray, int]:  # fmt: skip
    """Features (K, V, D), indices (K,) of their images, and how many an earlier call computed."""
    total, step = len(images), chunk_size(batch)
    starts = range(0, total, step)
    features = np.empty((total, model.count_views(views), model.dim), dtype=np.float32)
    found = {start: loaded for start in starts if (loaded := chunks.load(start)) is not None}
    continued = sum(min(step, total - start) for start in found)
    if continued:
        reporter.say(f"continues: {continued:,} of {total:,} images are embedded already")
    elif any(chunks.folder.glob("*.npz")):
        reporter.say("starts anew: what was embedded is damaged, or of another model or list")
    progress = reporter.phase("embedding images")
    kept_rows: dict[int, np.ndarray] = {start: kept for start, (_, kept) in found.items()}
    for start, (rows, _) in found.items():
        features[start : start + len(rows)] = rows
    missing = [start for start in starts if start not in found]
    done = continued

    def decoded() -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        for start in missing:
            rows = np.arange(start, min(start + step, total))
            yield start, *model.decode(Subset(images, rows))

    with Prefetcher(decoded(), torch.device("cpu")) as ready:
        for start, pixels, kept in ready:
            count = min(step, total - start)
            if len(kept) < count and on_bad_image == "error":
                raise _all_bad(images, start, reporter)
            made = model.extract(pixels, batch, views, _from(done, total, progress))
            chunks.save(start, made, kept)
            features[start : start + len(made)] = made
            kept_rows[start] = kept
            done += count
            progress(done, total)
    places = [start + np.arange(len(kept_rows[start])) for start in starts]
    kept = np.concatenate([start + kept_rows[start] for start in starts])
    return features[np.concatenate(places)], kept, continued


def _from(done: int, total: int, progress: Callable[[int, int], None]) -> Any:
    """The progress of a chunk as that of the whole."""
    return lambda inner, _: progress(done + inner, total)


def _all_bad(images: ImageList, start: int, reporter: Reporter) -> DataError:
    """The error for damaged images, which names all of them, not only those of one chunk."""
    rest = Subset(images, np.arange(start, len(images)))
    return cannot_decode(find_bad(rest, reporter.phase("checking images")), len(images), SKIP)


@contextmanager
def _only_writer(part: Path, target: Path) -> Iterator[None]:
    """Hold the lock of a folder of chunks."""
    lock = FileLock(part / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise HarnessError(
            f"Another process writes {target}.", "Wait for it, or use another --out."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise HarnessError(
            f"{part} cannot be locked: {first_line(error)}.", "Write to another disk: --out."
        ) from error
    try:
        yield
    finally:
        lock.release()
