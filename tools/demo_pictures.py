"""Remake the pictures of docs/demo.md: the demo of each task, of models that were trained on the generated samples.

    for task in region street parts place tiles; do geohf train $task; done
    python tools/demo_pictures.py outputs docs/demo

Needs `geohf[demo]`, Playwright (`pip install playwright`) and Chromium on the path.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from geohf.demo.app import launch, make_app
from geohf.vision.formats import is_image_name

TASKS = ("region", "street", "parts", "place", "tiles")
WIDE, COLORS = 900, 128
PATIENCE_MS = 300_000


def uploads_of(task: str, run: Path, sample: Path, folder: Path) -> list[Path]:
    """What is uploaded: photographs of the sample, or the images of a tile."""
    if task == "tiles":
        count = json.loads((run / "config.json").read_text())["frames"]
        times = sorted(path for path in (sample / "Images").iterdir() if path.is_dir())[:count]
        region = sorted(path.name for path in times[-1].iterdir())[1]
        for time in times:
            with Image.open(time / region) as image:
                image.convert("RGB").crop((96, 96, 128, 128)).save(folder / f"{time.name}.png")
        return sorted(folder.iterdir())
    if task == "place":  # of the drive that is looked for
        with open(sample / "dusk" / "poses.csv", newline="") as file:
            photos = [sample / row["img_relpath"] for row in csv.DictReader(file)]
    else:
        photos = sorted(path for path in sample.rglob("*") if is_image_name(path))
    count = 1 if task == "parts" else 2
    return [photos[(2 * i + 1) * len(photos) // (2 * count)] for i in range(count)]


def take(browser: Browser, runs: Path, task: str, target: Path) -> None:
    """Start the demo of a run, upload, ask, and keep the page as a PNG of few colors."""
    (sample,) = runs.glob(f"{task}-sample*")
    known = {}
    if task == "place":
        known = {"index": runs / task / "index.parquet", "photos": sample / "images" / "front_left_center"}
    app = make_app(runs / task, "cpu", **known)
    address = launch(app, block=False)
    page = browser.new_page(viewport={"width": WIDE, "height": 700})
    page.set_default_timeout(PATIENCE_MS)
    page.goto(address)
    with tempfile.TemporaryDirectory() as folder:
        uploads = uploads_of(task, runs / task, sample, Path(folder))
        page.locator("input[type=file]").set_input_files(uploads)
        page.get_by_text(uploads[-1].stem).first.wait_for()
        if task == "tiles" and page.get_by_label("Last known values").is_visible():
            page.get_by_label("Last known values").fill("0.3")
        page.get_by_role("button", name="Answer", exact=True).click()
        page.locator(".geohf-answer, .geohf-strip, .geohf-error").first.wait_for()
        page.wait_for_timeout(2000)  # the map has drawn itself
        page.screenshot(path=Path(folder) / "page.png", full_page=True)
        with Image.open(Path(folder) / "page.png") as picture:
            picture.convert("RGB").quantize(COLORS).save(target / f"{task}.png", optimize=True)
    page.close()
    app.close()


def main() -> None:
    runs, target, *tasks = (*map(Path, sys.argv[1:3]), *sys.argv[3:])
    target.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"),
            args=["--no-sandbox", "--no-proxy-server"],
        )
        for task in tasks or TASKS:
            take(browser, runs, task, target)
        browser.close()


if __name__ == "__main__":
    main()
