"""What runs in half precision, what never does, and how much that may change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from harness.components.backbones import resnet, small
from harness.components.objectives import ClusterMemory
from harness.core.errors import ConfigError
from harness.core.interfaces import Backbone
from harness.core.precision import arithmetic, make_scaler, resolve_precision
from harness.experiment.run import run_experiment
from harness.training.trainer import Trainer
from tests.same import assert_same
from tests.tiny import tiny_config

CPU = torch.device("cpu")
VIEWS: Any = ("global", "upper", "lower")


def loss_and_gradient(
    network: Backbone, precision: str, images: Tensor, labels: Tensor
) -> tuple[float, Tensor]:
    network = copy.deepcopy(network).train()
    memory = ClusterMemory(part_weight=0.2)
    memory.prepare(3, network.dim, 64)
    features = torch.randn(64, 3, network.dim, generator=torch.Generator().manual_seed(1))
    memory.start_epoch(F.normalize(features, dim=-1), torch.arange(64) % 8)
    with arithmetic(precision, CPU):
        embeddings = network(images)
    loss = memory(embeddings.float(), labels, torch.arange(len(labels)))
    loss.backward()
    grads = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
    return loss.item(), torch.cat(grads)


@pytest.mark.parametrize(
    ("name", "precision", "loss", "cosine"),
    [
        ("small", "bf16", 0.01, 0.99),
        ("resnet18", "bf16", 0.01, 0.9),  # 8 bits of mantissa through 18 layers of random weights
        ("small", "fp16", 0.001, 0.999),
    ],
)
def test_close_to_fp32(name: Any, precision: str, loss: float, cosine: float) -> None:
    """Losses within a share of fp32's, gradients within an angle, both far from chance."""
    torch.manual_seed(0)
    network: Backbone = (
        small((8, 16), (1, 2), views=VIEWS)
        if name == "small"
        else resnet(name, weights="none", views=VIEWS)
    )
    network.to(memory_format=torch.channels_last)
    images = torch.randn(32, 3, 64, 32).to(memory_format=torch.channels_last)
    labels = torch.arange(32) // 4
    full, gradient = loss_and_gradient(network, "fp32", images, labels)
    half, other = loss_and_gradient(network, precision, images, labels)
    assert half != full, "it did run in another precision"
    assert half == pytest.approx(full, rel=loss)
    assert float(F.cosine_similarity(gradient, other, dim=0)) > cosine
    assert other.norm().item() == pytest.approx(gradient.norm().item(), rel=0.05)


class Seen(TorchDispatchMode):
    """Which operations ran on which kinds of floats."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, set[torch.dtype]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        for x in args:
            if isinstance(x, Tensor) and x.is_floating_point():
                self.kinds.setdefault(name, set()).add(x.dtype)
        return func(*args, **(kwargs or {}))


#: powers of GeM, norms, softmaxes and the products and distances of losses
EXACT = ("pow", "linalg_vector_norm", "_softmax", "_log_softmax", "exp", "mm", "bmm", "addmm",
         "_cdist_forward", "logsumexp", "norm")  # fmt: skip


@pytest.mark.parametrize("method", ["mskd", "mmt", "ice/aware", "cap", "spcl", "pplr"])
def test_what_stays_in_fp32(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions run in bf16, and nothing of a loss or a memory does."""
    seen, step = Seen(), Trainer.train_step

    def watched(self: Trainer, *arguments: Any) -> Tensor:
        with seen:
            return step(self, *arguments)

    monkeypatch.setattr(Trainer, "train_step", watched)
    run_experiment(
        tiny_config(tmp_path, f"method={method}", "train.precision=bf16", "train.epochs=1")
    )
    assert seen.kinds["convolution"] == {torch.bfloat16}
    looked_at = [name for name in EXACT if name in seen.kinds]
    assert "pow" in looked_at and {"mm", "bmm", "addmm"} & set(looked_at)
    for name in looked_at:
        assert torch.bfloat16 not in seen.kinds[name], name


def test_fp16_is_refused_where_there_are_no_units_for_it(tmp_path: Path) -> None:
    assert resolve_precision("fp16", torch.device("cuda")) == "fp16"
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        run_experiment(tiny_config(tmp_path, "method=mskd", "train.precision=fp16"))


def test_without_fp16_the_scaler_does_nothing() -> None:
    scaler = make_scaler("bf16", CPU)
    loss = torch.tensor(2.0)
    assert scaler.scale(loss) is loss and scaler.state_dict() == {}


class Killed(BaseException):
    """As a kill does, it passes by whatever handles errors."""


def test_the_scale_of_fp16_outlives_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch can compute fp16 on a CPU, slowly: enough to see that a run goes on to the same end."""
    monkeypatch.setattr("harness.experiment.preflight.resolve_precision", lambda name, device: name)
    scales: dict[str, list[float]] = {"whole": [], "parts": []}
    monkeypatch.setattr(
        "harness.training.trainer.make_scaler",
        lambda precision, device: torch.amp.GradScaler(
            device.type, init_scale=4.0, growth_interval=1, enabled=precision == "fp16"
        ),
    )
    step, case, stop = Trainer.train_step, "whole", [0]

    def counted(self: Trainer, *arguments: Any) -> Tensor:
        stop[0] -= 1
        if stop[0] == 0:
            raise Killed
        loss = step(self, *arguments)
        scales[case].append(self.scaler.get_scale())
        return loss

    monkeypatch.setattr(Trainer, "train_step", counted)
    changes = ("method=cluster_contrast", "train.precision=fp16", "train.epochs=3")
    whole = run_experiment(tiny_config(tmp_path / "whole", *changes))
    case, stop[0] = "parts", 5  # in the last epoch of two steps
    with pytest.raises(Killed):
        run_experiment(tiny_config(tmp_path / "parts", *changes))
    resumed = run_experiment(tiny_config(tmp_path / "parts", *changes))
    assert scales["whole"] == scales["parts"] and len(set(scales["whole"])) == 6, "it grows"
    assert_same(whole, resumed)
    assert whole.record["protocol"]["precision"] == "fp16"


def test_emulated_bf16_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cpu = torch.device("cpu")
    for units in (True, False):
        monkeypatch.setattr("harness.core.errors._noticed", set())
        monkeypatch.setattr("harness.core.precision.has_bf16", lambda device, units=units: units)
        assert resolve_precision("bf16", cpu) == "bf16"
        assert ("cpu has no bf16 units" in capsys.readouterr().err) is not units
        assert resolve_precision("auto", cpu) == ("bf16" if units else "fp32")
        assert not capsys.readouterr().err
