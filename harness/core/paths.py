"""Where the package's own files are, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
CONF = PACKAGE / "conf"
#: the checkout that the package is imported from; of an installed wheel, `site-packages`
CHECKOUT = PACKAGE.parent


def shipped(folder: str, name: str) -> Path:
    """A file or folder that lies in the checkout and is bundled with the wheel.

    Args:
        folder: its folder in the checkout, for example "tests/golden".
        name: the file's name, or "" for the folder itself.
    """
    if (CHECKOUT / "pyproject.toml").is_file() and (CHECKOUT / folder).is_dir():
        return CHECKOUT / folder / name
    return PACKAGE / "_bundled" / Path(folder).name / name
