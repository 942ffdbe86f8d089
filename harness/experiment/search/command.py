"""`harness search`: from the command line to a preset that can be run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.progress import Reporter
from harness.experiment.compose import compose
from harness.experiment.search import page, plots
from harness.experiment.search.finalisation import (
    Outcome,
    conclude,
    reproduce,
    write_presets,
    write_record,
)
from harness.experiment.search.plan import Plan, make_plan
from harness.experiment.search.study import open_study, sweep, work
from harness.experiment.search.trial import Objective

HELP = """\
example:  harness search method=mskd dataset=market1501 search.trials=50

usage: harness search [-m] method=NAME [dataset=NAME] [search.KEY=VALUE …] [KEY=VALUE …]

  harness search method=mskd dataset=synthetic search.trials=20
  harness search method=mskd search.space.labeler.eps.high=0.65 '~search.space.neighbours'
  harness search method=mskd '+search.space.optimizer.lr={low: 1e-4, high: 1e-3, log: true}'
  harness search -m method=mskd,spcl search.hours=10         the same budget for each
  harness search method=mskd --cfg job                       show it all, search nothing
  harness run method=mskd dataset=market1501 +search=NAME    run what was found

often changed:  search.criterion=last_val|label_free|oracle  search.against=images_per_second
  search.sampler=tpe|cmaes|gp|random|grid  search.pruner=auto|none|median|hyperband|halving
  search.storage=sqlite|journal|postgresql://USER@HOST/DB  search.reproduce=3  search.name=NAME

The same command joins a search that is running, and goes on with one that was stopped or killed.
HARNESS_SEARCHES says where searches lie, for +search=NAME too; default results/searches.
The first trial is the method's defaults. By default the test set is not looked at before the end,
when the best settings and the defaults are run on fresh seeds. See docs/search.md.
"""


def run(arguments: Sequence[str]) -> None:
    """Search as a command line says.

    Raises:
        HarnessError: anything that a person can mend.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "harness search does not run under torchrun.",
            "Give the plain command several times, once a GPU (device=cuda:1): they share a study.",
        )
    several, show, overrides = _flags(arguments)
    combinations = _combinations(overrides)
    if len(combinations) > 1 and not several:
        raise ConfigError("Several searches are asked for.", "Begin with -m: harness search -m …")
    if show:
        print(OmegaConf.to_yaml(compose(combinations[0], "search")), end="")
        return
    plans = [make_plan(each) for each in combinations]  # all are checked before any begins
    names = [plan.settings.name for plan in plans]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"Several of these searches would be called {names[0]}.",
            "Leave search.name out, and let only method, dataset or search.criterion vary.",
        )
    say = Reporter().say
    with _terminable():
        outcomes = [_search(plan, say) for plan in plans]
    empty = [o.plan.settings.name for o in outcomes if o is not None and o.best is None]
    if empty:
        raise HarnessError(
            f"No trial of {', '.join(empty)} was completed.",
            "The lines above, and README.md of the search, say why each failed.",
        )
    if len(outcomes) > 1 and all(outcomes):
        say("\n" + "\n".join(page.budgets([o for o in outcomes if o is not None])))


def _flags(arguments: Sequence[str]) -> tuple[bool, bool, list[str]]:
    """Whether -m and --cfg job were given, and the rest."""
    several = show = False
    rest: list[str] = []
    queue = iter(arguments)
    for argument in queue:
        if argument in ("-m", "--multirun"):
            several = True
        elif argument in ("-c", "--cfg") or argument.startswith("--cfg="):
            what = argument.split("=", 1)[1] if "=" in argument else next(queue, "")
            if what != "job":
                raise ConfigError(f"--cfg {what} is unknown.", "harness search … --cfg job")
            show = True
        elif argument.startswith("-"):
            known = ["-m", "--multirun", "--cfg", "--help"]
            raise ConfigError(f"There is no option '{argument}'.", did_you_mean(argument, known))
        else:
            rest.append(argument)
    return several, show, rest


def _combinations(overrides: Sequence[str]) -> list[list[str]]:
    """Each combination of overrides that have several values, as `-m` has them."""
    parser = OverridesParser.create()
    choices: list[list[str]] = []
    for text in overrides:
        try:
            item = parser.parse_override(text)
        except HydraException:
            choices.append([text])  # composing tells what is wrong with it
            continue
        if item.is_sweep_override():
            head = text.split("=", 1)[0]
            choices.append([f"{head}={value}" for value in item.sweep_string_iterator()])
        else:
            choices.append([text])
    return [list(each) for each in product(*choices)]


@contextmanager
def _terminable() -> Iterator[None]:
    """A polite kill (of a cluster, say) is like Ctrl-C: the trial at work is put back at once."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _search(plan: Plan, say: Any) -> Outcome | None:
    """Work at a study until it is done, then conclude it; None where another worker does so."""
    settings = replace(plan.settings, trials=plan.trials)
    study = open_study(settings, plan.identity, plan.space, plan.defaults, plan.steps)
    say(
        f"{settings.name}: {plan.recipe.method} on {plan.base.dataset.name}, "
        f"{settings.trials} trials, optimising {settings.optimised}"
    )
    if settings.criterion == "oracle":
        say(f"warning: {page.WARNING}")
    objective = Objective(
        study, settings, plan.space, plan.compose, plan.recipe, plan.reference,
        lambda: sweep(study, settings),
    )  # fmt: skip
    work(study, settings, objective, say)
    lock = FileLock(settings.place / ".conclusion.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another worker is at the conclusion")
        return None
    with lock:
        outcome = conclude(plan, study)
        names = write_presets(outcome)
        outcome = reproduce(outcome, say)
        pictures = plots.draw(outcome) if settings.plots and outcome.best is not None else []
        text = page.page(outcome, names, pictures)
        write_record(outcome, plots.importance(outcome), text)
    _tell(outcome, names, say)
    return outcome


def _tell(outcome: Outcome, names: Sequence[str], say: Any) -> None:
    settings = outcome.plan.settings
    say(f"\n{settings.name}: {page.budget(outcome)}")
    if outcome.best is None:
        say("No trial was completed: there is nothing to run.")
        return
    for line in page.comparison(outcome):
        say(line)
    if outcome.best_is_default:
        say("The best trial is the default itself.")
    place = f"{settings.place}/README.md"
    say(f"best: {', '.join(f'{k}={v}' for k, v in outcome.values(outcome.best).items())}")
    say(f"run it: {page.command(outcome, names[0])}   ({place})")
    if settings.folder.absolute() not in [f.absolute() for f in _folders()]:
        say(f"  (with HARNESS_SEARCHES={settings.folder})")


def _folders() -> list[Any]:
    from harness.experiment.registration import search_folders

    return search_folders()


def main(arguments: list[str]) -> None:
    """The command."""
    if any(a in ("-h", "--help") for a in arguments):
        print(HELP, end="")
        return
    try:
        run(arguments)
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on where this left off.", file=sys.stderr)
        sys.exit(130)
