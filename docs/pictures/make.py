"""Make the pictures of README, docs/report.md and the synthetic data set: `python
docs/pictures/make.py` in the checkout.

This trains MSKD on synthetic persons first (minutes on two cores) unless results/runs has that run.
Chromium and the test extra show the page. All persons in these pictures are rendered.
"""

from __future__ import annotations

import base64
import io
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from selenium import webdriver

from harness.cli.main import main
from harness.experiment.compose import compose
from harness.experiment.stages import load_data

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "datasets" / "synthetic" / "examples.png"
SHOWN = ("ranked", "embedding", "curves", "maps")
OPTIONS = ("--queries", "random", "--seed", "4", "--count", "2", "--top", "8")
#: name → width, height, color scheme, scale
PAGES = {
    "leaderboard.png": (1000, 745, "light", 0.8),
    "report.png": (1280, 1560, "light", 0.7),
    "report-narrow.png": (400, 820, "dark", 0.8),
}
#: what the pictures show: the table of rendered persons, and for README without the page's filters
SHOWN_PART = """
const part = document.querySelector("section.leaderboard[data-dataset=synthetic]");
if (arguments[0]) { document.body.replaceChildren(part); } else { part.scrollIntoView(); }
"""


def shrink(picture: bytes, path: Path) -> None:
    """Write a PNG of 256 colors: the 64 most frequent ones exactly, the others approximately."""
    with Image.open(io.BytesIO(picture)) as image:
        whole = image.convert("RGB")
    spread = whole.quantize(192, Image.Quantize.MAXCOVERAGE).convert("RGB")
    pixels = np.asarray(whole).reshape(-1, 3)
    colors, place, counts = np.unique(pixels, axis=0, return_inverse=True, return_counts=True)
    others = np.unique(np.asarray(spread).reshape(-1, 3), axis=0)
    palette = np.concatenate([colors[np.argsort(-counts)[:64]], others])[:256]
    nearest = np.concatenate([
        ((part[:, None].astype(int) - palette) ** 2).sum(2).argmin(1)
        for part in np.array_split(colors, len(colors) // 4096 + 1)
    ])  # fmt: skip
    few = Image.fromarray(nearest[place.ravel()].astype(np.uint8).reshape(whole.size[::-1]), "P")
    few.putpalette(palette.astype(np.uint8).tobytes())
    few.save(path, optimize=True)


def pictures(folder: Path) -> None:
    """The figures of `harness show`."""
    main(["run", "method=mskd", "dataset=synthetic", "seed=0"])
    main(["show", "mskd-synthetic-s0", *SHOWN, *OPTIONS, "--output", str(folder)])
    for path in folder.glob("*.png"):
        shrink(path.read_bytes(), HERE / f"{path.stem.removesuffix('-student')}.png")


def pages(folder: Path) -> None:
    """Screenshots of `harness report`."""
    page = folder / "report.html"
    main(["report", "--store", "results/leaderboard", "--output", str(page)])
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--hide-scrollbars"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options, service) as browser:
        for name, (width, height, scheme, scale) in PAGES.items():
            size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False}
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            browser.get(f"{page.as_uri()}?{name}")
            browser.execute_script(SHOWN_PART, name == "leaderboard.png")
            time.sleep(2)  # charts are drawn when they come into view
            shot = browser.execute_cdp_cmd("Page.captureScreenshot", {})["data"]
            shrink(base64.b64decode(shot), HERE / name)


def examples() -> None:
    """Two images per camera of the first four identities, and bad detections below."""
    data = load_data(compose(["method=direct_transfer", "dataset=synthetic"]))
    train, gallery = data.train, data.gallery
    rows = [
        [
            [train.images.read(i) for i in np.flatnonzero(mine & (train.cameras == camera))[:2]]
            for camera in range(5)
        ]
        for mine in (train.identities == identity for identity in range(1, 5))
    ]
    bad = [gallery.images.read(i) for i in np.flatnonzero(gallery.identities == 0)[:10]]
    rows.append([bad[i : i + 2] for i in range(0, 10, 2)])
    sheet = Image.new("RGB", (10 * 34 - 2, 5 * 66 - 2), "white")
    for y, row in enumerate(rows):
        for camera, pair in enumerate(row):
            for x, image in enumerate(pair, 2 * camera):
                sheet.paste(Image.fromarray(np.asarray(image)), (34 * x, 66 * y))
    whole = io.BytesIO()
    sheet.save(whole, "PNG")
    shrink(whole.getvalue(), EXAMPLES)


if __name__ == "__main__":
    examples()
    with tempfile.TemporaryDirectory() as made:
        pictures(Path(made))
        pages(Path(made))
