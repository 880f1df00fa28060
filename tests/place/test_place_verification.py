"""Answers put in the order of their local matches: against loops, behind a gate, through an index on disk and a run."""

import logging

import numpy as np
import pytest
import torch
from helpers.place_models import along, build_model, parse, unit, write_csv, write_pictures
from torch._subclasses.fake_tensor import FakeTensorMode

from geohf.errors import DataError
from geohf.place import GeoPlaceConfig, GeoPlaceModel, PlaceIndex
from geohf.place import verification as module
from geohf.place.drives import load_drives
from geohf.place.pipeline import PlaceRecognitionPipeline
from geohf.place.trainer import GeoPlaceTrainer
from geohf.place.verification import LocalFeatures, count_matches, fit_gate, gated, verified
from geohf.vision.pooling import pooled


def plain_count(query, candidate) -> int:
    """Pairs of rows that are each other's nearest, by loops."""
    pairs = 0
    for i, row in enumerate(query):
        cosines = [float(row @ other) for other in candidate]
        j = int(np.argmax(cosines))
        back = [float(other @ candidate[j]) for other in query]
        pairs += int(np.argmax(back)) == i and cosines[j] > 0.7
    return pairs


def test_matches_are_those_of_loops_and_permuted_places_match_all_the_same():
    query, candidates = unit(12, 3), unit(6, 9, 3, seed=1)
    found = count_matches(query, candidates).tolist()
    assert found == [plain_count(query.numpy(), candidate) for candidate in candidates.numpy()]
    assert 0 < max(found) < 9
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    assert count_matches(query, query[order][None]).tolist() == [12]
    assert count_matches(query, candidates[:, torch.randperm(9)]).tolist() == found


def planted(queries=8, answers=5):
    """Queries whose right picture the search has third, while its places are all theirs."""
    maps = torch.randn(40, 16, 4, 5, generator=torch.Generator().manual_seed(0))
    local = LocalFeatures(module._unit_places(maps).half())
    ranked = np.stack([np.roll(np.arange(40), -q)[[7, 9, 0, 11, 13]] for q in range(queries)])
    similarity = np.tile(np.linspace(0.9, 0.8, answers), (queries, 1))
    return maps[:queries], local, similarity, ranked


def test_the_picture_whose_places_match_comes_first():
    maps, local, similarity, ranked = planted()
    asked = np.array([0, 3, 6])
    cosines, order = verified(similarity, ranked, local, lambda rows: maps[rows].split(2), asked, 4)
    assert order[asked, 0].tolist() == [0, 3, 6]
    for query in range(8):
        if query not in asked:
            assert order[query].tolist() == ranked[query].tolist()
            continue
        places = module._unit_places(maps[query : query + 1])[0].numpy()
        counts = [plain_count(places, local.rows[row].float().numpy()) for row in ranked[query, :4]]
        expected = sorted(range(4), key=lambda i: -counts[i])  # stable: equal counts stay as they were
        assert order[query].tolist() == [*ranked[query, expected], ranked[query, 4]]
        assert cosines[query].tolist() == [*similarity[query, expected], similarity[query, 4]]
    same = verified(similarity, ranked, local, lambda rows: pytest.fail("nothing to look at"), asked[:0], 4)
    assert np.array_equal(same[1], ranked)


def test_local_features_keep_their_principal_axes(monkeypatch):
    monkeypatch.setattr(module, "LOCAL_DIMS", 8)
    maps = torch.randn(30, 24, 3, 3, generator=torch.Generator().manual_seed(0))

    class Maps:
        def local_maps(self, images, batch_size=32):
            yield from maps[list(images)].split(batch_size)

    local = LocalFeatures.of_images(Maps(), range(30), 7)
    assert (local.rows.shape, local.rows.dtype, local.bytes_per_row) == ((30, 9, 8), torch.float16, 2 * 9 * 8)
    places = local.along_axes([maps[:4], maps[4:]])
    torch.testing.assert_close(places, local.rows.float(), atol=1e-3, rtol=0)
    plain = torch.nn.functional.normalize(maps.flatten(2).mT, dim=-1) @ local.axes.T
    torch.testing.assert_close(places, plain / plain.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)
    with pytest.raises(DataError, match=r"are \(9, 8\) \(places, numbers\) and those of the model \(6, 8\)"):
        local.along_axes([maps[:, :, :2]])


def test_axes_are_taken_to_where_the_maps_of_questions_are():
    local = LocalFeatures(torch.zeros(3, 9, 8, dtype=torch.float16), torch.randn(8, 24))
    with FakeTensorMode(allow_non_fake_inputs=True):  # a GPU that need not be there
        places = local.along_axes([torch.empty(2, 24, 3, 3, device="cuda")])
    assert (places.shape, places.device.type) == ((2, 9, 8), "cuda")


# ---- the gate


def simulated(help_below: float, seed=0):
    """Gaps of 400 queries; verification mends where the gap is small and spoils some where it is not."""
    rng = np.random.default_rng(seed)
    gap = rng.uniform(0, 0.3, 400)
    doubtful = gap < help_below
    before = np.where(doubtful, rng.random(400) < 0.4, True)
    after = np.where(doubtful, rng.random(400) < 0.8, rng.random(400) < 0.9)
    return gap, before, after


def test_the_gate_opens_where_verification_mends_and_no_further():
    config, (gap, before, after) = GeoPlaceConfig(feature_size=8), simulated(0.1)
    fit_gate(config, gap, before, after)
    assert config.verify_below == pytest.approx(0.1, abs=0.02)
    best = max(np.where(gap < t, after, before).sum() for t in np.r_[0, np.sort(gap) + 1e-9])
    assert np.where(gap < config.verify_below, after, before).sum() == best
    assert np.where(gap < config.verify_below, after, before).mean() > max(before.mean(), after.mean())
    assert np.array_equal(gated(gap, config), np.flatnonzero(gap < config.verify_below))
    again = GeoPlaceConfig.from_dict(config.to_dict())
    assert again.verify_below == config.verify_below


@pytest.mark.parametrize("right", ["saturated", "one by luck"])
def test_the_gate_stays_closed_where_there_is_nothing_to_mend_and_says_so(right, caplog):
    gap, before, after = simulated(0.0)
    if right == "one by luck":
        after = before.copy()
        before = before.copy()
        before[gap.argmin()] = False
    config = GeoPlaceConfig(feature_size=8)
    with caplog.at_level(logging.INFO):
        fit_gate(config, gap, before, after)
    assert config.verify_below == 0
    assert len(gated(gap, config)) == 0
    assert "the gate stays closed" in caplog.text


def test_queries_of_one_gap_pass_together_and_all_pass_an_open_gate():
    config = GeoPlaceConfig(feature_size=8)
    fit_gate(config, np.full(30, 0.2), np.zeros(30, bool), np.ones(30, bool))
    assert len(gated(np.full(30, 0.2), config)) == 30
    config.verify_below = None
    assert len(gated(np.array([0.0, 1.9]), config)) == 2


# ---- in the model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_pictures(folder, [f"p{i}.png" for i in range(12)])
    return [folder / f"p{i}.png" for i in range(12)]


@pytest.fixture(scope="module")
def model():
    return build_model(pooling="avg", projection_dim=None, seed=1)


@pytest.fixture(scope="module")
def index(model, photos):
    return PlaceIndex.build(model, photos[2:], along(40.0 * np.arange(10)), batch_size=4, local=True)


def loops(model, photo, index, k):
    """The rows of an index for one photograph, verified by loops over the backbone's maps."""
    descriptor, pixels = model.encode([photo])[0], model.processor([photo])["pixel_values"]
    with torch.no_grad():
        places = pooled(model.tower, pixels, "map")[0].flatten(1).T
    places = torch.nn.functional.normalize(places, dim=-1).numpy()
    rows = np.argsort(-(index.descriptors.numpy() @ descriptor), kind="stable")
    counts = [plain_count(places, index.local.rows[row].float().numpy()) for row in rows[:k]]
    return [*rows[np.argsort(-np.array(counts), kind="stable")], *rows[k:]]


def test_answers_of_predict_are_those_of_loops_and_survive_the_disk(model, photos, index, tmp_path, caplog):
    path = tmp_path / "area.safetensors"
    index.save(path)
    again = PlaceIndex.load(path)
    assert torch.equal(again.local.rows, index.local.rows)
    with caplog.at_level(logging.WARNING):
        answers = model.predict(photos, batch_size=5, index=path, verify=6, top_k=3)
    assert caplog.text.count("no gate was learned") == 1
    moved = 0
    for photo, answer, plain in zip(photos, answers, model.predict(photos, index=index), strict=True):
        expected = [index.images[row] for row in loops(model, photo, index, 6)]
        assert [a.image for a in answer.answers] == expected[:3]
        assert (answer.verified, answer.confidence, plain.verified) == (True, None, None)
        assert answer.as_row()["verified"]
        moved += answer.answers[0].image != plain.answers[0].image
    assert moved
    index.remove([])  # nothing
    fewer = PlaceIndex.load(path)
    fewer.remove([str(photos[2])])
    assert len(fewer.local) == 9
    assert torch.equal(fewer.local.rows, index.local.rows[1:])


def test_behind_the_gate_alone_answers_change(photos, index, tmp_path):
    model = build_model(pooling="avg", projection_dim=None, seed=1)
    model.config.confidence_weights = [1.0, 1.0, 0.0]
    plain = model.predict(photos, index=index)
    gaps = sorted(a.answers[0].similarity - a.answers[-1].similarity for a in plain)
    model.config.verify_below = float(np.median(gaps))
    model.save_pretrained(tmp_path)
    loaded = GeoPlaceModel.from_pretrained(tmp_path)
    answers = loaded.predict(photos, index=index, verify=5)
    assert 0 < sum(a.verified for a in answers) < len(photos)
    for before, after in zip(plain, answers, strict=True):
        assert (after.confidence is None) == after.verified
        if not after.verified:
            assert after.answers == before.answers
    loaded.config.verify_below = 0.0
    assert [a.answers for a in loaded.predict(photos, index=index, verify=5)] == [a.answers for a in plain]


def test_the_pipeline_verifies_as_predict_does_whatever_holds_the_photographs(model, photos, index):
    pipe = PlaceRecognitionPipeline(model=model, image_processor=model.processor, index=index, verify=6)
    names = list(map(str, photos))
    one, four = (
        model.predict(photos, size, index=index, verify=6) for size in (1, 4)
    )  # rounding is of a batch
    ways = [(pipe(names), one), (pipe(names, batch_size=4), four), (pipe(n for n in names), one)]
    for found, expected in [*ways, ([pipe(name) for name in names], one)]:
        for answer, right in zip(found, expected, strict=True):
            assert [a["image"] for a in answer["answers"]] == [a.image for a in right.answers]
            assert answer["answers"][0]["similarity"] == pytest.approx(right.answers[0].similarity, abs=1e-5)
            assert answer["verified"]
    plain = [a.answers[0].image for a in model.predict(photos, 1, index=index)]
    assert [a["answers"][0]["image"] for a in pipe(names, verify=0)] == plain
    assert plain != [a.answers[0].image for a in one]


def test_what_cannot_be_verified_is_told(model, photos, index, tmp_path):
    plain = PlaceIndex.build(model, photos[2:8], along(40.0 * np.arange(6)))
    with pytest.raises(DataError, match="holds no local features to verify by: build it with local=True"):
        model.predict(photos[0], index=plain, verify=3)
    with pytest.raises(DataError, match="answers are verified in an index: give one"):
        model.predict(photos[0], verify=3)
    with pytest.raises(DataError, match="verify must be a whole number of at least 0, got -1"):
        model.predict(photos[0], index=index, verify=-1)
    with pytest.raises(DataError, match=r"name it \.safetensors"):
        index.save(tmp_path / "area.parquet")
    with pytest.raises(DataError, match="local features are of one build"):
        index.add(plain)
    outputs = model(model.processor([photos[0]])["pixel_values"])
    with pytest.raises(DataError, match="outputs alone hold nothing to verify by"):
        model.decode(outputs, index, verify=3)
    pipe = PlaceRecognitionPipeline(model=model, image_processor=model.processor)
    with pytest.raises(DataError, match="answers are verified in an index: give one"):
        pipe(str(photos[0]), verify=3)
    with pytest.raises(DataError, match="holds no local features to verify by"):
        pipe(str(photos[0]), index=plain, verify=3)
    with pytest.raises(DataError, match="verify must be a whole number of at least 0"):
        pipe(str(photos[0]), index=index, verify=1.5)
    for options in ({"center": "database"}, {"method": "filter"}):
        with pytest.raises(DataError, match="frames of a drive, and centered descriptors, are not verified"):
            pipe(list(map(str, photos)), index=index, verify=3, **options)
    with pytest.raises(DataError, match="frames of a drive, and centered descriptors, are not verified"):
        model.predict_to_file(photos, tmp_path / "a.csv", index=index, method="filter", verify=3)
    with pytest.raises(DataError, match="frames of a drive, and centered descriptors, are not verified"):
        model.evaluate(tmp_path, method="filter", verify=3)
    with pytest.raises(DataError, match="its gate is learned on validation queries, and there are none"):
        GeoPlaceTrainer(model, parse("--output_dir", tmp_path)[1], train_dataset=[], verify=3)


def drive(photos, name, meters):
    folder = photos[0].parent
    rows = [
        f"{photo.name},{a:.9f},{b:.9f},{name}" for photo, (a, b) in zip(photos, along(meters), strict=True)
    ]
    return write_csv(folder / f"{name}.csv", "image,lat,lon,sequence", *rows)


def test_evaluate_and_a_run_verify(model, photos, index, tmp_path):
    meters, folder = 40.0 * np.arange(10), photos[0].parent
    write_pictures(folder, [f"d{i}.png" for i in range(10)], seed=1)
    dusk = [folder / f"d{i}.png" for i in range(10)]
    tables = [drive(photos[2:], "noon", meters), drive(dusk, "dusk", meters)]
    both = write_csv(
        folder / "both.csv",
        "image,lat,lon,sequence",
        *(line for table in tables for line in table.read_text().splitlines()[1:]),
    )
    values = model.evaluate(both, verify=6, recalls=[1, 3])
    ranked = np.array([loops(model, photo, index, 6) for photo in dusk])
    for n in (1, 3):
        assert values[f"r{n}"] == np.mean([row in ranked[row, :n] for row in range(10)])
    assert values["verified"] == 10
    searched, asking = (load_drives(table)[0] for table in tables)
    _, args = parse(
        *("--num_train_epochs", 0, "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache")
    )
    own = build_model(pooling="avg", projection_dim=None, seed=1)
    trainer = GeoPlaceTrainer(
        own, args, train_dataset=searched, eval_dataset=asking, whitening_dim=0, verify=6, audit="off"
    )
    trainer.train()
    found = trainer.evaluate(asking).values_by_name
    assert own.config.verify_below is not None
    assert found["verified_r1"] >= found["r1"]  # the gate was learned on these
    own.config.verify_below = None
    found = trainer.evaluate(asking).values_by_name
    assert (found["verified_r1"], found["verified"]) == (values["r1"], 10)
