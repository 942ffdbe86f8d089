"""Colors of the report and the figures, distinguishable with any type of color vision.

The eight series colors have a contrast of at least 3:1 with their background (WCAG 2.2, 1.4.11).
Any two are at least 16 (light) or 24 (dark) apart in CIELAB, with normal vision and with simulated
protanopia, deuteranopia and tritanopia (Machado et al., 2009). Color is never the only cue: series
also have distinct markers, and correct and wrong matches have symbols.
"""

from __future__ import annotations

LIGHT = ("#0b53c1", "#e5301c", "#059376", "#932a90", "#6f9e3b", "#6788fc", "#463c52", "#050f3c")
DARK = ("#6b74ff", "#d9591b", "#41be69", "#c06fd0", "#ffce45", "#b6f0ff", "#7d8383", "#ffffdf")
#: correct and wrong matches on white: Okabe and Ito's blue and vermilion
RIGHT, WRONG = "#0072b2", "#d55e00"
INK, FAINT, LINE = "#16181d", "#5a6069", "#d5d9e0"

#: the report's CSS variables in each color scheme: c… of series, p… of training phases
SCHEMES = {
    "light": {
        "ground": "#fff", "ink": INK, "faint": FAINT, "line": LINE,
        "wash": "#f3f5f8", "accent": "#0b53c1", "warn": "#b3261e",
        "p0": "#0a3a6b", "p1": "#e9a23b", "p2": "#5b9bd5",
        "p3": "#8f2d56", "p4": "#9aa0a8", "p5": "#2f6f4f",
    } | {f"c{place}": color for place, color in enumerate(LIGHT)},
    "dark": {
        "ground": "#15181c", "ink": "#e8eaee", "faint": "#a2a9b4", "line": "#363c45",
        "wash": "#1f242a", "accent": "#8ab4ff", "warn": "#ff9a8f",
        "p0": "#3f7fd0", "p1": "#f0c060", "p2": "#a9d4ff",
        "p3": "#d070a0", "p4": "#8b929c", "p5": "#5fbf8f",
    } | {f"c{place}": color for place, color in enumerate(DARK)},
}  # fmt: skip
