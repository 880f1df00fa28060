"""From photographs to tensors of one size, and from a model's outputs to boxes in the photographs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert
from torchvision.transforms.v2 import functional
from transformers.image_utils import PILImageResampling, pil_torch_interpolation_mapping

from geohf.data.samples import samples_of
from geohf.errors import DataError, require_within
from geohf.parts.boxes import boxes_in_shares
from geohf.parts.losses import IGNORED
from geohf.parts.rows import numbers_of, photo_name, require_columns, truths_of
from geohf.vision.images import open_image
from geohf.vision.processing import GeoImageProcessor

if TYPE_CHECKING:
    from geohf.parts.modeling import PartStateModel

# what torchvision's backbones and detectors were trained with
IMAGE_MEAN, IMAGE_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# of a batch: the column of a row
_COLUMNS = {"labels": "parts", "boxes": "boxes", "states": "states", "iscrowd": "iscrowd", "weights": "trust"}


class PartImageProcessor(GeoImageProcessor):
    """Fits photos into `size`, keeps their shape, and pads them below and to the right.

    Every photo is padded to the same size, so that nothing about its tensor, and no answer, depends on the batch
    that it comes in. Gives `pixel_values` (batch, 3, height, width), `image_sizes` (batch, 2), the height and
    width of each photo within, and `original_sizes` (batch, 2), of the upright photo.
    """

    model_input_names = ["pixel_values", "image_sizes", "original_sizes"]  # noqa: RUF012
    resample = PILImageResampling.BILINEAR
    image_mean = IMAGE_MEAN
    image_std = IMAGE_STD
    size = {"height": 800, "width": 800}  # noqa: RUF012
    do_center_crop = False
    crop_size = None
    # photos are always scaled, to the size that they are padded to
    call_settings = ("size", "resample", "image_mean", "image_std")

    def tensors(  # type: ignore[override]  # photos are augmented with their boxes, by the collator
        self, images: Any
    ) -> dict[str, torch.Tensor]:
        """Prepare one photo or a list of photos, of any kind that `open_image` takes; rows of a dataset, too.

        Raises:
            ImageError: a photo cannot be opened.
            DataError: there is no photo.
        """
        return self.fit([open_photo(image) for image in samples_of(images)])

    def fit(
        self, photos: Sequence[torch.Tensor], shares: Sequence[float] | None = None
    ) -> dict[str, torch.Tensor]:
        """Prepare opened photos: (3, H, W) uint8 tensors.

        Args:
            shares: of the sides of `size` that each is fitted into; None: all of it.
        """
        if not len(photos):
            raise DataError("there is no photo to prepare")
        height, width = self.size["height"], self.size["width"]
        mode = pil_torch_interpolation_mapping[PILImageResampling(self.resample)]
        batch = torch.zeros(len(photos), 3, height, width)
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.image_mean, self.image_std))
        sizes = []
        for i, photo in enumerate(photos):
            share = 1.0 if shares is None else shares[i]
            h, w = fitted_size(photo.shape[-2:], [max(1, round(side * share)) for side in (height, width)])
            resized = functional.resize(photo, [h, w], interpolation=mode, antialias=True)
            batch[i, :, :h, :w] = (resized / 255 - mean) / std
            sizes.append([h, w])
        originals = torch.tensor([list(photo.shape[-2:]) for photo in photos])
        return {"pixel_values": batch, "image_sizes": torch.tensor(sizes), "original_sizes": originals}

    def post_process_object_detection(
        self, outputs: Any, threshold: float | Sequence[float] = 0.5, target_sizes: Any = None
    ) -> list[dict[str, torch.Tensor]]:
        """Boxes of every photo from a model's outputs, see `post_process`."""
        return post_process(outputs, threshold, target_sizes)


def post_process(
    outputs: Any, threshold: float | Sequence[float] = 0.5, target_sizes: Any = None
) -> list[dict[str, torch.Tensor]]:
    """Boxes of every photo from a model's outputs.

    Args:
        outputs: a `PartStateOutput`, or anything with its fields.
        threshold: boxes with a lower score are left out; one for all parts, or one for each.
        target_sizes: (batch, 2) height and width of the photos, in whose pixels boxes are wanted; None: shares.

    Returns:
        A dict per photo: boxes (n, 4) left, top, right, bottom; labels, scores, states, state_scores (n,);
        state_probs (n, states), and of a model with attributes attribute_probs; by falling score.
    """
    boxes = box_convert(outputs.pred_boxes.float(), "cxcywh", "xyxy")
    if target_sizes is not None:
        sizes = torch.as_tensor(target_sizes, device=boxes.device)
        if len(sizes) != len(boxes):
            raise ValueError(f"{len(sizes)} target sizes for {len(boxes)} images")
        boxes = boxes * sizes[:, None, [1, 0, 1, 0]]
    detections = []
    further = getattr(outputs, "attribute_probs", None)
    limits = torch.as_tensor(threshold, dtype=outputs.scores.dtype, device=boxes.device)
    for i, labels in enumerate(outputs.pred_labels):
        limit = limits[labels.clamp(min=0)] if limits.ndim else limits
        keep = (labels >= 0) & (outputs.scores[i] >= limit)
        probabilities = outputs.state_probs[i][keep]
        sure, states = probabilities.max(-1)
        parts = {"boxes": boxes[i][keep], "labels": labels[keep], "scores": outputs.scores[i][keep]}
        parts |= {"states": states, "state_scores": sure, "state_probs": probabilities}
        if further is not None:
            parts["attribute_probs"] = further[i][keep]
        detections.append(parts)
    return detections


def open_photo(source: Any) -> torch.Tensor:
    """A photo of any kind as an upright (3, H, W) uint8 tensor; a dataset's row gives its `image`."""
    # at its full size: a JPEG decoded at a smaller scale would not say how large the photo is
    return functional.pil_to_tensor(open_image(source))


def fitted_size(size: Sequence[int], limit: Sequence[int]) -> tuple[int, int]:
    """Height and width of a photo that is scaled to just fit into the limit.

    >>> fitted_size((600, 900), (480, 480))
    (320, 480)
    """
    height, width = size
    scale = min(limit[0] / height, limit[1] / width)
    return (min(limit[0], max(1, round(height * scale))), min(limit[1], max(1, round(width * scale))))


class PartCollator:
    """Rows of a dataset of photos with parts to a batch of tensors; see `PartStateModel.forward`.

    Rows are those of `load_parts`, or anyone's with an image, boxes, parts and states, as names or numbers, see
    `geohf.parts.rows.truths_of`.

    Args:
        model: gives the processor.
        augment: `(image, boxes) -> (image, boxes, kept rows)` on (3, h, w) uint8 and (n, 4) pixels, for training.
        trust: hand over how far each truth is trusted, as its weight in the loss.
        changes: `(photo, truths) -> (photo, truths)` before that, in this order, see `geohf.parts.augment` and `Mosaic`.
        multi_scale: photos are fitted into sides that are smaller by a random share up to this one.
    """

    def __init__(
        self,
        model: PartStateModel,
        augment: Callable | None = None,
        trust: bool = False,
        changes: Sequence[Callable] = (),
        multi_scale: float = 0.0,
    ):
        require_within("[0, 1)", multi_scale=multi_scale)
        self.processor, self.augment, self.trust = model.processor, augment, trust
        self.changes, self.multi_scale = changes, multi_scale
        self.parts, self.states = map(numbers_of, (model.config.id2label, model.config.id2state))
        self.attributes = model.config.attributes or {}

    def read(self, rows: list[dict]) -> list[tuple[torch.Tensor, dict[str, torch.Tensor]]]:
        """Of each row its photo, (3, h, w) uint8, and its truths, whose boxes are (n, 4) xyxy in pixels."""
        read = []
        for number, row in enumerate(rows):
            try:
                require_columns(row)
                photo = open_photo(row)
                height, width = photo.shape[-2:]
                truths = truths_of(row, self.parts, self.states, (width, height), self.attributes)
            except DataError as error:
                raise DataError(f"photo {photo_name(row, number)}, {error}") from None
            truth = {name: torch.from_numpy(truths[column]) for name, column in _COLUMNS.items()}
            if self.attributes:
                values = torch.stack([torch.from_numpy(truths[name]) for name in self.attributes], 1)
                truth["attributes"] = torch.where(values < 0, IGNORED, values)
            read.append((photo, truth))
        return read

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        photos, truths = [], []
        for photo, truth in self.read(rows):
            for change in self.changes:
                photo, truth = change(photo, truth)
            if self.augment is not None:
                photo, boxes, kept = self.augment(photo, truth["boxes"])
                truth = {name: values[kept] for name, values in truth.items()} | {"boxes": boxes}
            truth["boxes"] = boxes_in_shares(truth["boxes"], *photo.shape[-2:])
            truth["iscrowd"] = truth["iscrowd"].long()
            photos.append(photo)
            truths.append(truth)
        shares = (1 - self.multi_scale * torch.rand(len(photos))).tolist() if self.multi_scale else None
        batch: dict[str, Any] = dict(self.processor.fit(photos, shares))
        for name, first in truths[0].items():
            if name != "weights" or self.trust:
                empty = IGNORED if name in ("labels", "states", "attributes") else 0
                # the last one, which is left out again, keeps a batch without any part from having no column
                values = [*(truth[name] for truth in truths), first.new_zeros(1, *first.shape[1:])]
                batch[name] = pad_sequence(values, batch_first=True, padding_value=empty)[:-1]
        batch["image_ids"] = [photo_name(row, number) for number, row in enumerate(rows)]
        return batch
