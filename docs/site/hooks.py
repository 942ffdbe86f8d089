"""Pages of the site that are no files of docs/, and links that work in the repository and here.

READMEs, the notebook and the tables of the leaderboard become pages. Links between files of the
repository become links between pages; what is no page is linked in the repository (`repo_url`), or
is plain text without one.
"""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from leaderboard import Page, leaderboard_pages  # beside this file
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page as SitePage

from harness.core import plugins

log = logging.getLogger("mkdocs.hooks.site")  # a warning ends a strict build
ROOT = Path(__file__).resolve().parents[2]
#: file of the repository → page, for those whose paths differ
PAGES = {
    "README.md": "index.md", "results/README.md": "leaderboard/index.md",
    "results/published.md": "leaderboard/published.md", "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}  # fmt: skip
#: other files that are pages, at their own paths
READMES = ("methods/*/README.md", "datasets/*/README.md", "results/searches/*/README.md")
#: pages that the hook writes itself, so that their files are not copied
WRITTEN = ("README.md", "results/README.md")
#: code, which stays as it is, or a link, whose text may contain code
TOKEN = re.compile(
    r"^```.*?^```$|`[^`\n]+`|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)",
    re.DOTALL | re.MULTILINE,
)


def pages() -> dict[str, str]:
    """Path in the repository → path in the site's sources, of every page."""
    found = {path.relative_to(ROOT).as_posix() for glob in READMES for path in ROOT.glob(glob)}
    docs = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    notebooks = [
        f"docs/notebooks/{path.stem}" for path in (ROOT / "docs/notebooks").glob("*.ipynb")
    ]
    return {
        **{path: path for path in found},
        **{path: path.removeprefix("docs/") for path in docs},
        **{f"{path}.ipynb": f"{path.removeprefix('docs/')}.md" for path in notebooks},
        **PAGES,
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add pages and the images that they show, and put them into the navigation."""
    for source, target in pages().items():
        path = ROOT / source
        if source.endswith(".ipynb"):
            files.append(File.generated(config, target, content=notebook_page(path)))
        elif not source.startswith("docs/") and source not in WRITTEN:
            files.append(File.generated(config, target, abs_src_path=str(path)))
            if path.name == "README.md":
                for image in sorted(path.parent.glob("*.png")):
                    shown = image.relative_to(ROOT).as_posix()
                    files.append(File.generated(config, shown, abs_src_path=str(image)))
    tables = leaderboard_pages(ROOT / "results" / "leaderboard")
    for page in tables:
        for name, content in page.files.items():
            files.append(File.generated(config, f"leaderboard/{name}", content=content))
    for kind in ("methods", "datasets"):
        files.append(File.generated(config, f"{kind}/index.md", content=index(kind)))
    assert config.nav is not None
    for section in config.nav:
        (title,) = section
        section[title] = section[title] + _more(title, tables) if title in MORE else section[title]
    return files


MORE = ("Methods", "Data sets", "Leaderboard")


def _more(title: str, tables: list[Page]) -> list[Any]:
    """The entries that a section of the navigation gets besides its own."""
    if title == "Leaderboard":
        sets: dict[str, list[Any]] = {}
        for page in tables[1:]:
            sets.setdefault(page.dataset, []).append({page.title: f"leaderboard/{page.name}.md"})
        published = {"Published numbers": "leaderboard/published.md"}
        searches = [p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob(READMES[2]))]
        return [*({name: found} for name, found in sets.items()), published,
                {"Searches": searches}]  # fmt: skip
    kind = "methods" if title == "Methods" else "datasets"
    return [{name: f"{kind}/{name}/README.md"} for name in sorted(_folders(kind))]


def _folders(kind: str) -> dict[str, str]:
    """Name of each method or data set that has a page → what it is, in a sentence."""
    return {
        plugin.name: plugin.summary
        for plugin in plugins.find()[kind].values()
        if plugin.folder.parent == ROOT / kind and (plugin.folder / "README.md").is_file()
    }


def index(kind: str) -> str:
    """The page that lists methods or data sets."""
    title = {"methods": "Methods", "datasets": "Data sets"}[kind]
    how = {"methods": "add-a-method.md", "datasets": "add-a-data-set.md"}[kind]
    lines = [f"# {title}", "", f"Add your own: [a page says how](../{how}).", ""]
    lines += [f"| `{'method' if kind == 'methods' else 'dataset'}=` | |", "| --- | --- |"]
    for name, summary in sorted(_folders(kind).items()):
        lines.append(f"| [`{name}`]({name}/README.md) | {summary} |")
    return "\n".join([*lines, ""])


def notebook_page(path: Path) -> str:
    """A notebook without outputs as Markdown, with a link to the file."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    title, *rest = parts
    return "\n\n".join([title, f"[Download this notebook]({path.name})", *rest, ""])


def on_page_markdown(markdown: str, page: SitePage, config: MkDocsConfig, files: Files) -> str:
    """Links between files become links between pages; wide tables and the first page get room."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]
    elif page.file.src_uri.startswith("leaderboard/"):
        page.meta["hide"] = ["toc"]
    known = pages()
    sources = {target: source for source, target in known.items() if source not in WRITTEN}
    sources["index.md"] = "docs/index.md"
    source = sources.get(page.file.src_uri)
    if source is None or source.endswith(".ipynb"):
        return markdown
    found, problems = relinked(markdown, source, page.file.src_uri, known, config.repo_url)
    for problem in problems:
        log.warning("%s: %s", source, problem)
    return found


def relinked(
    markdown: str, source: str, page: str, known: dict[str, str], repository: str | None
) -> tuple[str, list[str]]:
    """A file's text with the links of its page, and what is wrong with its links.

    Args:
        source: path of the file in the repository. page: its path in the site's sources.
        known: see `pages`. repository: address of the repository on a code host, if it is known.
    """
    problems = []

    def replaced(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        split = urlsplit(target or "")
        if target is None or split.scheme or not split.path:
            return link[0]
        path = PurePosixPath(os.path.normpath(PurePosixPath(source).parent / split.path)).as_posix()
        anchor = f"#{split.fragment}" if split.fragment else ""
        if path in known or image:
            site = known.get(path, path.removeprefix("docs/"))
            shown = os.path.relpath(site, PurePosixPath(page).parent)
            return f"{image}[{text}]({shown}{anchor})"
        if not (ROOT / path).exists():
            problems.append(f"links to {target}, which does not exist")
        if repository:
            return f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"
        return text

    return TOKEN.sub(replaced, markdown), problems
