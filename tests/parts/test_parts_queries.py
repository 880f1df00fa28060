"""Detectors of transformers that answer with queries, under our state head."""

import importlib
from pathlib import Path

import pytest
import torch
from helpers.parts_models import PARTS, STATES, build_model, build_query_model, photos, truths
from scipy.optimize import linear_sum_assignment
from torch.nn import functional
from torchvision.ops import box_convert, box_iou, generalized_box_iou
from transformers.models.lw_detr.modeling_lw_detr import refine_bboxes

from geohf.errors import DataError
from geohf.parts import PartStateConfig, PartStateModel
from geohf.parts.arguments import PartTrainingArguments
from geohf.parts.configuration import DETECTORS
from geohf.parts.detectors import require_transformers
from geohf.parts.heads import StateHead
from geohf.parts.losses import IGNORED
from geohf.parts.queries import query_answers
from geohf.training.settings import require_recomputing

DENOISING = ("rt_detr_v2", "d_fine", "deimv2")


def pixels(count=2, seed=0):
    return torch.randn(count, 3, 64, 128, generator=torch.Generator().manual_seed(seed))


def uneven(count=4):
    """Truths of photos with 3, 2, 0 and 1 parts."""
    truth = truths(count=count)
    for i, parts in enumerate((3, 2, 0, 1)[:count]):
        truth["labels"][i, parts:] = IGNORED
        truth["states"][i, parts:] = IGNORED
    return truth


# ---- learning


@pytest.mark.parametrize("architecture", DETECTORS)
def test_steps_lower_the_loss_and_every_head_has_a_gradient(architecture):
    model = build_query_model(architecture, spread=0.0).train()
    x, truth = pixels(), truths()
    optimizer, losses = torch.optim.AdamW(model.parameters(), 1e-3), []
    for _ in range(4):
        torch.manual_seed(1)  # of the denoising queries
        loss = model(x, **truth).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert losses[-1] < losses[0]
    heads = ("class_embed", "bbox_embed", "score_head", "state_head")
    for name, parameter in model.named_parameters():
        if any(head in name for head in heads):
            assert parameter.grad is not None, name
            assert name.endswith("bias") or float(parameter.grad.abs().sum()) > 0, name


@pytest.mark.parametrize("architecture", DENOISING)
def test_states_are_learned_on_denoising_queries_too(architecture):
    """Their gradient reaches the embedding of the classes, which nothing else reads, through the state loss alone."""
    model = build_query_model(architecture).train()
    model.config.classifier_weight = model.config.box_weight = 0.0
    model(pixels(), **truths()).loss.backward()
    assert float(model.detector.model.denoising_class_embed.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("architecture", ["rf_detr", "lw_detr"])
def test_states_are_learned_on_every_group_of_queries(architecture):
    model = build_query_model(architecture).train()
    model.config.classifier_weight = model.config.box_weight = 0.0
    model(pixels(), **truths()).loss.backward()
    groups = model.detector.model.query_feat.weight.grad.abs().sum(1).reshape(3, 12).sum(1)
    assert (groups > 0).all()


@pytest.mark.parametrize("architecture", DETECTORS)
def test_micro_batches_have_the_gradient_of_one_batch(architecture):
    detector = {"num_denoising": 0} if architecture in DENOISING else {}
    model = build_query_model(architecture, detector=detector).train()
    x, truth = pixels(4), uneven()
    model(x, **truth).loss.backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    items = model.count_loss_items({"pixel_values": x} | truth)
    assert (
        float(items["images"]) == 2 + 2 + 1 + 1
    )  # without the absent part; a photo without parts counts once
    for rows in (slice(0, 1), slice(1, 4)):
        model(
            x[rows], **{name: values[rows] for name, values in truth.items()}, loss_items=items
        ).loss.backward()
    for name, p in model.named_parameters():
        if name in whole:
            torch.testing.assert_close(p.grad, whole[name], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_held_out_photos_are_found_after_learning_from_random_weights(tmp_path, monkeypatch):
    """The first epochs of a run of `benchmarks/parts_queries.py`, whose longer one docs/parts.md shows.

    A matcher that gives queries to the wrong truths stays at a mean average precision of about .00, and a state head that tells
    the most frequent state of all parts at an accuracy of .72.
    """
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    reached = importlib.import_module("parts_queries").train("rt_detr_v2", 42, 12, str(tmp_path))
    assert reached["mAP"] >= 0.1
    assert reached["state accuracy"] >= 0.78


# ---- evaluation


@pytest.mark.parametrize("architecture", DETECTORS)
@pytest.mark.parametrize("absent", ["background", "detect"])
def test_two_photos_together_are_what_they_are_alone(architecture, absent):
    model = build_query_model(architecture, absent=absent, state_per_part=True)
    x, truth = pixels(), uneven(2)
    with torch.inference_mode():
        together = model(x, **truth)
        alone = [model(x[i : i + 1], **{n: v[i : i + 1] for n, v in truth.items()}) for i in range(2)]
    for name in ("losses", "pred_boxes", "pred_labels", "scores", "state_probs"):
        expected = torch.cat([output[name] for output in alone])
        torch.testing.assert_close(together[name], expected, rtol=1e-5, atol=1e-5, msg=name)
    weights = together.photo_weights
    loss = sum(output.loss * weight for output, weight in zip(alone, weights, strict=True)) / weights.sum()
    torch.testing.assert_close(together.loss, loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", DETECTORS)
def test_the_evaluation_loss_is_the_criterion_written_out(architecture):
    # DEIMv2 joins the matches of its layers for the boxes, which is left to transformers here
    detector = {"use_dense_one_to_one": False} if architecture == "deimv2" else {}
    model = build_query_model(architecture, detector=detector)
    x, truth = pixels(1), truths(count=1, parts=2)
    with torch.inference_mode():
        output = model(x, **truth)
        layers, hidden = _layers(model, x)
        boxes, labels = truth["boxes"][0], truth["labels"][0]
        classes = places = 0.0
        for number, (logits, found) in enumerate(layers):
            rows, columns = _matched(logits, found, boxes, labels)
            if number == 0:
                own = model.state_head.logits(hidden[rows], labels[columns])
                states = functional.cross_entropy(own, truth["states"][0][columns])
            a, b = box_convert(found[rows], "cxcywh", "xyxy"), box_convert(boxes[columns], "cxcywh", "xyxy")
            overlap, generalized = box_iou(a, b).diag(), generalized_box_iou(a, b).diag()
            wanted = torch.zeros_like(logits)
            wanted[rows, labels[columns]] = 1.0
            classes += _class_loss(architecture, logits, wanted, rows, labels[columns], overlap) / 2
            places += (5 * (found[rows] - boxes[columns]).abs().sum() + 2 * (1 - generalized).sum()) / 2
    torch.testing.assert_close(output.losses[0], torch.stack([classes, places, states]), rtol=1e-4, atol=1e-5)
    assert float(output.loss) == pytest.approx(float(classes + places + 0.5 * states), rel=1e-4)


def _layers(model, x):
    """Logits and boxes of the last layer first, then of the others and of the encoder; features of the queries."""
    detector = model.detector
    if hasattr(detector.config, "group_detr"):
        inner = detector.model(x)
        hidden = inner.intermediate_hidden_states  # (layers, photos, queries, width)
        boxes = refine_bboxes(inner.intermediate_reference_points, detector.bbox_embed(hidden))
        layers = [(a[0], b[0]) for a, b in zip(detector.class_embed(hidden), boxes, strict=True)]
        encoder = detector.model.enc_out_class_embed[0](inner.enc_outputs_class)
        return [*layers[::-1], (encoder[0], inner.enc_outputs_coord_logits[0])], inner.last_hidden_state[0]
    inner = detector.model(x)
    logits, boxes = inner.intermediate_logits[0], inner.intermediate_reference_points[0]
    encoder = inner.enc_topk_logits[0], inner.enc_topk_bboxes[0]
    layers = [*[*zip(logits, boxes, strict=True)][::-1], encoder]
    if detector.config.model_type != "rt_detr_v2":
        layers = [(a, b.clamp(0, 1)) for a, b in layers]
    return layers, inner.last_hidden_state[0]


def _matched(logits, found, boxes, labels):
    p = logits.sigmoid()[:, labels]
    focal = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
    away = (found[:, None] - boxes[None]).abs().sum(-1)
    overlap = generalized_box_iou(box_convert(found, "cxcywh", "xyxy"), box_convert(boxes, "cxcywh", "xyxy"))
    return map(torch.as_tensor, linear_sum_assignment((2 * focal + 5 * away - 2 * overlap).numpy()))


def _class_loss(architecture, logits, wanted, rows, labels, overlap):
    p = logits.sigmoid()
    if architecture in ("rf_detr", "lw_detr"):  # IoU-aware binary cross-entropy
        quality = (p[rows, labels] ** 0.25 * overlap**0.75).clamp(min=0.01)
        right, wrong = torch.zeros_like(p), p**2
        right[rows, labels], wrong[rows, labels] = quality, 1 - quality
        return (-right * p.log() - wrong * (1 - p).log()).sum()
    target = torch.zeros_like(p)
    target[rows, labels] = overlap
    if architecture == "deimv2":  # matchability-aware
        target, weight = target**2, p**2 * (1 - wanted) + wanted
    else:  # varifocal
        weight = 0.75 * p**2 * (1 - wanted) + target
    return functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="sum")


# ---- answers


def test_a_query_that_wins_twice_keeps_its_own_state():
    config = PartStateConfig(
        architecture="rt_detr_v2",
        id2label=PARTS,
        id2state=STATES,
        box_detections_per_image=4,
        state_dropout=0.0,
    )
    head = StateHead(config, 8).eval()
    logits = torch.full((1, 5, 3), -9.0)
    logits[0, 3, 1], logits[0, 1, 0], logits[0, 3, 2], logits[0, 4, 1] = 4.0, 3.0, 2.0, 1.0
    boxes, hidden = torch.rand(1, 5, 4), torch.randn(1, 5, 8) * 5
    found = query_answers(head, logits, boxes, hidden)
    assert found["pred_labels"].tolist() == [[1, 0, 2, 1]]
    queries = [3, 1, 3, 4]
    assert torch.equal(found["pred_boxes"][0], boxes[0, queries])
    torch.testing.assert_close(found["scores"][0], torch.tensor([4.0, 3.0, 2.0, 1.0]).sigmoid())
    own = head.probabilities(head.logits(hidden[0, queries], found["pred_labels"][0]))
    torch.testing.assert_close(found["state_probs"][0], own)
    config.one_per_part = True
    found = query_answers(head, logits, boxes, hidden)
    assert found["pred_labels"].tolist() == [[1, 0, 2]]
    assert torch.equal(found["pred_boxes"][0], boxes[0, [3, 1, 3]])
    torch.testing.assert_close(found["state_probs"][0], own[:3])


def test_absent_parts_that_are_found_have_the_score_of_being_there():
    model = build_query_model("rt_detr_v2", absent="detect")
    with torch.inference_mode():
        found = model(pixels())
        plain = model.detector(pixels())
        head = model.state_head
        states = head.probabilities(head.logits(plain.last_hidden_state, torch.zeros(2, 12).long()))
    every = plain.logits.sigmoid() * (1 - states[..., 2:])
    torch.testing.assert_close(found.scores, every.flatten(1).sort(descending=True).values)


@pytest.mark.parametrize("architecture", DETECTORS)
def test_boxes_are_shares_of_the_photo_and_not_of_the_padding(architecture):
    model = build_query_model(architecture)
    inputs = model.processor(photos(2, size=(96, 96)))  # 64 x 64 of 64 x 128
    assert inputs["image_sizes"].tolist() == [[64, 64]] * 2
    with torch.inference_mode():
        found = model(**inputs)
        mask = torch.zeros(2, 64, 128, dtype=torch.long)
        mask[:, :, :64] = 1
        plain = model.detector(inputs["pixel_values"], pixel_mask=mask)
    x0, y0, x1, y1 = box_convert(plain.pred_boxes[0], "cxcywh", "xyxy").unbind(-1)
    every = torch.stack([2 * x0, y0, 2 * x1, y1], -1).clamp(0, 1)
    own = box_convert(found.pred_boxes[0], "cxcywh", "xyxy")
    assert float((own[:, None] - every).abs().amax(-1).min(1).values.max()) < 1e-5


def test_answers_come_in_names_and_pixels():
    model = build_query_model("d_fine", one_per_part=True)
    (answer,) = model.predict(photos(1), threshold=0.0)
    assert sorted(part.part for part in answer.parts) == sorted(PARTS.values())
    assert answer.missing == []
    assert {part.state for part in answer.parts} <= {"intact", "damaged"}  # absent is no state of a box


# ---- truths


@pytest.mark.parametrize("architecture", DETECTORS)
def test_padding_crowds_and_absent_parts_teach_nothing(architecture):
    model = build_query_model(architecture)
    x = pixels()
    truth = truths()  # the third part is absent
    bare = {name: values[:, :2] for name, values in truth.items()}
    padded = {
        name: torch.cat([values, torch.full_like(values[:, :1], IGNORED if name != "boxes" else 0)], 1)
        for name, values in truth.items()
    }
    crowd = {name: torch.cat([values, values[:, :1]], 1) for name, values in bare.items()}
    crowd["iscrowd"] = torch.tensor([[0, 0, 1]] * 2)
    with torch.inference_mode():
        expected = model(x, **bare).losses
        assert torch.equal(model(x, **padded).losses, expected)
        assert torch.equal(model(x, **crowd).losses, expected)


@pytest.mark.parametrize("architecture", DETECTORS)
def test_photos_without_parts_are_background(architecture):
    model = build_query_model(architecture)
    empty = {"labels": torch.full((2, 1), IGNORED), "boxes": torch.zeros(2, 1, 4)}
    empty["states"] = empty["labels"]
    for training in (True, False):
        output = model.train(training)(pixels(), **empty)
        assert torch.isfinite(output.losses).all()
        assert (output.losses[:, 0] > 0).all()  # every query shall show nothing
        assert (output.losses[:, 2] == 0).all()
        assert output.photo_weights.tolist() == [1.0, 1.0]
    output.loss.backward()
    assert all(p.grad is not None for p in model.state_head.parameters())


@pytest.mark.parametrize("architecture", DETECTORS)
def test_more_truths_than_queries_are_refused(architecture):
    model = build_query_model(architecture)
    many = {name: torch.cat([values] * 5, 1)[:, :13] for name, values in truths(parts=3).items()}
    many["states"] = torch.zeros_like(many["labels"])
    with pytest.raises(DataError, match=r"photo 1 of a batch has 13 parts.*at most 12: set num_queries"):
        model(pixels(), **many)


def test_what_these_detectors_cannot_do_is_refused():
    with pytest.raises(DataError, match="absent must be background or detect with d_fine"):
        build_query_model("d_fine", absent="ignore")
    with pytest.raises(DataError, match="multiples of 32"):
        build_query_model("rt_detr_v2", image_size=[72, 128])
    with pytest.raises(DataError, match="multiples of 56"):
        PartStateModel.from_detector(
            "rf_detr", pretrained=False, id2label=PARTS, id2state=STATES, image_size=[576, 560]
        )
    with pytest.raises(DataError, match="weighed with architecture faster_rcnn alone"):
        build_query_model("d_fine")(pixels(), **truths(), weights=torch.ones(2, 3))
    with pytest.raises(DataError, match=r"need transformers 5\.24 or newer, this is 5\.23\.1"):
        require_transformers("5.23.1")
    require_transformers("5.24.0")


@pytest.mark.parametrize("name", ["rf_detr", "lw_detr"])
def test_activations_that_are_computed_again_give_the_same_gradients(name):
    model = build_query_model(name).train()
    x = torch.randn(2, 3, *model.config.image_size, generator=torch.Generator().manual_seed(0))
    gradients = []
    for again in (False, True):
        if again:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        torch.manual_seed(1)
        model(x, **truths()).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for key, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], gradient)


def test_detectors_without_such_layers_refuse_to_compute_them_again(tmp_path):
    args = PartTrainingArguments(output_dir=str(tmp_path), gradient_checkpointing=True)
    for model in (build_model(), build_query_model("d_fine")):
        with pytest.raises(DataError, match="this PartStateModel cannot recompute its activations"):
            require_recomputing(model, args)
