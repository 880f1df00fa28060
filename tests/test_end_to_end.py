"""All five tasks as a user meets them: train and push; then, elsewhere, load by name, predict and evaluate.

One test a task, and in each one fresh process, which knows nothing but the repo's name. It also runs the code of the
card that the run wrote, as it stands there.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard
from transformers import AutoModel

from geohf.report.tables import format_number

FRESH = """
import json, re, sys

job = json.loads(open(sys.argv[1]).read())
import geohf
from transformers import AutoImageProcessor, AutoModel, pipeline

repo, inputs = job["repo"], job["inputs"]
model = AutoModel.from_pretrained(repo)
report = {
    "model": type(model).__name__,
    "processor": type(AutoImageProcessor.from_pretrained(repo)).__name__,
    "pipeline": pipeline(job["pipeline"], model=repo)(inputs, **job["options"]),
}
from dataclasses import asdict

from geohf.io import plain
from huggingface_hub import ModelCard

report["predict"] = [asdict(answer) for answer in model.predict(inputs, **job["options"])]
report["evaluate"] = model.evaluate(job["data"])
(block,) = re.findall(r"^```python\\n(.*?)^```$", ModelCard.load(repo).text, re.M | re.S)
scope = {}
exec(compile(block, "README.md", "exec"), scope)
report["card"] = scope["answers"]
open(sys.argv[2], "w").write(json.dumps(plain(report)))
"""


@dataclass
class Task:
    """How a task is trained in seconds, and asked.

    Attributes:
        recipe, words: its training recipe and what it is called with.
        pipeline: its name.
        classes: of model and processor.
        asked: from the folders of the run and of the sample to samples that the run has answered, and its answers:
            a dict of numbers for each.
        numbers: from an answer to such a dict.
        held_out: from the folders of the run, of the sample and a new one to data with the rows that the run held out.
        files: from the folder of the sample to what the card's code calls files: name -> file or folder.
        sources: from the folders of the run, the sample and a new one to what recipes/predict.py shall take.
        options: of predict.
    """

    recipe: str
    words: tuple
    pipeline: str
    classes: tuple[str, str]
    asked: Callable[[Path, Path], tuple[list, list[dict]]]
    numbers: Callable[[dict], dict]
    held_out: Callable[[Path, Path, Path], Path]
    files: Callable[[Path], dict[str, Path]]
    sources: Callable[[Path, Path, Path], list] | None = None
    options: Callable[[Path], dict] = lambda run: {}


def photos_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".jpeg"))


def rows_of(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def point_of(answer: dict) -> dict:
    return {name: answer[name] for name in ("latitude", "longitude")}


def predicted_point(row: dict) -> dict:
    return {name: float(row[f"predicted_{name}"]) for name in ("latitude", "longitude")}


# ---- street


def street_asked(run: Path, sample: Path) -> tuple[list, list[dict]]:
    answered = [row for row in rows_of(run / "predictions.csv") if row["split"] == "test"][:3]
    listed = {row["sample_id"]: row for row in rows_of(sample / "train_ground_truth.csv")}
    headings = ("north", "east", "south", "west")
    folder = sample / "train_images"
    places = [{h: str(folder / listed[row["sample_id"]][f"image_{h}"]) for h in headings} for row in answered]
    return places, list(map(predicted_point, answered))


def street_held_out(run: Path, sample: Path, data: Path) -> Path:
    shutil.copytree(sample / "train_images", data / "train_images")
    kept = {row["sample_id"] for row in rows_of(run / "predictions.csv") if row["split"] == "test"}
    truth = pd.read_csv(sample / "train_ground_truth.csv", dtype=str)
    truth[truth["sample_id"].isin(kept)].to_csv(data / "train_ground_truth.csv", index=False)
    return data


def street_files(sample: Path) -> dict[str, Path]:
    photos = photos_of(sample / "train_images")
    return dict(zip(("n.jpg", "e.jpg", "s.jpg", "w.jpg", "photo.jpg"), photos, strict=False))


# ---- region


def region_asked(run: Path, sample: Path) -> tuple[list, list[dict]]:
    rows = rows_of(run / "predictions.csv")[:3]
    files = {path.name: str(path) for path in photos_of(sample / "images_val")}
    return [files[row["filename"]] for row in rows], list(map(predicted_point, rows))


# ---- parts


def parts_asked(run: Path, sample: Path) -> tuple[list, list[dict]]:
    scores: dict[str, dict] = {}
    for row in rows_of(run / "inspection.csv"):
        found = scores.setdefault(row["image_id"], {})
        if float(row["score"]) > 0:  # of parts that are not there, too; 0 where there is no box at all
            found[row["part"]] = float(row["score"])
    return [str(sample / "train" / name) for name in scores], list(scores.values())


def part_scores(answer: dict) -> dict:
    best: dict[str, float] = {}
    for part in answer["parts"]:
        best[part["part"]] = max(part["score"], best.get(part["part"], 0.0))
    return best


def parts_held_out(run: Path, sample: Path, data: Path) -> Path:
    kept = {row["image_id"] for row in rows_of(run / "inspection.csv")}
    listed = json.loads((sample / "train_annotations.json").read_text())
    (data / "train").mkdir(parents=True)
    for name in kept:
        shutil.copy(sample / "train" / name, data / "train" / name)
    some = {name: parts for name, parts in listed.items() if name in kept}
    (data / "train_annotations.json").write_text(json.dumps(some))
    return data


# ---- place


def place_asked(run: Path, sample: Path) -> tuple[list, list[dict]]:
    rows = rows_of(run / "predictions.csv")[:3]
    files = {path.name: str(path) for path in photos_of(sample)}
    return [files[row["image"]] for row in rows], list(map(predicted_point, rows))


def place_held_out(run: Path, sample: Path, data: Path) -> Path:
    asked = {Path(row["image"]).stem for row in rows_of(run / "predictions.csv")}
    shutil.copytree(sample / "images", data / "images")
    for old, new in (("noon", "database"), ("dusk", "queries")):  # the first one by name is searched in
        shutil.copytree(sample / old, data / new)
    frame = pd.read_csv(data / "queries" / "poses.csv", dtype=str)
    frame[frame["t_nsec"].isin(asked)].to_csv(data / "queries" / "poses.csv", index=False)
    return data


# ---- tiles


def tiles_asked(run: Path, sample: Path) -> tuple[list, list[dict]]:
    import rasterio

    samples, rows = [], rows_of(run / "predictions.csv")[:3]
    for row in rows:
        x0, y0, x1, y1 = map(int, row["region_coordinates"].strip("()").split(","))
        frames = []
        for year in range(2016, 2022):
            with rasterio.open(sample / "Images" / str(year) / f"{row['region_id']}.tif") as raster:
                frames.append(raster.read().transpose(1, 2, 0)[y0:y1, x0:x1].tolist())
        samples.append({"frames": frames, "last_values": float(row["last_target"])})
    return samples, [{"target": float(row["predicted_target"])} for row in rows]


def tiles_table(run: Path, sample: Path, data: Path, years=range(2016, 2023)) -> Path:
    regions = {row["region_id"] for row in rows_of(run / "predictions.csv")}
    for year in years:
        shutil.copytree(sample / "Images" / str(year), data / "Images" / str(year))
    frame = pd.read_csv(sample / "tiles.csv", dtype=str)
    here = frame["region_id"].isin(regions) & frame["label_id"].isin(map(str, years))
    frame[here].to_csv(data / "tiles.csv", index=False)
    return data


def tiles_until_2021(run: Path, sample: Path, data: Path) -> list:
    return [tiles_table(run, sample, data, range(2016, 2022))]


TASKS = {
    "street": Task(
        "train_streetclip",
        ("--sample_size", 2, "--num_train_epochs", 0, "--head_min_steps", 60, "--map_places", 20),
        "street-geolocation",
        ("GeoStreetModel", "GeoStreetImageProcessor"),
        street_asked,
        point_of,
        street_held_out,
        street_files,
    ),
    "region": Task(
        "train_region",
        ("--sample_size", 40, "--num_train_epochs", 1, "--experts", "shared"),
        "geo-region",
        ("GeoRegionModel", "GeoRegionImageProcessor"),
        region_asked,
        point_of,
        lambda run, sample, data: sample,
        lambda sample: {"photo.jpg": photos_of(sample)[0]},
    ),
    "parts": Task(
        "train_parts",
        ("--sample_size", 24, "--num_train_epochs", 4, "--overlays", 1, "--augment", "false"),
        "part-state-detection",
        ("PartStateModel", "PartImageProcessor"),
        parts_asked,
        part_scores,
        parts_held_out,
        lambda sample: {"photo.jpg": photos_of(sample)[0]},
        options=lambda run: {"threshold": 0.0},
    ),
    "place": Task(
        "train_place",
        ("--sample_size", 160, "--num_train_epochs", 2, "--methods", "ours", "--image_size", 64, "--block_m", 100, "--negative_m", 30,
         "--positive_m", 10),
        "place-recognition",
        ("GeoPlaceModel", "GeoPlaceImageProcessor"),
        place_asked,
        point_of,
        place_held_out,
        lambda sample: {"photo.jpg": photos_of(sample)[0], "drive": sample / "noon", "images": sample / "images"},
        options=lambda run: {"index": str(run / "index.parquet")},
    ),
    "tiles": Task(
        "train_tiles",
        ("--sample_size", 7, "--num_train_epochs", 1, "--hidden_sizes", 8, "--target_years", 1),
        "tile-sequence-regression",
        ("TileSequenceModel", "TileSequenceProcessor"),
        tiles_asked,
        lambda answer: answer["values"],
        tiles_table,
        lambda sample: {f"{year}.tif": sample / "Images" / str(year) / "1201.tif" for year in range(2016, 2022)},
        tiles_until_2021,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TASKS)
def test_train_push_load_predict_and_evaluate(name, hub, recipe, run_python, tmp_path, monkeypatch):
    task, repo = TASKS[name], f"org/geo-{name}"
    monkeypatch.setenv("GEOHF_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    done = recipe(
        task.recipe, "--output_dir", f"outputs/{name}", *task.words, "--use_cpu", "true", "--disable_tqdm", "true",
        "--push_to_hub", "true", "--hub_model_id", repo, "--hub_token", hub.token,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = tmp_path / "outputs" / name
    (sample,) = (path for path in run.parent.iterdir() if "sample" in path.name)
    metrics = json.loads((run / "metrics.json").read_text())
    check_repo(hub.files(repo), hub.token, tmp_path)
    check_card(ModelCard.load(repo), run, repo, metrics)

    # elsewhere
    inputs, expected = task.asked(run, sample)
    data = task.held_out(run, sample, tmp_path / "held-out")
    report = ask_fresh_process(run_python, task, tmp_path / "elsewhere", sample, repo, inputs, run, data)
    assert (report["model"], report["processor"]) == task.classes
    for way in ("predict", "pipeline"):
        for answer, numbers in zip(report[way], expected, strict=True):
            found = task.numbers(answer)  # of more parts than a run lists, where no score is too low
            assert {key: found[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-4)
    assert len(report["card"]) == 1
    assert report["card"][0].keys() == report["pipeline"][0].keys()
    agree(report["evaluate"], metrics["eval"])
    known = sum(value is not None for value in report["evaluate"].values())

    # the recipes, by the repo's name
    monkeypatch.chdir(tmp_path)
    done = recipe("evaluate", repo, data, "--output", "measured.json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    agree(json.loads(Path("measured.json").read_text()), report["evaluate"], least=known)
    flags = [word for key, value in task.options(run).items() for word in (f"--{key}", value)]
    sources = inputs if task.sources is None else task.sources(run, sample, tmp_path / "until")
    if name == "street":  # files are places of one view
        sources = [place["east"] for place in inputs]
        expected = [point_of(asdict(answer)) for answer in AutoModel.from_pretrained(run).predict(sources)]
    done = recipe("predict", repo, *sources, "--output", "answers.csv", "--device", "cpu", *flags)
    assert done.returncode == 0, done.stderr
    rows = pd.read_csv("answers.csv")
    if name == "parts":
        found = rows.dropna(subset="score").groupby(["input", "part"])["score"].max()
        wanted = {
            (Path(photo).name, part): s
            for photo, e in zip(inputs, expected, strict=True)
            for part, s in e.items()
        }
        assert {(Path(photo).name, part): s for (photo, part), s in found.items()} == pytest.approx(
            wanted, abs=1e-3
        )
    else:
        for row, numbers in zip(rows.to_dict("records"), expected, strict=False):
            assert {key: row[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-4)
        assert len(rows) >= len(expected)
    done = recipe("push", run, f"someone/{name}-again", "--private")
    assert done.returncode == 0, done.stderr
    again = hub.files(f"someone/{name}-again")
    assert again["model.safetensors"] == hub.files(repo)["model.safetensors"]
    moved = ModelCard(again["README.md"].decode())
    assert f'from_pretrained("someone/{name}-again")' in moved.text
    assert f"# {name}-again\n" in moved.text
    assert moved.data.model_name == f"{name}-again"
    assert moved.data.eval_results == ModelCard.load(repo).data.eval_results


def ask_fresh_process(run_python, task, folder, sample, repo, inputs, run, data) -> dict:
    """What a new process in an empty folder, but for the files that the card's code names, answers."""
    folder.mkdir()
    for file, source in task.files(sample).items():
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / file)
    job = {
        "repo": repo, "pipeline": task.pipeline, "inputs": inputs, "options": task.options(run), "data": str(data),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(job))
    run_python(FRESH, "job.json", "report.json", cwd=folder)
    return json.loads((folder / "report.json").read_text())


def agree(found: dict, expected: dict, least: int = 3) -> None:
    """The numbers that both have are the same."""
    shared = {
        name for name in found if isinstance(expected.get(name), (int, float)) and found[name] is not None
    }
    assert len(shared) >= least, (found, expected)
    assert {name: found[name] for name in shared} == pytest.approx(
        {name: expected[name] for name in shared}, rel=2e-3, abs=1e-4
    )


def check_repo(files: dict[str, bytes], token: str, folder: Path) -> None:
    """Only data, and nothing that is nobody's business."""
    for file, content in files.items():
        assert not file.endswith((".py", ".bin", ".pt", ".pkl", ".joblib")), file
        if not file.endswith((".png", ".safetensors")):
            assert str(folder) not in content.decode(), file
            assert token not in content.decode(), file


def check_card(card: ModelCard, run: Path, repo: str, metrics: dict) -> None:
    """Its numbers are those of the run, in its metadata and in its words; its pictures are there."""
    results = {result.metric_type: result for result in card.data.eval_results}
    assert len(results) >= 3
    for key, result in results.items():
        assert result.metric_value == metrics["eval"][key]
        assert result.dataset_name == "generated sample"
        (row,) = (line for line in card.text.splitlines() if line.startswith(f"| {result.metric_name} "))
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert cells[1] == format_number(metrics["eval"][key])
        ends = metrics["intervals"].get(key)
        assert cells[2] == ("–" if ends is None else " to ".join(map(format_number, ends)))
        assert cells[3] == format_number(metrics["baseline"].get(key))
    assert set(metrics["intervals"]) <= set(metrics["eval"])
    assert (card.data.license, card.data.library_name) == ("mit", "geohf")
    assert card.data.model_name == repo.partition("/")[2]
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", card.text)
    assert len(pictures) >= 3
    links = [link for link in re.findall(r"\]\(([^)]*)\)", card.text) if not link.startswith("https://")]
    assert all((run / link).is_file() for link in links)
    assert f"--output_dir outputs/{run.name}" in card.text
    assert "--hub_token" not in card.text
    for heading in (
        "Use",
        "Numbers",
        "Intended use",
        "Out of scope",
        "Limits",
        "Ethics",
        "License",
        "Citation",
    ):
        assert f"\n## {heading}\n" in card.text
    assert "Trained on generated" in card.text
