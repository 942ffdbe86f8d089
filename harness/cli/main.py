"""The command line: `harness run` is Hydra's, everything else is a plain command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.cli.commands import COMMANDS, report_error
from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.host_memory import before_torch

HELP = """\
example:  harness run method=mskd dataset=market1501

usage: harness [--plugins DIR] COMMAND …

  run       train and test a method, leave a record      harness run method=mskd dataset=synthetic
  search    better hyper-parameters, honestly chosen     harness search method=mskd search.trials=50
  table     compare what was run                         harness table --format markdown
  report    all of it as one page for a browser          harness report --output report.html
  show      pictures of a run: ranked lists, maps, …     harness show RUN ranked
  list      methods, datasets, …, runs, problems         harness list methods
  rerun     go on with what failed or was stopped        harness rerun --failed
  rm        remove runs                                  harness rm 'mskd-*-s1-*'
  prepare   unpack and check a data set, show its card   harness prepare dataset=NAME source=ZIP
  eval      test a finished run again, without training  harness eval RUN --rerank
  verify    check the arithmetic against golden vectors  harness verify
  bench     time training, labels … on this machine      harness bench train --baseline
  label     pseudo-labels for features of your own       harness label FEATURES.npy --out LABELS.npy
  score     rank features of your own: mAP, Rank-k       harness score QUERY.npz GALLERY.npz

harness COMMAND --help tells more. Images lie under $HARNESS_DATA (or data.root=, or ./data);
records under results/runs. --plugins DIR, or $HARNESS_PLUGINS, adds your own methods/ and
datasets/ folders. Exit status: 0 done, 1 failed on the way, 2 refused before any work.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the `harness` command."""
    before_torch()
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except HarnessError as error:
        sys.exit(report_error(error))
    except KeyboardInterrupt:
        hint = " The same command goes on from the last finished epoch."
        print(f"\nStopped.{hint if 'run' in arguments[:1] else ''}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `harness table | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _dispatch(arguments: list[str]) -> None:
    arguments = _take_plugins(arguments)
    if any(a.startswith("query=") for a in arguments):  # the shell asks for completions
        words = os.environ.get("COMP_LINE", "").split(" ")
        if words[1:2] == ["run"]:
            os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        arguments = ["run", *(a for a in arguments if a != "run")]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    if arguments[0] == "--version":
        import harness

        print(f"harness {harness.__version__}")
        return
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        hint = did_you_mean(
            command, COMMANDS.keys() - {"rm"}
        )  # nobody is to be led there by a slip
        if "=" in command:
            hint = f"Did you mean 'harness run {' '.join(arguments)}'?"
        raise ConfigError(f"There is no command '{command}'.", hint)
    COMMANDS[command](rest)


def _take_plugins(arguments: list[str]) -> list[str]:
    """Move `--plugins DIR` into the environment, so that processes started later see it too."""
    rest: list[str] = []
    folders: list[str] = []
    queue = iter(arguments)
    for argument in queue:
        if argument == "--plugins":
            folder = next(queue, None)
            if folder is None:
                raise ConfigError("--plugins needs a folder.")
            folders.append(folder)
        elif argument.startswith("--plugins="):
            folders.append(argument.split("=", 1)[1])
        else:
            rest.append(argument)
    if folders:
        old = [os.environ["HARNESS_PLUGINS"]] if os.environ.get("HARNESS_PLUGINS") else []
        absolute = [str(Path(folder).absolute()) for folder in folders]
        os.environ["HARNESS_PLUGINS"] = os.pathsep.join(absolute + old)
    return rest
