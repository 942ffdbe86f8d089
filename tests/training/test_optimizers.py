"""Optimizers and their rates: what each option does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.experiment.compose import compose
from harness.experiment.plan import make_plan
from harness.experiment.recipe import make_recipe
from harness.experiment.run import run_experiment
from harness.training.optimizers import (
    check_optimizer,
    describe,
    learning_rate,
    make_optimizer,
    set_rate,
)
from harness.training.step import Step
from tests.tiny import tiny_config

#: the defaults of config.yaml, but with round numbers
USUAL: dict[str, Any] = {
    "name": "adam", "lr": 1.0, "schedule": "step", "min_lr": 0.0, "layer_decay": 1.0, "clip": None,
    "steps": None, "weight_decay": 0.01, "step": 20, "gamma": 0.1,
    "warmup": 0, "warmup_start": 0.1, "momentum": 0.9, "nesterov": False,
    "backbone_lr_mult": 1.0, "reset_with_labels": False,
}  # fmt: skip


def rates(epochs: int = 50, **options: Any) -> list[float]:
    return [learning_rate(USUAL | options, passed, epochs) for passed in range(epochs)]


# ------------------------------------------------------------------------------------- the rate


def test_the_rate_falls_every_step_epochs() -> None:
    assert rates() == pytest.approx([1.0] * 20 + [0.1] * 20 + [0.01] * 10)


def test_milestones_replace_the_period() -> None:
    assert rates(steps=[16, 40]) == pytest.approx([1.0] * 16 + [0.1] * 24 + [0.01] * 10)
    assert rates(steps=[]) == rates(steps=None) == rates()


def test_warm_up_is_linear() -> None:
    found = rates(warmup=4, warmup_start=0.2)
    assert found[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert found[4:] == rates()[4:]
    # warm-up continues after a milestone
    assert rates(5, warmup=4, warmup_start=0.0, steps=[2])[3] == pytest.approx(0.075)


def test_a_cosine_falls_to_the_lowest_rate_after_the_last_epoch() -> None:
    found = rates(8, schedule="cosine", min_lr=0.2, warmup=2, warmup_start=0.5)
    t = torch.arange(6, dtype=torch.float64) / 6
    expected = [0.5, 0.75, *(0.2 + 0.8 * (1 + torch.cos(torch.pi * t)) / 2).tolist()]
    assert found == pytest.approx(expected)
    assert learning_rate(USUAL | {"schedule": "cosine", "min_lr": 0.2}, 8, 8) == pytest.approx(0.2)


# -------------------------------------------------------------------------------- the optimizer


class Network(Backbone, nn.Sequential):
    """Two layers, of which the first is pretrained."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.Sequential.forward(self, images)

    def layers(self) -> list[list[nn.Parameter]]:
        return [list(self[0].parameters())]


def network() -> Network:
    torch.manual_seed(0)
    return Network(nn.Linear(3, 2), nn.Linear(2, 1))


def trained(settings: dict[str, Any]) -> list[Any]:
    """Parameters after three steps on fixed gradients."""
    net = network()
    net[1].get_parameter("bias").requires_grad_(False)
    optimizer = make_optimizer(settings, net.parameters(), [net])
    for step in range(3):
        set_rate(optimizer, 0.1 / (step + 1))
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, step + 1.0)
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def by_hand(trunk: float, momentum: float = 0.9, nesterov: bool = True) -> list[torch.Tensor]:
    """SGD with Nesterov momentum (Sutskever et al., 2013, as torch has it) and L2, in full."""
    net = network()
    values = [p.detach().clone() for p in net.parameters()]
    speeds = [torch.zeros_like(v) for v in values]
    for step in range(3):
        for place in range(3):  # the fourth takes no gradient
            gradient = step + 1.0 + 0.01 * values[place]
            speeds[place] = momentum * speeds[place] + gradient
            move = gradient + momentum * speeds[place] if nesterov else speeds[place]
            values[place] -= 0.1 / (step + 1) * (trunk if place < 2 else 1.0) * move
    return values


@pytest.mark.parametrize("trunk", [1.0, 0.1, 0.0])
@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd(trunk: float, nesterov: bool) -> None:
    found = trained(USUAL | {"name": "sgd", "nesterov": nesterov, "backbone_lr_mult": trunk})
    for ours, theirs in zip(found, by_hand(trunk, nesterov=nesterov), strict=True):
        torch.testing.assert_close(ours, theirs)


class Deep(Backbone, nn.Sequential):
    """Three pretrained layers and a head."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.Sequential.forward(self, images)

    def layers(self) -> list[list[nn.Parameter]]:
        return [list(layer.parameters()) for layer in list(self.children())[:3]]


def test_the_rate_decays_from_layer_to_layer() -> None:
    net = Deep(*(nn.Linear(2, 2) for _ in range(4)))
    net[0].get_parameter("bias").requires_grad_(False)
    settings = USUAL | {"name": "adamw", "layer_decay": 0.5, "backbone_lr_mult": 0.4}
    optimizer = make_optimizer(settings, net.parameters(), [net])
    assert type(optimizer) is torch.optim.AdamW
    set_rate(optimizer, 2.0)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    found = [rate[id(layer.weight)] for layer in net.children()]
    assert found == pytest.approx([2 * 0.4 / 8, 2 * 0.4 / 4, 2 * 0.4 / 2, 2.0])
    assert len(rate) == 7


def test_adamw_decays_weights_apart_from_the_gradient() -> None:
    found = trained(USUAL | {"name": "adamw"})
    net = network()
    net[1].get_parameter("bias").requires_grad_(False)
    theirs = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1.0,
                               weight_decay=0.01)  # fmt: skip
    for step in range(3):
        for group in theirs.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for parameter in net.parameters():
            parameter.grad = torch.full_like(parameter, step + 1.0)
        theirs.step()
    for ours, expected in zip(found, net.parameters(), strict=True):
        torch.testing.assert_close(ours, expected.detach())


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_clipping(clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of a step are scaled to the largest norm that is allowed, and only if above it."""
    norms = []
    original = Step._gradients

    def spied(self: Step, *arguments: Any) -> torch.Tensor:
        loss = original(self, *arguments)
        norms.append(norm(self))
        return loss

    def norm(step: Step) -> float:
        grads = [p.grad for p in step.trained.parameters() if p.grad is not None]
        return float(torch.stack([g.norm() for g in grads]).norm())

    after = []
    step_of = torch.optim.Adam.step

    def stepped(self: torch.optim.Adam, *arguments: Any) -> Any:
        grads = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        after.append(float(torch.stack([g.norm() for g in grads]).norm()))
        return step_of(self, *arguments)

    monkeypatch.setattr(Step, "_gradients", spied)
    monkeypatch.setattr(torch.optim.Adam, "step", stepped)
    overrides = ("method=cluster_contrast", f"optimizer.clip={clip}", "train.epochs=1")
    run = run_experiment(tiny_config(tmp_path, *overrides))
    assert after == pytest.approx([min(one, clip) for one in norms], rel=1e-4) and after
    assert f"clipped to norm {clip:g}" in run.record["protocol"]["optimizer"]


def test_the_default_is_plain_adam() -> None:
    net = network()
    ours = make_optimizer(USUAL, net.parameters(), [net])
    theirs = torch.optim.Adam(list(net.parameters()), lr=1.0, weight_decay=0.01)
    assert type(ours) is torch.optim.Adam
    assert ours.state_dict() == theirs.state_dict()


def test_groups_keep_their_factor_through_a_checkpoint() -> None:
    net = network()
    settings = USUAL | {"backbone_lr_mult": 0.1}
    one, other = (make_optimizer(settings, net.parameters(), [net]) for _ in range(2))
    other.load_state_dict(one.state_dict())
    set_rate(other, 0.5)
    assert [group["lr"] for group in other.param_groups] == pytest.approx([0.05, 0.5])


# ------------------------------------------------------------------------------- card and hashes


@pytest.fixture(scope="module")
def mskd() -> DictConfig:
    """MSKD as composed. Change a copy."""
    return compose(["method=mskd", "dataset=synthetic"])


OTHER: dict[str, Any] = {
    "name": "sgd", "warmup": 10, "steps": [20, 40], "reset_with_labels": True,
    "backbone_lr_mult": 0.1, "schedule": "cosine", "layer_decay": 0.7, "clip": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("key", OTHER)
def test_options_are_on_the_card_where_they_matter(mskd: DictConfig, key: str) -> None:
    other = mskd.copy()
    OmegaConf.update(other, f"optimizer.{key}", OTHER[key])
    cards = [make_plan(config, "fp32").card for config in (mskd, other)]
    assert cards[0]["hash"] != cards[1]["hash"]
    assert cards[0]["optimizer"] != cards[1]["optimizer"] == describe(other.optimizer)
    assert make_plan(mskd, "fp32").hash != make_plan(other, "fp32").hash


def test_options_without_effect_are_on_no_card(mskd: DictConfig) -> None:
    assert make_plan(mskd, "fp32").card["optimizer"] == (
        "Adam, lr 0.003, weight decay 0.0005, x0.1 every 10 epochs"
    )
    sgd = mskd.copy()
    OmegaConf.update(sgd, "optimizer.name", "sgd")
    nesterov = sgd.copy()
    OmegaConf.update(nesterov, "optimizer.nesterov", True)
    lines = [make_plan(config, "fp32").card["optimizer"] for config in (sgd, nesterov)]
    assert lines[0].startswith("SGD with momentum 0.9, lr")
    assert lines[1].startswith("SGD with Nesterov momentum 0.9, lr")


# -------------------------------------------------------------------------------------- refusals

REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
    "no such name": ({"name": "adm"}, "optimizer.name=adm must be adam, adamw or sgd", "'adam'?"),
    "milestones that fall": ({"steps": [40, 20]}, "must be epochs in rising order", "[20,40]"),
    "milestones twice": ({"steps": [20, 20]}, "must be epochs in rising order", ""),
    "a milestone at once": ({"steps": [0]}, "each entry ≥ 1", ""),
    "half a milestone": ({"steps": [1.5]}, "must be a list (each entry a whole number)", ""),
    "a milestone in words": ({"steps": "20"}, "must be a list (each entry a whole number)", ""),
    "Adam's momentum": ({"momentum": 0.5}, "momentum=0.5 has no effect on Adam", "name=sgd"),
    "Adam by Nesterov": ({"nesterov": True}, "nesterov=True has no effect on Adam", "nesterov=F"),
    "Nesterov at rest": (
        {"name": "sgd", "nesterov": True, "momentum": 0.0}, "needs momentum", "0.9",
    ),
    "too much momentum": ({"name": "sgd", "momentum": 1.5}, "momentum=1.5 is out of range", ""),
    "a fall for a rise": ({"warmup_start": 2}, "warmup_start=2 is out of range", ""),
    "half a warm-up": ({"warmup": 0.5}, "optimizer.warmup=0.5 must be a whole number", ""),
    "an unlearning trunk": ({"backbone_lr_mult": -1}, "backbone_lr_mult=-1 is out of range", ""),
    "two schedules": ({"schedule": "cosine", "steps": [3]}, "no effect on a cosine schedule", ""),
    "no cosine": ({"min_lr": 0.1}, "min_lr=0.1 is for a cosine schedule", "schedule=cosine"),
    "a rising cosine": (
        {"schedule": "cosine", "lr": 1e-4, "min_lr": 1e-2}, "min_lr=0.01 is above optimizer.lr", "",
    ),
    "AdamW's momentum": (
        {"name": "adamw", "momentum": 0.5}, "momentum=0.5 has no effect on AdamW", "name=sgd",
    ),
    "growth": ({"layer_decay": 1.5}, "layer_decay=1.5 is out of range", ""),
    "nothing left": ({"clip": 0}, "clip=0 is out of range", ""),
    "maybe": ({"reset_with_labels": 1}, "optimizer.reset_with_labels=1 must be true or false", ""),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("where", ["", "stages.student."])
def test_refused_with_cause_and_hint(mskd: DictConfig, case: str, where: str) -> None:
    values, cause, hint = REFUSED[case]
    config = mskd.copy()
    for key, value in values.items():
        OmegaConf.update(config, f"{where}optimizer.{key}", value, force_add=True)
    with pytest.raises(ConfigError) as refusal:
        make_recipe(config)
    assert cause in refusal.value.cause and hint in refusal.value.hint
    assert refusal.value.cause.startswith("stages.student: " if where else "optimizer.")


def test_valid_settings_pass() -> None:
    check_optimizer(USUAL)
    check_optimizer(USUAL | OTHER | {"nesterov": True, "steps": None})
