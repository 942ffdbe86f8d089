"""No flipped bit of a file written by torch.save becomes another value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from harness.core.tensor_files import load_verified


def test_flipped_bits_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    expected = {"a": torch.arange(64.0), "b": torch.ones(3, 3)}
    torch.save(expected, path)
    whole = path.read_bytes()
    noticed = 0
    for position in np.random.default_rng(0).integers(len(whole), size=200):
        content = bytearray(whole)
        content[position] ^= 1 << int(position) % 8
        path.write_bytes(bytes(content))
        try:
            state = load_verified(path)
        except Exception:
            noticed += 1
            continue
        for key, value in expected.items():  # the bit was one of padding or of a date
            assert torch.equal(state[key], value), position
    assert noticed > 50


@pytest.mark.parametrize("new_format", [True, False])
def test_whole_files_are_read(tmp_path: Path, new_format: bool) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt", _use_new_zipfile_serialization=new_format)
    assert torch.equal(load_verified(tmp_path / "w.pt")["a"], torch.ones(2))
