"""The street model's head: views, points, losses, config."""

import math
import re

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from geohf.geo import spherical_mean
from geohf.street import GeoStreetConfig
from geohf.street.configuration import FUSIONS, GPS_LOSSES, SMOOTHINGS
from geohf.street.head import StreetHead

SIZE = 16
CENTROIDS = [[36.8, -119.4], [31.5, -99.3], [64.1, -178.5], [45.3, -69.2]]
EXTENTS = [[4.6, 5.1], [5.2, 6.4], [7.0, 9.0], [2.1, 2.0]]
BOX = [20.0, 172.0, 70.0, -66.0]


def make_config(**fields):
    defaults = {
        "feature_size": SIZE, "hidden_size": 24, "gps_hidden_size": 12, "class_centroids": CENTROIDS,
        "class_extents": EXTENTS, "gps_box": BOX,
    }  # fmt: skip
    return GeoStreetConfig(**(defaults | fields))


def make_head(seed=0, **fields):
    torch.manual_seed(seed)
    head = StreetHead(make_config(**fields)).eval()
    if hasattr(head, "view_weights"):
        torch.nn.init.normal_(head.view_weights)
    return head


def features(*shape, seed=1, scale=1.0):
    return scale * torch.randn(*shape, SIZE, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    names = [name for name in ("logits", "coordinates", "candidates") if a[name] is not None]
    return names and all(torch.equal(a[name], b[name]) for name in names)


def km(a, b):
    """Great-circle km by the usual formula in float64, written out here on its own."""
    (lat_1, lon_1), (lat_2, lon_2) = np.radians(a), np.radians(b)
    h = np.sin((lat_2 - lat_1) / 2) ** 2
    h += np.cos(lat_1) * np.cos(lat_2) * np.sin((lon_2 - lon_1) / 2) ** 2
    return 2 * 6371.0088 * math.asin(math.sqrt(h))


# ---- views


@pytest.mark.parametrize("garbage", [7.0, math.nan, math.inf])
@pytest.mark.parametrize("heading_aware", [False, True])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_missing_views_change_nothing(fusion, heading_aware, garbage):
    head = make_head(fusion=fusion, heading_aware=heading_aware)
    mask = torch.tensor([[True, True, False, True], [False, True, False, False], [True] * 4])
    headings = torch.tensor([0.0, 90.0, 180.0, 270.0]).repeat(3, 1)
    clean = features(3, 4)
    dirty = torch.where(mask[..., None], clean, garbage)
    dirty_headings = torch.where(mask, headings, 33.0)
    expected = head(clean, mask, headings)
    assert same(expected, head(dirty, mask, dirty_headings))
    assert expected.coordinates.isfinite().all()
    # a batch beside places with more views is padded
    padded = torch.cat([dirty, torch.full((3, 2, SIZE), garbage)], 1)
    padded_mask = torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], 1)
    more_headings = torch.cat([headings, torch.full((3, 2), math.nan)], 1)
    wide = head(padded, padded_mask, more_headings)
    torch.testing.assert_close(wide.logits, expected.logits, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(wide.coordinates, expected.coordinates)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_missing_views_get_no_gradient_and_spoil_none(fusion):
    head = make_head(fusion=fusion, heading_aware=True)
    inputs = features(2, 3)
    inputs[0, 1] = math.nan
    inputs.requires_grad_()
    mask = torch.tensor([[True, False, True], [True, True, True]])
    headings = torch.tensor([[0.0, math.nan, 90.0], [math.nan, 0.0, 90.0]])
    loss = head(
        inputs, mask, headings, torch.tensor([0, 1]), torch.tensor([[36.0, -118.0], [31.0, -99.0]])
    ).loss
    loss.backward()
    assert not inputs.grad[0, 1].any()
    assert inputs.grad[1].any(-1).all()
    assert all(p.grad.isfinite().all() for p in head.parameters())


def test_mean_fusion_is_the_mean_of_the_views_that_are_there():
    head, given = make_head(), features(2, 4)
    mask = torch.tensor([[True, False, True, True], [False, False, True, False]])
    expected = torch.stack([(given[0, 0] + given[0, 2] + given[0, 3]) / 3, given[1, 2]])
    torch.testing.assert_close(head.fuse_views(given, mask), expected)
    torch.testing.assert_close(head.fuse_views(given), given.mean(1))


def test_weighted_fusion_weighs_by_the_softmax_of_its_weights():
    head, given = make_head(fusion="weighted"), features(1, 3)
    with torch.no_grad():
        head.view_weights[:3] = torch.tensor([0.0, math.log(2.0), math.log(5.0)])
    torch.testing.assert_close(
        head.fuse_views(given)[0], (given[0, 0] + 2 * given[0, 1] + 5 * given[0, 2]) / 8
    )
    mask = torch.tensor([[True, False, True]])
    torch.testing.assert_close(head.fuse_views(given, mask)[0], (given[0, 0] + 5 * given[0, 2]) / 6)


@pytest.mark.parametrize("heading_aware", [False, True])
@pytest.mark.parametrize("fusion", ["mean", "attention"])
def test_the_order_of_views_does_not_matter(fusion, heading_aware):
    head = make_head(fusion=fusion, heading_aware=heading_aware)
    given, headings = features(3, 4), torch.tensor([[0.0, 90.0, 180.0, math.nan]]).repeat(3, 1)
    order = [2, 0, 3, 1]
    plain = head.fuse_views(given, None, headings)
    torch.testing.assert_close(plain, head.fuse_views(given[:, order], None, headings[:, order]))
    assert not torch.allclose(plain, head.fuse_views(given.roll(1, 0), None, headings.roll(1, 0)))


@pytest.mark.parametrize("fusion", ["concat", "weighted"])
def test_the_order_of_views_matters_where_each_has_its_place(fusion):
    head, given = make_head(fusion=fusion), features(1, 4)
    assert not torch.allclose(head.fuse_views(given), head.fuse_views(given[:, [2, 0, 3, 1]]), atol=1e-3)


def test_headings_count_for_a_heading_aware_model_only():
    given, turned = features(1, 2), torch.tensor([[10.0, 100.0]])
    aware, unaware = make_head(heading_aware=True), make_head()
    north = torch.zeros(1, 2)
    assert not torch.allclose(aware.fuse_views(given, None, turned), aware.fuse_views(given, None, north))
    torch.testing.assert_close(
        aware.fuse_views(given, None, turned),
        aware.fuse_views(given, None, turned + 360),
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(unaware.fuse_views(given, None, turned), unaware.fuse_views(given))
    # unknown directions: as if nobody had said anything, even where others are known
    assert torch.equal(
        aware.fuse_views(given, None, torch.full((1, 2), math.nan)), aware.fuse_views(given, None, None)
    )
    half = aware.fuse_views(given, None, torch.tensor([[math.nan, 100.0]]))
    with torch.no_grad():
        told = aware.heading(torch.tensor([math.sin(math.radians(100)), math.cos(math.radians(100))]))
    scale, shift = told[:SIZE], told[SIZE:]
    torch.testing.assert_close(half[0], (given[0, 0] + given[0, 1] * (1 + scale) + shift) / 2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_heading_aware_model_knows_which_view_looks_where(fusion):
    head, given = make_head(fusion=fusion, heading_aware=True), features(1, 4)
    headings = torch.tensor([[0.0, 90.0, 180.0, 270.0]])
    # all four directions are there, only their views change
    turned = head.fuse_views(given, None, headings.roll(1, 1))
    assert not torch.allclose(head.fuse_views(given, None, headings), turned, atol=1e-2)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_one_to_eight_views_and_no_more(fusion):
    head = make_head(fusion=fusion)
    for views in range(1, 9):
        assert head(features(2, views)).coordinates.isfinite().all()
    with pytest.raises(ValueError, match="9 views, but the model was made for 8"):
        head(features(2, 9))
    with pytest.raises(ValueError, match="4 views, but the model was made for 3"):
        make_head(fusion=fusion, max_views=3)(features(1, 4))


def test_the_model_ignores_the_pixels_of_missing_views(street_model):
    for fusion in FUSIONS:
        model = street_model(fusion=fusion)
        pixels = torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        mask = torch.tensor([[True, False, True], [False, True, False]])
        dirty = pixels.masked_fill(~mask[..., None, None, None], math.nan)
        assert same(model(pixels, mask), model(dirty, mask))
        if fusion in ("mean", "attention"):  # the others give each view a place of its own
            one = model(pixels[:, 1])
            torch.testing.assert_close(model(pixels, mask).logits[1], one.logits[1], rtol=1e-4, atol=1e-4)


# ---- points


@pytest.mark.parametrize("kind", ["medoid", "mean", "top"])
def test_candidates_stay_within_the_extent_of_their_class(kind):
    output = make_head(point_estimate=kind)(features(200, 2, scale=1e4))
    away = output.candidates.double() - torch.tensor(CENTROIDS, dtype=torch.float64)
    away[..., 1] -= 360 * (away[..., 1] / 360).round()
    assert (away.abs() <= torch.tensor(EXTENTS, dtype=torch.float64) + 1e-4).all()
    assert away.abs().amax((0,)).gt(0).all()  # they do move
    assert output.candidates[..., 1].min() >= -180
    assert output.candidates[..., 1].max() < 180
    assert (output.candidates[:, 2, 1] > 0).any()  # beyond the antimeridian
    if kind != "mean":  # the answer is one of them
        assert (output.coordinates[:, None] == output.candidates).all(-1).any(1).all()


@pytest.mark.parametrize("box", [BOX, [30.0, -120.0, 45.0, -70.0], [-90.0, -180.0, 90.0, 180.0]])
def test_bounded_points_stay_in_the_box(box):
    head = make_head(gps_head="bounded", gps_box=box)
    with torch.no_grad():
        head.locate[-1].weight.mul_(300)
    points = head(features(500, 1)).coordinates.double()
    south, west, north, east = box
    assert (points[:, 0] >= south).all()
    assert (points[:, 0] <= north).all()
    width = (east - west) % 360 or 360
    assert ((points[:, 1] - west) % 360 <= width + 1e-4).all()
    assert (points[:, 0].max() - points[:, 0].min()) > 0.8 * (north - south)  # and fill it
    assert (points[:, 1].abs() <= 180).all()
    if west > east:
        assert (points[:, 1] > 0).any()
        assert (points[:, 1] < 0).any()


def test_point_estimates_by_hand():
    # the likeliest class lies alone; the two others, together likelier, lie side by side
    config = {"class_centroids": [[0.0, 0.0], [0.0, 40.0], [0.0, 42.0]], "class_extents": [[1.0, 1.0]] * 3}
    probabilities = torch.tensor([[0.4, 0.35, 0.25], [0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    candidates = torch.tensor([[[0.1, 0.2], [0.3, 40.4], [-0.5, 42.6]]]).repeat(3, 1, 1)

    def estimate(kind):
        return make_head(point_estimate=kind, **config).estimate(probabilities, candidates)

    # expected degrees: class 0: 0.35 * 40 + 0.25 * 42 = 24.5; 1: 16 + 0.5 = 16.5; 2: 16.8 + 0.7 = 17.5
    assert torch.equal(
        estimate("medoid"), torch.stack([candidates[0, 1], candidates[0, 1], candidates[0, 0]])
    )
    assert torch.equal(estimate("top"), torch.stack([candidates[0, 0], candidates[0, 1], candidates[0, 0]]))
    torch.testing.assert_close(estimate("mean"), spherical_mean(candidates, probabilities))
    torch.testing.assert_close(estimate("mean")[2], candidates[0, 0])


def test_the_medoid_is_never_a_class_that_was_ruled_out():
    # the middle class is the most central one, and impossible
    head = make_head(class_centroids=[[0.0, 0.0], [0.0, 10.0], [0.0, 20.0]], class_extents=[[1.0, 1.0]] * 3)
    candidates = torch.tensor([[[0.0, 0.0], [0.0, 10.0], [0.0, 20.0]]])
    answer = head.estimate(torch.tensor([[0.5, 0.0, 0.5]]), candidates)
    assert answer.tolist() in ([[0.0, 0.0]], [[0.0, 20.0]])


# ---- losses


LABELS = torch.tensor([0, 2, 3, 1])
TRUTH = torch.tensor([[35.0, -118.0], [66.0, 179.5], [44.9, -69.0], [31.6, -97.3]], dtype=torch.float64)


def written_out_class_loss(smoothing, logits, temperature):
    total = 0.0
    for row, (label, point) in enumerate(zip(LABELS.tolist(), TRUTH.tolist(), strict=True)):
        if smoothing == "cell":
            weights = np.exp([-km(CENTROIDS[label], c) / temperature for c in CENTROIDS])
            targets = weights / weights.sum()
        elif smoothing == "point":
            away = np.array([km(point, c) for c in CENTROIDS])
            targets = np.exp(-(away - away.min()) / temperature)
        else:
            targets = np.eye(len(CENTROIDS))[label]
        z = logits[row].double().numpy()
        log_probabilities = z - math.log(np.exp(z).sum())
        total -= float((targets * log_probabilities).sum())
    return total / len(LABELS)


def written_out_gps_loss(kind, points, scales):
    total = 0.0
    for point, truth, scale in zip(points.double().tolist(), TRUTH.tolist(), scales, strict=True):
        if kind == "haversine":
            total += km(point, truth) / 5000
            continue
        dlon = (point[1] - truth[1] + 180) % 360 - 180
        for difference in ((point[0] - truth[0]) / scale[0], dlon / scale[1]):
            a = abs(difference)
            total += {"mse": a * a, "mae": a, "smooth_l1": a * a / 2 if a < 1 else a - 0.5}[kind] / 2
    return total / len(TRUTH)


@pytest.mark.parametrize("gps_head", ["offset", "bounded"])
@pytest.mark.parametrize("kind", GPS_LOSSES)
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_the_loss_is_the_written_out_formula(smoothing, kind, gps_head):
    head = make_head(
        smoothing=smoothing,
        smoothing_km=750.0,
        gps_loss=kind,
        gps_head=gps_head,
        class_weight=0.7,
        gps_weight=0.4,
    )
    output = head(features(4, 3), labels=LABELS, coordinates=TRUTH)
    if gps_head == "offset":  # the point of the true class, in shares of that class's extent
        points, scales = output.candidates[torch.arange(4), LABELS], [EXTENTS[i] for i in LABELS]
    else:
        points, scales = output.coordinates, [[25.0, 61.0]] * 4  # half of 172 E over the date line to 66 W
    class_loss = written_out_class_loss(smoothing, output.logits.detach(), 750.0)
    located = written_out_gps_loss(kind, points.detach(), scales)
    assert output.loss_parts["class_loss"].item() == pytest.approx(class_loss, rel=1e-4)
    assert output.loss_parts["gps_loss"].item() == pytest.approx(located, rel=1e-4)
    assert output.loss.item() == pytest.approx(0.7 * class_loss + 0.4 * located, rel=1e-4)


def test_a_stated_gps_scale_is_used_by_both_heads():
    for gps_head in ("offset", "bounded"):
        head = make_head(gps_loss="mae", gps_head=gps_head, gps_scale=[46.0, 59.0])
        output = head(features(4, 3), labels=LABELS, coordinates=TRUTH)
        points = output.coordinates if gps_head == "bounded" else output.candidates[torch.arange(4), LABELS]
        expected = written_out_gps_loss("mae", points.detach(), [[46.0, 59.0]] * 4)
        assert output.loss_parts["gps_loss"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("gps_head", ["offset", "bounded"])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_unknown_labels_and_coordinates_do_not_count(smoothing, gps_head):
    head, given = make_head(smoothing=smoothing, gps_head=gps_head), features(4, 2)
    labels, truth = LABELS.clone(), TRUTH.clone()
    labels[1], truth[2] = -100, math.nan
    parts = head(given, labels=labels, coordinates=truth).loss_parts
    by_label, by_point = [0, 2, 3], [0, 1, 3]
    rows = by_point if smoothing == "point" else by_label
    expected = head(given[rows], labels=LABELS[rows], coordinates=TRUTH[rows]).loss_parts
    torch.testing.assert_close(parts["class_loss"], expected["class_loss"])
    labels_of_points = labels[by_point].clone()
    if gps_head == "offset":  # without a label the nearest class's point learns: Alaska
        assert head._own_class(labels[1:2], truth[1:2], torch.device("cpu")).tolist() == [2]
    expected = head(given[by_point], labels=labels_of_points, coordinates=TRUTH[by_point]).loss_parts
    torch.testing.assert_close(parts["gps_loss"], expected["gps_loss"])


@pytest.mark.parametrize("gps_loss", GPS_LOSSES)
def test_a_batch_that_knows_nothing_costs_nothing(gps_loss):
    head = make_head(gps_loss=gps_loss)
    nothing = torch.full((3, 2), math.nan, dtype=torch.float64)
    output = head(features(3, 2), labels=torch.full((3,), -100), coordinates=nothing)
    output.loss.backward()
    assert output.loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in head.parameters())
    assert head(features(3, 2)).loss is None


@pytest.mark.parametrize("gps_head", ["offset", "bounded"])
@pytest.mark.parametrize("gps_loss", GPS_LOSSES)
def test_the_gradient_is_finite_where_the_answer_is_exact(gps_loss, gps_head):
    head = make_head(gps_loss=gps_loss, gps_head=gps_head)
    given, labels = features(3, 2), torch.tensor([0, 1, 2])
    first = head(given)
    truth = first.coordinates if gps_head == "bounded" else first.candidates[torch.arange(3), labels]
    output = head(given, labels=labels, coordinates=truth.detach().double())
    output.loss.backward()
    assert output.loss_parts["gps_loss"].item() == pytest.approx(0, abs=1e-9)
    assert all(p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_loss_items_make_the_pieces_of_a_batch_add_up(smoothing):
    head, given = make_head(smoothing=smoothing, dropout=0.0), features(4, 2)
    labels, truth = LABELS.clone(), TRUTH.clone()
    labels[0], truth[3] = -100, math.nan
    head(given, labels=labels, coordinates=truth).loss.backward()
    whole = [p.grad.clone() for p in head.parameters()]
    head.zero_grad()
    items = head.count_loss_items({"labels": labels, "coordinates": truth})
    assert {name: int(count) for name, count in items.items()} == {"class_loss": 3, "gps_loss": 3}
    pieces = [slice(0, 1), slice(1, 4)]
    losses = [
        head(given[piece], labels=labels[piece], coordinates=truth[piece], loss_items=items).loss
        for piece in pieces
    ]
    sum(losses).backward()
    torch.testing.assert_close(sum(losses), head(given, labels=labels, coordinates=truth).loss)
    for gradient, parameter in zip(whole, head.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-7)


def test_counts_of_a_batch_without_labels_or_points():
    head = make_head()
    assert {k: int(v) for k, v in head.count_loss_items({}).items()} == {"class_loss": 0, "gps_loss": 0}
    regressing = make_head(class_centroids=None, class_extents=None, gps_head="bounded")
    assert {k: int(v) for k, v in regressing.count_loss_items({"coordinates": TRUTH}).items()} == {
        "gps_loss": 4
    }


# ---- models without classes, config


def test_a_model_without_classes_only_regresses():
    head = make_head(class_centroids=None, class_extents=None, gps_head="bounded", gps_weight=0.5)
    output = head(features(4, 2), coordinates=TRUTH)
    assert output.logits is None
    assert output.candidates is None
    assert set(output.loss_parts) == {"gps_loss"}
    assert output.loss.item() == pytest.approx(0.5 * output.loss_parts["gps_loss"].item())
    assert not any(name.startswith("classify") for name, _ in head.named_parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fusion": "max"}, "fusion must be one of mean, concat, attention, weighted; got 'max'"),
        ({"gps_head": "grid"}, "gps_head must be one of"),
        ({"gps_loss": "l3"}, "gps_loss must be one of"),
        ({"smoothing": "both"}, "smoothing must be one of"),
        ({"point_estimate": "mode"}, "point_estimate must be one of"),
        ({"max_views": 9}, "max_views must be at least 1 and at most 8, got 9"),
        ({"max_views": 0}, "max_views must be at least 1 and at most 8, got 0"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": math.nan}, "temperature must be above 0"),
        ({"gps_box": [1.0, 2.0, 3.0]}, "gps_box must be"),
        ({"smoothing_km": -5.0}, "smoothing_km must be above 0, got -5.0"),
        ({"class_weight": math.nan}, "class_weight must be at least 0, got nan"),
        ({"radius_coverage": 1.5}, "radius_coverage must be above 0 and below 1, got 1.5"),
        ({"gps_scale": [0.0, 1.0]}, "gps_scale is two positive numbers of degrees"),
        ({"gps_scale": [1.0]}, "gps_scale is two positive numbers of degrees"),
        ({"class_extents": [[1.0, 1.0]]}, "class_extents has 1 entries for 4 classes"),
        ({"class_indices": [1, 2]}, "class_indices has 2 entries for 4 classes"),
        ({"id2label": {0: "a"}}, "id2label has 1 entries for 4 classes"),
        ({"class_centroids": None, "class_extents": None}, "a model without classes is 'bounded'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(StrictDataclassError, match=re.escape(message)):
        make_config(**fields)


def test_a_head_without_classes_cannot_step_from_them():
    with pytest.raises(ValueError, match="a model without classes is 'bounded'"):
        StreetHead(GeoStreetConfig())


def test_a_config_survives_its_file_to_the_last_digit(tmp_path):
    config = make_config(
        class_centroids=[[47.37690123456789, -179.99999999999997], [1 / 3, 2 / 3]],
        class_extents=[[0.1, 0.3], [1e-7, 9.0]],
        class_indices=[3, 40],
        id2label={0: "West Virginia", 1: "Maine"},
        temperature=0.917,
        radius_factor=1.0000000001,
    )
    config.save_pretrained(tmp_path)
    loaded = GeoStreetConfig.from_pretrained(tmp_path)
    for name in ("class_centroids", "class_extents", "class_indices", "id2label", "label2id", "gps_box"):
        assert getattr(loaded, name) == getattr(config, name)
    assert (loaded.temperature, loaded.radius_factor) == (0.917, 1.0000000001)
    assert loaded.label2id == {"West Virginia": 0, "Maine": 1}
