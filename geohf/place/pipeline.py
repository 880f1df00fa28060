"""`pipeline("place-recognition", model="org/geo-place")`."""

from __future__ import annotations

from dataclasses import asdict

from geohf.errors import require_whole
from geohf.models.pipelines import GeoPipeline
from geohf.place.head import GeoPlaceOutput
from geohf.vision.weights import in_eval_mode


class PlaceRecognitionPipeline(GeoPipeline):
    """Says where photographs were taken: each input is an image and each answer a dict.

    Options: `index`, a `PlaceIndex` or the file that holds one, `top_k`, `near`, `backend` and `verify`, see
    `GeoPlaceModel.decode`; without an index the answer is the descriptor alone. With `center` or `method` (and perhaps
    `sequences`) the inputs are frames of drives that answer as a whole, see `GeoPlaceModel.predict_sequences`.
    """

    output_class = GeoPlaceOutput
    looks = ("verify",)
    tells = ("index", "top_k", "center", "method", "sequences", "near", "backend", "verify")

    def __call__(self, inputs=None, *args, images=None, batch_size=None, **kwargs):
        """As `GeoPipeline.__call__`; a list for drives, whatever holds them."""
        options = self._postprocess_params | self._sanitize_parameters(**kwargs)[2]
        if options.get("center", "none") == "none" and "method" not in options:
            if options.get("verify"):
                self.model.check_verifiable(options.get("index"))
            if batch_size is not None:
                kwargs["batch_size"] = batch_size
            return super().__call__(inputs, *args, images=images, **kwargs)
        index, frames = self.model.index_of_drives(options), images if inputs is None else inputs
        options = {"center": "none", "method": None} | options
        size = batch_size or self._batch_size or 1
        answers = self.model.predict_sequences(frames, index, batch_size=size, **options)
        return [asdict(answer) for answer in answers]

    def _sanitize_parameters(self, **options):
        if options.get("verify") is not None:
            require_whole(0, verify=options["verify"])
        options["index"] = self.model.open_index(options.get("index"))
        return super()._sanitize_parameters(**options)

    def _forward(self, model_inputs, verify=0):
        outputs = super()._forward(model_inputs)
        if verify:  # beside what the model gives: a batch is taken apart row by row
            maps = in_eval_mode(self.model).maps_of(model_inputs["pixel_values"])
            outputs = dict(outputs) | {"maps": maps}
        return outputs

    def postprocess(self, model_outputs, center=None, method=None, sequences=None, **options):
        maps = model_outputs.pop("maps", None) if options.get("verify") else None
        if maps is not None:
            options["maps"] = lambda rows: [maps[rows]]
        return super().postprocess(model_outputs, **options)  # a photograph alone is in no drive
