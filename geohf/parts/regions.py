"""What a detector does as a Faster R-CNN: feature maps, regions, their losses, and the parts that they show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.image_list import ImageList

from geohf.models.modeling import GeoPreTrainedModel
from geohf.parts.boxes import boxes_in_shares
from geohf.parts.heads import PartRoIHeads, PartRPN
from geohf.parts.query_losses import Target

# what stands in the outputs where an image has fewer boxes than the batch's longest list
NO_LABEL = -1
_OUTPUTS = {"boxes": "pred_boxes", "labels": "pred_labels"}


class RegionDetector(GeoPreTrainedModel):
    """The methods of a `PartStateModel` whose architecture is `faster_rcnn`."""

    pyramid: nn.Module
    rpn: PartRPN
    roi_heads: PartRoIHeads

    def run_regions(
        self, pixel_values: torch.Tensor, sizes: list[tuple[int, int]], targets: list[Target] | None = None
    ) -> tuple[torch.Tensor | None, dict[str, torch.Tensor]]:
        """Losses (photos, parts of the loss) where there are targets, and outside of training the answers.

        Args:
            sizes: height and width in pixels of each photo within its input.
            targets: see `PartStateModel.targets_of`.
        """
        height, width = pixel_values.shape[-2:]
        images, padded = ImageList(pixel_values, sizes), (height, width)
        features = self.feature_maps(pixel_values)
        losses = None if targets is None else self.image_losses(images, features, padded, targets)
        return losses, {} if self.training else self._padded(self.detect(images, features, padded), sizes)

    def feature_maps(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """(batch, 3, H, W) to the pyramid's maps, in float32, which boxes are pooled from."""
        maps = self.pyramid(self.tower(pixel_values))
        return {name: features.float() for name, features in maps.items()}

    def detect(
        self, images: ImageList, features: dict[str, torch.Tensor], padded: tuple[int, int]
    ) -> list[dict[str, torch.Tensor]]:
        """Boxes (n, 4) in pixels of the input, labels, scores and state_probs of every image."""
        proposals, _ = self.rpn(images, features)
        return self.roi_heads.detect(features, proposals, padded, images.image_sizes)

    def image_losses(
        self,
        images: ImageList,
        features: dict[str, torch.Tensor],
        padded: tuple[int, int],
        targets: list[Target],
    ) -> torch.Tensor:
        """(images, parts of the loss), in the order of `LOSS_PARTS`, before they are weighted."""
        places = []
        for target in targets:
            boxes, labels = target["boxes"], target["labels"]
            places.append(
                {"boxes": boxes[labels > 0], "ignored": boxes[labels < 0], "crowds": target["crowds"]}
            )
        with self._measuring():
            proposals, of_proposals = self.rpn(images, features, places)
            classes, boxes, states = self.roi_heads.losses(features, proposals, padded, targets)
        proposing = of_proposals["loss_objectness"], of_proposals["loss_rpn_box_reg"]
        return torch.stack([classes, boxes, *proposing, states], dim=1)

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """A validation loss needs the proposals of training, and the same samples every time.

        Only the flag of the proposal network itself is set: dropout and batch norms below it stay as they are.
        """
        samplers = (self.rpn.fg_bg_sampler, self.roi_heads.fg_bg_sampler)
        for sampler in samplers:
            sampler.repeat = not self.training
        self.rpn.training = True
        try:
            yield
        finally:
            self.rpn.training = self.training

    def _padded(
        self, detections: list[dict[str, torch.Tensor]], sizes: Sequence[tuple[int, int]]
    ) -> dict[str, torch.Tensor]:
        for parts, (height, width) in zip(detections, sizes, strict=True):
            parts["boxes"] = boxes_in_shares(parts["boxes"], height, width)
        outputs = {}
        for name in detections[0]:
            values = [parts[name] for parts in detections]
            outputs[_OUTPUTS.get(name, name)] = pad_sequence(
                values, True, NO_LABEL if name == "labels" else 0
            )
        return outputs
