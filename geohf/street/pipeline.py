"""`pipeline("street-geolocation", model="org/geo-street")`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from torch.nn.utils.rnn import pad_sequence

from geohf.errors import DataError
from geohf.models.pipelines import GeoPipeline
from geohf.street.captions import Captions, caption_answers, caption_outputs, read_captions
from geohf.street.head import GeoStreetOutput
from geohf.vision.weights import in_eval_mode


class StreetGeolocationPipeline(GeoPipeline):
    """Locates photographs: each input is an image, or a dict of views, and each answer a dict.

    One place with four views is a dict. Options of a call, or of all calls where the pipeline is made with them: `top_k`,
    `states`, `area`, `gallery`, `regions`, `levels`, `captions`, `text_model` and `test_time`, see
    `GeoStreetModel.predict`.
    """

    output_class = GeoStreetOutput
    looks = ("captions", "text_model", "test_time")
    tells = ("top_k", "states", "area", "gallery", "regions", "levels", "captions", "text_model")
    _read: tuple[tuple, Captions] | None = None  # the captions of the last call: a text model is large

    def _sanitize_parameters(self, **options):
        captions = options.get("captions")
        if not isinstance(captions, str) and isinstance(captions, Iterable):
            options["captions"] = list(captions)
        # what was said where the pipeline was made goes on for the one of these that a call does not name
        return super()._sanitize_parameters(**options)

    def _captions(self, captions: Any, text_model: str | None) -> Captions | None:
        if captions is None:
            if text_model is not None:
                raise DataError("text_model reads captions, and there are none")
            return None
        asked = captions, text_model
        if self._read is None or self._read[0] != asked:
            self._read = asked, read_captions(self.model, captions, text_model)
        return self._read[1]

    def preprocess(self, inputs):
        # in a list, which transformers hands over as it is: it cannot join samples with other numbers of views
        return {"samples": [dict(self.image_processor([inputs]))]}

    def _forward(self, model_inputs, captions=None, text_model=None, test_time=None):
        read, samples = self._captions(captions, text_model), []
        for part in model_inputs["samples"]:  # a list of lists, where the loader made a batch
            samples += part if isinstance(part, list) else [part]
        batch = {
            name: pad_sequence(
                [sample[name][0] for sample in samples], batch_first=True, padding_value=filler
            )
            for name, filler in (("pixel_values", 0.0), ("view_mask", False), ("headings", math.nan))
        }
        batch["pixel_values"] = self.model.as_read(batch["pixel_values"])
        model = in_eval_mode(self.model)
        if read is None:
            return model(**batch, test_time=test_time)
        outputs, logits = caption_outputs(model, read, batch, test_time)
        return {**outputs, "caption_logits": logits}

    def postprocess(self, model_outputs, captions=None, text_model=None, **options):
        read = self._captions(captions, text_model)
        if read is None:
            return super().postprocess(model_outputs, **options)
        logits = model_outputs.pop("caption_logits")
        outputs = self.output_class(**model_outputs)
        return asdict(caption_answers(self.model, read, outputs, logits, **options)[0])
