from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.components.labelers import neighbours
from harness.core.kernels import kernels


@pytest.fixture(scope="module", autouse=True, params=["compiled", "torch"])
def compiled(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this folder runs with compiled kernels, whatever the size, and without."""
    if (
        request.param == "compiled"
        and kernels("harness.components.labelers.kernels.selection") is None
    ):
        pytest.skip("numba is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "WORTH_COMPILING", 0 if request.param == "compiled" else 1 << 60)
        yield request.param
