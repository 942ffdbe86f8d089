"""`harness search`: from the command line to a preset that can be run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import product

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, HarnessError
from harness.core.progress import Reporter
from harness.experiment.compose import compose
from harness.experiment.search import finalization
from harness.experiment.search.finalization import Result
from harness.experiment.search.plan import Plan, make_plan
from harness.experiment.search.study import open_study
from harness.experiment.search.worker import work

HELP = """\
example:  harness search method=mskd dataset=market1501 search.trials=50

usage: harness search [-m] method=NAME [dataset=NAME] [search.KEY=VALUE …] [KEY=VALUE …]

  harness search method=mskd dataset=synthetic search.trials=20
  harness search method=mskd search.space.labeler.eps.high=0.65 '~search.space.neighbours'
  harness search method=mskd '+search.space.optimizer.lr={low: 1e-4, high: 1e-3, log: true}'
  harness search -m method=mskd,spcl search.hours=10         the same budget for each
  harness search method=mskd --cfg job                       show all options, search nothing
  harness run method=mskd dataset=market1501 +search=NAME    run the settings found

often changed:  search.criterion=last_val|label_free|oracle  search.against=images_per_second
  search.sampler=tpe|cmaes|gp|random|grid  search.pruner=auto|none|median|hyperband|halving
  search.storage=sqlite|journal|postgresql://USER@HOST/DB  search.reproduce=3  search.name=NAME

The same command joins a running search and continues one that was stopped or killed.
HARNESS_SEARCHES is the folder of searches, also for +search=NAME; default results/searches.
The first trial is the method's defaults. By default the test set is not read before the end,
when the best settings and the defaults run on fresh seeds. See docs/search.md.
"""


def run(arguments: Sequence[str]) -> None:
    """Search as the command line says.

    Raises:
        HarnessError: invalid input, or a search without any complete trial.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError("harness search does not run under torchrun.",
                          "Give the plain command on each GPU (device=cuda:1).")  # fmt: skip
    parser = argparse.ArgumentParser("harness search", usage=HELP.split("usage: ")[1])
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("-c", "--cfg", choices=["job"])
    given = parser.parse_intermixed_args(arguments)
    combinations = _combinations(given.overrides)
    if len(combinations) > 1 and not given.multirun:
        raise ConfigError("These are several searches.", "Begin with -m: harness search -m …")
    if given.cfg:
        print(OmegaConf.to_yaml(compose(combinations[0], "search")), end="")
        return
    plans = [make_plan(each) for each in combinations]  # check all before the first begins
    names = [plan.settings.name for plan in plans]
    if len(set(names)) < len(names):
        raise ConfigError(f"Two of these searches have the name {names[0]}.",
                          "Leave search.name out, and vary only method, dataset or "
                          "search.criterion.")  # fmt: skip
    say = Reporter().say
    # a scheduler's SIGTERM, like Ctrl-C, lets another worker resume the trial at once
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = [result for plan in plans if (result := search(plan, say)) is not None]
    finally:
        signal.signal(signal.SIGTERM, before)
    if empty := [r.plan.settings.name for r in results if r.best is None]:
        raise HarnessError(f"No trial of {', '.join(empty)} was completed.",
                           "The lines above give the reasons.")  # fmt: skip
    if len(results) == len(plans) > 1:
        say("\n" + "\n".join(finalization.budgets(results)))


def _combinations(overrides: Sequence[str]) -> list[list[str]]:
    """All combinations of overrides with several values, as in Hydra's multirun."""
    parser = OverridesParser.create()
    choices: list[list[str]] = []
    for text in overrides:
        choices.append([text])
        try:
            item = parser.parse_override(text)
        except HydraException:
            continue  # composing explains what is wrong with it
        if item.is_sweep_override():
            head = text.split("=", 1)[0]
            choices[-1] = [f"{head}={value}" for value in item.sweep_string_iterator()]
    return [list(each) for each in product(*choices)]


def search(plan: Plan, say: Callable[[str], None]) -> Result | None:
    """Work at a study until it is finished, then finalize it; None if another worker does."""
    settings = plan.settings
    study = open_study(plan)
    what = f"{plan.method} on {plan.base.dataset.name}, {plan.trials} trials"
    say(f"{settings.name}: {what}, optimizing {settings.optimized}")
    if settings.criterion == "oracle":
        say(f"warning: {finalization.WARNING}")
    work(study, plan, say)
    try:
        with FileLock(settings.place / ".conclusion.lock", timeout=0):
            result = Result(plan, study)
            names = finalization.write_presets(result)
            result = finalization.run_fresh_seeds(result, say)
            finalization.write_record(result)
            finalization.write_page(result, names)
    except Timeout:
        say("another worker finalizes the search")
        return None
    for line in finalization.last_lines(result):
        say(line)
    return result


def main(arguments: list[str]) -> None:
    if any(a in ("-h", "--help") for a in arguments):
        print(HELP, end="")
        return
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("\nStopped. The same command continues the search.", file=sys.stderr)
        sys.exit(130)
