r"""Tables in LaTeX: booktabs, siunitx columns, a caption that states the protocol, `\cite` keys.

Needs `\usepackage{booktabs,siunitx}` (version 2 or 3 of siunitx). Entries for a .bib file come from
the `reference.bib` in methods' and data sets' folders.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from harness.core import plugins
from harness.results.published import TITLES
from harness.results.table_model import Cell, Column, Sheet

HEAD = r"""% Made by `harness table --format latex`; needs \usepackage{booktabs,siunitx}
"""
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "`": "`",
    "±": r"$\pm$", "–": "--", "−": "$-$", "×": r"$\times$", "≥": r"$\geq$", "→": r"$\to$",
    "<": r"$<$", ">": r"$>$",
}  # fmt: skip


def latex(sheets: Sequence[Sheet]) -> str:
    """Each table as a `table` environment."""
    known, labels = set(references()), Counter[str]()
    texts = []
    for sheet in sheets:
        label = re.sub(
            r"[^a-z0-9]+", "-", f"{sheet.kind}-{sheet.dataset}-{sheet.protocol}".lower()
        ).strip("-")
        labels[label] += 1
        if labels[label] > 1:  # protocols of one name that differ
            label += f"-{labels[label]}"
        texts.append(_one(sheet, label, known))
    return HEAD + "\n".join(texts)


def _one(sheet: Sheet, label: str, known: set[str]) -> str:
    kinds = [_kind(c, [row[p] for row in sheet.rows]) for p, c in enumerate(sheet.columns)]
    first = sheet.title.split(" ")[0]
    title = escape((first.capitalize() if first.islower() else first) + sheet.title[len(first) :])
    if sheet.dataset in known and not sheet.kind:
        title = f"{escape(TITLES.get(sheet.dataset, sheet.dataset))}~\\cite{{{sheet.dataset}}}"
    caption = " ".join([f"{title}.", *map(_note, sheet.notes)])
    # what is wide has to fit two columns of a paper
    size = r"\footnotesize\setlength{\tabcolsep}{4pt}" if len(kinds) > 8 else r"\small"
    lines = [
        r"\begin{table*}[t]",
        r"  \centering\setlength{\belowcaptionskip}{6pt}",
        rf"  {size}\sisetup{{detect-weight=true,separate-uncertainty=true}}",
        f"  \\caption{{{caption}}}",
        f"  \\label{{tab:{label}}}",
        f"  \\begin{{tabular}}{{{''.join(kinds)}}}",
        r"    \toprule",
        *_heads(sheet.columns),
        r"    \midrule",
    ]
    for row, method in zip(sheet.rows, sheet.methods, strict=True):
        cells = [_cell(c, kind) for c, kind in zip(row, kinds, strict=True)]
        if method in known:
            cells[0] += f"~\\cite{{{method}}}"
        lines.append("    " + " & ".join(cells) + r" \\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table*}", ""])


def _heads(columns: Sequence[Column]) -> Iterable[str]:
    if any(column.group for column in columns):
        groups, rules, start = [], [], 1
        for name, same in groupby(columns, key=lambda c: c.group):
            width = len(list(same))
            groups.append(f"\\multicolumn{{{width}}}{{c}}{{{escape(name)}}}")
            if name:
                rules.append(f"\\cmidrule(lr){{{start}-{start + width - 1}}}")
            start += width
        yield "    " + " & ".join(groups) + r" \\"
        yield "    " + "".join(rules)
    yield "    " + " & ".join(
        f"{{{escape(c.title)}}}" if c.numeric else escape(c.title) for c in columns
    ) + r" \\"  # fmt: skip


def _kind(column: Column, cells: Sequence[Cell]) -> str:
    """siunitx's S, as wide as the widest number; numbers with deviations are flush right."""
    if not column.numeric:
        return "l"
    if any(cell.std is not None for cell in cells):
        return "r"
    numbers = [cell for cell in cells if cell.number is not None]
    whole = max((len(f"{abs(cell.number or 0):.0f}") for cell in numbers), default=1)
    digits = max((cell.digits for cell in numbers), default=0)
    return f"S[table-format={whole}.{digits}]"


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
    """A sentence, `code` in typewriter letters."""
    parts = note.split("`")
    return "".join(
        f"\\texttt{{{escape(part)}}}" if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def escape(text: str) -> str:
    """Text for LaTeX."""
    return "".join(_SPECIAL.get(letter, letter) for letter in text)


def references() -> dict[str, Path]:
    """Method or data set → its `reference.bib`."""
    return {
        plugin.name: plugin.folder / "reference.bib"
        for kind in plugins.find().values()
        for plugin in kind.values()
        if (plugin.folder / "reference.bib").is_file()
    }


def bibliography(sheets: Sequence[Sheet]) -> str:
    """The entries that tables cite, and those of their data sets."""
    known = references()
    wanted = {name for sheet in sheets for name in (*sheet.methods, sheet.dataset)}
    texts = [
        known[name].read_text(encoding="utf-8").strip() for name in sorted(wanted & set(known))
    ]
    return "\n\n".join([*texts, ""])
