"""What the pipelines of all tasks share."""

from __future__ import annotations

from dataclasses import asdict
from typing import ClassVar

from transformers import Pipeline
from transformers.utils import ModelOutput

from geohf.vision.images import undecoded


class GeoPipeline(Pipeline):
    """A pipeline over samples that its model's own processor prepares; each answer is a dict.

    A list is always many inputs. A dataset gives an iterator over its answers. Options of a call are those of the
    model's `decode`.
    """

    output_class: ClassVar[type[ModelOutput]]  # what the model's forward returns
    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs, *args, **kwargs):
        if hasattr(inputs, "cast_column"):  # a dataset: its rows, as a generator, which transformers streams
            inputs = (row for row in (undecoded(inputs) if inputs.features else inputs))
        return super().__call__(inputs, *args, **kwargs)

    def save_pretrained(self, save_directory, **kwargs) -> None:
        """Save the model and the image processor: a pipeline is found by its task, and leaves no code in a repo."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.image_processor.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs) -> str:
        """As `GeoPreTrainedModel.push_to_hub`."""
        return self.model.push_to_hub(repo_id, **kwargs)

    def _sanitize_parameters(self):
        return {}, {}, {}

    def preprocess(self, inputs):
        return self.image_processor([inputs])

    def _forward(self, model_inputs):
        model_inputs["pixel_values"] = model_inputs["pixel_values"].to(self.model.dtype)
        return self.model(**model_inputs)

    def postprocess(self, model_outputs, **options):
        return asdict(self.model.decode(self.output_class(**model_outputs), **options)[0])
