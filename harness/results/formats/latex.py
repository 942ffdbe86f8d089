r"""Tables in LaTeX: booktabs, siunitx columns, a caption that states the protocol, `\cite` keys.

Needs `\usepackage{booktabs,siunitx}` (version 2 or 3 of siunitx). Entries for a .bib file come from
the `reference.bib` in the folders of methods and data sets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from harness.core import plugins
from harness.results.published import TITLES
from harness.results.table_model import Cell, Column, Table

HEAD = r"""% Made by `harness table --format latex`; needs \usepackage{booktabs,siunitx}
"""
_SPECIAL = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "→": r"$\to$",
    "<": r"$<$", ">": r"$>$", "…": r"\dots{}",
})  # fmt: skip


def latex(tables: Sequence[Table]) -> str:
    """Each table as a `table*` environment."""
    known, labels = references(), Counter[str]()
    texts = []
    for table in tables:
        name = f"{table.kind}-{table.dataset}-{table.protocol}".lower()
        label = re.sub(r"[^a-z0-9]+", "-", name).strip("-")
        labels[label] += 1  # protocols of one name may differ
        texts.append(_one(table, f"{label}-{n}" if (n := labels[label]) > 1 else label, known))
    return HEAD + "\n".join(texts)


def _one(table: Table, label: str, known: Mapping[str, Path]) -> str:
    kinds = [_kind(c, [row[p] for row in table.rows]) for p, c in enumerate(table.columns)]
    body = []
    for row, method in zip(table.rows, table.methods, strict=True):
        body.append([_cell(cell, kind) for cell, kind in zip(row, kinds, strict=True)])
        body[-1][0] += f"~\\cite{{{method}}}" if method in known else ""
    titles = [f"{{{escape(c.title)}}}" if c.numeric else escape(c.title) for c in table.columns]
    groups = [f"{{{escape(c.group)}}}" if c.group else "" for c in table.columns]
    heads = pd.MultiIndex.from_arrays([groups, titles]) if table.groups else titles
    first = table.title.split(" ")[0]
    title = escape((first.capitalize() if first.islower() else first) + table.title[len(first) :])
    if table.dataset in known and not table.kind:
        title = f"{escape(TITLES.get(table.dataset, table.dataset))}~\\cite{{{table.dataset}}}"
    wide = len(kinds) > 8  # it has to fit two columns of a paper
    commands = {"footnotesize" if wide else "small": "",
                "setlength\\tabcolsep": "4pt" if wide else "6pt",
                "sisetup": "detect-weight=true,separate-uncertainty=true"}  # fmt: skip
    style = pd.DataFrame(body, columns=heads).style.hide(axis=0)
    style.set_table_styles(
        [{"selector": name, "props": f":{{{value}}}"} for name, value in commands.items()]
    )
    text = style.to_latex(
        column_format="".join(kinds), hrules=True, label=f"tab:{label}", environment="table*",
        caption=" ".join([f"{title}.", *map(_note, table.notes)]), position="t",
        position_float="centering", multicol_align="c",
    )  # fmt: skip
    rules, start = "", 1
    for name, width in table.groups:
        rules += f"\\cmidrule(lr){{{start}-{start + width - 1}}}" if name else ""
        start += width
    text = text.replace("\\centering\n", "\\centering\\setlength{\\belowcaptionskip}{6pt}\n")
    return text.replace("\\\\\n", f"\\\\\n{rules}\n", 1) if rules else text


def _kind(column: Column, cells: Sequence[Cell]) -> str:
    """siunitx's S, as wide as the widest number; numbers with deviations are flush right."""
    if not column.numeric:
        return "l"
    if any(cell.std is not None for cell in cells):
        return "r"
    found = [cell for cell in cells if cell.number is not None]
    whole = max((len(f"{abs(cell.number or 0):.0f}") for cell in found), default=1)
    return f"S[table-format={whole}.{max((cell.digits for cell in found), default=0)}]"


def _cell(cell: Cell, kind: str) -> str:
    if cell.number is None:
        return f"{{{escape(cell.words)}}}" if kind != "l" else escape(cell.words)
    text = f"{cell.number:.{cell.digits}f}"
    if cell.std is not None:
        text += f" +- {cell.std:.{cell.digits}f}"
    if kind == "r":
        text = f"\\num{{{text}}}"
    if cell.mark == "second":
        inner = text if kind == "r" else f"\\num{{{text}}}"
        return f"{{\\underline{{{inner}}}}}"
    return f"\\bfseries {text}" if cell.mark == "best" else text


def _note(note: str) -> str:
    """A sentence, with `code` in typewriter letters."""
    code, parts = False, []
    for part in note.split("`"):
        parts.append(f"\\texttt{{{escape(part)}}}" if code else escape(part))
        code = not code
    return "".join(parts)


def escape(text: str) -> str:
    """Text for LaTeX."""
    return text.translate(_SPECIAL)


def references() -> dict[str, Path]:
    """Method or data set → its `reference.bib`."""
    found = [plugin for kind in plugins.find().values() for plugin in kind.values()]
    paths = {plugin.name: plugin.folder / "reference.bib" for plugin in found}
    return {name: path for name, path in paths.items() if path.is_file()}


def bibliography(tables: Sequence[Table]) -> str:
    """The entries that tables cite, and those of their data sets."""
    known = references()
    wanted = {name for table in tables for name in (*table.methods, table.dataset)}
    texts = [known[name].read_text(encoding="utf-8").strip() for name in sorted(wanted & {*known})]
    return "\n\n".join([*texts, ""])
