"""train.compile: what is refused and why, and that compiled runs resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.core.errors import ConfigError
from harness.experiment.plan import make_plan
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.training.compilation import check_compile
from harness.training.trainer import Trainer
from tests.same import assert_same, weights
from tests.tiny import tiny_config

CPU = torch.device("cpu")


def test_unknown_modes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        run_experiment(tiny_config(tmp_path, "method=mskd", "train.compile=max-autotun"))
    assert caught.value.hint and "'max-autotune'" in caught.value.hint
    with pytest.raises(ConfigError) as caught:
        run_experiment(tiny_config(tmp_path, "method=mskd", "train.compile=false"))
    assert caught.value.hint and '"off"' in caught.value.hint
    check_compile("off", CPU)


def test_the_reason_is_given_where_it_does_not_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no C++ compiler was found\nand much more")

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(
        ConfigError, match=r"default does not work here.*no C\+\+ compiler"
    ) as caught:
        run_experiment(tiny_config(tmp_path, "method=mskd", "train.compile=default"))
    assert caught.value.hint and "train.compile=off" in caught.value.hint
    assert not (tmp_path / "runs").exists()


def test_compiling_is_a_setting(tmp_path: Path) -> None:
    off = tiny_config(tmp_path, "method=mskd")
    on = tiny_config(tmp_path, "method=mskd", "train.compile=default")
    assert make_plan(off, "fp32").hash != make_plan(on, "fp32").hash
    assert make_plan(on, "fp32").settings["train"]["compile"] == "default"


def test_all_stages_share_it(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, "method=mskd", "+stages.student.train.compile=default")
    with pytest.raises(ConfigError, match=r"stages.student.train.compile"):
        make_recipe(config)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mskd", "mmt"])
def test_compiled_and_resumed(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Close to what is not compiled, with the same keys; interrupted, it ends as it would have."""
    changes = (f"method={method}", "batch.samples_per_bn=8")
    eager = run_experiment(tiny_config(tmp_path / "eager", *changes))
    compiled = (*changes, "train.compile=default")
    whole = run_experiment(tiny_config(tmp_path / "whole", *compiled))
    assert whole.record["pipeline"]["compile"] == "default"
    assert whole.name != eager.name
    assert weights(whole).keys() == weights(eager).keys()
    first = [run.history()[0]["loss"] for run in (eager, whole)]
    assert first[1] == pytest.approx(first[0], rel=1e-3)

    step, steps = Trainer.train_step, [0]
    last = sum(row["iterations"] for row in whole.history())

    def interrupted(*arguments: Any) -> Tensor:
        steps[0] += 1
        if steps[0] == last:
            raise KeyboardInterrupt
        return step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(tiny_config(tmp_path / "parts", *compiled))
    assert_same(whole, run_experiment(tiny_config(tmp_path / "parts", *compiled)))


@pytest.mark.slow
def test_max_autotune(tmp_path: Path) -> None:
    run = run_experiment(
        tiny_config(tmp_path, "method=cluster_contrast", "train.compile=max-autotune")
    )
    assert 0 < run.record["metrics"]["mAP"] <= 100
