"""Joint training on several data sets, with identities and cameras kept apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.core.errors import DataError
from harness.data.image_source import Concatenation
from harness.data.types import Dataset, ReIDData, Split


class JoinedDataset(Dataset):
    """The training splits of several data sets by name, tested on the first.

    Identity and camera numbers of each data set are offset to follow those of the one before. If
    one data set has no cameras, the joint training split has none: samplers and memories could not
    use them for only some of the images.
    """

    def __init__(self, sets: Mapping[str, Dataset]) -> None:
        self.sets = dict(sets)

    def load(self) -> ReIDData:
        """Load and join all data sets.

        Raises DataError if one cannot be loaded or has no training images, or two are the same.
        """
        loaded = {name: dataset.load() for name, dataset in self.sets.items()}
        seen: dict[str, str] = {}
        for name, data in loaded.items():
            if not len(data.train.images):
                raise DataError(
                    f"{name} has no training images and cannot be joined with others.",
                    "Leave it out, or test on it later: harness eval RUN dataset=NAME.",
                )
            # identical training images would get two identities each
            other = seen.setdefault(data.train.images.fingerprint(), name)
            if other != name:
                raise DataError(
                    f"{other} and {name} have the same training images.",
                    f"Leave one out, or give it other options: dataset.sets.{name}.KEY=VALUE.",
                )
        parts = tuple(loaded.values())
        cameras = [data.train.cameras for data in parts if data.train.cameras is not None]
        train = Split(
            Concatenation({name: data.train.images for name, data in loaded.items()}),
            _with_offsets([data.train.identities for data in parts]),
            _with_offsets(cameras) if len(cameras) == len(parts) else None,
        )
        name, first = "+".join(data.name for data in parts), parts[0]
        return ReIDData(name, train, first.query, first.gallery, notes=first.notes, parts=parts)


def _with_offsets(numbers: Sequence[np.ndarray]) -> np.ndarray:
    """Concatenate (N,) int64, each array offset to follow the one before; −1 stays −1."""
    shifted, first = [], 0
    for values in numbers:
        shifted.append(np.where(values < 0, values, values + first).astype(np.int64))
        first += max(int(values.max(initial=-1)) + 1, 0)
    return np.concatenate(shifted)
