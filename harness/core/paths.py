"""Locations of the package's own files, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf"
#: root of the checkout; `site-packages` for an installed wheel
CHECKOUT = PACKAGE.parent


def shipped(folder: str, name: str) -> Path:
    """A file of the checkout that the wheel bundles.

    Args:
        folder: its folder in the checkout, e.g. "tests/golden".
        name: the file's name, or "" for the folder itself.
    """
    if (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / folder).is_dir():
        return CHECKOUT / folder / name
    return PACKAGE / "_bundled" / Path(folder).name / name
