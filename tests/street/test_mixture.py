"""The head that answers with a mixture of von Mises-Fisher distributions."""

import math

import numpy as np
import pytest
import torch
from helpers.street_models import STATES, build_model, patches

from geohf.data.task_data import TaskData
from geohf.errors import DataError, warn_once
from geohf.geo import area_from_geojson, great_circle_m, unit_vectors
from geohf.street import GeoStreetConfig, GeoStreetModel
from geohf.street.arguments import StreetArguments
from geohf.street.density import NOWHERE, MixtureHead, components_of, mixture_log_density, mixture_loss
from geohf.street.head import GeoStreetOutput, StreetHead
from geohf.street.modeling import make_model
from geohf.street.phase import calibrate
from geohf.street.places import as_places

BOX = [35.0, -10.0, 55.0, 20.0]


def one(latitude, longitude, kappa, dtype=torch.float64):
    mean = unit_vectors(torch.tensor([latitude, longitude], dtype=torch.float64))
    return torch.tensor([[[0.0, *mean.tolist(), math.log(kappa)]]], dtype=dtype)


def equal_area_grid(rows):
    heights = (np.arange(rows) + 0.5) / rows * 2 - 1
    longitudes = (np.arange(2 * rows) + 0.5) / (2 * rows) * 360 - 180
    lat, lon = np.meshgrid(np.degrees(np.arcsin(heights)), longitudes, indexing="ij")
    return torch.from_numpy(np.stack([lat, lon], -1).reshape(-1, 2))


@pytest.mark.parametrize(("kappa", "rows"), [(1.0, 100), (100.0, 200), (1e4, 700)])
def test_it_integrates_to_one(kappa, rows):
    grid = equal_area_grid(rows)
    density = mixture_log_density(one(47.0, 180.0, kappa).expand(len(grid), 1, 5), grid).exp()
    assert float(density.mean() * 4 * math.pi) == pytest.approx(1.0, abs=1e-3)


def test_a_hundred_thousand_is_stable_in_float32():
    points = [[10.0, 20.1], [10.0, 20.0], [-80.0, -100.0]]
    found = [
        mixture_log_density(one(10.0, 20.0, 1e5, dtype).expand(3, 1, 5), torch.tensor(points, dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    ]
    torch.testing.assert_close(found[0].double(), found[1], atol=2e-3, rtol=0)
    assert float(found[1][1]) == pytest.approx(math.log((1 - NOWHERE) * 1e5 / (2 * math.pi)), abs=1e-6)
    assert float(found[1][2]) == pytest.approx(math.log(NOWHERE / (4 * math.pi)))


def test_there_is_no_seam_at_180_degrees():
    for mixture in (one(10.0, 180.0, 50.0), one(10.0, -180.0, 50.0)):
        sides = [mixture_log_density(mixture, torch.tensor([[12.0, at]]).double()) for at in (179.0, -179.0)]
        assert float(sides[0]) == pytest.approx(float(sides[1]), abs=1e-9)
    both = [
        mixture_log_density(one(10.0, 175.0, 50.0), torch.tensor([[3.0, at]]).double()) for at in (180, -180)
    ]
    assert float(both[0]) == pytest.approx(float(both[1]), abs=1e-9)


def test_the_gradient_is_right_and_rows_without_a_point_count_for_nothing():
    torch.manual_seed(0)
    head = MixtureHead(config(components=3)).double()
    place, truth = (
        torch.randn(4, 6).double(),
        torch.tensor([[40.0, 3.0], [50.0, -5.0], [45.0, 10.0], [0.0, 180.0]]),
    )
    # the head gives float32 to users; its layers alone are checked here
    raw = head.layers(place).detach().unflatten(-1, (-1, 5)).requires_grad_()

    def loss(raw):
        means = torch.nn.functional.normalize(raw[..., 1:4], dim=-1)
        return mixture_loss(
            torch.cat([raw[..., :1].log_softmax(-2), means, raw[..., 4:]], -1), truth.double()
        )

    assert torch.autograd.gradcheck(loss, (raw,))
    mixture, unknown = MixtureHead(config())(place.float()), truth.clone()
    unknown[2] = math.nan
    assert mixture_loss(mixture, unknown) == mixture_loss(mixture[[0, 1, 3]], truth[[0, 1, 3]])
    assert mixture_loss(mixture[:1], unknown[2:3]) == 0.0


def config(components=4, **fields):
    sizes = {"feature_size": 6, "hidden_size": 32, "gps_hidden_size": 32, "dropout": 0.0, "gps_box": BOX}
    return GeoStreetConfig(gps_head="vmf", vmf_components=components, density=True, **sizes | fields)


def test_an_untrained_head_says_somewhere_in_the_box():
    mixture = MixtureHead(config())(torch.randn(50, 6))
    weights, components = components_of(mixture)
    torch.testing.assert_close(weights.sum(-1), torch.ones(50))
    assert float(great_circle_m(components[..., :2].detach(), torch.tensor([45.0, 5.0])).max()) < 1.5e6
    assert 10 < float(components[..., 2].detach().median()) < 1000


def two_places(n, seed):
    """Features that say which of two pairs of places it is, not which of the pair."""
    rng = np.random.default_rng(seed)
    pair, side = rng.integers(0, 2, (2, n))
    centers = np.array([[[40.0, 0.0], [50.0, 0.0]], [[40.0, 15.0], [52.0, 18.0]]])
    points = centers[pair, side] + rng.normal(0, 0.3, (n, 2))
    features = rng.normal(0, 0.1, (n, 6)) + 3 * np.eye(6)[pair]
    return torch.from_numpy(features).float()[:, None], torch.from_numpy(points)


def trained(components, seed=0):
    torch.manual_seed(seed)
    head = StreetHead(config(components))
    features, points = two_places(200, 0)
    head.standardize.fit(features[:, 0])
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        head(features, coordinates=points).loss.backward()
        optimizer.step()
    return head.eval()


def test_two_places_that_look_alike_are_both_answered():
    features, points = two_places(300, 1)
    several, single = trained(3), trained(1)
    with torch.inference_mode():
        losses = [float(mixture_loss(head(features).mixture, points)) for head in (several, single)]
        weights, components = components_of(several(features).mixture)
    assert losses[0] < losses[1] - 0.5
    # half of it lies where the place is, half where the one that looks like it is
    near = great_circle_m(components[..., :2], points[:, None]) < 300_000
    assert 0.35 < float((weights * near).sum(-1).mean()) < 0.65


def street_model(**fields):
    return build_model(classes=False, **{"gps_head": "vmf", "density": True, "gps_box": BOX} | fields)


def test_a_model_answers_with_regions_and_is_loaded_as_it_was_saved(tmp_path):
    model = street_model()
    points = np.random.default_rng(0).normal([45, 5], [3, 4], (200, 2))
    with torch.inference_mode():
        outputs = model(model.processor(patches(3, 200))["pixel_values"])
    assert outputs.logits is None
    calibrate(model, GeoStreetOutput(**outputs), np.full(200, -100), points)
    assert model.config.radius_factor is not None
    model.save_pretrained(tmp_path)
    loaded, pictures = GeoStreetModel.from_pretrained(tmp_path), patches(5, 3)
    answers = loaded.predict(pictures, regions=True)
    assert answers == model.predict(pictures, regions=True)
    large = area_from_geojson(answers[0].regions["90"])
    assert 0.8 < float(large.contains(points).mean()) <= 1.0
    assert answers[0].radius_m > 100_000
    assert answers[0].localizability > 1
    box = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1], [0, 0]]]}
    assert loaded.predict(pictures, area=box)[0].latitude <= 1


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(Exception, match="refine needs classes, and a point that comes from these"):
        build_model(gps_head="vmf", refine=2)
    with pytest.raises(Exception, match="vmf_components must be at least 1"):
        street_model(vmf_components=0)


@pytest.mark.parametrize("gps_head", ["bounded", "vmf"])
def test_it_is_told_that_states_and_areas_restrict_one_part_of_the_answer(gps_head, caplog):
    model = build_model(gps_head=gps_head).eval()
    warn_once.cache_clear()
    model.predict(patches(3, 1))
    assert not caplog.records
    model.predict(patches(3, 3), states=["Maine"], batch_size=1)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        f"the point of gps_head '{gps_head}' does not come from the classes"
    )


def test_regions_are_not_drawn_outside_the_area_that_was_asked_for():
    model = build_model(gps_head="vmf", density=True, density_scale=1.0, region_masses=[0.5, 0.9]).eval()
    ring = [[0, 0], [4, 0], [4, 4], [0, 4], [0, 0]]
    area = {"type": "Polygon", "coordinates": [ring]}
    with pytest.raises(DataError, match="moves the point of gps_head 'vmf', not its regions"):
        model.predict(patches(3, 1), area=area, regions=True)
    assert model.predict(patches(3, 1), area=area)[0].latitude <= 4


def test_options_that_a_head_does_not_hear_are_told_of(caplog):
    rows = [{"state": state, "latitude": row[0], "longitude": row[1]} for state, row in STATES.items()]
    for picture, row in zip(patches(3, len(rows)), rows, strict=True):
        row["image"] = picture
    small = {"backbone": "test_resnet", "pretrained": False, "image_size": 32}
    data = TaskData(as_places(rows))
    make_model(StreetArguments(gps_head="vmf", point_estimate="mean", gps_loss="mae", **small), data)
    make_model(StreetArguments(vmf_components=2, **small), data)
    make_model(StreetArguments(gps_head="vmf", vmf_components=2, **small), data)
    assert [record.getMessage() for record in caplog.records if "without effect" in record.getMessage()] == [
        "--gps_loss, --point_estimate: without effect on --gps_head vmf",
        "--vmf_components: without effect on --gps_head offset",
    ]


def test_the_spread_of_a_city_is_learned():
    model = build_model(gps_head="vmf", gps_box=[48.80, 2.25, 48.90, 2.42])
    head = MixtureHead(model.config)
    mixture = head(torch.randn(4, model.config.feature_size))
    assert (mixture[..., 4] > 14).all()  # narrower than 6 km
    head.zero_grad()
    mixture_loss(mixture, torch.tensor([48.85, 2.3]).expand(4, 2)).backward()
    slopes = head.layers[-1].bias.grad.unflatten(0, (-1, 5))[:, 4]
    assert slopes.isfinite().all()
    assert (slopes != 0).all()  # a spread at its bound would not move
