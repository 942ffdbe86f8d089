from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.components.labelers import neighbours
from harness.core.kernels import kernels
from harness.evaluation import ranking


@pytest.fixture(scope="module", autouse=True, params=["compiled", "torch"])
def loops(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test of this folder runs with compiled kernels, whatever the size, and without."""
    if request.param == "compiled" and kernels("harness.evaluation.kernels") is None:
        pytest.skip("numba is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for module in (ranking, neighbours):
            patch.setattr(module, "WORTH_COMPILING", 0 if request.param == "compiled" else 1 << 60)
        yield request.param
