"""The ranker of candidates: its loss, what it learns, and the model that has one."""

import math

import numpy as np
import pytest
import torch
from datasets import IterableDataset
from helpers.street_models import build_model, parse, patches, spread_out

from geohf.data.tensor_dataset import TensorDictDataset
from geohf.errors import DataError
from geohf.geo import box, great_circle_m
from geohf.recipes.train_street import run
from geohf.street import GeoStreetConfig
from geohf.street.arguments import StreetTrainingArguments
from geohf.street.ranker import Ranker, make_ranker, plackett_luce_loss
from geohf.street.refining import rank, refine
from geohf.street.trainer import GeoStreetTrainer


def loss_by_loops(scores, distances):
    """The mean over all candidates that count, of all lists together."""
    terms = []
    for own, away in zip(scores.tolist(), distances.tolist(), strict=True):
        left = [i for i in sorted(range(len(own)), key=away.__getitem__) if own[i] > -math.inf]
        while left:
            terms.append(math.log(sum(math.exp(own[i]) for i in left)) - own[left.pop(0)])
    return sum(terms) / len(terms)


def test_the_loss_is_that_of_a_loop_over_ranks():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 5, generator=generator, dtype=torch.float64) * 3
    distances = torch.rand(6, 5, generator=generator, dtype=torch.float64)
    assert float(plackett_luce_loss(scores, distances)) == pytest.approx(
        loss_by_loops(scores, distances), abs=1e-6
    )
    scores[0, 2], scores[3, :4] = -math.inf, -math.inf  # one does not count; one is left alone
    assert float(plackett_luce_loss(scores, distances)) == pytest.approx(
        loss_by_loops(scores, distances), abs=1e-6
    )
    # two candidates by hand: -log(e^1 / (e^1 + e^0)) for the nearer one, 0 for the other
    two = plackett_luce_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[9.0, 2.0]]))
    assert float(two) == pytest.approx(math.log1p(math.exp(-1)) / 2, abs=1e-6)


def test_the_gradient_of_the_loss():
    generator = torch.Generator().manual_seed(1)
    distances = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    scores = torch.randn(3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda rows: plackett_luce_loss(rows, distances), [scores])
    masked = torch.zeros(3, 4, dtype=torch.bool)
    masked[1, 2] = True
    plackett_luce_loss(scores.masked_fill(masked, -math.inf), distances).backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[1, 2] == 0


def test_an_untrained_ranker_keeps_the_order_and_what_is_ruled_out():
    generator = torch.Generator().manual_seed(2)
    scores = torch.randn(4, 6, generator=generator)
    scores[:, 3] = -math.inf
    points = torch.rand(4, 6, 2, generator=generator) * 40
    ranker = Ranker(8)
    found = ranker(torch.randn(4, 8, generator=generator), points, scores)
    assert torch.equal(found.argsort(-1), scores.argsort(-1))
    assert found[:, 3].isneginf().all()


@pytest.fixture(scope="module")
def lists():
    """Two candidates a place; the feature, not the first score, says which of them is the right one."""
    generator = torch.Generator().manual_seed(3)
    right = torch.randint(2, (200,), generator=generator)
    place = torch.randn(200, 4, generator=generator)
    place[:, 0] = 2.0 * right - 1
    points = torch.tensor([[40.0, 0.0], [41.0, 2.0]]).expand(200, 2, 2).clone()
    scores = torch.tensor([0.6, 0.4]).log().expand(200, 2).clone()
    return place, points, scores, points[torch.arange(200), right] + 0.1


def test_what_the_features_tell_is_learned(lists):
    place, points, scores, truth = lists
    state = torch.random.get_rng_state()
    ranker = make_ranker(*lists)
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's draws change
    best = ranker.best(place, points, scores)
    assert (great_circle_m(best, truth) < 20_000).float().mean() > 0.95
    again = make_ranker(*lists)
    assert all(torch.equal(a, b) for a, b in zip(ranker.parameters(), again.parameters(), strict=True))


def test_a_photographs_own_position_is_no_candidate_of_it(lists):
    place, points, scores, _ = lists
    own = points.clone()
    own[:, 0] = torch.arange(200.0)[:, None] * 0.01 + torch.tensor([40.0, 0.0])
    # only one candidate that is not its own position: there is no order to learn
    alone = make_ranker(place, own, scores, own[:, 0])
    assert torch.equal(alone(place, own, scores), Ranker(4)(place, own, scores))
    # with a third one, what is learned does not depend on where or how probable its own position was
    three = [torch.cat([own[:, :1], points], 1), torch.cat([scores[:, :1], scores], 1)]
    better = [three[0], torch.cat([torch.full((200, 1), -0.01), scores], 1)]
    one, two = (make_ranker(place, *parts, own[:, 0]) for parts in (three, better))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def ranked_model(**fields):
    """A model with a ranker whose places all lie at the second best class."""
    model = spread_out(build_model(rank=3, **fields))
    photos = patches(1, 24)
    with torch.inference_mode():
        features = model.view_features(model.processor(photos)["pixel_values"])
        outputs = model.head(features)
    second = outputs.logits.topk(2).indices[:, 1]
    truth = outputs.candidates[torch.arange(24), second] + 0.05
    table = TensorDictDataset(
        features=features.clone(),
        view_mask=torch.ones(24, 1, dtype=torch.bool),
        headings=torch.full((24, 1), math.nan),
        coordinates=truth.double(),
    )
    rank(model, table, None)
    return model.eval(), photos, truth.numpy()


def test_a_model_with_a_ranker_is_saved_and_answers_alike(tmp_path):
    model, photos, truth = ranked_model()
    answers = model.predict(photos)
    found = np.array([[a.latitude, a.longitude] for a in answers])
    assert np.median(great_circle_m(found, truth)) < 20_000
    model.config.ranked = False
    first = np.array([[a.latitude, a.longitude] for a in model.predict(photos)])
    assert np.median(great_circle_m(first, truth)) > 100_000
    model.config.ranked = True
    with torch.inference_mode():  # what an exported file tells
        points = model.export_outputs(model.processor(photos)["pixel_values"][:, 0])["coordinates"].numpy()
    np.testing.assert_allclose(points, found, atol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.predict(photos) == answers
    assert loaded.half().head.ranker.candidate.weight.dtype == torch.float32


def test_outputs_of_inference_mode_are_decoded_outside_of_it():
    model, photos, _ = ranked_model()
    model.requires_grad_(True)  # as a training leaves it
    with torch.inference_mode():
        outputs = model(**model.processor(photos))
    assert len(model.decode(outputs)) == len(photos)


def test_what_is_ruled_out_is_not_answered():
    model, photos, _ = ranked_model()
    only = model.predict(photos, states=["Texas"])
    model.config.ranked = False
    assert [(a.latitude, a.longitude) for a in only] == [
        (a.latitude, a.longitude) for a in model.predict(photos, states=["Texas"])
    ]
    model.config.ranked = True
    inside = model.predict(photos, area=box(30.0, -110.0, 40.0, -100.0))
    assert all(30 <= a.latitude <= 40 and -110 <= a.longitude <= -100 for a in inside)


def test_the_answer_does_not_depend_on_how_many_matches_are_named():
    """Not the point of a ranker of more candidates than the radius is taken from, and not the radius."""
    model = build_model(
        **{"rank": 100, "gps_head": "gallery", "location_encoder": "sphere", "classes": False},
        **{"location_hidden_size": 16, "queue_size": 8, "radius_factor": 1.0},
    ).eval()
    places = np.random.default_rng(0).uniform([20, -120], [60, 60], (300, 2))
    model.head.match.set_gallery(places)
    model.head.ranker, model.config.ranked = Ranker(model.config.feature_size), True
    with torch.no_grad():
        model.head.ranker.change[1].weight.normal_(std=3)
    photos = patches(1, 8)
    one, many = (model.predict(photos, top_k=k) for k in (1, 200))
    assert [(a.latitude, a.longitude, a.radius_m) for a in one] == [
        (a.latitude, a.longitude, a.radius_m) for a in many
    ]


def test_places_without_positions_teach_nothing_and_a_later_training_tries_again(tmp_path, caplog):
    model = build_model(rank=3, refine=2)
    table = TensorDictDataset(
        features=torch.zeros(4, 1, model.config.feature_size),
        view_mask=torch.ones(4, 1, dtype=torch.bool),
        headings=torch.full((4, 1), math.nan),
        coordinates=torch.full((4, 2), math.nan, dtype=torch.float64),
    )
    with caplog.at_level("WARNING"):
        refine(
            model,
            (torch.zeros(4, model.config.feature_size), np.zeros(4, int), np.full((4, 2), np.nan)),
            None,
        )
        rank(model, table, None)
    config = model.config
    assert (config.refine, config.rank, config.prototypes, config.ranked) == (2, 3, 0, False)
    assert "prototypes: no training place has" in caplog.text
    assert "the ranker: no training place has" in caplog.text
    answers = model.eval().predict(patches(1, 2))
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.predict(patches(1, 2)) == answers
    labels, points = np.arange(4) % 2, np.array(config.class_centroids)[np.arange(4) % 2]
    refine(loaded, (torch.randn(4, config.feature_size), labels, points), None)
    assert loaded.config.prototypes == 2


def test_settings_that_do_not_go_together_are_refused():
    for fields in ({"gps_head": "bounded", "rank": 4}, {"gps_head": "vmf", "rank": 4}):
        with pytest.raises(Exception, match="rank needs two candidates or more"):
            GeoStreetConfig(**fields)
    with pytest.raises(Exception, match="rank needs two candidates or more"):
        build_model(rank=1)
    with pytest.raises(Exception, match="a model with a ranker says of how many candidates"):
        build_model(ranked=True)


@pytest.mark.parametrize(
    "way", [(), ("--location_encoder", "sphere", "--gps_head", "gallery", "--max_cells", 0)]
)
def test_a_run_trains_one_and_tells_of_it(tmp_path, way, caplog):
    rows = ["image,latitude,longitude"]
    for i, picture in enumerate(patches(3, 40)):
        picture.save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{45 + i % 4},{9 + i % 7}")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    options, args = parse(
        *("--data", tmp_path / "table.csv", "--backbone", "test_resnet", "--pretrained", "false", "--image_size", 32),
        *("--finetune", "none", "--phase1_min_steps", 4, "--split", "random", "--rank", 4, *way),
        *("--output_dir", tmp_path / "run", "--location_hidden_size", 16, "--validation_share", 0.2),
    )  # fmt: skip
    with caplog.at_level("INFO"):
        trainer = run(options, args)
    assert "the ranker: validation places" in caplog.text
    config = trainer.model.config
    assert config.rank == 4
    assert config.ranked == hasattr(trainer.model.head, "ranker")
    assert ("ranker" in (tmp_path / "run/README.md").read_text()) == config.ranked
    loaded = type(trainer.model).from_pretrained(tmp_path / "run")
    photos = patches(3, 3)
    assert loaded.predict(photos) == trainer.model.predict(photos)


def test_a_stream_is_refused(tmp_path):
    rows = IterableDataset.from_generator(lambda: iter([{"image": patches(3, 1)[0], "state": "Texas"}]))
    args = StreetTrainingArguments(output_dir=tmp_path, max_steps=1, use_cpu=True)
    with pytest.raises(DataError, match="refine and rank need the training places at hand"):
        GeoStreetTrainer(build_model(rank=2), args, train_dataset=rows).train()
