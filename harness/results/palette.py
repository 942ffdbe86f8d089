"""Colors that are distinguishable with any color vision, for pages and figures.

Eight for lines and points, on white and on near-black. Each has a contrast of 3:1 or more with its
ground (WCAG 2.2, 1.4.11). Any two are 16 (on white) and 24 (on black) apart in CIELAB or more, with
normal vision and with simulated protanopia, deuteranopia and tritanopia (Machado et al., 2009). No
colour stands alone: lines have labels and marks of their own, right and wrong have symbols.
"""

from __future__ import annotations

LIGHT = ("#0b53c1", "#e5301c", "#059376", "#932a90", "#6f9e3b", "#6788fc", "#463c52", "#050f3c")
DARK = ("#6b74ff", "#d9591b", "#41be69", "#c06fd0", "#ffce45", "#b6f0ff", "#7d8383", "#ffffdf")
#: of a right and of a wrong match on white: Okabe and Ito's blue and vermilion
RIGHT, WRONG = "#0072b2", "#d55e00"
