"""The whole run: what it leaves, what it measures, what it refuses; the Hub and the command line."""

import json
import re

import numpy as np
import pytest
import torch
from helpers.place_models import along, parse, rows_of, write_csv, write_pictures
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

from geohf.data.tables import points_of
from geohf.data.task_data import facts_of
from geohf.errors import DataError
from geohf.hub.files import push_folder
from geohf.place import GeoPlaceModel, PlaceIndex, recall_at_n
from geohf.place.audit import audit, near_duplicates, report_leaks, used_before
from geohf.place.comparison import comparison_rows
from geohf.place.data import load
from geohf.place.drives import files_of, load_drives
from geohf.place.logs import COLUMNS
from geohf.recipes.train_place import run as run_place

# ---- what a run leaves


def test_ours_learns_more_than_the_frozen_tower_and_than_the_original(finished):
    r5 = {
        (run.method, run.args.seed): run.evaluated.values_by_name["recall@5_has_match_25m"]
        for run in finished.result.runs
    }
    frozen = np.mean([run.evaluated.baseline["recall@5_has_match_25m"] for run in finished.result.runs])
    ours, original = (np.mean([r5[method, seed] for seed in (1, 2)]) for method in ("ours", "original"))
    assert ours > frozen + 0.2
    assert ours > original + 0.05


def test_everything_is_left_on_disk(finished):
    names = {str(path.relative_to(finished.folder)) for path in finished.folder.rglob("*") if path.is_file()}
    assert names >= {
        *("config.json", "model.safetensors", "preprocessor_config.json", "README.md", "metrics.json"),
        *(
            "log_history.csv",
            "comparison.csv",
            "predictions.csv",
            "predictions.geojson",
            "map.html",
            "answers.png",
        ),
        *(
            "error_map.png",
            "error_cdf.png",
            "learning_curves.png",
            "index.parquet",
            "logs/training_summary.csv",
        ),
    }
    for label in ("test_resnet_seed1", "test_resnet_seed2_original"):
        assert any(re.fullmatch(rf"logs/{label}_\d{{8}}_\d{{6}}\.csv", name) for name in names)
        assert any(re.fullmatch(rf"plots/{label}_\d{{8}}_\d{{6}}_plots\.png", name) for name in names)
        assert f"trained_models/{label}/model.safetensors" in names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".pkl")) for name in names)
    for name in (name for name in names if name.endswith(".png")):
        picture = np.asarray(Image.open(finished.folder / name).convert("L"))
        assert min(picture.shape) > 300
        assert picture.std() > 5


def test_the_map_holds_the_photographs_that_were_asked_for(finished):
    page = (finished.folder / "map.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 3


def test_the_log_has_batches_epochs_and_validations(finished):
    path = next(path for path in (finished.folder / "logs").glob("test_resnet_seed1_2*.csv"))
    rows = rows_of(path)
    assert tuple(rows[0]) == COLUMNS
    events = [row["event"] for row in rows]
    assert events.count("epoch") == events.count("validation") == 30
    first = events.index("epoch")
    batches = rows[:first]
    assert [row["batch"] for row in batches] == [str(i + 1) for i in range(first)]
    for name in ("train_loss", "contrastive_loss", "triplet_loss"):
        mean = np.mean([float(row[name]) for row in batches])
        assert float(rows[first][f"avg_{name}"]) == pytest.approx(mean, rel=1e-5)
    for row in batches:
        parts = float(row["contrastive_loss"]) + 0.3 * float(row["triplet_loss"])
        assert float(row["train_loss"]) == pytest.approx(parts, rel=1e-5)
    validation = rows[first + 1]
    assert (
        0 <= float(validation["val_r1"]) <= float(validation["val_r5"]) <= float(validation["val_r10"]) <= 1
    )
    assert all(float(validation[name]) > 0 for name in ("val_loss", "val_time"))
    summary = rows_of(finished.folder / "logs" / "training_summary.csv")
    assert [(row["method"], row["seed"]) for row in summary] == [
        ("ours", "1"), ("original", "1"), ("ours", "2"), ("original", "2")]  # fmt: skip
    best = max(float(row["val_r1"]) for row in rows if row["event"] == "validation")
    assert float(summary[0]["best_val_r1"]) == pytest.approx(best)


def test_one_table_compares_frozen_original_and_ours(finished):
    rows = comparison_rows(finished.result.runs)
    assert [(row["seed"], row["stage"]) for row in rows] == [
        (seed, stage) for seed in (1, 2) for stage in ("frozen", "trained", "trained by the original recipe")
    ]  # random towers: each seed has its own
    for row, run in zip(rows[1::3], finished.result.runs[::2], strict=True):
        assert row["R@1"] == run.evaluated.values_by_name["r1"]
    assert [row["stage"] for row in rows_of(finished.folder / "comparison.csv")] == [
        row["stage"] for row in rows
    ]


def test_metrics_are_those_of_the_files_that_were_left(finished):
    metrics = json.loads((finished.folder / "metrics.json").read_text())
    model = GeoPlaceModel.from_pretrained(finished.folder)
    index = PlaceIndex.load(finished.folder / "index.parquet")
    index.check_model(model)
    images, _ = load_drives(finished.options.train_csv)
    answers = rows_of(finished.folder / "predictions.csv")
    asked = {row["image"] for row in answers}
    rows = [i for i, file in enumerate(files_of(images)) if file.rpartition("/")[2] in asked]
    queries = model.encode([files_of(images)[i] for i in rows])
    points = points_of(images)[rows]
    for radius_m, name in ((10.0, "10m"), (25.0, "25m")):
        for rule in ("has_match", "all"):
            found = recall_at_n(
                index.descriptors, queries, index.points, points, radius_m=radius_m, rule=rule
            )
            for n, value in found.items():
                assert metrics["eval"][f"recall@{n}_{rule}_{name}"] == pytest.approx(value, abs=0.02)
    assert metrics["eval"]["queries"] == len(answers) == metrics["rows"]["test"]
    assert np.mean([float(row["distance_m"]) for row in answers]) == pytest.approx(metrics["eval"]["mean_m"])
    for name, (low, high) in metrics["intervals"].items():
        assert low <= metrics["eval"][name] <= high
    assert metrics["baseline"]["queries"] == metrics["eval"]["queries"]


def test_the_card_says_what_was_measured(finished, hub):
    push_folder(finished.folder, "org/geo-place")  # as the recipe does with --push_to_hub
    names = set(hub.files("org/geo-place"))
    assert not any(name.startswith("index") for name in names)  # positions of one's own pictures stay at home
    card = ModelCard.load("org/geo-place")
    assert card.data.pipeline_tag == "place-recognition"
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    metrics = finished.result.evaluated.values_by_name
    assert results["Recall@1, 10 m, has_match"] == pytest.approx(metrics["r1"])
    for fact in (
        "has_match",
        "10 m",
        "25 m",
        "database: the whole drive noon",
        "95 % interval",
        "Ethics",
    ):
        assert fact in card.text


# ---- leaks


def leaks(files, points, sequences, times, database, queries, train=()):
    count = len(files)
    rows = [np.array(part, dtype=int) for part in (train, database, queries)]
    found = audit(files, np.asarray(points), np.array(sequences), times, *rows)
    assert count == len(points)
    return {finding.kind: finding.queries for finding in found}


def test_the_audit_finds_each_kind_of_leak(tmp_path):
    write_pictures(tmp_path, [f"{i}.png" for i in range(5)])
    (tmp_path / "5.png").write_bytes((tmp_path / "1.png").read_bytes())  # the same picture under another name
    files = [str(tmp_path / f"{i}.png") for i in range(6)]
    points = along([0, 10, 500, 5, 505, 15])
    a, b = ["a"] * 3, ["b"] * 3
    minutes = [i * 60 * 10**9 for i in (0, 1, 2, 100, 101, 200)]
    assert leaks(files, points, a + b, minutes, [0, 1, 2], [3, 4]) == {}
    assert leaks(files, points, a + b, minutes, [0, 1, 2], [3, 4, 5]) == {"self_retrieval": 1}
    assert leaks(files, points, a + b, minutes, [0, 1, 2, 3], [3, 4]) == {
        "self_retrieval": 1,
        "same_drive": 1,
    }
    assert leaks(files, points, a + b, minutes, [0, 1, 2], [3, 4], [2]) == {"trained_place": 1}
    close = [*minutes[:3], minutes[0] + 1, minutes[4], minutes[5]]  # one drive, cut into two tables
    assert leaks(files, points, a + b, close, [0, 1, 2], [3, 4]) == {"same_drive": 1}
    assert leaks(files, points, ["a"] * 6, [None] * 6, [0, 1, 2], [3, 4]) == {"same_drive": 2}
    assert leaks(files, points, ["a"] * 6, minutes, [0, 1, 2], [3, 4]) == {}  # a second lap


def test_what_test_queries_were_used_for_is_told_and_on_the_card(tmp_path, drives, caplog):
    """Files of the same name and content count, and a card must not say that they were used for nothing else."""
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "3.png").write_bytes((tmp_path / "1.png").read_bytes())
    files = [str(tmp_path / f"{i}.png") for i in range(4)]
    found = used_before(files, np.array([0]), np.array([1, 2]), np.array([3, 0]))
    assert [(finding.kind, finding.queries) for finding in found] == [("trained_on", 1), ("chosen_on", 1)]
    assert used_before(files, np.array([0]), np.array([1]), np.array([2])) == []
    unread = [*files, "not there", {"path": None, "bytes": b"a"}]  # with --audit off no file is opened
    found = used_before(unread, np.array([0, 4]), np.array([1, 5]), np.array([3, 4, 5]), by_content=False)
    assert [(finding.kind, finding.queries) for finding in found] == [("trained_on", 1), ("chosen_on", 1)]
    run(
        tmp_path,
        "--train_csv",
        drives[0],
        "--val_csv",
        drives[1],
        "--test_csv",
        drives[1],
        "--methods",
        "ours",
    )
    assert "leak (chosen_on): 240 of 240 queries are validation queries, too" in caplog.text
    card = (tmp_path / "out" / "README.md").read_text()
    assert "chosen and calibrated on the very queries that it is measured on" in card
    assert "used for nothing else" not in card
    tables = ("--train_csv", drives[1], "--database_csv", drives[0], "--test_csv", drives[1])
    options, args = parse(*TINY, *tables, "--output_dir", tmp_path)
    assert facts_of(load(options, args).test)["trained_on_held_out"]


def test_near_duplicates_are_seen_in_frozen_features():
    (finding,) = near_duplicates(np.array([0.5, 0.99995, 0.999]))
    assert (finding.queries, finding.share) == (1, pytest.approx(1 / 3))
    assert near_duplicates(np.array([0.5])) == []
    report_leaks([finding], strict=False)
    with pytest.raises(
        DataError, match=r"leak \(near_duplicate\): 1 of 3 queries .*--audit off measures all the same"
    ):
        report_leaks([finding], strict=True)


# ---- what a run refuses

TINY = ("--models", "test_resnet", "--pretrained", "false", "--image_size", 32, "--num_train_epochs", 1)


def run(tmp_path, *words):
    options, args = parse(*TINY, *words, "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    return run_place(options, args)


def test_queries_that_are_the_database_stop_the_run(tmp_path, drives):
    with pytest.raises(
        DataError, match=r"leak \(self_retrieval\): 240 of 240 queries are in the database themselves"
    ):
        run(tmp_path, "--train_csv", drives[0], "--test_csv", drives[0])
    assert not (tmp_path / "out" / "config.json").exists()


def test_strict_stops_at_places_that_were_trained_on(tmp_path, drives):
    with pytest.raises(DataError, match=r"leak \(trained_place\): \d+ of 240 queries lie within 25 m"):
        run(tmp_path, "--train_csv", drives[0], "--test_csv", drives[1], "--audit", "strict")


@pytest.fixture
def tables(tmp_path):
    """A function that writes a table of pictures at these meters along a road."""

    def write(name, meters, shift=0.0):
        pictures = [f"{name}/{i}.png" for i in range(len(meters))]
        write_pictures(tmp_path, pictures, seed=len(name))
        rows = [f"{p},{a:.9f},{b + shift:.9f}" for p, (a, b) in zip(pictures, along(meters), strict=True)]
        return write_csv(tmp_path / f"{name}.csv", "image,lat,lon", *rows)

    return write


def test_no_positives_at_all(tmp_path, tables):
    train, test = tables("train", 200.0 * np.arange(12)), tables("test", 200.0 * np.arange(4) + 3)
    with pytest.raises(DataError, match="no two of the 12 training images lie within 25 m of each other"):
        run(tmp_path, "--train_csv", train, "--test_csv", test)


def test_a_database_smaller_than_k(tmp_path, tables):
    train, test = tables("train", 5.0 * np.arange(9)), tables("test", [3.0])
    with pytest.raises(DataError, match="cannot give the 10 best answers: the database holds 9 images"):
        run(tmp_path, "--train_csv", train, "--test_csv", test)


def test_a_test_table_in_another_zone(tmp_path, tables):
    train, test = tables("train", 5.0 * np.arange(20)), tables("test", [3.0, 8.0], shift=6.0)
    with pytest.raises(DataError, match=r"no query has a database image within the radius.*another UTM zone"):
        run(tmp_path, "--train_csv", train, "--test_csv", test)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--pooling", "vlad"), "pooling must be one of"),
        (("--pooling", "cls"), "has no class token; use pooling avg or gem"),
        (("--positive_m", 200), "at most negative_m"),
        (("--models", "no_such_tower"), "no_such_tower"),
        (
            ("--pooling", "avg", "--projection_dim", 0),
            "has nothing to learn; --num_train_epochs 0 measures it",
        ),
        (("--whitening_dim", 500), "cannot whiten to 500 dimensions"),
        (("--per_device_train_batch_size", 4), "a batch of 4 images does not hold two places of 4"),
    ],
)
def test_settings_that_cannot_be(tmp_path, drives, words, message):
    with pytest.raises(DataError, match=message):
        run(tmp_path, "--train_csv", drives[0], "--test_csv", drives[1], *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--audit", "never"), "audit must be one of report, strict, off, got 'never'"),
        (("--methods", "ours", "theirs"), "methods must be one of ours, original, got 'theirs'"),
        (("--finetune", "first"), "finetune must be one of all, last, lora, none"),
        (("--train", "x.csv"), "unknown argument '--train'"),
    ],
)
def test_flags_that_cannot_be(words, message):
    with pytest.raises(DataError, match=message):
        parse(*words)


def test_a_finished_model_is_measured_without_training_and_whitened(tmp_path, finished):
    words = ("--train_csv", *finished.options.train_csv, "--models", finished.folder, "--num_train_epochs", 0, "--image_size", 96,
             "--positive_m", 10, "--negative_m", 25, "--radii_m", 10, 25, "--block_m", 150,
             "--validation_share", 0.15, "--test_share", 0.2)  # fmt: skip
    result = run(tmp_path, *words)
    found, expected = result.evaluated.values_by_name, finished.result.evaluated.values_by_name
    assert len(result.runs) == 1
    assert found["queries"] == expected["queries"]
    assert found["recall@5_has_match_25m"] == pytest.approx(expected["recall@5_has_match_25m"], abs=0.02)
    whitened = run(tmp_path, *words, "--whitening_dim", 24)
    model = GeoPlaceModel.from_pretrained(tmp_path / "out")
    assert model.config.descriptor_size == whitened.evaluated.details["database_descriptors"].shape[1] == 24
    files = files_of(whitened.database)[:3]
    descriptors = whitened.evaluated.details["database_descriptors"][:3]
    np.testing.assert_allclose(model.encode(files), descriptors, atol=1e-4)
    assert (
        whitened.evaluated.values_by_name["recall@5_has_match_25m"]
        > whitened.evaluated.baseline["recall@5_has_match_25m"]
    )


def test_the_tower_learns_on(tmp_path, drives):
    torch.manual_seed(0)
    result = run(tmp_path, "--train_csv", drives[0], "--test_csv", drives[1], "--methods", "ours", "--finetune", "all",
                 "--head_epochs", 1, "--num_train_epochs", 1, "--backbone_learning_rate", 1e-3, "--audit", "off")  # fmt: skip
    head, whole = (
        load_file(tmp_path / "out" / "checkpoints" / phase / "finished.safetensors")
        for phase in ("head", "finetune")
    )
    towers = [name for name in whole if name.startswith("tower.") and "running" not in name]
    assert towers
    assert not any(name.startswith("tower.") for name in head)
    assert result.evaluated.details["database_descriptors"].shape == (240, 96)
    assert not any(p.requires_grad for p in result.model.tower.parameters())
    assert {row["phase"] for row in result.state.log_history if "phase" in row} == {"head", "finetune"}


# ---- command line


def test_the_recipe_says_what_is_wrong_in_one_line(recipe, tmp_path, tables):
    path = tables("train", [0.0, 5.0])
    done = recipe("train_place", "--train_csv", path, "--camera_id", "rear", "--output_dir", tmp_path / "out")
    assert done.returncode == 2
    assert (
        done.stderr.strip() == f"error: {path}: no row has the camera_id 'rear'; its images have no camera_id"
    )


def test_index_and_predict_from_the_command_line(recipe, finished, drives, tmp_path):
    index, answers = tmp_path / "noon.safetensors", tmp_path / "answers.csv"
    done = recipe("index_places", finished.folder, drives[0], "--output", index, "--device", "cpu")
    assert (done.returncode, "240 images lie in" in done.stdout) == (0, True), done.stderr
    done = recipe(
        "predict",
        finished.folder,
        drives[0],
        "--index",
        index,
        "--top_k",
        3,
        "--output",
        answers,
        "--device",
        "cpu",
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(answers)
    assert len(rows) == 240
    assert all(float(row["similarity"]) > 0.999 and len(json.loads(row["answers"])) == 3 for row in rows)
    refused = recipe("index_places", finished.folder, drives[0], "--output", tmp_path / "index.pkl")
    assert refused.returncode == 2
    assert "an index is a file that ends in" in refused.stderr


def test_evaluate_searches_the_first_drive(finished, sample, drives):
    model = GeoPlaceModel.from_pretrained(finished.folder)
    metrics = model.evaluate(sample)
    images, _ = load_drives([drives[1], drives[0]])  # dusk comes first by name
    rows = model.encode(files_of(images))
    points = points_of(images)
    expected = recall_at_n(rows[:240], rows[240:], points[:240], points[240:], radius_m=10.0)
    assert metrics["r1"] == pytest.approx(expected[1], abs=0.01)
    assert metrics["queries"] == 240
    with pytest.raises(DataError, match="is the single drive 'noon'; a second one has to ask"):
        model.evaluate(drives[0])
