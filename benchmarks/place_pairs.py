"""Pairs of photographs out of the figures of the repository MubarizZaffar/CoHOG_Results_RAL2019, for `place_real.py`.

    python benchmarks/place_pairs.py path/to/CoHOG_Results_RAL2019 pairs

writes `gardens/` (200 pairs), `essex/` (210) and `sped/` (607) with `ref/` and `query/`. A figure shows a query, what was
retrieved, and the ground truth, side by side on white, each below its title and 99 pixels wide.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from geohf.io import natural_key

SETS = {"Gardens_Point": "gardens", "ESSEX3IN1": "essex", "SPED_Test": "sped"}
WIDTH, STEP = 99, 118  # pixels of a panel, and from one panel to the next
ABOVE, BELOW = 22, 24  # pixels above and below the tallest panel
DARK = 20  # a pixel further from white than this is none of the margin


def panels(figure: Image.Image) -> tuple[Image.Image, Image.Image]:
    """The query and the ground truth of a figure."""
    ink = 255 - np.asarray(figure.convert("L"), np.int64)
    height, width = ink.shape
    middle = (ABOVE + height - BELOW) / 2  # every panel is centered there
    columns = np.minimum(ink[int(middle) - 15 : int(middle) + 15], DARK).sum(0)
    inside = np.zeros(WIDTH + 2 * STEP, bool)
    for panel in range(3):
        inside[panel * STEP : panel * STEP + WIDTH] = True
    signs = np.where(inside, 1, -1)
    left = int(np.argmax([columns[x : x + len(signs)] @ signs for x in range(width - len(signs) + 1)]))
    cut = []
    for x in (left, left + 2 * STEP):
        dark = (ink[:, x : x + WIDTH] > DARK).mean(1) > 0.1
        bottom = int(np.flatnonzero(dark)[-1]) + 1  # no text stands below a panel, as it does above
        # a pixel less at each side, which the figure's compression mixed with white
        cut.append(figure.crop((x + 1, max(round(2 * middle) - bottom, 0) + 1, x + WIDTH - 1, bottom - 1)))
    return cut[0], cut[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("repository", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    for source, name in SETS.items():
        folders = [options.output / name / part for part in ("query", "ref")]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        figures = sorted((options.repository / source).glob("*.jpg"), key=natural_key)
        for file in figures:
            with Image.open(file) as figure:
                for folder, panel in zip(folders, panels(figure.convert("RGB")), strict=True):
                    panel.save(folder / f"{file.stem}.png")
        print(f"{name}: {len(figures)} pairs")


if __name__ == "__main__":
    main()
