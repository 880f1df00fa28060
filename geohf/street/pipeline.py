"""`pipeline("street-geolocation", model="org/geo-street")`."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import pad

from geohf.models.pipelines import GeoPipeline
from geohf.street.head import GeoStreetOutput


class StreetGeolocationPipeline(GeoPipeline):
    """Locates photographs: each input is an image, or a dict of views, and each answer a dict.

    One place with four views is a dict. Call options: `top_k`, `states`, `area`, `gallery`,
    `regions`, `levels`, see `GeoStreetModel.decode`.
    """

    output_class = GeoStreetOutput

    def _sanitize_parameters(
        self, top_k=None, states=None, area=None, gallery=None, regions=None, levels=None
    ):
        options = {"top_k": top_k, "states": states, "area": area, "gallery": gallery, "regions": regions}
        options["levels"] = levels
        return {}, {}, {name: value for name, value in options.items() if value is not None}

    def preprocess(self, inputs):
        # in a list, which transformers hands over as it is: it cannot join samples with other numbers of views
        return {"samples": [dict(self.image_processor([inputs]))]}

    def _forward(self, model_inputs):
        samples = []
        for part in model_inputs["samples"]:  # a list of lists, where the loader made a batch
            samples += part if isinstance(part, list) else [part]
        width = max(sample["view_mask"].shape[1] for sample in samples)
        batch = {}
        for name, value in (("pixel_values", 0.0), ("view_mask", False), ("headings", math.nan)):
            tensors = [sample[name] for sample in samples]
            padding = [(0, 0) * (tensor.ndim - 2) + (0, width - tensor.shape[1]) for tensor in tensors]
            batch[name] = torch.cat([pad(t, p, value=value) for t, p in zip(tensors, padding, strict=True)])
        batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
        return self.model(**batch)
