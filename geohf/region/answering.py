"""How the region model answers: samples that may name their region, decoding, and numbers on data with positions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set, Sized
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import BatchFeature

from geohf.data.classes import class_names, class_number, with_names
from geohf.data.inputs import Inputs, Part, find_images, is_table_of_files
from geohf.errors import DataError
from geohf.models.answering import AnsweringModel
from geohf.region.answers import RegionPrediction
from geohf.region.configuration import GeoRegionConfig
from geohf.region.decoding import both_answers, decode, locate
from geohf.region.experts import RegionOutput
from geohf.region.metrics import measure
from geohf.region.processing import REGION_KEYS, RegionCollator, split_sample
from geohf.region.rows import headings_of, load_labeled, region_cells, truth_of
from geohf.vision.augmentation import TEST_TIME_OPTION


class RegionAnswering(AnsweringModel):
    """The answers of a `GeoRegionModel`."""

    config: GeoRegionConfig

    predict_options: ClassVar[dict[str, dict]] = {
        "region": {"help": "The region of all inputs, where it is known."},
        "top_k": {"type": int, "help": "Regions to name."},
        "credible_regions": {
            "action": "store_true",
            "default": None,
            "help": "Draw where 50 and 90 %% of photographs like this were taken, as GeoJSON; for a model with --density.",
        },
        "test_time": TEST_TIME_OPTION,
    }
    evaluate_options: ClassVar[dict[str, dict]] = {"test_time": TEST_TIME_OPTION}

    def locate(self, logits: torch.Tensor, scaled: torch.Tensor) -> torch.Tensor:
        """(batch, regions) logits and (batch, regions, 2) answers to (batch, 2) points, averaged in the frame."""
        return locate(self.config, logits, scaled)

    def decode(
        self, outputs: RegionOutput, top_k: int = 5, credible_regions: bool = False
    ) -> list[RegionPrediction]:
        """Turn outputs into answers.

        Args:
            top_k: regions to name; those that are ruled out are never named.
            credible_regions: draw where 50 and 90 % of photographs like this were taken; needs a calibrated density.
        """
        return decode(self.config, outputs, top_k, credible_regions)

    def region_number(self, region: str | int | None) -> int:
        """The number of a region by its name, see `class_number`; -1 for None, NaN or an empty one."""
        return max(class_number(region, self.config.label2id, "region"), -1)

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`probabilities` of the regions, (batch, regions), after the temperature, and `coordinates`, (batch, 2) float64."""
        outputs = self(pixel_values)
        probabilities = (outputs.logits / self.config.temperature).softmax(-1)
        return {"probabilities": probabilities, "coordinates": outputs.coordinates}

    def evaluate(
        self,
        data: str | os.PathLike,
        batch_size: int = 32,
        on_error: str = "raise",
        test_time: str | None = None,
    ) -> dict[str, float]:
        """Errors with the region given and routed, MSE, router accuracy and coverage; see `evaluation_rows`.

        Args:
            data: a table as `load_region_table` takes it, or a folder like the sample's, whose validation table is
                measured.
            test_time: see `predict`.
        """
        dataset, collator = load_labeled(data, self.config, on_error), RegionCollator(self, ())
        batch = collator if test_time is None else lambda rows: collator(rows) | {"test_time": test_time}
        outputs = self.outputs_on(dataset, batch, batch_size)
        answers = both_answers(
            self.config, outputs, *truth_of(dataset, self.config), headings_of(dataset, self.config)
        )
        return {metric.name: metric.value for metric in measure(self.config, answers, intervals=False)}

    def prepare(self, samples: list) -> BatchFeature:
        """As `GeoPreTrainedModel.prepare`, for samples that may name their region."""
        split = map(split_sample, samples)
        named = [{"image": image, "region": self.region_number(region)} for image, region in split]
        return super().prepare(named)

    def samples(self, inputs: Any) -> Sequence | Iterable:
        """As every task's; a dataset that numbers its regions names them, for numbers may be other regions' names."""
        return with_named_regions(super().samples(inputs))

    def find_inputs(self, sources: Any) -> Inputs:
        """As every task's, with the names of regions, see `samples`."""
        inputs = super().find_inputs(sources)
        return Inputs([(names, with_named_regions(samples)) for names, samples in inputs.parts])

    def read_source(self, source: str) -> Part | None:
        """The photographs of a table of file names with a column of regions, each with its own, as datasets bring them."""
        path = Path(source)
        cells = region_cells(path) if is_table_of_files(path) else None
        if cells is None:
            return None
        names, files = find_images(source).parts[0]
        return names, [{"image": file, "region": cell} for file, cell in zip(files, cells, strict=True)]

    def predict(
        self, inputs: Any, batch_size: int = 32, region: str | int | Sequence | None = None, **options
    ) -> list[RegionPrediction]:
        """Locate photographs from paths, folders, PIL images, arrays, bytes or datasets.

        Args:
            inputs: as in `GeoPreTrainedModel.predict`; a sample may be a dict with `image` and `region`.
            region: the region of all photographs, or one a photograph (None where it is unknown).
            options: of `decode`, and `test_time`: `flip` or `crops`, the features are the mean of those of each
                picture and of its mirror image or its corners; the radius was calibrated without.

        Raises:
            DataError: a region that the model does not know, or not one region a photograph.
        """
        if region is None or isinstance(region, str) or not isinstance(region, Iterable):
            return super().predict(inputs, batch_size, region=region, **options)
        if isinstance(region, (Set, Mapping)):
            raise DataError("the regions of photographs are a list in their order, not a set or a dict")
        samples, names = self.samples(inputs), list(region)
        if isinstance(samples, Sized) and len(names) != len(samples):
            raise DataError(f"{len(names)} regions for {len(samples)} photographs")
        named = of_regions(samples, names)
        return super().predict(list(named) if isinstance(samples, list) else named, batch_size, **options)

    def steps(self, region: str | int | None = None, test_time: str | None = None, **options):
        """As `GeoPreTrainedModel.steps`, for photographs that all are of one region, where one is named."""
        prepare, answer = super().steps(**options)
        looks = {} if test_time is None else {"test_time": test_time}

        def prepared(samples: list) -> BatchFeature:
            named = samples if region is None else [of_region(sample, region) for sample in samples]
            return BatchFeature({**prepare(named), **looks})

        return prepared, answer


def with_named_regions(samples: Any) -> Any:
    """Samples of a dataset that numbers its regions, with their names; others as they are."""
    names = class_names(getattr(samples, "rows", samples))
    names = {column: named for column, named in names.items() if column.lower() in REGION_KEYS}
    return with_names(samples, names) if names else samples


def of_regions(samples: Iterable, names: Sequence) -> Iterator[dict]:
    """Photographs with these regions, one each, or DataError where there are more or fewer of one."""
    count = 0
    for count, sample in enumerate(samples, 1):
        if count > len(names):
            raise DataError(f"{len(names)} regions for more photographs")
        yield of_region(sample, names[count - 1])
    if count < len(names):
        raise DataError(f"{len(names)} regions for {count} photographs")


def of_region(sample: Any, region: str | int | None) -> dict:
    """A photograph with this region, whatever its own is."""
    return {"image": split_sample(sample)[0], "region": region}
