r"""Tables in LaTeX: booktabs, siunitx columns, titles of methods and data sets, `\cite` keys.

Needs `\usepackage{booktabs,siunitx}` (version 2 or 3 of siunitx). Entries for a .bib file come from
the `reference.bib` in the folders of methods and data sets. What a protocol holds equal is a
command, for an appendix, or part of the caption.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from harness.core import plugins
from harness.core.hashing import hexdigest
from harness.results import settings
from harness.results.table_model import Cell, Column, Table

HEAD = r"""% Made by `harness table --format latex`; needs \usepackage{booktabs,siunitx}
"""
#: characters of a text that a narrow table has room for twice
SHORT_TEXT = 8
PROTOCOLS = "% What the protocols hold equal, for an appendix or a note:\n"
#: digits of a hash → letters: names of commands have no digits
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
#: words that may name a method or data set
_WORD = re.compile(r"(?<!\S)[\w-]+(?=[,:;).]?(?:\s|$))")
_SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "→": r"$\to$",
    "<": r"$<$", ">": r"$>$", "…": r"\dots{}",
})  # fmt: skip


@dataclass(frozen=True)
class _Names:
    """Names in records → the titles of methods and data sets, and the keys of their references."""

    titles: Mapping[str, str]
    keys: Mapping[str, str]

    @classmethod
    def known(cls) -> _Names:
        titles = {name: plugin.titles[name] for name, plugin in _known().items()}
        return cls(titles, {name: path.parent.name for name, path in references().items()})

    def titled(self, text: str, cited: Container[str] = ()) -> str:
        """Text for LaTeX with titles for names, and references after those that are `cited`."""
        parts, start = list[str](), 0
        for found in _WORD.finditer(text):
            name = found[0]
            setting = text[found.start() :].startswith(settings.in_words(settings.SUPERVISED))
            title = name if setting else self.titles.get(name, name)
            parts += [escape(text[start : found.start()]), escape(title)]
            if name in cited and name in self.keys:
                parts.append(f"~\\cite{{{self.keys[name]}}}")
            start = found.end()
        return "".join([*parts, escape(text[start:])])

    def cell(self, label: str) -> str:
        """The label of a row with its method's title, and its reference last."""
        key = self.keys.get(label.split(" ")[0])
        return self.titled(label) + (f"~\\cite{{{key}}}" if key else "")


def latex(tables: Sequence[Table], caption: str = "short", layout: str = "wide") -> str:
    """Each table as a float, as wide as two columns of a paper or as one.

    Args:
        caption: `full` says all in captions. `short` says what a table is; its notes are below the
            table, and each protocol is a command for an appendix.
        layout: `wide` or `narrow`.
    """
    names, labels, protocols = _Names.known(), Counter[str](), dict[str, str]()
    texts = []
    for table in tables:
        name = f"{table.kind}-{table.dataset}-{table.protocol}".lower()
        label = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
        labels[label] += 1  # protocols of one name may differ
        label = f"{label}-{n}" if (n := labels[label]) > 1 else label
        texts.append(_one(table, label, names, caption == "short", layout == "narrow"))
        protocols |= {_command(card): _note(card) for card in table.cards}
    if caption == "full" or not protocols:
        return HEAD + "\n".join(texts)
    commands = [f"\\providecommand{{{key}}}{{{text}}}\n" for key, text in protocols.items()]
    return HEAD + "".join([PROTOCOLS, *commands, "\n", "\n".join(texts)])


def _command(card: str) -> str:
    """The command for a protocol: its name, and a hash so that papers can have several files."""
    name = re.sub("[^a-zA-Z]", "", card.split("`")[1])
    return f"\\protocol{name}{hexdigest([card.encode()], 3).translate(_LETTERS).upper()}"


def _one(table: Table, label: str, names: _Names, short: bool, narrow: bool) -> str:
    kinds = [_kind(c, [row[p] for row in table.rows]) for p, c in enumerate(table.columns)]
    spreads = [_whole(row[p].std for row in table.rows) for p in range(len(kinds))]
    body = []
    for row in table.rows:
        named = [names if column.named else None for column in table.columns]
        cells = zip(row, kinds, named, spreads, strict=True)
        body.append([_cell(*cell) for cell in cells])
    titles = [names.titled(column.title) for column in table.columns]
    titles = [f"{{{t}}}" if c.numeric else t for t, c in zip(titles, table.columns, strict=True)]
    groups = [f"{{{names.titled(c.group) if c.named else escape(c.group)}}}" if c.group else ""
              for c in table.columns]  # fmt: skip
    heads = pd.MultiIndex.from_arrays([groups, titles]) if table.groups else titles
    if short:
        caption, below = names.titled(table.caption, {table.dataset}), _below(table, names)
    else:
        caption, below = _full(table, names), ""
    kinds = _wrapped(kinds, table.rows) if narrow else kinds
    if narrow:
        size, separation = ("scriptsize", "3pt") if len(kinds) > 4 else ("footnotesize", "4pt")
    else:
        size, separation = ("footnotesize", "4pt") if len(kinds) > 8 else ("small", "6pt")
    commands = {size: "", "setlength\\tabcolsep": separation,
                "sisetup": "detect-weight=true,separate-uncertainty=true"}  # fmt: skip
    style = pd.DataFrame(body, columns=heads).style.hide(axis=0)
    style.set_table_styles(
        [{"selector": name, "props": f":{{{value}}}"} for name, value in commands.items()]
    )
    environment = "table" if narrow else "table*"
    text = style.to_latex(
        column_format="".join(kinds), hrules=True, label=f"tab:{label}", environment=environment,
        caption=caption, position="t", position_float="centering", multicol_align="c",
    )  # fmt: skip
    rules, start = "", 1
    for name, width in table.groups:
        rules += f"\\cmidrule(lr){{{start}-{start + width - 1}}}" if name else ""
        start += width
    text = text.replace("\\centering\n", "\\centering\\setlength{\\belowcaptionskip}{6pt}\n")
    text = text.replace("\\end{tabular}\n", f"\\end{{tabular}}\n{below}")
    return text.replace("\\\\\n", f"\\\\\n{rules}\n", 1) if rules else text


def _full(table: Table, names: _Names) -> str:
    """What the table is, what its protocol holds equal, and all other notes."""
    title = names.titled(table.title, {table.dataset})
    first = title.split(" ")[0]
    title = (first.capitalize() if first.islower() else first) + title[len(first) :]
    if table.dataset in names.keys and not table.kind:
        title = names.titled(table.dataset, {table.dataset})
    notes = (_note(note, None if note in table.cards else names) for note in table.notes)
    return " ".join([f"{title}.", *notes])


def _below(table: Table, names: _Names) -> str:
    """All notes but the protocols, as a paragraph below the table."""
    notes = " ".join(_note(note, names) for note in table.notes if note not in table.cards)
    return f"\\par\\smallskip\\parbox{{\\linewidth}}{{\\footnotesize {notes}}}\n" if notes else ""


def _kind(column: Column, cells: Sequence[Cell]) -> str:
    """siunitx's S, as wide as the widest number; numbers with deviations are flush right."""
    if not column.numeric:
        return "l"
    if any(cell.std is not None for cell in cells):
        return "r"
    found = [cell for cell in cells if cell.number is not None]
    sign = "-" * any((cell.number or 0) < 0 for cell in found)
    digits = max((cell.digits for cell in found), default=0)
    return f"S[table-format={sign}{_whole(cell.number for cell in found)}.{digits}]"


def _whole(numbers: Iterable[float | None]) -> int:
    """The digits before the point of the longest number, at least one."""
    return max((len(f"{abs(number):.0f}") for number in numbers if number is not None), default=1)


def _wrapped(kinds: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Kinds for a narrow table, in which long texts are broken into lines."""
    longest = [max((len(row[p].text) for row in rows), default=0) for p in range(len(kinds))]
    long = [p for p, kind in enumerate(kinds) if kind == "l" and longest[p] >= SHORT_TEXT]
    if len(long) == 1 and longest[long[0]] <= 2 * SHORT_TEXT:
        return [*kinds]
    width = 0.33 if len(long) == 1 else 0.24
    text = f">{{\\raggedright\\arraybackslash}}p{{{width}\\linewidth}}"
    return [text if p in long else kind for p, kind in enumerate(kinds)]


def _cell(cell: Cell, kind: str, names: _Names | None, spread: int) -> str:
    if cell.number is None and names:
        return names.cell(cell.words)
    if cell.number is None:
        return f"{{{escape(cell.words)}}}" if kind != "l" else escape(cell.words)
    text = f"{cell.number:.{cell.digits}f}"
    if cell.std is not None:
        text += f" +- {cell.std:.{cell.digits}f}"
    if kind == "r":
        text = f"\\num{{{text}}}"
    if cell.mark == "second":
        inner = text if kind == "r" else f"\\num{{{text}}}"
        text = f"{{\\underline{{{inner}}}}}"
    if kind == "r":  # the points of a column are in line
        if cell.std is None:
            text += f"\\phantom{{${{}}\\pm{'0' * (spread + cell.digits)}.$}}"
        elif missing := spread - _whole([cell.std]):
            text += f"\\phantom{{{'0' * missing}}}"
    return f"\\bfseries {text}" if cell.mark == "best" else text


def _note(note: str, names: _Names | None = None) -> str:
    """A sentence, with `code` in typewriter letters."""
    written, code, parts = names.titled if names else escape, False, []
    for part in note.split("`"):
        parts.append(f"\\texttt{{{escape(part)}}}" if code else written(part))
        code = not code
    return "".join(parts).replace(r"\_", r"\_\allowbreak{}")  # files have long names


def escape(text: str) -> str:
    """Text for LaTeX."""
    return text.translate(_SPECIAL)


def _known() -> dict[str, plugins.Plugin]:
    """Method, variant or data set → its plug-in, which goes before a variant of the same name."""
    found = [plugin for kind in plugins.find().values() for plugin in kind.values()]
    variants = {name: plugin for plugin in found for name in plugin.titles}
    return variants | {plugin.name: plugin for plugin in found}


def references() -> dict[str, Path]:
    """Method, variant or data set → its `reference.bib`, whose key is the folder's name."""
    paths = {name: plugin.folder / "reference.bib" for name, plugin in _known().items()}
    return {name: path for name, path in paths.items() if path.is_file()}


def bibliography(text: str) -> str:
    """The entries that tables in LaTeX cite."""
    known, cited = references(), set(re.findall(r"\\cite\{(.*?)\}", text))
    texts = [known[key].read_text(encoding="utf-8").strip() for key in sorted(cited)]
    return "\n\n".join([*texts, ""])
