"""The `harness` command: finds the module of a subcommand and prints errors without traceback."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import sys
from collections.abc import Sequence

from harness.cli.parser import FLAGS, report_error
from harness.core.errors import ConfigError, HarnessError, did_you_mean
from harness.core.files import expanded, shown
from harness.core.host_memory import before_torch

#: subcommands; each is a module of this package that is imported when it is needed
COMMANDS = ("run", "search", "table", "report", "show", "list", "diff", "rerun", "rm", "prepare",
            "eval", "verify", "bench", "embed", "label", "score", "export", "zoo", "submit",
            "validate")  # fmt: skip
#: those whose options are `KEY=VALUE`; the options of others are `--key VALUE`
OVERRIDES = ("run", "search", "prepare", "rerun")
#: what is said when Ctrl-C ends a command
RESUME = {
    "run": " The same command resumes from the last finished epoch.",
    "embed": " The same command continues.",
}
HELP = """\
example:  harness run method=mskd dataset=market1501    usage: harness [--plugins DIR] COMMAND …

  run       train and test a method, leave a record      harness run method=mskd dataset=synthetic
  search    find better hyper-parameters                 harness search method=mskd search.trials=50
  table     compare finished runs                        harness table --format markdown
  report    write a page about all runs for a browser    harness report --output report.html
  show      draw ranked lists, embeddings, curves, maps  harness show RUN ranked
  list      list methods, data sets, parts, runs, …      harness list methods
  diff      show what two runs differ in                 harness diff RUN RUN
  rerun     resume or repeat what failed or was stopped  harness rerun --failed
  rm        remove runs                                  harness rm 'mskd-*-s1-*'
  prepare   unpack and check a data set, show its card   harness prepare dataset=NAME source=ZIP
  eval      test a finished run again, without training  harness eval RUN --rerank
  verify    check the arithmetic against golden vectors  harness verify
  bench     time training, labels, … on this machine     harness bench train --baseline
  embed     write the features of your own images        harness embed RUN FOLDER --out FILE.npz
  label     make pseudo-labels for features in a file    harness label FEATURES.npy --out LABELS.npy
  score     compute mAP and Rank-k of features           harness score QUERY.npz GALLERY.npz
  export    write a trained network to one file          harness export RUN --format onnx
  zoo       add a trained network to the model zoo       harness zoo add RUN
  submit    pack finished runs for the public table      harness submit RUN
  validate  check submissions without trust              harness validate submissions/NAME
harness COMMAND --help shows options. Images: $HARNESS_DATA, data.root= or ./data. Own methods/,
datasets/, conf/: --plugins DIR or $HARNESS_PLUGINS. Status: 1 failed, 2 refused before any work.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line."""
    before_torch()
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files need not fit its encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        _dispatch(arguments)
    except HarnessError as error:
        flags = [] if {*OVERRIDES}.intersection(arguments) else [*FLAGS]
        if arguments[:1] == ["bench"]:  # it takes both
            flags = ["device", "threads"]
        sys.exit(report_error(error, flags))
    except KeyboardInterrupt:
        print(f"\nStopped.{RESUME.get(''.join(arguments[:1]), '')}", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `harness table | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.filename is None:  # no file was refused: a fault of the harness
            raise
        sys.exit(report_error(_refused(error)))


def _refused(error: OSError) -> HarnessError:
    """The system's refusal of a file, wherever it is met: no permission, a name too long, …"""
    return HarnessError(
        f"{shown(os.fsdecode(error.filename))}: {error.strerror}.",
        "Check the path, its permissions and its disk.",
    )


def _dispatch(arguments: list[str]) -> None:
    arguments = _take_plugins(arguments)
    if any(argument.startswith("query=") for argument in arguments):  # shell completion
        words = os.environ.get("COMP_LINE", "").split(" ")
        if words[1:2] == ["run"]:
            os.environ["COMP_LINE"] = " ".join([words[0], *words[2:]])
        arguments = ["run", *(argument for argument in arguments if argument != "run")]
    command, *rest = arguments or ["help"]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
    elif command == "--version":
        from harness.core.version import __version__

        print(f"harness {__version__}")
    elif command in COMMANDS:
        importlib.import_module(f"harness.cli.{command}").main(rest)
    else:
        known = [name for name in COMMANDS if name != "rm"]  # never suggest `rm` for a typo
        hint = did_you_mean(command, known)
        if "=" in command:
            hint = f"Did you mean 'harness run {' '.join(arguments)}'?"
        raise ConfigError(f"There is no command '{command}'.", hint)


def _take_plugins(arguments: list[str]) -> list[str]:
    """Move `--plugins DIR` into the environment, which processes that start later inherit."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--plugins", action="append", default=[])
    try:
        options, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError("--plugins needs a folder.") from error
    folders = [str(expanded(folder).absolute()) for folder in options.plugins]
    if folders:
        before = os.environ.get("HARNESS_PLUGINS", "")
        os.environ["HARNESS_PLUGINS"] = os.pathsep.join([*folders, *filter(None, [before])])
    return rest
