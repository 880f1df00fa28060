"""`GeoStreetModel.predict`: every form of input, restrictions, radii."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from helpers.street_models import CLASSES, STATES, build_model, close, flat, spread_out
from PIL import Image as PillowImage

from geohf.errors import DataError, warn_once
from geohf.geo import area_from_geojson, box, great_circle_m
from geohf.street.head import GeoStreetOutput
from geohf.street.phase import calibrate
from geohf.vision.images import ImageError


@pytest.fixture(scope="module")
def model():
    return spread_out(build_model(heading_aware=True))


@pytest.fixture(scope="module")
def answers(model, photos):
    """The answers for the eight photographs, each alone."""
    return [flat(model.predict(photo))[0] for photo in photos]


def test_the_pictures_differ_enough_for_these_tests(answers):
    assert len({answer["states"][0]["name"] for answer in answers}) >= 2
    assert len({answer["latitude"] for answer in answers}) == 8


# ---- forms of input


def forms(photos):
    pictures = [PillowImage.open(photo) for photo in photos]
    arrays = [np.asarray(picture) for picture in pictures]
    yield "paths", list(photos)
    yield "text", [str(photo) for photo in photos]
    yield "a tuple", tuple(photos)
    yield "PIL", pictures
    yield "numpy HWC", arrays
    yield "numpy CHW", [array.transpose(2, 0, 1) for array in arrays]
    yield "floats", [array.astype(np.float32) / 255 for array in arrays]
    yield "torch CHW", [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    yield "bytes", [photo.read_bytes() for photo in photos]
    yield "a mixture", [photos[0], str(photos[1]), pictures[2], arrays[3], *photos[4:]]
    yield "one view in a list", [[photo] for photo in photos]
    yield "dicts", [{"image": photo} for photo in photos]
    yield "views", [{"views": [photo]} for photo in photos]
    yield "a folder", photos[0].parent
    yield "a folder as text", str(photos[0].parent)
    yield "a generator", (photo for photo in photos)
    encoded = [{"bytes": photo.read_bytes(), "path": None} for photo in photos]
    yield "rows of undecoded images", encoded
    yield "a dataset with an image column", Dataset.from_dict({"image": encoded}, Features(image=Image()))
    views = Features(views=List(Image()), headings=List(Value("float64")), note=Value("string"))
    columns = {"views": [[e] for e in encoded], "headings": [[math.nan]] * 8, "note": ["x"] * 8}
    yield "a dataset with a views column", Dataset.from_dict(columns, views)
    yield "an undecoded dataset", Dataset.from_dict({"image": encoded}, Features(image=Image(decode=False)))
    yield (
        "a streamed dataset",
        Dataset.from_dict({"image": encoded}, Features(image=Image())).to_iterable_dataset(),
    )


def test_all_forms_of_input_give_the_same_answers(model, photos, answers):
    names = []
    for name, inputs in forms(photos):
        try:
            close(flat(model.predict(inputs)), answers)
        except Exception as error:
            error.add_note(f"input: {name}")
            raise
        names.append(name)
    assert len(names) == 21


def test_one_sample_without_a_list_is_one_answer(model, photos, answers):
    picture = PillowImage.open(photos[2])
    for one in (str(photos[2]), picture, np.asarray(picture), {"image": photos[2]}, photos[2].read_bytes()):
        close(flat(model.predict(one)), [answers[2]])


def test_views_and_headings_are_the_same_by_compass_and_by_degrees(model, photos):
    compass = dict(zip(("north", "east", "south", "west"), photos, strict=False))
    by_compass = flat(model.predict(compass))
    shuffled = {"west": photos[3], "south": photos[2], "north": photos[0], "east": photos[1]}
    by_degrees = {"views": photos[:4], "headings": [0, 90, 180, 270]}
    close(flat(model.predict([shuffled, by_degrees])), by_compass * 2)
    without = flat(model.predict([photos[:4]]))[0]
    assert without["latitude"] != by_compass[0]["latitude"]  # the model is aware of headings
    turned = {"views": photos[:4], "headings": [90, 180, 270, 0]}
    assert flat(model.predict(turned))[0]["latitude"] != by_compass[0]["latitude"]


def test_the_size_of_batches_does_not_change_answers(model, photos):
    samples = [*photos, photos[:4], {"north": photos[1], "west": photos[5]}]
    one = flat(model.predict(samples, batch_size=1))
    for batch_size in (3, 32):
        close(flat(model.predict(samples, batch_size=batch_size)), one)


def test_nothing_gives_nothing_and_training_mode_is_kept(model, photos, answers):
    assert model.predict([]) == []
    model.train()
    try:
        close(flat(model.predict(photos)), answers)  # no dropout, no batch statistics
        assert model.training
    finally:
        model.eval()


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_broken_file_is_named(model, photos, tmp_path, content):
    path = tmp_path / "holiday_17.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=r"holiday_17\.jpg"):
        model.predict([photos[0], path], batch_size=1)
    with pytest.raises(ImageError, match=r"holiday_17\.jpg"):
        model.predict({"north": photos[0], "south": str(path)})


def test_an_empty_folder_is_refused(model, tmp_path):
    with pytest.raises(ImageError, match="holds no image"):
        model.predict(tmp_path)


# ---- probabilities and states


def test_probabilities_over_all_states_sum_to_one(model, photos):
    for answer in model.predict(photos, top_k=5):
        probabilities = [state.probability for state in answer.states]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert probabilities == sorted(probabilities, reverse=True)
        assert {state.name for state in answer.states} == set(STATES)
        index = dict(zip(STATES, CLASSES["class_indices"], strict=True))
        assert all(state.index == index[state.name] for state in answer.states)


def test_top_k_names_as_many_states(model, photos):
    everything = model.predict(photos[0], top_k=5)[0].states
    for top_k in (1, 3):
        assert model.predict(photos[0], top_k=top_k)[0].states == everything[:top_k]
    assert len(model.predict(photos[0], top_k=50)[0].states) == 5
    with pytest.raises(DataError, match="top_k must be a whole number of at least 1, got 0"):
        model.predict(photos[0], top_k=0)


def test_a_temperature_changes_confidence_and_not_the_order(model, photos):
    plain = model.predict(photos[0])[0].states
    model.config.temperature = 3.0
    try:
        soft = model.predict(photos[0])[0].states
    finally:
        model.config.temperature = 1.0
    assert [state.name for state in soft] == [state.name for state in plain]
    assert soft[0].probability < plain[0].probability
    ratio = [math.log(a[0].probability / a[1].probability) for a in (plain, soft)]
    assert ratio[0] / ratio[1] == pytest.approx(3, rel=1e-3)


def test_answers_within_states_by_name_and_by_index(model, photos):
    free = model.predict(photos, top_k=5)
    named = model.predict(photos, states=["Texas", "Maine"], top_k=5)
    assert model.predict(photos, states=[18, 42], top_k=5) == named
    assert model.predict(photos, states=(42, "Maine"), top_k=5) == named
    assert model.predict(photos, states=np.array([18, 42]), top_k=5) == named
    with pytest.raises(DataError, match="the model knows no state True"):
        model.predict(photos, states=[True])  # which is no index 1
    for before, after in zip(free, named, strict=True):
        assert {state.name for state in after.states} <= {"Texas", "Maine"}  # the others have probability 0
        assert sum(state.probability for state in after.states) == pytest.approx(1, abs=1e-5)
        odds = {state.name: state.probability for state in before.states}
        for state in after.states:
            expected = odds[state.name] / (odds["Texas"] + odds["Maine"])
            assert state.probability == pytest.approx(expected, abs=1e-4)
        near = [STATES[state.name] for state in after.states]
        point = after.latitude, after.longitude
        assert any(abs(point[0] - s[0]) <= s[2] and abs(point[1] - s[1]) <= s[3] for s in near)
    one = model.predict(photos[0], states="Maine", top_k=5)[0]
    assert [(state.name, state.probability) for state in one.states] == [("Maine", 1.0)]


def test_unknown_states_are_refused_with_a_suggestion(model, photos):
    with pytest.raises(DataError, match=r"no state 'Califronia' \(did you mean 'California'\?\)"):
        model.predict(photos[0], states=["Califronia"])
    with pytest.raises(DataError, match="no state 3"):
        model.predict(photos[0], states=[4, 3])
    with pytest.raises(DataError, match="no state is left"):
        model.predict(photos[0], states=[])


# ---- areas


AREAS = {
    "a box": box(30.0, -110.0, 47.0, -60.0),
    "a box far from every class": box(-40.0, 100.0, -20.0, 140.0),
    "a box over the antimeridian": box(50.0, 170.0, 72.0, -150.0),
    "GeoJSON": {
        "type": "Polygon",
        "coordinates": [[[-106.0, 26.0], [-94.0, 29.0], [-100.0, 36.0], [-106.0, 26.0]]],
    },
}


@pytest.mark.parametrize("kind", ["medoid", "mean", "top"])
@pytest.mark.parametrize("name", AREAS)
def test_every_answer_lies_in_the_area(model, photos, name, kind):
    area = AREAS[name]
    model.config.point_estimate = kind
    try:
        answers = model.predict([*photos, photos[:4]], area=area)
    finally:
        model.config.point_estimate = "medoid"
    points = np.array([[answer.latitude, answer.longitude] for answer in answers])
    area = area if not isinstance(area, dict) else area_from_geojson(area)
    # a point on the border may lie a rounding of float32 beside it
    assert great_circle_m(area.nearest(points), points).max() < 5
    assert sum(state.probability for state in answers[0].states) == pytest.approx(1, abs=1e-4)


def test_an_area_prefers_the_states_within_it(model, photos):
    for answer in model.predict(photos, area=box(17.0, -162.0, 24.0, -153.0)):
        assert answer.states[0].name == "Hawaii"


def test_real_outlines_from_a_file(model, photos, shared_data):
    outlines = shared_data("us_states") / "us_states.json"
    texas = area_from_geojson(outlines, "Texas")
    for area in (texas, outlines, str(outlines)):
        points = np.array([[a.latitude, a.longitude] for a in model.predict(photos, area=area)])
        wanted = texas if area is texas else area_from_geojson(outlines)
        assert great_circle_m(wanted.nearest(points), points).max() < 5


@pytest.mark.case("files-C12")
def test_an_area_without_any_class_is_said_once(model, photos, caplog):
    warn_once.cache_clear()
    model.predict(photos, area=box(44.0, -75.0, 44.5, -74.5), batch_size=1)
    model.predict(photos, area=box(1.0, 47.0, 3.0, 49.0), batch_size=1)  # Paris, exchanged
    near, far = (record.getMessage() for record in caplog.records if "within the area" in record.getMessage())
    assert "swapped" not in near
    assert "are latitude and longitude swapped?" in far


def test_states_and_area_together(model, photos):
    # the area wins over the point, the states over the names
    for answer in model.predict(photos, states=["Texas", "California"], area=box(41.0, -75.0, 48.0, -66.0)):
        assert {state.name for state in answer.states} <= {"Texas", "California"}
        assert 41 <= answer.latitude <= 48
        assert -75 <= answer.longitude <= -66


def test_a_geojson_file_that_cannot_be_read_is_named(model, photos, tmp_path):
    (tmp_path / "area.geojson").write_text("{")
    with pytest.raises(DataError, match=r"area\.geojson: not valid JSON"):
        model.predict(photos[0], area=tmp_path / "area.geojson")
    with pytest.raises(DataError, match=r"nowhere\.geojson"):
        model.predict(photos[0], area=str(tmp_path / "nowhere.geojson"))


# ---- radius and calibration


def test_no_radius_before_calibration(model, photos):
    assert model.config.radius_factor is None
    assert all(answer.radius_m is None for answer in model.predict(photos))


def test_a_radius_grows_with_the_distance_that_the_model_expects(street_model, photos):
    model = street_model()
    model.config.radius_factor, model.config.radius_floor_m = 2.0, 1000.0
    answers = model.predict(photos, top_k=5)
    sharp = street_model()
    sharp.config.radius_factor, sharp.config.radius_floor_m, sharp.config.temperature = 2.0, 1000.0, 0.05
    for answer, certain in zip(answers, sharp.predict(photos, top_k=5), strict=True):
        assert answer.radius_m > certain.radius_m >= 2000
    only = model.predict(photos[0], states=["Texas"])[0]
    assert only.radius_m == pytest.approx(2000, rel=0.01)  # one candidate: nothing but the floor is left


def simulated(model, rng, places):
    """Outputs of a model that is right as often as it says, and their truth."""
    head = model.head
    logits = torch.from_numpy(rng.normal(0, 2, (places, len(STATES))).astype(np.float32))
    offsets = torch.from_numpy(rng.uniform(-1, 1, (places, len(STATES), 2)).astype(np.float32))
    candidates = head.candidates(offsets)
    sharper = (logits / 1.7).softmax(-1).numpy()
    labels = np.array([rng.choice(len(STATES), p=p / p.sum()) for p in sharper.astype(float)])
    own = candidates[torch.arange(places), torch.from_numpy(labels)].double().numpy()
    truth = own + rng.normal(0, 0.8, own.shape)
    points = head.estimate(logits.softmax(-1), candidates)
    return GeoStreetOutput(logits=logits, coordinates=points, candidates=candidates), labels, truth


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_calibration_holds_its_promise_on_other_places(street_model, coverage):
    model, rng = street_model(radius_coverage=coverage), np.random.default_rng(11)
    held = []
    for _ in range(40):
        outputs, labels, truth = simulated(model, rng, 150)
        labels[::10], truth[5::10] = -100, np.nan  # some places lack a label, some a position
        calibrate(model, outputs, labels, truth)
        outputs, _, truth = simulated(model, rng, 200)
        answers = model.decode(outputs)
        points = np.array([[a.latitude, a.longitude] for a in answers])
        held.append(np.mean(great_circle_m(points, truth) <= [a.radius_m for a in answers]))
    # split conformal prediction: between coverage and coverage + 1 / (n + 1) on average
    assert coverage - 0.01 < np.mean(held) < coverage + 0.025


def test_calibration_finds_the_temperature(street_model):
    model = street_model()
    calibrate(model, *simulated(model, np.random.default_rng(5), 4000))
    assert model.config.temperature == pytest.approx(1.7, rel=0.06)


def test_too_few_places_promise_nothing(street_model):
    model, rng = street_model(radius_coverage=0.9), np.random.default_rng(0)
    calibrate(model, *simulated(model, rng, 8))
    assert model.config.radius_factor is None
    calibrate(model, *simulated(model, rng, 9))
    assert model.config.radius_factor is not None
    outputs, labels, truth = simulated(model, rng, 30)
    fresh = street_model()
    calibrate(fresh, outputs, labels, np.full_like(truth, np.nan))
    assert fresh.config.radius_factor is None


# ---- models without classes


def test_a_model_without_classes_answers_points_only(street_model, photos):
    model = street_model(classes=False)
    answers = model.predict([*photos, photos[:3]])
    assert all(answer.states == [] for answer in answers)
    assert len({answer.latitude for answer in answers}) == 9
    restricted = model.predict(photos, area=box(30.0, -110.0, 40.0, -100.0))
    assert all(30 <= a.latitude <= 40 and -110 <= a.longitude <= -100 for a in restricted)
    with pytest.raises(DataError, match="has no classes"):
        model.predict(photos[0], states=["Texas"])


def test_half_precision_answers_nearly_the_same(street_model, photos):
    model = street_model()
    full = flat(model.predict(photos, top_k=5))
    half = flat(model.to(torch.bfloat16).predict(photos, top_k=5))
    for a, b in zip(full, half, strict=True):
        probabilities = [{s["name"]: s["probability"] for s in answer["states"]} for answer in (a, b)]
        for name in probabilities[0]:
            assert probabilities[0][name] == pytest.approx(probabilities[1].get(name, 0), abs=0.15)
