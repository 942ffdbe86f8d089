"""Methods that are about a backbone: they keep it in every protocol, and rows and cards say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from harness.core import plugins
from harness.core.errors import ConfigError
from harness.core.variants import own_parts
from harness.experiment import registration
from harness.experiment.combination_table import combinations
from harness.experiment.compose import compose
from harness.experiment.run import run_experiment
from harness.results.comparisons import comparisons
from harness.results.row_labels import defaults, flat, is_default, recipe
from tests.tiny import tiny_config

METHODS = plugins.find()["methods"]
OWN = [
    name
    for name, plugin in METHODS.items()
    if "backbone" in own_parts(plugins.load_config(plugin.folder / "config.yaml"))
]
NAMES = [*OWN, *(f"{name}/{v}" for name in OWN for v in METHODS[name].variants)]
PROTOCOLS = ("common", "published", "demo", "debug")


def backbone(*overrides: str) -> dict[str, Any]:
    node: Any = OmegaConf.to_container(compose(["dataset=synthetic", *overrides]).backbone)
    return node


def test_there_are_some() -> None:
    assert {"transreid_ssl", "pass", "pcl_clip"} <= set(OWN)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_it_is_kept_in_every_protocol(name: str, protocol: str) -> None:
    found = backbone(f"method={name}", f"protocol={protocol}")
    assert found["_target_"] == "harness.components.backbones.timm_model"
    assert found["pooling"] == "class_token"
    small = protocol in ("demo", "debug")
    assert (found["model"] == "test_vit") == small
    # random weights are for a demonstration, and for nothing else
    assert small == (found["weights"] == "none" and not found["pretrained"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", ["resnet18", "small"])
def test_the_command_line_replaces_it(name: str, protocol: str) -> None:
    """With none of the settings that the method has for its own."""
    words = (f"backbone={name}", f"protocol={protocol}")
    for method in OWN:
        assert backbone(f"method={method}", *words) == backbone("method=cluster_contrast", *words)


def test_an_experiment_replaces_it_too() -> None:
    for method in OWN:
        found = backbone(f"method={method}", "experiment=market1501_cpu")
        assert found["_target_"] == "harness.components.backbones.mobilenet_v2"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_labels_know_its_defaults(name: str, protocol: str) -> None:
    for other in ((), ("backbone=small",)):
        words = [f"method={name}", f"protocol={protocol}", "dataset=synthetic", *other]
        config = compose(words)
        node = recipe(config.method.name, METHODS.values())
        assert node is not None
        options = flat(OmegaConf.to_container(config, resolve=True))
        default = defaults(node, options)
        changed = {k for k in options if not is_default(k, options, default)}
        assert {k for k in changed if k.split(".")[0] not in ("data", "store")} == set()


def test_rows_and_cards_name_another(tmp_path: Path) -> None:
    for words in (("method=pass",), ("method=pass", "backbone=small"),
                  ("method=cluster_contrast",)):  # fmt: skip
        run_experiment(tiny_config(tmp_path, *words, "train.epochs=1"))
    tables = {table.card["backbone"]: table for table in comparisons(tmp_path / "runs")}
    (vit,) = (name for name in tables if name.startswith("test_vit"))
    assert vit == "test_vit, drop_path 0.3, part_tokens 3"
    assert list(tables.pop(vit).rows["method"]) == ["pass"]
    (small,) = tables.values()
    assert sorted(small.rows["method"]) == ["cluster_contrast", "pass [backbone=small]"]


def test_weights_that_are_missing_stop_before_any_work(tmp_path: Path) -> None:
    for name in ("transreid_ssl", "transreid_ssl/ics", "pass"):
        file = backbone(f"method={name}", "protocol=common")["weights"]
        config = tiny_config(tmp_path, f"method={name}", f"backbone.weights={file}")
        with pytest.raises(ConfigError, match=rf"backbone.weights={file}: there is no such file"):
            run_experiment(config)
        assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_combinations_know_it() -> None:
    verdicts = {c.option: c.verdict for c in combinations(("pcl_clip",)) if c.group == "backbone"}
    assert {option for option, verdict in verdicts.items() if verdict == "own"} == {"clip_vit_base"}
    assert verdicts["resnet50"] == "yes" and verdicts["resnet50_views"]


MINE = """\
defaults:
  - override /backbone: mobilenet_v2
method: {name: mine, uses_cameras: false}
backbone: {pooling: avg}
demo: {backbone: {last_stride: 2}}
stages: {train: {}}
"""


def test_a_method_of_a_plugin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocol's pooling wins over the method's, and `demo` over both."""
    config = tmp_path / "methods" / "mine" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(MINE)
    monkeypatch.setenv("HARNESS_PLUGINS", str(tmp_path))
    for protocol, pooling, stride in (
        ("common", "gem", 1), ("published", "avg", 1), ("demo", "gem", 2), ("debug", "gem", 2),
    ):  # fmt: skip
        found = backbone("method=mine", f"protocol={protocol}")
        assert found["_target_"].endswith("mobilenet_v2")
        assert (found["pooling"], found["last_stride"]) == (pooling, stride)
    config.write_text(MINE.replace("  - override /backbone: mobilenet_v2\n", "  - _self_\n"))
    with pytest.raises(ConfigError, match="makes a method's own backbone small, but it has none"):
        registration.register()
