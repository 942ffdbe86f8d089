"""Two processes give what one gives: features, labels, losses, weights, running statistics."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from harness.components.backbones import set_samples_per_bn
from harness.core.distributed import collectives, processes
from harness.core.errors import ConfigError, DataError, HarnessError
from harness.experiment.compose import compose
from harness.experiment.recipe import make_recipe
from harness.training.extraction import extract
from tests.core.distributed.together import labels_of, run_cells, the_run, together
from tests.experiment.distributed_runs import CELLS, ONE_EPOCH, assert_alike
from tests.tiny import tiny, tiny_config

WHOLE = ("method=ice", "train.epochs=1")  # statistics over the whole batch, images in any order
DEFAULT = {name: CELLS[name] for name in ("mskd", "cap")} | {"whole batch": WHOLE}
JOINT = {
    "spcl with a source": CELLS["spcl with a source"],
    "whole batches": ("method=strong_baseline/uda", "batch.samples_per_bn=0", *ONE_EPOCH),
}
MORE = {
    **{name: cell for name, cell in CELLS.items() if name not in (*DEFAULT, *JOINT)},
    "pieces": (*CELLS["mskd"], "train.micro_batch=4"),
    "merged": ("method=buc", "train.epochs=2"),
    "proxies": (*CELLS["cap"], "batch.sampler=proxy"),
    "classifier": ("method=strong_baseline", "batch.samples_per_bn=8"),
    "oracle": (*CELLS["cluster contrast"], "selection=oracle", "evaluation.every=1"),
    "untrained": ("method=direct_transfer",),
}

#: models of timm, with statistics over groups and over the whole batch
TIMM: dict[str, tuple[str, ...]] = {
    f"timm {model} {samples}": (
        "method=cluster_contrast", "backbone=timm", f"backbone.model={model}",
        "images.height=64", "images.width=32", f"batch.samples_per_bn={samples}", *ONE_EPOCH,
        # keys' biases have a gradient of 0 but for rounding, whose sign Adam would follow
        "optimizer.name=sgd", "optimizer.lr=0.001",
    )
    for model, samples in (
        ("test_vit", 4), ("test_resnet", 4), ("test_efficientnet", 4), ("test_efficientnet", 0),
        ("test_convnext", 0),
    )
}  # fmt: skip


def _both(tmp_path: Path, cells: dict[str, tuple[str, ...]], count: int = 2) -> None:
    together(count, _work, tmp_path / "many", cells)
    run_cells(tmp_path / "one", cells)
    for name in cells:
        one, many = (the_run(tmp_path / folder / name) for folder in ("one", "many"))
        assert_alike(one, many)
        assert (many.folder / "log.txt").read_text().count(f"{many.name}: protocol") == 1
        assert one.record["metrics"] == pytest.approx(many.record["metrics"], abs=1e-6)
        assert (one.record["processes"], many.record["processes"]) == ([1], [count])
        alone = labels_of(tmp_path / "one" / name)
        for rank in range(count):
            shared = labels_of(tmp_path / "many" / name, rank)
            for epoch, (labels, features) in enumerate(shared):
                assert torch.equal(labels, alone[epoch][0]), "labels are those of one process"
                torch.testing.assert_close(features, alone[epoch][1], rtol=1e-4, atol=1e-4)
                assert torch.equal(features, labels_of(tmp_path / "many" / name)[epoch][1])


def test_two_processes_give_the_result_of_one(tmp_path: Path) -> None:
    _both(tmp_path, DEFAULT)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_with_a_labeled_source(tmp_path: Path) -> None:
    _both(tmp_path, JOINT)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_in_other_methods(tmp_path: Path) -> None:
    _both(tmp_path, MORE)


@pytest.mark.slow
def test_two_processes_give_the_result_of_one_with_timms_models(tmp_path: Path) -> None:
    """Ranks of hardly trained features may change by rounding; weights and labels may not."""
    together(2, _work, tmp_path / "many", TIMM)
    run_cells(tmp_path / "one", TIMM)
    for name in TIMM:
        one, many = (the_run(tmp_path / folder / name) for folder in ("one", "many"))
        assert_alike(one, many)
        assert one.record["metrics"]["mAP"] == pytest.approx(many.record["metrics"]["mAP"], abs=0.1)


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    _both(tmp_path, {"mskd": CELLS["mskd"], "whole batch": WHOLE}, count=4)


# ------------------------------------------------------------------- in two processes, by `_work`


def _work(folder: Path, cells: dict[str, tuple[str, ...]]) -> None:
    run_cells(folder, cells)
    _broadcasts()
    _shards()
    _synchronised_statistics()
    _gradients()
    _shared_extraction(folder)


def _broadcasts() -> None:
    rank = processes.rank()
    assert collectives.broadcast_from_first(lambda: f"of {rank}") == "of 0"

    def fails() -> None:
        raise DataError(f"no data in {processes.rank()}", "get it")

    with pytest.raises(DataError) as problem:
        collectives.broadcast_from_first(fails)
    assert (problem.value.cause, problem.value.hint) == ("no data in 0", "get it")
    collectives.check_all_equal("equal", "thing")
    with pytest.raises(ConfigError, match="another thing"):
        collectives.check_all_equal(str(rank), "thing")
    assert not collectives.all_agree(rank == 0, torch.device("cpu"))
    order: list[int] = []
    collectives.local_rank_zero_first(lambda: order.append(rank))
    assert order == [rank]


def _shards() -> None:
    count = processes.world_size()
    limits = collectives.shard_bounds(100, 8)  # 13 blocks, the last one of 4
    assert limits[0] == 0 and limits[-1] == 100 and len(limits) == count + 1
    assert all(limit % 8 == 0 for limit in limits[:-1]) and limits == sorted(limits)
    with pytest.raises(HarnessError, match="equally"):
        collectives.local_share(4 * count + 1)
    own = collectives.local_share(8 * count)
    made = collectives.local_rows(
        8 * count, lambda rows: torch.ones(rows.stop - rows.start, 3, 2, 2)
    )
    assert torch.isfinite(made[own]).all() and int(torch.isnan(made).sum()) == 96 * (count - 1)


def _synchronised_statistics() -> None:
    """Against torch's own batch norm over the whole batch, in double precision."""
    torch.manual_seed(0)
    for kind, shape in ((nn.BatchNorm1d, (8, 3)), (nn.BatchNorm2d, (8, 3, 4, 2))):
        plain = kind(3).double()
        whole = (torch.randn(shape).double() * 2 + 1).requires_grad_()
        weight = torch.randn(shape).double()
        shared = copy.deepcopy(plain)
        set_samples_per_bn(shared, 0, batch=8)
        rows = collectives.local_share(8)
        own = whole.detach()[rows].clone().requires_grad_()
        (plain(whole) * weight).sum().square().backward()
        result = collectives.all_gather(shared(own))
        (result * weight).sum().square().backward()
        assert own.grad is not None and whole.grad is not None
        torch.testing.assert_close(own.grad, whole.grad[rows])
        torch.testing.assert_close(shared.state_dict(), plain.state_dict())
        collectives.all_reduce_gradients(shared, {id(p) for p in shared.parameters()})
        for ours, theirs in zip(shared.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
        shared.eval()
        plain.eval()
        torch.testing.assert_close(shared(own), plain(own))


def _gradients() -> None:
    """What is shared out adds up; what all computed stays as it is."""
    module = nn.ParameterList([nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3))])
    module.append(nn.Parameter(torch.zeros(1)))  # without a gradient
    rank, count = processes.rank(), processes.world_size()
    module[0].grad, module[1].grad = torch.full((2,), rank + 1.0), torch.full((3,), 5.0)
    collectives.all_reduce_gradients(module, {id(module[0])})
    assert module[0].grad.tolist() == [count * (count + 1) / 2] * 2
    assert module[1].grad.tolist() == [5.0] * 3 and module[2].grad is None


def _shared_extraction(folder: Path) -> None:
    from harness.experiment.stages import build_backbone

    torch.manual_seed(0)
    network = build_backbone(tiny_config(folder, "method=direct_transfer").backbone)
    images = torch.randint(0, 256, (20, 32, 16, 3), dtype=torch.uint8)
    seen: list[int] = []
    network.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    told: list[tuple[int, int]] = []
    features = extract(
        network, images, torch.device("cpu"), batch=4, progress=lambda *done: told.append(done)
    )
    assert sum(seen) < 20 and told[-1][0] == told[-1][1] == sum(seen)
    parts = [images[start : start + 4] for start in range(0, 20, 4)]
    with torch.no_grad():
        from harness.data.augment import normalize

        network.eval()
        alone = [nn.functional.normalize(network(normalize(part)), dim=-1) for part in parts]
    assert torch.equal(features, torch.cat(alone)), "batches are made up as for one process"


# ----------------------------------------------------------------------- refused when composed


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """As started by torchrun, not yet joined."""
    for name, value in {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("settings", "reason", "hint"),
    [
        (("batch.identities=5", "batch.images=2", "batch.samples_per_bn=5"), "equally by 4", ""),
        (("batch.samples_per_bn=8",), "4 of 16 images each", "Start 1 or 2 processes"),
        (("batch.samples_per_bn=4", "train.micro_batch=3"), "splits", "multiple"),
    ],
)
def test_batches_that_cannot_be_shared(
    four: None, settings: tuple[str, ...], reason: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=reason) as problem:
        make_recipe(compose(tiny(tmp_path, "method=cluster_contrast", *settings)))
    assert hint in problem.value.hint


@pytest.mark.parametrize("group", [0, 2, 4, 16, 64])
def test_batches_that_can(four: None, group: int, tmp_path: Path) -> None:
    settings = ("method=cluster_contrast", f"batch.samples_per_bn={group}")
    make_recipe(compose(tiny(tmp_path, *settings)))


def test_each_process_takes_a_gpu_of_its_own(four: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.local_device("auto") == processes.local_device("cuda") == "cuda:1"
    assert processes.local_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="a GPU of its own"):
        processes.local_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="More processes than GPUs"):
        processes.local_device("auto")
    assert 2 * processes.threads_per_process() <= max(2, os.cpu_count() or 1)


def test_other_programs_have_ranks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert processes.world_size() == 1 and processes.rank() == 0
    processes.initialize()
    assert not processes.is_distributed()
