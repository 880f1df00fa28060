"""Three models with different classes, combined by hand."""

import math

import pytest
import torch

from geohf.errors import DataError
from geohf.street import GeoStreetConfig, GeoStreetModel, StatePrediction, StreetPrediction
from geohf.street.ensemble import combine, ensemble_predict
from geohf.vision.backbones import TimmTowerConfig

INDICES = {"Alaska": 1, "Florida": 8, "Maine": 18, "Texas": 42}


def answer(latitude, longitude, **probabilities):
    """States in order of probability, as a model answers."""
    ranked = sorted(probabilities, key=probabilities.get, reverse=True)
    states = [StatePrediction(name, probabilities[name], INDICES[name]) for name in ranked]
    return StreetPrediction(latitude, longitude, 1000.0, states)


@pytest.fixture
def three():
    """One place; the second model knows no Maine, the third lists other states."""
    return [
        [answer(40, -100, Texas=0.5, Maine=0.3, Florida=0.2)],
        [answer(20, -100, Florida=0.6, Texas=0.4)],
        [answer(60, -100, Texas=0.45, Alaska=0.3, Florida=0.25)],
    ]


def shares(result):
    return {state.name: state.probability for state in result.states}


def test_mean_of_probabilities(three):
    (result,) = combine(three)
    assert shares(result) == pytest.approx(
        {"Texas": (0.5 + 0.4 + 0.45) / 3, "Florida": (0.2 + 0.6 + 0.25) / 3, "Maine": 0.1, "Alaska": 0.1}
    )
    # equal shares in the order of names, so that the answer does not depend on the order of the models
    assert [state.name for state in result.states] == ["Texas", "Florida", "Alaska", "Maine"]
    assert [state.index for state in result.states] == [42, 8, 1, 18]
    # the first and the third model say Texas: halfway between them on their meridian
    assert (result.latitude, result.longitude) == pytest.approx((50.0, -100.0))
    assert result.radius_m is None


def test_weights_by_hand(three):
    (result,) = combine(three, weights=[1, 8, 1])
    assert shares(result) == pytest.approx(
        {"Florida": 0.02 + 0.48 + 0.025, "Texas": 0.05 + 0.32 + 0.045, "Maine": 0.03, "Alaska": 0.03}
    )
    assert result.states[0].name == "Florida"
    assert result.latitude == pytest.approx(20.0)  # the only model that says so
    scaled = combine(three, weights=[0.5, 4, 0.5])
    assert shares(scaled[0]) == pytest.approx(shares(result))


def test_validation_scores_squared(three):
    scores = [0.6, 0.9, 0.3]
    (result,) = combine(three, weights=[score**2 for score in scores])
    total = 0.36 + 0.81 + 0.09
    assert shares(result)["Texas"] == pytest.approx((0.36 * 0.5 + 0.81 * 0.4 + 0.09 * 0.45) / total)


def test_votes_by_hand(three):
    (result,) = combine(three, method="vote")
    assert result.states[0].name == "Texas"  # two votes of three
    (result,) = combine(three, weights=[1, 3, 1], method="vote")
    assert result.states[0].name == "Florida"
    (result,) = combine(three, weights=[1, 2, 1], method="vote")
    # two to two: Florida has (0.2 + 1.2 + 0.25) / 4 = 0.4125 of the probability, Texas 0.4375
    assert [state.name for state in result.states[:2]] == ["Texas", "Florida"]
    assert result.states[0].probability == pytest.approx(0.4375)
    # without a vote, by probability, then by name
    assert [state.name for state in result.states[2:]] == ["Alaska", "Maine"]


def test_a_vote_counts_more_than_probability():
    models = [
        [answer(10, 0, Texas=0.51, Florida=0.49)],
        [answer(20, 0, Texas=0.51, Florida=0.49)],
        [answer(30, 0, Florida=0.99, Texas=0.01)],
    ]
    assert combine(models, method="mean")[0].states[0].name == "Florida"
    (result,) = combine(models, method="vote")
    assert result.states[0].name == "Texas"
    assert result.latitude == pytest.approx(15.0)


def test_reciprocal_ranks_by_hand():
    models = [
        [answer(10, 0, Texas=0.6, Maine=0.3, Florida=0.1)],
        [answer(20, 0, Florida=0.6, Maine=0.3, Alaska=0.1)],
        [answer(30, 0, Alaska=0.6, Maine=0.3, Texas=0.1)],
    ]
    (result,) = combine(models, method="rank")
    # Maine has 3 / 62 = 0.0484, the three others 1 / 61 + 1 / 63 = 0.0323 and equal shares: by name
    assert [state.name for state in result.states] == ["Maine", "Alaska", "Florida", "Texas"]
    # nobody put Maine first, so the points of all are averaged
    assert result.latitude == pytest.approx(20.0)
    (result,) = combine(models, weights=[0, 1, 4], method="rank")
    assert result.states[0].name == "Alaska"  # 4/61 + 1/63 against 5/62 for Maine


def test_the_order_of_the_models_does_not_matter(three):
    for method in ("mean", "vote", "rank"):
        (one,) = combine(three, [1, 2, 3], method)
        (other,) = combine(three[::-1], [3, 2, 1], method)
        assert [s.name for s in one.states] == [s.name for s in other.states]
        assert shares(one) == pytest.approx(shares(other))
        assert (one.latitude, one.longitude) == pytest.approx((other.latitude, other.longitude))


def test_a_model_alone_answers_as_before(three):
    for method in ("mean", "vote", "rank"):
        (result,) = combine(three[:1], method=method)
        assert result.states == three[0][0].states
        assert (result.latitude, result.longitude) == pytest.approx((40, -100))


def test_points_meet_across_the_antimeridian():
    models = [[answer(-17, 179, Alaska=1.0)], [answer(-17, -177, Alaska=1.0)]]
    (result,) = combine(models)
    assert result.longitude == pytest.approx(-179)
    assert result.latitude == pytest.approx(-17, abs=0.02)
    (result,) = combine(models, weights=[3, 1])
    assert abs(result.longitude) == pytest.approx(180, abs=0.01)


def test_points_of_models_without_states():
    models = [[StreetPrediction(0, 179.5, 5.0, [])], [StreetPrediction(0, -179.5, 5.0, [])]]
    (result,) = combine(models)
    assert result.states == []
    assert abs(result.longitude) == pytest.approx(180)


@pytest.mark.parametrize("order", [1, -1])
def test_a_model_without_states_beside_one_with_them_has_no_say_in_the_point(order):
    models = [[answer(10, 20, Texas=0.8)], [StreetPrediction(50, 60, None, [])]]
    (result,) = combine(models[::order])
    assert shares(result) == pytest.approx({"Texas": 0.4})
    assert (result.latitude, result.longitude) == pytest.approx((10, 20))


def test_a_model_of_weight_nothing_has_no_say(three):
    for method in ("mean", "vote"):
        (result,) = combine(three, [1, 0, 0], method, top_k=3)
        assert [state.name for state in result.states] == ["Texas", "Maine", "Florida"]
        assert result.latitude == pytest.approx(40)


def test_no_name_or_index_that_no_model_had(three):
    for method in ("mean", "vote", "rank"):
        for top_k in (1, 3, 10):
            (result,) = combine(three, method=method, top_k=top_k)
            pairs = [(state.name, state.index) for state in result.states]
            assert len(pairs) == min(top_k, 4)
            assert len(set(pairs)) == len(pairs)
            assert set(pairs) <= set(INDICES.items())


def test_an_index_is_taken_from_the_model_that_has_one():
    without = StreetPrediction(10, 0, None, [StatePrediction("Texas", 0.9, None)])
    for models in ([[without], [answer(12, 0, Texas=0.8)]], [[answer(12, 0, Texas=0.8)], [without]]):
        assert combine(models)[0].states[0].index == 42


def test_models_with_other_indices_do_not_combine():
    other = StreetPrediction(10, 0, None, [StatePrediction("Texas", 0.9, 31)])
    with pytest.raises(DataError, match="'Texas' the indices 42 and 31"):
        combine([[answer(12, 0, Texas=0.8)], [other]])


def test_places_stay_in_their_order():
    first = [answer(i, 10 * i, Texas=0.9, Maine=0.1) for i in range(5)]
    second = [answer(i + 2, 10 * i, Texas=0.7, Maine=0.3) for i in range(5)]
    results = combine([first, second])
    assert [round(result.latitude, 6) for result in results] == [1, 2, 3, 4, 5]
    assert [round(result.longitude, 6) for result in results] == [0, 10, 20, 30, 40]
    assert combine([[], []]) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"method": "median"}, "method must be one of mean, vote, rank, got 'median'"),
        ({"predictions": []}, "got no model"),
        ({"weights": [1, 1]}, "weights must be 3 non-negative numbers"),
        ({"weights": [1, -1, 1]}, "weights must be 3 non-negative numbers"),
        ({"weights": [0, 0, 0]}, "not all 0"),
        ({"weights": [1, math.nan, 1]}, "weights must be 3 non-negative numbers"),
        ({"weights": [[1, 1, 1]]}, "weights must be 3 non-negative numbers"),
    ],
)
def test_what_cannot_be_combined_is_refused(three, change, reason):
    with pytest.raises(DataError) as caught:
        combine(**{"predictions": three} | change)
    assert reason in str(caught.value)


def test_models_must_answer_for_the_same_places(three):
    three[1].append(three[1][0])
    with pytest.raises(DataError, match=r"the same places; got \[1, 2\]"):
        combine(three)


def test_models_with_another_order_of_classes_agree():
    """Real models whose classes stand in other orders: all their classes count, not only the best five."""
    models = []
    for seed, names in enumerate((["A", "B", "C", "D", "E", "F", "G"], ["G", "F", "E", "D", "C", "B"])):
        torch.manual_seed(seed)
        config = GeoStreetConfig(
            vision_config=TimmTowerConfig(architecture="test_resnet"),
            feature_size=96,
            class_centroids=[[40.0 + ord(name) - 64, -100.0 - ord(name) + 64] for name in names],
            class_extents=[[2.0, 2.0]] * len(names),
            class_indices=[ord(name) for name in names],
            id2label=dict(enumerate(names)),
        )
        models.append(GeoStreetModel(config).eval())
    image = torch.randint(0, 255, (3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    (result,) = ensemble_predict(models, [image.numpy()], weights=[3, 1], top_k=7)
    every = [{s.name: s.probability for s in m.predict([image.numpy()], top_k=7)[0].states} for m in models]
    expected = {name: 0.75 * every[0][name] + 0.25 * every[1].get(name, 0.0) for name in "ABCDEFG"}
    assert shares(result) == pytest.approx(expected)
    assert sum(shares(result).values()) == pytest.approx(1, abs=1e-6)
    assert [state.name for state in result.states] == sorted(expected, key=expected.get, reverse=True)
    assert all(state.index == ord(state.name) for state in result.states)
