"""A photo seen several times, in slices and mirrored, and the boxes of all views as those of the photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torchvision.ops import box_area, box_iou

from geohf.errors import DataError, require_choice, require_whole, require_within
from geohf.parts.answers import PartStateOutput, PhotoPrediction
from geohf.parts.boxes import boxes_in_shares
from geohf.parts.mirror import mirrored_labels
from geohf.parts.processing import open_photo
from geohf.vision.weights import in_eval_mode

if TYPE_CHECKING:
    from geohf.parts.answering import AnsweringDetector
    from geohf.parts.configuration import PartStateConfig

SAME = 0.5  # boxes of one part that overlap more, by IoU, are one
AT_ONCE = 8  # views in one pass
_EDGE_PX = 2.0  # a box that ends so near to the inner edge of a slice is cut by it
_KEYS = ("boxes", "labels", "scores", "state_probs", "attribute_probs")
# `boxes` (n, 4) xyxy in pixels, `labels`, `scores` (n,), `state_probs` (n, states), perhaps `attribute_probs`
Boxes = dict[str, torch.Tensor]


class Window(NamedTuple):
    """A part of a photo, in pixels."""

    left: int
    top: int
    right: int
    bottom: int


def windows_of(width: int, height: int, size: int | None, overlap: float = 0.2) -> list[Window]:
    """The whole photo, and where that is larger than `size` pixels, square slices over all of it.

    Args:
        overlap: share of its side that a slice has in common with the next, at least.

    >>> [window[0] for window in windows_of(1000, 400, 400, 0.25)[1:]]
    [0, 300, 600]
    """
    whole = Window(0, 0, width, height)
    if size is None or max(width, height) <= size:
        return [whole]
    columns, rows = (_starts(side, size, overlap) for side in (width, height))
    corners = ((x, y, min(x + size, width), min(y + size, height)) for y in rows for x in columns)
    return [whole, *(Window(*each) for each in corners)]


def _starts(side: int, size: int, overlap: float) -> list[int]:
    if side <= size:
        return [0]
    steps = -(-(side - size) // max(1, int(size * (1 - overlap))))
    return [round(i * (side - size) / steps) for i in range(steps + 1)]


def steps_of_views(
    model: AnsweringDetector,
    slice_size: int | None = None,
    overlap: float | None = None,
    tta: str | None = None,
    **options: Any,
) -> tuple[Callable[[list], list[torch.Tensor]], Callable[[list[torch.Tensor]], list[PhotoPrediction]]]:
    """The steps of `predict`, see `GeoPreTrainedModel.steps`, over several views of each photo.

    Args:
        slice_size: a larger photo is also seen in squares of this many pixels.
        overlap: of slices, see `windows_of`; default: 0.2.
        tta: `flip`: each view is seen mirrored, too.
        options: of `decode`.

    Raises:
        DataError: an option that cannot be.
    """
    require_choice(("flip", None), tta=tta)
    if slice_size is not None:
        require_whole(1, slice_size=slice_size)
    if overlap is not None and slice_size is None:
        raise DataError("overlap is that of slices: give slice_size, too")
    overlap = 0.2 if overlap is None else overlap
    require_within("[0, 1)", overlap=overlap)
    whole = in_eval_mode(model)

    @torch.inference_mode()
    def answer(photos: list[torch.Tensor]) -> list[PhotoPrediction]:
        answers = []
        for photo in photos:
            height, width = photo.shape[-2:]
            windows = windows_of(width, height, slice_size, overlap)
            views = [photo[:, w.top : w.bottom, w.left : w.right] for w in windows]
            seen = _boxes_of(model, whole, views)
            if tta == "flip":
                mirrored = _boxes_of(model, whole, [view.flip(-1) for view in views])
                swapped = mirrored_columns(model.config)
                seen = [
                    averaged(one, unmirrored(other, w.right - w.left, swapped))
                    for one, other, w in zip(seen, mirrored, windows, strict=True)
                ]
            one_each = model.config.one_per_part
            boxes = merged(seen, windows, one_each) if len(windows) > 1 or one_each else seen[0]
            answers += model.decode(_output(boxes, width, height), **options)
        return answers

    return lambda samples: [open_photo(sample) for sample in samples], answer


def _boxes_of(model: AnsweringDetector, whole: nn.Module, views: Sequence[torch.Tensor]) -> list[Boxes]:
    """The boxes of every view, in its pixels, whatever their scores."""
    seen: list[Boxes] = []
    for start in range(0, len(views), AT_ONCE):
        tensors = model.processor.fit(views[start : start + AT_ONCE])
        batch = {name: values.to(model.device) for name, values in tensors.items()}
        batch["pixel_values"] = model.as_read(batch["pixel_values"])
        outputs = whole(**batch, return_dict=True)
        for one in model.processor.post_process_object_detection(outputs, 0.0, outputs.original_sizes):
            seen.append({name: one[name].cpu() for name in _KEYS if name in one})
    return seen


def merged(views: Sequence[Boxes], windows: Sequence[Window], one_per_part: bool) -> Boxes:
    """The boxes of several windows of a photo, each part once, in pixels of the photo, by falling score.

    The better of two boxes of a part is kept, with its states, where they are in different windows and overlap; of one that
    the edge of a slice cuts it is enough that most of the smaller box lies in the other, and the uncut one is the better.
    """
    whole, cuts = torch.tensor(windows[0]), []
    shifted: list[Boxes] = []
    for one, window in zip(views, windows, strict=True):
        edges = torch.tensor(window)
        boxes = one["boxes"] + edges[[0, 1, 0, 1]]
        cuts.append((((boxes - edges).abs() < _EDGE_PX) & (edges != whole)).any(1))
        shifted.append(one | {"boxes": boxes, "view": torch.full((len(boxes),), len(shifted))})
    joined = {name: torch.cat([one[name] for one in shifted]) for name in shifted[0]}
    joined["cut"] = torch.cat(cuts)
    joined = _taken(joined, (joined["scores"] - 2.0 * joined["cut"]).argsort(descending=True, stable=True))
    view, cut = joined.pop("view"), joined.pop("cut")
    joined = _by_score(_taken(joined, _first_of_each(joined["boxes"], joined["labels"], cut, view)))
    labels = joined["labels"].tolist()
    first = [labels.index(label) for label in dict.fromkeys(labels)]
    return _taken(joined, first) if one_per_part else joined


def _taken(boxes: Boxes, rows: Any) -> Boxes:
    """Some of the boxes, by their numbers or a mask."""
    return {name: values[rows] for name, values in boxes.items()}


def _by_score(boxes: Boxes) -> Boxes:
    return _taken(boxes, boxes["scores"].argsort(descending=True, stable=True))


def _first_of_each(
    boxes: torch.Tensor, labels: torch.Tensor, cut: torch.Tensor, view: torch.Tensor
) -> torch.Tensor:
    """(n,) which boxes, the better ones first, are not told by another one before."""
    areas, keep = box_area(boxes), torch.ones(len(boxes), dtype=torch.bool)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        for place, row in enumerate(rows):
            if not keep[row]:
                continue
            rest = rows[place + 1 :]
            low = torch.maximum(boxes[row, :2], boxes[rest, :2])
            high = torch.minimum(boxes[row, 2:], boxes[rest, 2:])
            inside = (high - low).clamp(min=0).prod(1)
            iou = inside / (areas[row] + areas[rest] - inside)
            of_smaller = inside / torch.minimum(areas[row], areas[rest])
            same = (iou > SAME) | ((cut[row] | cut[rest]) & (of_smaller > SAME))
            keep[rest[same & (view[rest] != view[row])]] = False
    return keep


def averaged(seen: Boxes, mirrored: Boxes) -> Boxes:
    """Boxes that both of two views tell with the mean of their sides, scores and states; a box of one alone has half its score."""
    overlap = box_iou(seen["boxes"], mirrored["boxes"])
    overlap[seen["labels"][:, None] != mirrored["labels"]] = 0.0
    pairs: list[tuple[int, int]] = []
    left = overlap.clone()
    while left.numel() and left.max() > SAME:
        row, column = divmod(int(left.argmax()), left.shape[1])
        pairs.append((row, column))
        left[row], left[:, column] = 0.0, 0.0
    first, second = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    both = {name: (seen[name][first] + mirrored[name][second]) / 2 for name in seen if name != "labels"}
    parts = [both | {"labels": seen["labels"][first]}]
    for one, taken in ((seen, first), (mirrored, second)):
        alone = torch.ones(len(one["labels"]), dtype=torch.bool)
        alone[taken] = False
        parts.append(_taken(one | {"scores": one["scores"] / 2}, alone))
    return _by_score({name: torch.cat([part[name] for part in parts]) for name in seen})


def mirrored_columns(config: PartStateConfig) -> dict[str, list[int]]:
    """The mirror image of each part (`labels`), state (`state_probs`) and value of an attribute (`attribute_probs`)."""
    values: list[int] = []
    for names in (config.attributes or {}).values():
        values += [len(values) + number for number in mirrored_labels(dict(enumerate(names)))]
    states = mirrored_labels(config.id2state)
    return {"labels": mirrored_labels(config.id2label), "state_probs": states, "attribute_probs": values}


def unmirrored(boxes: Boxes, width: int, swapped: Mapping[str, Sequence[int]]) -> Boxes:
    """The boxes of a mirrored view in the view itself; `swapped` is of `mirrored_columns`."""
    left, top, right, bottom = boxes["boxes"].T
    turned = {"boxes": torch.stack([width - right, top, width - left, bottom], 1)}
    turned["labels"] = torch.tensor(swapped["labels"])[boxes["labels"]]
    for name in ("state_probs", "attribute_probs"):
        if name in boxes:
            turned[name] = boxes[name][:, list(swapped[name])]
    return boxes | turned


def _output(boxes: Boxes, width: int, height: int) -> PartStateOutput:
    """The boxes of one photo as a batch of one."""
    return PartStateOutput(
        pred_boxes=boxes_in_shares(boxes["boxes"], height, width)[None],
        pred_labels=boxes["labels"][None],
        scores=boxes["scores"][None],
        state_probs=boxes["state_probs"][None],
        attribute_probs=boxes["attribute_probs"][None] if "attribute_probs" in boxes else None,
        original_sizes=torch.tensor([[height, width]]),
    )
