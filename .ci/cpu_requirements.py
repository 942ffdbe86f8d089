"""Print what the installed package needs without a GPU: faiss-cpu in place of faiss-gpu.

Arguments: names of extras.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import requires

EXTRA = re.compile(r"""extra == ['"]([\w-]+)['"]""")


def needed(requirements: list[str], extras: list[str]) -> list[str]:
    """Requirements without faiss, and those of extras without their markers."""
    chosen = ["faiss-cpu>=1.10"]
    for line in requirements:
        extra = EXTRA.search(line)
        if line.startswith("faiss") or (extra and extra[1] not in extras):
            continue
        chosen.append(line.partition(";")[0].strip() if extra else line)
    return chosen


if __name__ == "__main__":
    print(*needed(requires("usl-reid-harness") or [], sys.argv[1:]), sep="\n")
