"""The detector: equal to torchvision's where it has one, and right where torchvision has none."""

import math

import pytest
import torch
from helpers.parts_models import ALL_SAMPLES, PARTS, STATES, build_model, photos, truths
from torch.nn import functional
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_convert, box_iou, roi_align

from geohf.errors import DataError
from geohf.parts import PartStateConfig, PartStateModel
from geohf.parts.answers import PartStateOutput
from geohf.parts.losses import IGNORED, LOSS_PARTS
from geohf.parts.pretrained import load_coco_weights

NAMES = {"classifier_loss": "loss_classifier", "box_reg_loss": "loss_box_reg"}
NAMES |= {"objectness_loss": "loss_objectness", "rpn_box_reg_loss": "loss_rpn_box_reg"}


def pixels(seed=0, count=2, size=(64, 96)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(seed))


# ---- against torchvision


@pytest.fixture(scope="module")
def pair():
    """torchvision's Faster R-CNN with a ResNet-18, and ours with its weights."""
    torch.manual_seed(0)
    bare = FasterRCNN(
        resnet_fpn_backbone(backbone_name="resnet18", weights=None), 4, box_score_thresh=0.0, box_detections_per_img=20,
        rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=60, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        min_size=64, max_size=96,
    )  # fmt: skip
    bare.transform._skip_resize = True  # it would draw the size by chance
    for layer in (bare.roi_heads.box_predictor.cls_score, bare.rpn.head.cls_logits):
        torch.nn.init.normal_(layer.weight, std=0.3)
    ours = PartStateModel(
        PartStateConfig(
            backbone="resnet18", id2label=PARTS, id2state=STATES, absent_state=None, image_size=[64, 96],
            box_score_threshold=0.0, box_detections_per_image=20,
            rpn_post_nms_top_n_train=60, rpn_post_nms_top_n_test=60,
        )
    ).eval()  # fmt: skip
    load_coco_weights(ours, bare.state_dict())
    ours.roi_heads.box_predictor.load_state_dict(bare.roi_heads.box_predictor.state_dict())
    return bare, ours


def test_boxes_are_torchvisions(pair):
    bare, ours = pair
    x = pixels()
    with torch.inference_mode():
        expected, outputs = bare.eval()(list(x)), ours.eval()(x)
    found = ours.processor.post_process_object_detection(outputs, 0.0, [[64, 96]] * 2)
    assert len(expected[0]["boxes"]) == 20
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(b["boxes"], a["boxes"], atol=1e-3, rtol=0)
        torch.testing.assert_close(b["scores"], a["scores"])
        assert torch.equal(b["labels"], a["labels"] - 1)


def test_losses_and_gradients_are_torchvisions(pair):
    bare, ours = pair
    x, truth = pixels(), truths()
    boxes = box_convert(truth["boxes"], "cxcywh", "xyxy") * torch.tensor([96, 64, 96, 64])
    targets = [{"boxes": b, "labels": n + 1} for b, n in zip(boxes, truth["labels"], strict=True)]
    torch.manual_seed(3)
    expected = bare.train()(list(x), targets)
    torch.manual_seed(3)
    output = ours.train()(x, **truth)
    for name, theirs in NAMES.items():
        torch.testing.assert_close(output.loss_parts[name], expected[theirs].detach(), rtol=1e-4, atol=1e-6)
    state = output.loss_parts["state_loss"]
    torch.testing.assert_close(output.loss, sum(expected.values()) + 0.5 * state, rtol=1e-4, atol=1e-6)
    sum(expected.values()).backward()
    (output.loss_parts and output.loss).backward()
    ours.zero_grad()


# ---- states


def test_regions_learn_the_state_of_the_truth_that_they_overlap():
    model = build_model(**ALL_SAMPLES)
    heads, truth = model.roi_heads, truths()
    targets = model.targets_of([(64, 96)] * 2, **truth)
    torch.manual_seed(0)
    proposals = [torch.cat([t["boxes"] + torch.randn_like(t["boxes"]) for _ in range(6)]) for t in targets]
    proposals = [torch.cat([p, p + 300]) for p in proposals]  # and some that overlap nothing
    sampled, matched, labels, _ = heads.select_training_samples(proposals, targets)
    states = heads.match_states(matched, labels, targets)
    judged = 0
    for boxes, state, label, target in zip(sampled, states, labels, targets, strict=True):
        overlap, truest = box_iou(boxes, target["boxes"]).max(1)
        right = overlap >= 0.5
        assert torch.equal(state, torch.where(right, target["states"][truest], IGNORED))
        assert torch.equal(label, torch.where(right, target["labels"][truest], 0))
        judged += int(right.sum())
    assert judged > 10


def test_a_box_is_judged_by_what_lies_in_it_and_not_by_its_proposal():
    model = build_model()
    x = pixels()
    with torch.inference_mode():
        outputs = model(x)
        features = model.feature_maps(x)["0"]  # stride 4 of 64 x 96
        for i in range(2):
            small = (outputs.pred_boxes[i, :, 2] * 96) * (outputs.pred_boxes[i, :, 3] * 64) < 12**2
            boxes = box_convert(outputs.pred_boxes[i], "cxcywh", "xyxy") * torch.tensor([96, 64, 96, 64])
            pooled = roi_align(
                features[i : i + 1], [boxes], 3, spatial_scale=features.shape[-1] / 96, sampling_ratio=2
            )
            logits = model.roi_heads.state_head(model.roi_heads.box_head(pooled))
            logits[:, 2] = -torch.inf
            assert small.any()
            torch.testing.assert_close(
                outputs.state_probs[i][small], logits.softmax(-1)[small], atol=1e-4, rtol=1e-3
            )


def test_state_logits_of_a_part_are_its_own():
    model = build_model(state_per_part=True)
    with torch.inference_mode():
        regions = torch.randn(5, 32)
        parts = torch.tensor([0, 2, 1, 1, 0])
        every = model.roi_heads.state_head(regions).reshape(5, 3, 3)
        assert torch.equal(model.roi_heads.state_head.logits(regions, parts), every[torch.arange(5), parts])
        assert model(pixels()).state_probs.shape[-1] == 3


# ---- absent parts


def test_absent_parts_are_background_or_found_or_ignored():
    truth = truths(count=1)
    kept = {}
    for mode in ("background", "detect", "ignore"):
        (target,) = build_model(absent=mode).targets_of([(64, 96)], **truth)
        kept[mode] = target["labels"].tolist()
    assert kept == {"background": [1, 2], "detect": [1, 2, 3], "ignore": [1, 2, -1]}


def test_ignored_places_are_neither_right_nor_wrong():
    model = build_model(absent="ignore")
    (target,) = model.targets_of([(64, 96)], **truths(count=1))
    absent = target["boxes"][2:]
    far = torch.tensor([[0.0, 0.0, 3.0, 3.0]])
    anchors = torch.cat([target["boxes"], absent + 1, far])
    places = {"boxes": target["boxes"][:2], "ignored": absent, "crowds": absent[:0]}
    ((labels,), _) = model.rpn.assign_targets_to_anchors([anchors], [places])
    assert labels.tolist() == [1, 1, -1, -1, 0]
    _, (labels,) = model.roi_heads.assign_targets_to_proposals(
        [anchors], [target["boxes"]], [target["labels"]]
    )
    assert labels.tolist() == [1, 2, -1, -1, 0]


def test_a_box_of_an_absent_part_is_no_presence():
    plain, judged = build_model(absent="background", absent_state=None), build_model(absent="detect")
    with torch.inference_mode():
        a, b = plain(pixels()), judged(pixels())
    presence = a.scores * (1 - a.state_probs[..., 2])
    torch.testing.assert_close(b.scores, presence.sort(1, descending=True).values)
    assert not torch.equal(a.scores, b.scores)


def test_without_absent_boxes_no_box_is_absent():
    with torch.inference_mode():
        probabilities = build_model()(pixels()).state_probs
    assert (probabilities[..., 2] == 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:2]))


def test_one_box_a_part_is_its_best():
    with torch.inference_mode():
        many = build_model(box_detections_per_image=1000)(pixels())
        one = build_model(one_per_part=True, box_detections_per_image=3)(pixels())
    for i in range(2):
        kept = one.pred_labels[i][one.pred_labels[i] >= 0].tolist()
        assert len(set(kept)) == len(kept) > 1
        for label, score in zip(kept, one.scores[i].tolist(), strict=False):
            assert score == many.scores[i][many.pred_labels[i] == label].max()


# ---- losses


def test_a_validation_loss_is_the_same_every_time_and_touches_nothing():
    model = build_model(norm="batch", state_dropout=0.9)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        first = model(pixels(), **truths()).losses
        torch.manual_seed(99)
        second = model(pixels(), **truths()).losses
    assert torch.equal(first, second)
    torch.set_rng_state(state)
    with torch.no_grad():
        model(pixels(), **truths())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_training_leaves_batch_norms_as_they_are():
    model = build_model(norm="batch").train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    model(pixels(), **truths()).loss.backward()
    assert before
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def test_losses_of_a_photo_do_not_depend_on_its_batch():
    model = build_model(image_size=[64, 96])
    x, truth = pixels(count=3), truths(count=3)
    truth["labels"][1] = torch.tensor([2, -100, -100])
    with torch.no_grad():
        together = model(x, **truth).losses
        alone = torch.cat(
            [model(x[i : i + 1], **{k: v[i : i + 1] for k, v in truth.items()}).losses for i in range(3)]
        )
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    output = model(x, **truth)
    expected = (together.mean(0) * torch.tensor([1, 1, 1, 1, 0.5])).sum()
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(
        torch.stack([output.loss_parts[name] for name in LOSS_PARTS]), together.mean(0)
    )


def test_micro_batches_have_the_gradient_of_one_batch():
    model = build_model(**ALL_SAMPLES).train()
    x, truth = pixels(count=4), truths(count=4)

    def gradient(batches):
        model.zero_grad()
        for rows in batches:
            part = {name: value[rows] for name, value in truth.items()}
            model(x[rows], **part, loss_items={"images": torch.tensor(4.0)}).loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    whole, parts = gradient([[0, 1, 2, 3]]), gradient([[0], [1, 2], [3]])
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-3, atol=1e-5, msg=name)
    assert model.count_loss_items({"pixel_values": x})["images"] == 4


def test_photos_without_a_part_teach_the_background_and_every_parameter_takes_part():
    model = build_model().train()
    truth = truths()
    truth["labels"][:] = -100
    output = model(pixels(), **truth)
    output.loss.backward()
    assert output.loss_parts["state_loss"] == output.loss_parts["box_reg_loss"] == 0
    assert output.loss_parts["classifier_loss"] > 0
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_trust_weighs_the_losses_of_regions():
    model = build_model(**ALL_SAMPLES)
    x, truth = pixels(count=1), truths(count=1, parts=2)
    with torch.no_grad():
        losses = [
            model(x, **truth, weights=torch.tensor([weights])).losses[0]
            for weights in ([1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0])
        ]
        plain = model(x, **truth).losses[0]
    both, first, second, none = losses
    torch.testing.assert_close(both, plain)
    torch.testing.assert_close(first + second, both + none, rtol=1e-4, atol=1e-5)  # each its share
    assert none[1] == none[4] == 0
    assert first[4] > 0 < second[4]
    torch.testing.assert_close(none[2:4], both[2:4])


def test_autocast_and_bfloat16_keep_boxes_in_float32():
    model = build_model(spread=1.0)
    with torch.inference_mode():
        exact = model(pixels(), **truths())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model(pixels(), **truths())
        half = build_model().to(torch.bfloat16)(pixels().bfloat16())
    for outputs in (cast, half):
        assert outputs.pred_boxes.dtype == outputs.scores.dtype == torch.float32
        assert torch.isfinite(outputs.scores).all()
    torch.testing.assert_close(cast.losses, exact.losses, rtol=0.05, atol=0.05)


# ---- padding


def test_answers_do_not_depend_on_the_batch():
    model = build_model()
    images = [*photos(2), *photos(2, seed=1, size=(90, 40)), *photos(1, seed=2, size=(20, 130))]
    together = model.predict(images, batch_size=5, threshold=0.0)
    alone = model.predict(images, batch_size=1, threshold=0.0)
    for a, b in zip(together, alone, strict=True):
        assert [(p.part, p.state) for p in a.parts] == [(p.part, p.state) for p in b.parts]
        for p, q in zip(a.parts, b.parts, strict=True):
            assert p.box == pytest.approx(q.box, abs=1e-3)
            assert p.score == pytest.approx(q.score, abs=1e-5)


def test_maps_are_read_at_their_own_scale_whatever_was_seen_first():
    # torchvision takes the scale from the height of the first photo, and keeps it
    wide, model, other = photos(1, size=(20, 130)), build_model(), build_model()
    square = photos(1, size=(64, 96))
    model.predict(wide)
    assert model.predict(square, threshold=0.0) == other.predict(square, threshold=0.0)
    assert model.roi_heads.box_roi_pool.scales == [1 / 4, 1 / 8, 1 / 16][: len(model.tower.strides)]


# ---- backbones and configs


@pytest.mark.parametrize(
    ("backbone", "fields", "strides"),
    [
        ("mobilenet_v3_large", {"norm": "frozen", "anchor_sizes": None, "feature_levels": None}, [32, 32]),
        ("test_convnext", {"norm": "batch", "anchor_sizes": None, "feature_levels": [0, 1, 2]}, [4, 8, 16]),
        ("test_byobnet", {"norm": "frozen", "anchor_sizes": None, "feature_levels": None}, [4, 8, 16, 32]),
        ("swin_tiny_patch4_window7_224", {"backbone_args": {"embed_dim": 24, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "img_size": [64, 96], "window_size": 4}, "norm": "batch"}, [8, 16, 32]),
    ],
)  # fmt: skip
def test_backbones_give_pyramids(backbone, fields, strides, tmp_path):
    fields = {"anchor_sizes": None} | fields
    model = build_model(backbone=backbone, **fields)
    assert list(model.tower.strides) == strides
    output = model(pixels(), **truths())
    assert torch.isfinite(output.loss)
    model.save_pretrained(tmp_path)
    again = PartStateModel.from_pretrained(tmp_path)
    with torch.inference_mode():
        a, b = model(pixels()), again(pixels())
    assert torch.equal(a.pred_boxes, b.pred_boxes)
    assert torch.equal(a.state_probs, b.state_probs)


def test_frozen_norms_do_not_learn_and_group_norms_do():
    learned = {
        norm: {n for n, _ in build_model(norm=norm).tower.named_parameters() if "bn" in n or "norm" in n}
        for norm in ("frozen", "batch", "group")
    }
    assert not learned["frozen"]
    assert learned["batch"]
    assert len(learned["group"]) == len(learned["batch"])


def test_a_new_detector_starts_at_torchvisions_loss():
    torch.manual_seed(0)
    fields = {"id2label": PARTS, "id2state": STATES, "image_size": [64, 96]}
    model = PartStateModel.from_backbone("test_resnet", pretrained=False, norm="group", **fields)
    with torch.no_grad():
        parts = model(pixels(), **truths()).loss_parts
    assert parts["objectness_loss"] == pytest.approx(math.log(2), abs=0.02)
    assert parts["state_loss"] == pytest.approx(math.log(3), abs=0.4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"absent": "maybe"}, "absent must be one of background, detect, ignore"),
        ({"norm": "layer"}, "norm must be one of"),
        ({"image_size": [64, 100]}, "multiples of 32"),
        ({"id2state": {1: "intact", 2: "absent"}}, "id2state must number its names from 0 on"),
        ({"anchor_sizes": [[8], [16]]}, "for each of the 4 levels"),
        ({"feature_levels": [3, 9]}, "has the feature levels 0 to 4"),
        ({"presence_threshold": 1.5}, "presence_threshold must be at least 0 and at most 1"),
        ({"id2state": None}, "names no states"),
        ({"backbone": "resnet19"}, "did you mean .*resnet18"),
        ({"backbone": "test_mambaout_nonsense"}, "neither torchvision nor timm"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        build_model(**fields)


def test_the_config_survives_json(tmp_path):
    config = build_model(absent="ignore", state_per_part=True, aspect_ratios=[0.3, 1.0, 3.0]).config
    config.save_pretrained(tmp_path)
    again = PartStateConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    assert (again.id2state, again.absent_index, again.num_states) == (STATES, 2, 3)
    assert again.label2id["lamp"] == 2


def test_published_weights_of_a_detector_are_taken_but_for_the_classes(pair, tmp_path):
    bare, _ = pair
    old = {}
    for name, tensor in bare.state_dict().items():  # as files from before torchvision 0.13 name them
        name = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for i in range(4):
            for block in ("inner_blocks", "layer_blocks"):
                name = name.replace(f"{block}.{i}.0.", f"{block}.{i}.")
        old[name] = tensor
    torch.manual_seed(5)
    model = PartStateModel(PartStateConfig(backbone="resnet18", id2label=PARTS, id2state=STATES))
    fresh = model.roi_heads.box_predictor.cls_score.weight.clone()
    load_coco_weights(model, old)
    assert torch.equal(model.rpn.head.conv[0][0].weight, bare.rpn.head.conv[0][0].weight)
    assert torch.equal(model.pyramid.layer_blocks[3][0].bias, bare.backbone.fpn.layer_blocks[3][0].bias)
    assert torch.equal(model.tower.body.layer2[0].conv1.weight, bare.backbone.body.layer2[0].conv1.weight)
    assert torch.equal(model.roi_heads.box_predictor.cls_score.weight, fresh)
    del old["rpn.head.bbox_pred.bias"]
    with pytest.raises(
        RuntimeError, match=r"lack 1 of the detector's weights, among them rpn.head.bbox_pred.bias"
    ):
        load_coco_weights(model, old)


def test_photos_are_normalized_as_the_weights_of_timm_were_trained(tmp_path):
    import timm

    published = timm.create_model("test_resnet")
    published.pretrained_cfg |= {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    timm.models.save_for_hf(published, tmp_path / "timm", safe_serialization=True)
    fields = {"id2label": PARTS, "id2state": STATES, "image_size": [64, 64]}
    model = PartStateModel.from_backbone(str(tmp_path / "timm"), **fields)
    model.save_pretrained(tmp_path / "parts")
    again = PartStateModel.from_backbone(str(tmp_path / "parts"), **fields)
    for one in (model, again, PartStateModel.from_pretrained(tmp_path / "parts")):
        assert one.processor.image_mean == pytest.approx([0.1, 0.2, 0.3])
        assert one.processor.image_std == pytest.approx([0.4, 0.5, 0.6])
    random = PartStateModel.from_backbone(str(tmp_path / "timm"), pretrained=False, **fields)
    assert random.config.image_processor is None
    given = {"image_processor": {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}}
    chosen = PartStateModel.from_backbone(str(tmp_path / "timm"), **fields | given)
    assert list(chosen.processor.image_mean) == [0.0] * 3


def test_weights_that_cannot_be_fetched_are_an_error():
    with pytest.raises(DataError, match="fasterrcnn_resnet50_fpn: the published weights cannot be loaded"):
        PartStateModel.from_backbone(
            "fasterrcnn_resnet50_fpn", id2label=PARTS, id2state=STATES, image_size=[64, 64]
        )
    with pytest.raises(DataError, match="they have batch norms"):
        PartStateModel.from_backbone("resnet18", id2label=PARTS, id2state=STATES, norm="group")


def test_outputs_name_photos_sizes_and_missing_parts():
    output = PartStateOutput(
        pred_boxes=torch.tensor([[[0.5, 0.5, 0.5, 1.0], [0.1, 0.1, 0.2, 0.2], [0, 0, 0, 0]]]),
        pred_labels=torch.tensor([[2, 0, -1]]),
        scores=torch.tensor([[0.75, 0.25, 0.0]]),
        state_probs=torch.tensor([[[0.25, 0.75, 0.0], [1.0, 0.0, 0.0], [0, 0, 0]]]),
        original_sizes=torch.tensor([[100, 200]]),
    )
    model = build_model()
    (answer,) = model.decode(output)
    assert (answer.width, answer.height, answer.missing) == (200, 100, ["wheel", "bell"])
    (part,) = answer.parts
    assert (part.part, part.state, part.score, part.state_score) == ("lamp", "damaged", 0.75, 0.75)
    assert part.box == (50.0, 0.0, 150.0, 100.0)
    (answer,) = model.decode(output, threshold=0.2)
    assert [part.part for part in answer.parts] == ["lamp", "wheel"]
    assert answer.parts[1].box == pytest.approx((0, 0, 40, 20), abs=1e-4)


def test_gradients_reach_the_backbone_through_both_heads():
    model = build_model().train()
    for weights in ((1, 0), (0, 1)):
        model.config.classifier_weight = model.config.box_weight = float(weights[0])
        model.config.objectness_weight = model.config.rpn_box_weight = float(weights[0])
        model.config.state_weight = float(weights[1])
        model.zero_grad()
        model(pixels(), **truths()).loss.backward()
        assert sum(float(p.grad.abs().sum()) for p in model.tower.parameters() if p.grad is not None) > 0


def test_the_state_loss_counts_only_what_shows_a_part():
    from geohf.parts.losses import state_loss

    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [5.0, 5.0], [1.0, 1.0]])
    states = [torch.tensor([0, IGNORED, 1]), torch.tensor([IGNORED])]
    misses = functional.cross_entropy(logits, torch.cat(states), ignore_index=IGNORED, reduction="none")
    found = state_loss(misses, states)
    first = -functional.log_softmax(torch.tensor([2.0, 0.0]), 0)[0]
    expected = (first + math.log(2)) / 2
    torch.testing.assert_close(found, torch.tensor([float(expected), 0.0]))


def test_a_detector_of_torchvision_is_the_start(monkeypatch, tmp_path):
    name = "fasterrcnn_mobilenet_v3_large_320_fpn"
    torch.manual_seed(0)
    published = getattr(detection, name)(weights=None, weights_backbone=None)
    for module in published.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # so small that what is added to a variance shows
            module.running_var.uniform_(0.001, 0.003)
            torch.nn.init.constant_(module.weight, 0.045)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / f"{name}-907ea3f9.pth"
    file.parent.mkdir(parents=True)
    torch.save(published.state_dict(), file)
    bare = getattr(detection, name)(weights="DEFAULT").eval()
    ours = PartStateModel.from_backbone(name, id2label=PARTS, id2state=STATES, box_score_threshold=0.0)
    assert (ours.config.image_size, ours.config.backbone_name) == ([320, 320], name)
    x = pixels(size=(320, 320))
    with torch.inference_mode():
        theirs, mine = bare.backbone(x), ours.feature_maps(x)
        assert ours(x).pred_boxes.shape[-1] == 4
    assert list(theirs) == list(mine)
    for level, expected in theirs.items():
        torch.testing.assert_close(mine[level], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.rpn.head.cls_logits.weight, bare.rpn.head.cls_logits.weight)
    assert torch.equal(ours.roi_heads.box_head.fc6.weight, bare.roi_heads.box_head.fc6.weight)
    assert ours.roi_heads.box_predictor.cls_score.out_features == 4
