"""What the wrapper costs: a training step and an inference of `PartStateModel` to the same torchvision model bare.

    OMP_NUM_THREADS=1 python benchmarks/bench_parts.py [--backbone resnet50]

Both hold the same weights and see the same photos. A step is forward, backward and a fused AdamW step. The state head,
which torchvision has not, is ours on top.
"""

from __future__ import annotations

import torch
from measure import Row, make_parser, medians, report
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import box_convert

from geohf.parts import PartStateConfig, PartStateModel
from geohf.parts.pretrained import load_coco_weights
from geohf.parts.vocabulary import BIKE_PARTS, STATES


def make_pair(backbone: str, side: int) -> tuple[FasterRCNN, PartStateModel]:
    """torchvision's detector and ours with its weights."""
    torch.manual_seed(0)
    bare = FasterRCNN(
        resnet_fpn_backbone(backbone_name=backbone, weights=None, trainable_layers=5),
        len(BIKE_PARTS) + 1,
        min_size=side,
        max_size=side,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
    )
    bare.transform._skip_resize = True
    for layer in (bare.roi_heads.box_predictor.cls_score, bare.rpn.head.cls_logits):
        torch.nn.init.normal_(layer.weight, std=0.05)  # so that boxes are found
    config = PartStateConfig(
        backbone=backbone,
        id2label=dict(enumerate(BIKE_PARTS)),
        id2state=dict(enumerate(STATES)),
        absent="detect",
        image_size=[side, side],
    )
    ours = PartStateModel(config)
    load_coco_weights(ours, bare.state_dict())
    ours.roi_heads.box_predictor.load_state_dict(bare.roi_heads.box_predictor.state_dict())
    return bare, ours


def make_batch(photos: int, side: int):
    """Photos, and 22 truths in each, as torchvision and as ours takes them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(photos, 3, side, side, generator=generator)
    parts = len(BIKE_PARTS)
    center = 0.2 + 0.6 * torch.rand(photos, parts, 2, generator=generator)
    boxes = torch.cat([center, 0.1 + 0.2 * torch.rand(photos, parts, 2, generator=generator)], -1)
    truth = {
        "labels": torch.arange(parts).repeat(photos, 1),
        "boxes": boxes,
        "states": torch.randint(4, (photos, parts), generator=generator),
    }
    corners = box_convert(boxes, "cxcywh", "xyxy") * side
    targets = [
        {"boxes": b, "labels": n + 1, "states": s}
        for b, n, s in zip(corners, truth["labels"], truth["states"], strict=True)
    ]
    return pixels, truth, targets


def compare(bare, ours, pixels, truth, targets) -> None:
    """Losses and boxes are the same, or this fails."""
    torch.manual_seed(1)
    expected = bare.train()(list(pixels), targets)
    torch.manual_seed(1)
    found = ours.train()(pixels, **truth).loss_parts
    for theirs, mine in (
        ("loss_classifier", "classifier_loss"),
        ("loss_box_reg", "box_reg_loss"),
        ("loss_objectness", "objectness_loss"),
        ("loss_rpn_box_reg", "rpn_box_reg_loss"),
    ):
        torch.testing.assert_close(found[mine], expected[theirs].detach(), rtol=1e-4, atol=1e-5)
    ours.config.absent = "background"  # so that scores are not lowered by P(absent)
    with torch.inference_mode():
        boxes, outputs = bare.eval()(list(pixels)), ours.eval()(pixels)
    ours.config.absent = "detect"
    sizes = [pixels.shape[-2:]] * len(pixels)
    answers = ours.processor.post_process_object_detection(outputs, 0.0, sizes)
    for a, b in zip(boxes, answers, strict=True):
        torch.testing.assert_close(b["boxes"], a["boxes"], rtol=0, atol=1e-2)
        torch.testing.assert_close(b["scores"], a["scores"], rtol=1e-4, atol=1e-5)


def main() -> None:
    parser = make_parser(__doc__, rounds=9)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--side", type=int, default=320)
    parser.add_argument("--photos", type=int, default=2)
    options = parser.parse_args()
    bare, ours = make_pair(options.backbone, options.side)
    pixels, truth, targets = make_batch(options.photos, options.side)
    compare(bare, ours, pixels, truth, targets)
    optimizers = {id(m): torch.optim.AdamW(m.parameters(), lr=1e-6, fused=True) for m in (bare, ours)}

    def step(model, *inputs, **truths):
        torch.manual_seed(0)  # both draw the same regions
        found = model.train()(*inputs, **truths)
        (sum(found.values()) if model is bare else found.loss).backward()
        optimizers[id(model)].step()
        optimizers[id(model)].zero_grad()

    @torch.inference_mode()
    def use(model, inputs):
        model.eval()(inputs)

    took = medians(
        {
            "bare step": lambda: step(bare, list(pixels), targets),
            "our step": lambda: step(ours, pixels, **truth),
            "bare use": lambda: use(bare, list(pixels)),
            "our use": lambda: use(ours, pixels),
        },
        options.rounds,
    )
    model = f"{options.backbone} FPN, {options.photos} photos of {options.side} px"
    peer = "torchvision's Faster R-CNN bare"
    rows = [
        Row(
            f"training step with the state head, {model}",
            peer,
            took["our step"] / took["bare step"],
            1.1,
            True,
        ),
        Row(
            f"inference with states at the final boxes, {model}",
            peer,
            took["our use"] / took["bare use"],
            1.1,
            True,
        ),
    ]
    report(rows, options.json)


if __name__ == "__main__":
    main()
