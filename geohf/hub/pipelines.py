"""What the pipelines of all tasks share."""

from __future__ import annotations

from transformers import Pipeline

from geohf.vision.images import undecoded


class GeoPipeline(Pipeline):
    """A pipeline over images that its model's own processor prepares.

    A list is always many inputs. A dataset gives an iterator over its answers.
    """

    _load_processor = False
    _load_image_processor = True
    _load_feature_extractor = False
    _load_tokenizer = False

    def __call__(self, inputs, *args, **kwargs):
        if hasattr(inputs, "cast_column"):  # a dataset: its rows, as a generator, which transformers streams
            inputs = (row for row in (undecoded(inputs) if inputs.features else inputs))
        return super().__call__(inputs, *args, **kwargs)
