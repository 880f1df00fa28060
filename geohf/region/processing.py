"""From photographs, with their regions where these are known, to tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from geohf.data.classes import class_numbers
from geohf.data.rows import cell_of, heading_of, positions_of
from geohf.data.samples import samples_of
from geohf.data.tables import HEADING_COLUMNS, find_column
from geohf.vision.augmentation import RandomAreaCrop
from geohf.vision.images import picture_of
from geohf.vision.processing import GeoImageProcessor

if TYPE_CHECKING:
    from geohf.region.answering import RegionAnswering


REGION_KEYS = ("region", "region_id", "regionid")  # in any case of letters, of a user's own rows


class GeoRegionImageProcessor(GeoImageProcessor):
    """Turns samples into `pixel_values` (batch, 3, height, width) and `regions` (batch,), -1 where unknown.

    A sample is an image of any kind that `open_image` takes, or a dict with `image` and perhaps `region`, a
    region's number; `GeoRegionModel.predict` takes names too.
    """

    model_input_names = ["pixel_values", "regions"]  # noqa: RUF012

    def tensors(self, images: Any, augment: Callable | None = None) -> dict[str, torch.Tensor]:
        """Prepare one sample or a list of samples."""
        samples = [split_sample(sample) for sample in samples_of(images)]
        pixels = self.pixel_values([image for image, _ in samples], augment)
        regions = torch.tensor([-1 if region is None else int(region) for _, region in samples])
        return {"pixel_values": pixels, "regions": regions}


def split_sample(sample: Any) -> tuple[Any, Any]:
    """The image of a sample, and its region (`region` or `Region_ID`) or None."""
    if isinstance(sample, Mapping) and not sample.keys() <= {"bytes", "path"}:
        return picture_of(sample), sample.get(region_key(sample))
    return sample, None


def region_key(row: Mapping) -> str:
    """The key of a row or a sample under which its region stands."""
    return find_column((key for key in row if isinstance(key, str)), REGION_KEYS) or "region"


class RegionCollator:
    """Rows of a dataset of photographs to a batch of pixels and the targets of what is trained: some of `labels`,
    `coordinates` and `headings`. Pictures change as `region_augmentation` says.
    """

    def __init__(self, model: RegionAnswering, targets: Sequence[str], augment: str = "none"):
        self.processor, self.targets = model.processor, targets
        self.label2id, self.frame = dict(model.config.label2id), model.config.frame
        self.augment = region_augmentation(augment)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        images = [row["image"] for row in rows]
        batch = {"pixel_values": self.processor.pixel_values(images, self.augment)}
        if "labels" in self.targets:
            regions, names = ([row.get(name) for row in rows] for name in ("region", "filename"))
            batch["labels"] = torch.from_numpy(class_numbers(regions, self.label2id, "region", names))
        if "coordinates" in self.targets:
            batch["coordinates"] = torch.from_numpy(positions_of(rows, self.frame))
        if "headings" in self.targets:
            batch["headings"] = torch.tensor([heading_of(cell_of(row, HEADING_COLUMNS)) for row in rows])
        return batch


def region_augmentation(kind: str):
    """What happens to a training image before it is resized.

    `light` crops a little and changes colors. `full` is the reference implementation's: it also mirrors both ways,
    rotates by up to 20 degrees and erases a patch, which suits pictures from above; a street that is mirrored is
    another place.
    """
    if kind == "none":
        return None
    from torchvision.transforms import v2

    if kind == "light":
        return v2.Compose([RandomAreaCrop(0.85), v2.ColorJitter(0.15, 0.15, 0.1)])
    gray = [124, 116, 104]  # the mean of ImageNet, which normalizes to about zero
    return v2.Compose(
        [
            RandomAreaCrop(0.85, (0.9, 1.1)),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(20, fill=gray),
            v2.ColorJitter(0.2, 0.2, 0.2, 0.05),
            v2.RandomErasing(0.25, value=gray),
        ]
    )
