"""What a place model is asked: descriptors, where photographs and drives were taken, and how well it knows that."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import BatchFeature

from geohf.data.inputs import Inputs
from geohf.errors import DataError, require_whole
from geohf.io import refuse_overwriting
from geohf.models.ahead import batches_of, prepared_ahead
from geohf.models.modeling import GeoPreTrainedModel
from geohf.place.answers import PlacePrediction, answers_searched, predictions_of
from geohf.place.drives import files_of, load_drives, names_of
from geohf.place.fingerprints import sight_of
from geohf.place.frames import answer_drives, answer_rows, find_frames
from geohf.place.index import PlaceIndex, load_once
from geohf.place.index_search import Backend
from geohf.place.sequences import Center, Method, check_options
from geohf.place.verification import UNVERIFIED, gap_of, gated, require_local, verified
from geohf.vision.pooling import pooled
from geohf.vision.weights import in_eval_mode, weights_checksum, weights_fingerprint

if TYPE_CHECKING:
    from geohf.data.inputs import Part
    from geohf.place.head import GeoPlaceOutput


class PlaceRetrieval(GeoPreTrainedModel):
    """Descriptors of photographs, and a search for them in an index; `GeoPlaceModel` adds the network."""

    _hashed: tuple[list | None, str] = (None, "")  # checksum and fingerprint of the weights as they were last

    def fingerprint(self) -> str:
        """A digest of all weights, their type, and how pictures are made ready: descriptors compare only where all are the same."""
        # hashing takes as long as a photograph, so it is done again only where a tensor was changed or replaced
        state = weights_checksum(self)
        if self._hashed[0] != state:
            kind = str(self.dtype).removeprefix("torch.")
            self._hashed = state, f"{weights_fingerprint(self)} {kind}"
        return f"{self._hashed[1]} {sight_of(self.processor, self.config.pooling)}"

    def encode(self, images: Any, batch_size: int = 32) -> np.ndarray:
        """(n, d) float32 descriptors of length 1, of anything that `predict` takes."""
        descriptors = [answer.descriptor for answer in self.predict(images, batch_size)]
        return np.array(descriptors, np.float32).reshape(-1, self.config.descriptor_size)

    def predict(
        self,
        inputs: Any,
        batch_size: int = 32,
        index: PlaceIndex | str | os.PathLike | None = None,
        **options,
    ) -> list[PlacePrediction]:
        """Describe photographs and, with an index, say where they were taken.

        Args:
            inputs: paths, folders, PIL images, arrays, bytes or datasets, see `GeoPreTrainedModel.predict`.
            index: a `PlaceIndex`, or the file that holds one.
            options: see `decode`.

        Raises:
            DataError: an index of another model.
        """
        return super().predict(inputs, batch_size, index=index, **options)

    def steps(self, index: PlaceIndex | str | os.PathLike | None = None, verify: int = 0, **options):
        """As `GeoPreTrainedModel.steps`; the index is opened once."""
        require_whole(0, verify=verify)
        opened = self.open_index(index)
        if not verify:
            return super().steps(index=opened, **options)
        self.check_verifiable(opened)
        prepare, _ = super().steps(index=opened, **options)
        model = in_eval_mode(self)

        @torch.inference_mode()
        def answer(tensors: BatchFeature) -> list[PlacePrediction]:
            pixels = self.as_read(tensors["pixel_values"])
            outputs = model(pixels, return_dict=True)
            return model.decode(
                outputs, opened, verify=verify, maps=lambda rows: [model.maps_of(pixels[rows])], **options
            )

        return prepare, answer

    def check_verifiable(self, index: PlaceIndex | None) -> None:
        """Raise DataError where no answer can be verified in this index; a warning, where no gate was learned."""
        if index is None:
            raise DataError("answers are verified in an index: give one")
        require_local(index.local, self.config)
        if index.axes is not None and self.config.verify_below is not None:
            raise DataError(
                "the index keeps some dims of its descriptors, and the gate of verification was learned on whole ones: build it "
                "without dims, or leave verify out"
            )

    def local_maps(self, images: Any, batch_size: int = 32) -> Iterator[torch.Tensor]:
        """The backbone's maps of images of any kind, (batch, channels, rows, columns) float32 on the CPU, batch by batch."""
        model, batches = in_eval_mode(self), batches_of(self.samples(images), batch_size)
        with closing(prepared_ahead(self.prepare, batches)) as ahead:
            for _, tensors in ahead:
                pixels = self.as_read(tensors.result()["pixel_values"])
                with torch.inference_mode():
                    yield model.maps_of(pixels).float().cpu()

    def maps_of(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, rows, columns) of the backbone alone."""
        return pooled(self.tower, pixel_values, "map")

    def predict_sequences(
        self,
        inputs: Any,
        index: PlaceIndex | str | os.PathLike,
        sequences: Sequence | None = None,
        center: Center = "online",
        method: Method | None = "filter",
        top_k: int = 5,
        batch_size: int = 32,
        near: Any = None,
    ) -> list[PlacePrediction]:
        """Say where the photographs of drives were taken, with the order of their frames heard.

        Args:
            inputs, sequences: drives, or photographs in the order of time, see `geohf.place.frames.find_frames`.
            center, method: see `geohf.place.sequences.center_descriptors` and `match_sequences`. The defaults look
                at earlier frames only. Without a method frames answer one by one.
            top_k: answers to give, at most as many as the index holds.
            near: see `PlaceIndex.search`.

        Returns:
            One answer per photograph, in the order of the inputs. Its `confidence` is the probability of the top answer
            given the frames where `chained`; a drive whose order explains nothing answers frame by frame.

        Raises:
            DataError: an index of another model, see `match_sequences`.
        """
        check_options(center, method)
        opened = self.index_of_drives({"index": index})
        frames = find_frames(inputs, self.samples, sequences)
        descriptors = self.encode(frames.images, batch_size)
        return answer_drives(opened, descriptors, frames, self.config, center, method, top_k, near)

    def predict_to_file(
        self,
        sources: Any,
        output: str | os.PathLike,
        batch_size: int = 32,
        center: Center = "none",
        method: Method | None = None,
        **options,
    ) -> int:
        """As `GeoPreTrainedModel.predict_to_file`; with `center` or `method` drives answer as a whole, see `predict_sequences`.

        Args:
            options: of `predict`, and `on_error`.

        Raises:
            DataError: drives without an index, an index of another model, see `geohf.models.predicting`.
        """
        check_options(center, method)
        if center == "none" and method is None:
            return super().predict_to_file(sources, output, batch_size, **options)
        index = self.index_of_drives(options)
        refuse_overwriting(output, sources if isinstance(sources, (list, tuple)) else [sources])
        frames = find_frames(sources, self.samples)
        chosen: dict[str, Any] = {"center": center, "method": method}
        chosen |= {name: options.pop(name) for name in ("top_k", "near") if name in options}
        finish = partial(answer_rows, index, frames, self.config, chosen)
        inputs = Inputs([(frames.names, frames.images)])
        return super().predict_to_file(inputs, output, batch_size, finish=finish, **options)

    def export_outputs(self, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
        """`descriptors`, (batch, d) of length 1."""
        return {"descriptors": self(pixel_values).descriptors}

    def read_source(self, source: str) -> Part | None:
        """The images of a `poses.csv`, which lie below the folder above its own."""
        if Path(source).name != "poses.csv":
            return None
        images, _ = load_drives(source)
        return names_of(images), files_of(images)

    def evaluate(
        self,
        data: str | os.PathLike,
        batch_size: int = 32,
        on_error: str = "raise",
        center: Center = "none",
        method: Method | None = None,
        **protocol,
    ) -> dict[str, float]:
        """Recall, and meters to the top answer, of queries that are searched for in a database.

        Args:
            data: a folder with `database` and `queries` (or several `queries_NAME`), itself or in `images/test`, see
                `geohf.place.protocols`; or a folder of drives with a `poses.csv` each, or a table or folder that
                `load_drives` takes, with a column of sequences: the first drive is the database, and the others ask.
            center, method: how the frames of a drive answer together, see `predict_sequences`; by default each alone.
            protocol: `utm`, the zone of coordinates without one (planar meters where a folder of `database` and
                `queries` has none); `radius_m`, meters within which an answer is right (the config's `confidence_m`);
                `recalls`, the N of recall; `rule`, which of both `r1`, `r5`, ... follow; `benchmark`, a name of
                `geohf.place.protocols.BENCHMARKS`: 25 m, the N 1, 5, 10 and 20, the rule `all`, and a warning where the
                set has another size; `verify`, answers of a doubtful search to put in the order of their local matches,
                which are kept in memory for the database.

        Returns:
            See `geohf.place.metrics.place_metrics`, and `database`, its size, and `verified`, queries whose answers
            were; with several sets of queries the names begin with `NAME/`.

        Raises:
            DataError: a single drive, queries that are in the database, see `load_drives` and `retrieve`.
        """
        from geohf.place.evaluation import evaluate_place

        return evaluate_place(self, data, batch_size, on_error, center, method, **protocol)

    def open_index(self, index: PlaceIndex | str | os.PathLike | None) -> PlaceIndex | None:
        """The index, loaded where it is a path, after a check that it belongs to this model."""
        if index is None:
            return None
        if not isinstance(index, (PlaceIndex, str, os.PathLike)):
            raise DataError(f"index is a PlaceIndex or a file's path, not a {type(index).__name__}")
        if not isinstance(index, PlaceIndex):
            path = Path(index)
            # a copy: what a caller adds or removes is not in the file
            index = copy.copy(load_once(path, path.stat().st_mtime_ns if path.exists() else 0))
        index.check_model(self)
        return index

    def index_of_drives(self, options: dict[str, Any]) -> PlaceIndex:
        """The index of a call for drives, taken out of its options, with `backend` and `verify`, which must ask for nothing.

        Raises:
            DataError: no index, or one of another model; a backend or verification is asked for.
        """
        index = self.open_index(options.pop("index", None))
        if index is None:
            raise DataError("drives are searched for in an index: give one (--index of the command)")
        if options.pop("backend", "exact") != "exact":
            raise DataError("drives are searched for exactly: leave backend out")
        if options.pop("verify", 0):
            raise DataError(f"{UNVERIFIED}: leave verify, or center and method, out")
        return index

    def decode(
        self,
        outputs: GeoPlaceOutput,
        index: PlaceIndex | None = None,
        top_k: int = 5,
        near: Any = None,
        backend: Backend = "exact",
        verify: int = 0,
        maps: Callable[[np.ndarray], Iterable[torch.Tensor]] | None = None,
    ) -> list[PlacePrediction]:
        """Turn outputs into answers.

        Args:
            index: see `open_index`.
            top_k: answers to give, at most as many as the index holds.
            near, backend: see `PlaceIndex.search`.
            verify: answers of a doubtful search that are put in the order of their local matches, see
                `geohf.place.verification`; 0: none.
            maps: gives the backbone's maps of the photographs of some numbers, to verify by; `predict` does.
        """
        assert outputs.descriptors is not None  # a forward pass gives them
        require_whole(1, top_k=top_k)
        if verify and maps is None:
            raise DataError("outputs alone hold nothing to verify by: leave verify out, or ask predict")
        descriptors = outputs.descriptors.float().cpu().numpy()
        if index is None:
            return [PlacePrediction(descriptor) for descriptor in descriptors]
        k = max(answers_searched(top_k, len(index)), min(verify, len(index)))
        similarity, rows = index.search(descriptors, k, near=near, backend=backend)
        doubtful = None
        if verify and maps is not None and index.local is not None:
            doubtful = gated(gap_of(similarity, index.points[rows], self.config.negative_m), self.config)
            similarity, rows = verified(similarity, rows, index.local, maps, doubtful, verify)
        known = index.points, index.images
        fitted = index.axes is None
        return predictions_of(descriptors, similarity, rows, *known, self.config, top_k, doubtful, fitted)
