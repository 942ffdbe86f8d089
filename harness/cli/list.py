"""`harness list`: what can be chosen, and what was run."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from harness.cli.parser import Parser
from harness.core.errors import ConfigError, did_you_mean

#: name on the command line → configuration group
PARTS = {
    "backbones": "backbone",
    "labelers": "labeler",
    "objectives": "objective",
    "distillers": "distiller",
    "protocols": "protocol",
    "experiments": "experiment",
}
KNOWN = ("methods", "datasets", *PARTS, "options", "combinations", "findings", "searches", "runs",
         "problems", "models")  # fmt: skip


def main(arguments: list[str]) -> None:
    parser = Parser("list", "harness list methods", f"Lists: {', '.join(KNOWN)}.")
    parser.add_argument("what", nargs="?", default="methods", help="one of the lists above")
    parser.add_argument("group", nargs="?", help="of options: train, labeler, self_paced, …")
    parser.add_store()
    styles, pages = ["terminal", "markdown"], "combinations, options or findings"
    parser.add_argument("--format", default=styles[0], choices=styles, help=f"of {pages}")
    parser.add_argument("--output", help=f"write {pages} to this file as Markdown")
    parser.add_argument("--date", help="of findings in Markdown: YYYY-MM-DD (default: today)")
    options = parser.parse_args(arguments)
    plurals = {known: known for known in KNOWN} | {known[:-1]: known for known in KNOWN}
    plurals["search"] = "searches"
    what = plurals.get(options.what)
    if what is None:
        hint = did_you_mean(options.what, KNOWN)
        raise ConfigError(f"There is no list of '{options.what}'.", hint)
    if options.group is not None and what != "options":
        key, equals, value = options.group.partition("=")
        hint = f"Use --{key} {value}." if equals else "harness list options GROUP"
        raise ConfigError(f"harness list {what} takes no '{options.group}'.", hint)
    if options.output is not None and options.format != "markdown":
        raise ConfigError("--output needs --format markdown.")
    if options.date is not None and (what, options.format) != ("findings", "markdown"):
        raise ConfigError("--date applies to findings with --format markdown only.")
    if what == "findings" and options.format == "markdown":
        _write_findings(options.date, options.output)
    elif what in ("combinations", "options"):
        _show_reference(what, options.group, options.format, options.output)
    elif options.format != "terminal" or options.output is not None:
        raise ConfigError(f"--format and --output apply to {pages} only.")
    else:
        _print(what, _rows(what, Path(options.store)))


def _rows(what: str, store: Path) -> list[tuple[str, str]]:
    """(name, description) of each entry of a list."""
    if what in ("runs", "problems"):
        from harness.results.run_status import state
        from harness.results.store import Store
        from harness.results.store_check import file_problems

        runs = list(Store(store).runs())
        if what == "runs":
            from harness.results.differences import ChangedOptions

            changed = ChangedOptions()
            return [(r.name, f"{state(r)}   {changed.of(r)}".rstrip()) for r in runs]
        return [(problem.run, problem.text) for problem in file_problems(runs)]
    if what == "models":
        from harness.experiment.models import zoo

        return [(name, entry.in_words()) for name, entry in zoo.load().models.items()]
    if what == "searches":
        from harness.experiment.registration import presets

        return [(name, _description(path)) for name, path in sorted(presets().items())]
    if what == "findings":
        from harness.experiment.findings import findings

        return [(f.method, f"{f.kind}: {f.text} ({f.place})") for f in findings()]
    from harness.core import plugins

    if what in PARTS:
        files = plugins.options(PARTS[what])
        return [(name, _description(path)) for name, path in sorted(files.items())]
    rows = []
    for plugin in sorted(plugins.find()[what].values(), key=lambda plugin: plugin.name):
        origin = "" if plugin.origin == "built in" else f" [{plugin.origin}: {plugin.folder}]"
        rows.append((plugin.name, plugin.summary + origin))
        for variant, path in plugin.variants.items():
            rows.append((f"{plugin.name}/{variant}", _description(path)))
    return rows


def _description(path: Path) -> str:
    """The first sentence of a configuration file's comment, or of the class that it builds."""
    from harness.core import plugins

    text = re.sub(r"^# @.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if comment := re.match(r"\s*((?:#.*\n)+)", text):
        return plugins.first_sentence(re.sub(r"(?m)^#", "", comment[1]))
    config = plugins.load_config(path)
    if target := config.get("_target_"):
        from hydra.utils import get_object

        plugins.make_importable(plugins.find())
        return plugins.first_sentence(str(get_object(target).__doc__ or "").split("\n\n")[0])
    based = [str(name) for name in config.get("defaults") or [] if name != "_self_"]
    changes = [f"{key!s}={value}" for key, value in config.items() if key != "defaults"]
    return f"{', '.join(based)} with {', '.join(changes)}" if based else ", ".join(changes)


def _print(what: str, rows: list[tuple[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not rows:
        console.print(f"No {what}.")
    elif not console.is_terminal:  # for grep and cut: one line each
        width = max(len(name) for name, _ in rows)
        for name, text in rows:
            print(f"{name:<{width}}   {text}".rstrip())
    else:
        grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 3, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for name, text in rows:
            grid.add_row(name, text)
        console.print(grid, markup=False)


def _write_findings(day: str | None, output: str | None) -> None:
    """Print docs/what-the-code-does.md, or write it."""
    from datetime import date

    from harness.experiment import findings

    try:
        text = findings.markdown(date.today() if day is None else date.fromisoformat(day))
    except ValueError as error:
        raise ConfigError(f"--date {day} is no date.", "Write YYYY-MM-DD.") from error
    _print_or_write(text, output)


def _show_reference(what: str, group: str | None, style: str, output: str | None) -> None:
    """Print which methods run with which parts, or all options; or write their page in docs/."""
    from harness.experiment import combination_table, options_reference

    if what == "options" and style == "terminal":
        options_reference.show(group)
        return
    found = []
    if what == "combinations":
        from rich.console import Console
        from rich.progress import track

        # composing takes a minute; on a terminal the lines themselves show how far it is
        seen = style == "terminal" and sys.stdout.isatty()
        for one in track(
            combination_table.combinations(), "composing combinations", show_speed=False,
            transient=True, disable=seen, console=Console(stderr=True),
        ):  # fmt: skip
            found.append(one)
            if style == "terminal":
                name = f"{one.method} {one.group}={one.option}"
                print(f"{name:<48} {one.verdict or f'refused: {one.reason}'}", flush=True)
    if style == "terminal":
        return
    text = combination_table.page(found) if found else options_reference.markdown(group)
    _print_or_write(text, output)


def _print_or_write(text: str, output: str | None) -> None:
    from harness.core.files import expanded, write_text

    if output is None:
        print(text, end="")
    else:
        write_text(expanded(output), text)
