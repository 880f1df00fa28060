"""Every task at the size of its original: from the start of the process to the first training step, cold and warm.

    OMP_NUM_THREADS=1 python benchmarks/bench_real_size.py
    OMP_NUM_THREADS=1 python benchmarks/bench_real_size.py --share 0.1 --tasks street

All data are generated: a thousand small JPEG files under as many names as the original has (hard links), positions and
labels drawn by lot. A cold start checks every picture and cuts every tile, a warm one finds that in the cache, as a
resume and the other processes of a run do. Both load, split, build a tiny network and train one batch; the features of a
frozen network are not computed, they would be the same for every loader. Columns: seconds by the clock until the data are
split and until the first step is done, imports included; CPU seconds of all threads and processes; peak memory.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

START = time.monotonic()
YEARS = range(2016, 2023)
PICTURES, SIDE = 1000, 96


def link_pictures(folder: Path, inodes: list[Path], names: list[str]) -> None:
    for parent in {os.path.dirname(name) for name in names}:
        (folder / parent).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        os.link(inodes[number % len(inodes)], folder / name)


def write_pictures(folder: Path) -> list[Path]:
    """Photographs of different content, of 3 to 5 kB."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    rng, paths = np.random.default_rng(0), []
    for number in range(PICTURES):
        patches = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        paths.append(folder / f"{number}.jpg")
        patches.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(paths[-1], quality=90)
    return paths


def write_street(folder: Path, inodes: list[Path], share: float) -> str:
    import numpy as np
    import pandas as pd

    from geohf.street.places import US_STATES

    states, rng = sorted(US_STATES), np.random.default_rng(1)
    views = ("north", "east", "south", "west")
    for table, images, count in (
        ("train_ground_truth.csv", "train_images", round(65_980 * share)),
        ("sample_submission.csv", "test_images", round(16_495 * share)),
    ):
        link_pictures(
            folder / images, inodes, [f"{i:06d}_{view}.jpg" for i in range(count) for view in views]
        )
        frame = pd.DataFrame({"sample_id": range(count)})
        for view in views:
            frame[f"image_{view}"] = [f"{i:06d}_{view}.jpg" for i in range(count)]
        if images == "train_images":
            index = rng.integers(0, len(states), count)
            frame["state"], frame["state_idx"] = [states[i] for i in index], index
            frame["latitude"] = 31 + 3 * (index // 8) + rng.uniform(0, 2, count)
            frame["longitude"] = -120 + 6 * (index % 8) + rng.uniform(0, 4, count)
        else:
            for rank in range(1, 6):
                frame[f"predicted_state_idx_{rank}"] = 0
            frame["predicted_latitude"] = frame["predicted_longitude"] = 0.0
        frame.to_csv(folder / table, index=False)
    pd.DataFrame({"state_idx": range(len(states)), "state": states}).to_csv(
        folder / "state_mapping.csv", index=False
    )
    return f"{round(65_980 * share):,} places of 4 photographs, {round(16_495 * share):,} to predict"


def write_region(folder: Path, inodes: list[Path], share: float) -> str:
    import numpy as np
    import pandas as pd

    count, rng = round(100_000 * share), np.random.default_rng(2)
    names = [f"{i % 100}/{i}.jpg" for i in range(count)]
    link_pictures(folder / "images", inodes, names)
    region = rng.integers(0, 40, count)
    frame = pd.DataFrame({"filename": names, "Region_ID": region})
    frame["latitude"] = 48 + 0.01 * (region // 8) + rng.normal(0, 0.001, count)
    frame["longitude"] = 2 + 0.01 * (region % 8) + rng.normal(0, 0.001, count)
    frame.to_csv(folder / "table.csv", index=False)
    return f"{count:,} rows of 40 regions"


def write_parts(folder: Path, inodes: list[Path], share: float) -> str:
    import numpy as np

    count, parts, rng = round(10_000 * share), 22, np.random.default_rng(3)
    names = [f"{i}.jpg" for i in range(count)]
    link_pictures(folder / "train", inodes, names)
    boxes = np.c_[rng.integers(0, 60, (count * parts, 2)), rng.integers(8, 30, (count * parts, 2))]
    states = rng.integers(0, 2, count * parts)
    content = {
        "categories": [{"id": i, "name": f"part {i}"} for i in range(parts)],
        "states": [{"id": i, "name": name} for i, name in enumerate(("intact", "damaged"))],
        "images": [
            {"id": i, "file_name": name, "width": SIDE, "height": SIDE} for i, name in enumerate(names)
        ],
        "annotations": [
            {"id": i, "image_id": i // parts, "category_id": i % parts, "bbox": box, "state": state}
            for i, (box, state) in enumerate(zip(boxes.tolist(), states.tolist(), strict=True))
        ],
    }
    (folder / "train_coco.json").write_text(json.dumps(content))
    return f"{count:,} photographs of {parts} parts (COCO)"


def write_drives(folder: Path, inodes: list[Path], count: int) -> str:
    """Two drives to and fro through one town, a picture every five meters."""
    import numpy as np
    import pandas as pd

    half = count // 2
    line, along = np.divmod(np.arange(half), 2000)
    along = np.where(line % 2, 1999 - along, along)
    for number, drive in enumerate(("noon", "dusk")):
        names = [f"images/{i // 1000}/{i}.jpg" for i in range(half)]
        link_pictures(folder / drive, inodes[number::2], names)
        frame = pd.DataFrame({"image": names})
        frame["lat"] = 36 + 1e-5 * number + line * 60 / 111_195
        frame["lon"] = 127 + along * 5 / 89_960
        frame["heading"] = np.where(line % 2, 270.0, 90.0)
        frame["t_nsec"] = 1_600_000_000_000_000_000 + number * 10**15 + np.arange(half) * 10**9
        frame.to_csv(folder / drive / "drive.csv", index=False)
    return f"{2 * half:,} pictures of 2 drives"


def write_tiles(folder: Path, inodes: list[Path], share: float) -> str:
    import numpy as np
    import pandas as pd
    import rasterio

    regions, side, across = max(2, round(20 * share)), 44, 46
    pixels, rng = across * side, np.random.default_rng(4)
    profile = {"driver": "GTiff", "width": pixels, "height": pixels, "count": 3, "dtype": "uint8"}
    profile |= {"crs": "EPSG:32632", "compress": "deflate", "tiled": True}
    for number in range(regions):
        for year in YEARS:
            (folder / "Images" / str(year)).mkdir(parents=True, exist_ok=True)
            path = folder / "Images" / str(year) / f"{number}.tif"
            grid = rng.integers(0, 256, (3, across, across), dtype=np.uint8)
            where = rasterio.transform.from_origin(5e5 + number * 1e5, 5e6, 10, 10)
            with rasterio.open(path, "w", transform=where, **profile) as raster:
                raster.write(grid.repeat(side, 1).repeat(side, 2))
    y, x = np.mgrid[:across, :across].reshape(2, -1) * side
    boxes = [f"({a}, {b}, {a + side}, {b + side})" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    frames = []
    for year in YEARS:
        frame = pd.DataFrame({"region_coordinates": boxes * regions})
        frame.insert(0, "tile_id", range(len(frame)))
        frame["region_id"], frame["label_id"] = np.repeat(range(regions), len(boxes)), year
        frame["target"] = rng.uniform(0, 1, len(frame)).round(4)
        frames.append(frame)
    pd.concat(frames).to_csv(folder / "tiles.csv", index=False)
    return f"{len(boxes) * regions:,} tiles of {len(YEARS)} years in {regions} regions"


def settings(folder: Path, **more):
    return {
        "output_dir": str(folder / "out"),
        "max_steps": 1,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "eval_strategy": "no",
        "load_best_model_at_end": False,
        **more,
    }


def start_street(folder: Path):
    from geohf.street.arguments import StreetArguments, StreetTrainingArguments
    from geohf.street.data import load
    from geohf.street.features import FlatViews
    from geohf.street.modeling import make_model
    from geohf.street.phase import StreetPhaseTrainer

    options = StreetArguments(data=str(folder), backbone="test_resnet", pretrained=False, image_size=64)
    args = StreetTrainingArguments(**settings(folder))
    data = load(options, args)
    yield
    views = FlatViews(data.train)
    assert sum(1 for _ in views) == len(views)  # what the key of the cached features asks for
    StreetPhaseTrainer(make_model(options, data), args, train_dataset=data.train).train()


def start_region(folder: Path):
    from geohf.region.arguments import RegionArguments, RegionTrainingArguments
    from geohf.region.data import load
    from geohf.region.modeling import make_model
    from geohf.region.phase import RegionPhaseTrainer

    options = RegionArguments(
        train_csv=str(folder / "table.csv"), train_dir=str(folder / "images"), experts="shared"
    )
    options.backbone, options.pretrained, options.image_size = "test_resnet", False, 64
    data = load(options)
    yield
    model = make_model(options, data)
    RegionPhaseTrainer(model, RegionTrainingArguments(**settings(folder)), train_dataset=data.train).train()


def start_parts(folder: Path):
    from geohf.parts.arguments import PartArguments, PartTrainingArguments
    from geohf.parts.data import load
    from geohf.parts.modeling import make_model
    from geohf.parts.phase import PartPhaseTrainer

    options = PartArguments(data=str(folder), backbone="test_byobnet", pretrained=False, image_size=[96, 96])
    data = load(options)
    yield
    model = make_model(options, data)
    args = PartTrainingArguments(**settings(folder, per_device_train_batch_size=2))
    PartPhaseTrainer(model, args, train_dataset=data.train).train()


def start_place(folder: Path):
    from geohf.place.arguments import PlaceArguments, PlaceTrainingArguments
    from geohf.place.data import load
    from geohf.place.modeling import make_model
    from geohf.place.phase import PlacePhaseTrainer, make_sampler

    options = PlaceArguments(train_csv=[str(folder / name / "drive.csv") for name in ("noon", "dusk")])
    options.pretrained, options.image_size = False, 64
    options.models = ["test_resnet"]
    data = load(options)  # the audit, too
    yield
    model = make_model(options, data)
    args = PlaceTrainingArguments(**settings(folder, per_device_train_batch_size=16))
    sampler = make_sampler(data.train, model.config, args)
    PlacePhaseTrainer(model, args, train_dataset=data.train, sampler=sampler).train()


def start_tiles(folder: Path):
    from geohf.tiles.arguments import TileArguments, TileTrainingArguments
    from geohf.tiles.data import load
    from geohf.tiles.modeling import make_model
    from geohf.tiles.phase import TilePhaseTrainer

    options, args = TileArguments(data=str(folder / "tiles.csv")), TileTrainingArguments(**settings(folder))
    data = load(options, args)
    yield
    model = make_model(options, data)
    TilePhaseTrainer(model, args, train_dataset=data.train).train()


# name -> (what writes its data, what starts its training)
TASKS = {
    "street": (write_street, start_street),
    "region": (write_region, start_region),
    "parts": (write_parts, start_parts),
    "place, two drives": (lambda *given: write_drives(*given[:2], round(26_000 * given[2])), start_place),
    "place, a town": (lambda *given: write_drives(*given[:2], round(471_000 * given[2])), start_place),
    "tiles": (write_tiles, start_tiles),
}


def start(task: str, folder: Path) -> dict:
    """One start in this process: seconds until the data are split and until the first step is done."""
    import torch

    torch.set_num_threads(1)
    steps = TASKS[task][1](folder)
    next(steps)
    loaded = time.monotonic() - START
    next(steps, None)
    stepped = time.monotonic() - START
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(part.ru_utime + part.ru_stime for part in usage)
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) / 1024
    return {"split_s": loaded, "step_s": stepped, "cpu_s": cpu, "peak_mib": peak}


def measured(task: str, folder: Path, share: float, inodes: list[Path]) -> tuple[str, dict[str, dict]]:
    """The size of a task's data, and a cold and a warm start."""
    size, found = TASKS[task][0](folder, inodes, share), {}
    for way in ("cold", "warm"):
        command = [sys.executable, __file__, "--start", task, "--folder", str(folder)]
        environment = os.environ | {"GEOHF_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{task}, {way}: {done.stderr[-2000:]}")
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"{task}, {way}: {found[way]}", file=sys.stderr, flush=True)
    return size, found


def main() -> None:
    from measure import Row, make_parser

    from geohf.report.tables import markdown_table

    parser = make_parser(__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the original's size")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--start", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the data are written; default: a temporary folder")
    options = parser.parse_args()
    if options.start:
        print(json.dumps(start(options.start, options.folder)))
        return
    shown, rows = [], []
    for task in options.tasks:
        with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as folder:
            inodes = write_pictures(Path(folder, "pictures"))
            size, found = measured(task, Path(folder, "data"), options.share, inodes)
        for way, numbers in found.items():
            words = {"data split, s": "split_s", "first step, s": "step_s", "CPU, s": "cpu_s"}
            row = {name: round(numbers[key], 1) for name, key in words.items()}
            shown.append(
                {"task": task, "size": size, "start": way} | row | {"peak, MiB": round(numbers["peak_mib"])}
            )
        goal = 30.0 if task == "street" and options.share == 1 else None
        against = f"{size}; cold {found['cold']['step_s']:.0f} s, {found['warm']['peak_mib']:.0f} MiB"
        rows.append(
            Row(f"{task}: a warm start to the first step", against, found["warm"]["step_s"], goal, True, "s")
        )
    print("\n" + markdown_table(shown))
    if options.json:
        Path(options.json).write_text(json.dumps([vars(row) for row in rows], indent=2) + "\n")


if __name__ == "__main__":
    main()
