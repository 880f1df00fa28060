"""Folds, held-out times, and margins by region."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from geohf import DataError, TileSequenceConfig, TileSequenceModel, TileSequenceTrainer
from geohf.recipes import train_tiles
from geohf.tiles.answers import TileSequenceOutput, gaussian_ends, margins_of, predictions_of, region_numbers
from geohf.tiles.arguments import TileArguments, TileTrainingArguments
from geohf.tiles.clusters import cluster_count, cluster_names, fit_clusters, nearest_clusters
from geohf.tiles.data import load, load_folds
from geohf.tiles.dataset import TileRows
from geohf.tiles.losses import regression_loss
from geohf.tiles.metrics import coverage_by
from geohf.tiles.phase import calibrate
from geohf.tiles.splits import fold_split, fold_tiles
from geohf.tiles.table import grid_tiles


@pytest.fixture
def plain(tmp_path, tiff):
    """One place of 12 x 10 tiles of 8 pixels, at three times."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "place"
    for label in ("2018", "2019", "2020", "2021"):
        tiff(folder / f"{label}.tif", rng.integers(1, 255, (80, 96, 3), np.uint8))
    return folder


@pytest.mark.parametrize("buffer_px", [0.0, 9.0])
def test_folds_partition_the_tiles_and_keep_their_distance(plain, buffer_px):
    table = grid_tiles(plain, ["2018", "2019"], 8)
    fold = fold_tiles(table, "blocks", 4, seed=3, block_px=24)
    assert np.bincount(fold, minlength=4).min() >= 20
    boxes = table.boxes.astype(float)
    tested = []
    for number in range(4):
        splits, dropped = fold_split(table, fold, number, "blocks", 24, buffer_px)
        assert sum(map(len, splits.values())) + dropped == len(table)
        tested += splits["test"].tolist()
        for name, others in (("train", ("validation", "test")), ("validation", ("test",))):
            for i in splits[name]:
                for j in np.concatenate([splits[other] for other in others]):
                    gap = np.maximum(boxes[i, :2] - boxes[j, 2:], boxes[j, :2] - boxes[i, 2:]).clip(0)
                    assert np.hypot(*gap) >= buffer_px
                    assert gap.any()
    assert sorted(tested) == list(range(len(table)))


def test_folds_by_region_hold_out_whole_regions(tiles):
    table, _ = tiles
    with pytest.raises(DataError, match="has 2 regions, too few for --folds 3"):
        fold_tiles(table, "region", 3)
    with pytest.raises(DataError, match="--folds must be at least 3"):
        fold_tiles(table, "region", 2)
    with pytest.raises(DataError, match="--folds needs --split region or blocks; the split is random"):
        fold_tiles(table, "random", 3)


def options_of(folder, **fields):
    settings = {"data": str(folder), "target_from": "color_share", "color": [1, 1, 1], "tile_size": 8}
    return TileArguments(**settings | fields)


def arguments(tmp_path, **fields):
    settings = {"output_dir": str(tmp_path / "out"), "cache_dir": str(tmp_path / "cache"), "cache_workers": 1}
    return TileTrainingArguments(**settings | fields)


@pytest.fixture
def growing(tmp_path, tiff):
    """One place whose share of one color differs from tile to tile and year to year."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "growing"
    share = rng.random((10, 12, 1, 1))
    for label in ("2017", "2018", "2019", "2020"):
        share = share + 0.1 * rng.random(share.shape)
        built = rng.random((10, 12, 8, 8)) < share / 2
        pixels = np.where(built[..., None], 1, rng.integers(2, 255, (10, 12, 8, 8, 3)))
        tiff(folder / f"{label}.tif", pixels.transpose(0, 2, 1, 3, 4).reshape(80, 96, 3).astype(np.uint8))
    return folder


def test_every_tile_is_predicted_once_by_a_model_that_never_saw_it(growing, tmp_path):
    args = arguments(
        tmp_path, num_train_epochs=1, use_cpu=True, disable_tqdm=True, per_device_train_batch_size=64
    )
    options = options_of(
        growing, folds=3, block_px=24, target_years=1, hidden_sizes=[4], interval_groups="region"
    )
    trainer = train_tiles.run(options, args)
    folder = tmp_path / "out"
    rows = list(csv.DictReader((folder / "folds_predictions.csv").read_text().splitlines()))
    assert sorted(int(row["tile_id"]) for row in rows) == list(range(120))
    fold = {int(row["tile_id"]): row["split"] for row in rows}
    for number, data in enumerate(load_folds(options, args), start=1):
        asked = {int(data.test.table.tile_ids[row]) for row in data.test.windows.rows}
        assert asked == {tile for tile, name in fold.items() if name == f"fold {number}"}
        assert not asked & set(data.train.windows.rows)
    found = json.loads((folder / "metrics.json").read_text())["folds"]["model"]["mae"]
    numbers = list(csv.DictReader((folder / "folds_metrics.csv").read_text().splitlines()))
    each = [float(row["mae"]) for row in numbers if row["way"] == "model" and row["fold"] in "123"]
    assert found["mean"] == pytest.approx(np.mean(each))
    assert found["std"] == pytest.approx(np.std(each, ddof=1))
    errors = [abs(float(r["predicted_color_share"]) - float(r["color_share"])) for r in rows]
    sizes = [list(fold.values()).count(f"fold {number}") for number in (1, 2, 3)]
    assert np.average(each, weights=sizes) == pytest.approx(np.mean(errors))
    assert {
        row["group"] for row in csv.DictReader((folder / "folds_coverage.csv").read_text().splitlines())
    } == {
        "fold 1",
        "fold 2",
        "fold 3",
    }
    assert (folder / "folds_errors.png").is_file()
    assert (folder / "coverage_by_region.csv").is_file()
    assert set(trainer.model.config.region_margins or {}) <= {"growing"}


def test_later_times_are_held_out_and_nothing_after_them_is_trained_on(growing, tmp_path):
    args = arguments(tmp_path)
    data = load(options_of(growing, test_labels=["2019"], block_px=24, target_years=2), args)
    assert set(data.test.windows.steps) == {2}
    assert len(data.test) == 120
    for part in (data.train, data.validation):
        assert set(part.windows.steps) == {1}
        assert (part.windows.frames[part.windows.mask] < 1).all()
    with pytest.raises(DataError, match=r"--test_labels 1999: the labels are 2017, 2018, 2019, 2020"):
        load(options_of(growing, test_labels=["1999"]), args)
    with pytest.raises(DataError, match="--test_labels 2018: no label before it can be a target"):
        load(options_of(growing, test_labels=["2018"]), args)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 3, "test_labels": ["2019"]}, "--folds holds out places and --test_labels times"),
        ({"folds": 3, "streaming": True}, "--folds reads the tiles again and again"),
        ({"interval_groups": "cluster", "streaming": True}, "needs the training rows at hand"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_any_image_is_read(options, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load(TileArguments(data=str(tmp_path / "tiles.csv"), **options), arguments(tmp_path, max_steps=2))


def three_groups(n, seed):
    rng = np.random.default_rng(seed)
    names = np.repeat(["a", "b", "c"], n)
    return names, (rng.normal(size=3 * n) * np.repeat([1, 1, 3], n))[:, None]


def test_margins_by_region_hold_in_every_region_where_the_pooled_one_does_not():
    (names, truth), (new_names, new) = three_groups(4000, 0), three_groups(4000, 1)
    found = {}
    for groups in ("none", "region"):
        config = TileSequenceConfig(interval_groups=groups)
        calibrate(config, torch.zeros(len(truth), 1, 1), truth, names)
        outputs = TileSequenceOutput(
            predictions=torch.zeros(len(new), 1, 1), region=region_numbers(config, new_names)
        )
        answers = predictions_of(config, outputs)
        low, high = (np.array([[getattr(a, end)["target"]] for a in answers]) for end in ("low", "high"))
        found[groups] = {
            row["group"]: row["coverage"] for row in coverage_by(new_names, ["t"], low, high, new)
        }
    assert found["none"]["c"] < 0.75
    assert min(found["none"]["a"], found["none"]["b"]) > 0.97
    assert all(0.88 <= share <= 0.92 for share in found["region"].values())


def test_a_small_region_has_the_pooled_margin():
    names, truth = three_groups(19, 0)
    names = np.append(names, "d")
    config = TileSequenceConfig(interval_groups="region", coverage=0.9)
    calibrate(config, torch.zeros(58, 1, 1), np.r_[truth, [[0.0]]], names)
    assert config.region_margins is None  # 2 / (1 - 0.9) are 20
    names, truth = three_groups(20, 0)
    calibrate(config, torch.zeros(61, 1, 1), np.r_[truth, [[0.0]]], np.append(names, "d"))
    assert list(config.region_margins) == ["a", "b", "c"]
    assert region_numbers(config, ["c", "d", None, 7]).tolist() == [3, 0, 0, 0]

    # the 19th smallest of 20: ceil(21 x 0.9)
    assert config.region_margins["a"][0] == pytest.approx(np.sort(np.abs(truth[:20, 0]))[18])
    with pytest.raises(DataError, match="needs rows with a region"):
        calibrate(config, torch.zeros(61, 1, 1), np.zeros((61, 1)))


def test_a_region_that_is_a_number_is_the_same_in_tables_rows_and_samples():
    """Pandas makes 7.0 of a whole number where a column has holes, datasets a tensor where a format asks for it."""
    config = TileSequenceConfig(region_margins={"7": [2.0]})
    kinds = ["7", 7, 7.0, np.float64(7), torch.tensor(7), np.nan]
    assert region_numbers(config, kinds).tolist() == [1] * 5 + [0]
    assert TileRows([{"region": kind} for kind in kinds[:5]]).region_names().tolist() == ["7"] * 5
    assert TileRows([{"region": kind} for kind in kinds]).region_names() is None


def test_a_saved_model_answers_by_region(tmp_path):
    config = TileSequenceConfig(
        hidden_sizes=[4], image_size=[8, 8], answers="level", interval_groups="region"
    )
    config.interval_margin, config.region_margins = [1.0], {"7": [2.0]}
    TileSequenceModel(config).save_pretrained(tmp_path)
    model = TileSequenceModel.from_pretrained(tmp_path)
    frame = np.ones((8, 8, 3), np.uint8)
    samples = [{"frames": [frame], "region": name} for name in ("7", "8")] + [[frame]]
    answers = model.predict(samples)
    assert [a.high["target"] - a.values["target"] for a in answers] == [2, 1, 1]


def test_the_gaussian_loss_finds_mean_and_spread():
    torch.manual_seed(0)
    truth = 3 + 2 * torch.randn(20_000, 1)
    raw = torch.zeros(1, 1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([raw], 0.05)
    for _ in range(400):
        optimizer.zero_grad()
        regression_loss("gaussian", raw.expand(len(truth), 1, 2), truth).backward()
        optimizer.step()
    assert raw[0, 0, 0].item() == pytest.approx(truth.mean().item(), abs=0.02)
    assert (raw[0, 0, 1] / 2).exp().item() == pytest.approx(truth.std().item(), abs=0.02)
    low, middle, high = gaussian_ends(raw, 0.9)[0, 0].tolist()
    held = ((truth > low) & (truth < high)).float().mean().item()
    assert held == pytest.approx(0.9, abs=0.01)
    normal = torch.distributions.Normal(middle, (high - middle) / 1.6448536)
    expected = -normal.log_prob(truth).mean() - 0.5 * np.log(2 * np.pi)
    assert regression_loss("gaussian", raw.expand(len(truth), 1, 2), truth).item() == pytest.approx(
        expected.item(), abs=1e-4
    )


def test_a_gaussian_model_has_an_interval_a_tile():
    config = TileSequenceConfig(
        hidden_sizes=[4],
        image_size=[8, 8],
        answers="level",
        loss="gaussian",
        level_mean=[5.0],
        level_std=[2.0],
    )
    model = TileSequenceModel(config).eval()
    with torch.no_grad():
        model.head[-1].bias.copy_(torch.tensor([1.0, np.log(4)]))
    output = model(torch.randn(2, 3, 3, 8, 8), labels=torch.tensor([[7.0], [torch.nan]]))
    # mean 5 + 2 x 1, standard deviation 2 x 2, 1.645 of them on both sides
    assert output.predictions[0, 0].tolist() == pytest.approx([7 - 6.5794, 7, 7 + 6.5794], abs=1e-3)
    assert output.loss.item() == pytest.approx(np.log(4) / 2)


class SeesOneNumber(TileSequenceModel):
    """The head sees the mean of the newest frame, and answers 0."""

    def _features(self, pixel_values, step_mask, dates):
        return pixel_values[:, -1].mean((-3, -2, -1))[:, None]


def kinds_of_tiles(n, seed):
    """What three kinds of tiles look like, which kind each is of, and errors, three times as large in the third."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    return kind, 10.0 * kind + rng.normal(size=n), rng.normal(size=n) * np.array([1, 1, 3])[kind]


def as_rows(n, seed):
    kind, looks, labels = kinds_of_tiles(n, seed)
    frames = (looks[:, None, None, None, None] * np.ones((1, 3, 4, 4))).astype(np.float32)
    rows = [{"pixel_values": p, "labels": y} for p, y in zip(frames, labels, strict=True)]
    return kind, labels, rows


def clustered(model=SeesOneNumber):
    config = TileSequenceConfig(
        hidden_sizes=[4], image_size=[4, 4], answers="level", interval_groups="cluster", frames=1
    )
    made = model(config)
    if model is SeesOneNumber:
        made.head = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(made.head.weight)
        torch.nn.init.zeros_(made.head.bias)
    return made


def test_margins_by_cluster_hold_for_every_kind_of_tile_that_nobody_named():
    states = [torch.from_numpy(kinds_of_tiles(n, n)[1])[:, None] for n in (3000, 30_000, 12_000)]
    (_, _, truth), (kind, _, new) = kinds_of_tiles(30_000, 30_000), kinds_of_tiles(12_000, 12_000)
    config = clustered().config
    config.clusters = fit_clusters(states[0], cluster_count(30_000, 0.9))
    names = [cluster_names(nearest_clusters(config.clusters, x)) for x in states[1:]]
    calibrate(config, torch.zeros(30_000, 1, 1), truth[:, None], np.array(names[0]))
    margin = margins_of(config, region_numbers(config, names[1]))[:, 0].numpy()
    covered = np.abs(new) <= margin
    assert len(config.region_margins) == len(set(names[0])) == 8
    assert all(0.88 <= covered[kind == k].mean() <= 0.92 for k in range(3))
    assert (np.abs(new) <= config.interval_margin[0])[kind == 2].mean() < 0.75


def test_a_model_with_clusters_tells_whose_margins_each_answer_has(tmp_path):
    args = TileTrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none")
    (*_, train), (*_, validation), (kind, truth, new) = (as_rows(n, n) for n in (120, 400, 100))
    trainer = TileSequenceTrainer(clustered(), args, train_dataset=train, eval_dataset=validation)
    trainer._calibrate()
    config = trainer.model.config
    assert len(config.clusters["centers"]) == 8
    result = trainer.evaluate(new)
    low, high = (np.array([getattr(a, end)["target"] for a in result.predictions]) for end in ("low", "high"))
    assert np.median((high - low)[kind == 2]) > 1.5 * np.median((high - low)[kind < 2])
    assert result["eval_coverage"] == pytest.approx(((low <= truth) & (truth <= high)).mean())
    again = TileSequenceConfig.from_dict(json.loads(config.to_json_string()))
    assert (again.clusters, again.region_margins) == (config.clusters, config.region_margins)


def test_few_validation_tiles_have_one_margin(tmp_path, caplog):
    args = TileTrainingArguments(output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, report_to="none")
    *_, rows = as_rows(60, 0)
    trainer = TileSequenceTrainer(clustered(TileSequenceModel), args, train_dataset=rows, eval_dataset=rows)
    with caplog.at_level("WARNING"):
        trainer._calibrate()
    assert "60 validation rows are too few for margins by cluster" in caplog.text
    assert trainer.model.config.clusters is None
    assert trainer.model.config.interval_margin is not None


def test_training_rows_that_look_alike_have_one_margin(tmp_path, caplog):
    row = {"frames": [np.ones((4, 4, 3), np.uint8)], "labels": 0.5}
    args = TileTrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=1, report_to="none", disable_tqdm=True, use_cpu=True
    )
    trainer = TileSequenceTrainer(
        clustered(TileSequenceModel), args, train_dataset=[row], eval_dataset=[row] * 90
    )
    trainer.train()
    assert "the training rows look alike to the model" in caplog.text
    assert trainer.model.config.clusters is None


def test_a_run_tells_coverage_and_width_of_every_cluster(plain, tmp_path):
    options = TileArguments(
        data=str(plain), target_from="ndvi_fall", nir=1, red=2, tile_size=4, target_years=1, hidden_sizes=[4],
        interval_groups="cluster", coverage=0.8, split="blocks",
    )  # fmt: skip
    args = TileTrainingArguments(
        output_dir=str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"), cache_workers=1, use_cpu=True,
        disable_tqdm=True, num_train_epochs=1, report_to="none",
    )  # fmt: skip
    train_tiles.run(options, args)
    with open(tmp_path / "out" / "coverage_by_cluster.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        predicted = list(csv.DictReader(file))
    config = TileSequenceConfig.from_pretrained(tmp_path / "out")
    assert len(config.clusters["centers"]) > 1
    assert {row["group"] for row in rows} <= {"the others", *config.region_margins}
    assert sum(int(row["samples"]) for row in rows) == len(predicted)
    widths = {round(float(row["high_ndvi_fall"]) - float(row["low_ndvi_fall"]), 5) for row in predicted}
    assert widths == {round(float(row["mean_width"]), 5) for row in rows}
