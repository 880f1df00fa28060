"""How a raster is read: which bands, which band tells of clouds, onto which grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geohf.errors import DataError, listed, require_choice
from geohf.tiles.rasters import RasterInfo, inspect_raster
from geohf.tiles.sources import RasterFile

if TYPE_CHECKING:
    from geohf.tiles.arguments import TileArguments

DEQUANTIZE = ("aef",)
AEF_NODATA = -128


@dataclass(frozen=True)
class Reading:
    """What of a raster becomes a frame.

    Attributes:
        bands: numbers from 1, in the order that a model sees them; None: all but the cloud band.
        cloud_band: the band whose pixels say what was not measured.
        cloud_values: its values that say so; None: all but 0.
        qa_bits: bits of it, from 0, any of which says so, as in Landsat's QA_PIXEL.
        dequantize: `aef`: int8 embeddings of AlphaEarth, x becomes sign(x) (x / 127.5)^2, and -128 was not measured.
        align: rasters on other grids are read onto the first one's: `bilinear`, or `nearest` for classes; None: refused.
        class_values: the numbers of a class map's classes; each becomes a band of ones and zeros, in this order.
        grid: the name and the header of the raster whose grid they are read onto instead; a model does not keep it.
        named_grid: there was one, which the boxes of tables count pixels of.
    """

    bands: tuple[int, ...] | None = None
    cloud_band: int | None = None
    cloud_values: tuple[int, ...] | None = None
    qa_bits: tuple[int, ...] | None = None
    dequantize: str | None = None
    align: str | None = None
    class_values: tuple[int, ...] | None = None
    grid: tuple[str, RasterInfo] | None = None
    named_grid: bool | None = None

    @classmethod
    def from_options(cls, options: TileArguments) -> Reading:
        """As the options say.

        Raises:
            DataError: they do not go together.
        """
        if options.cloud_band is None and (options.cloud_values or options.qa_bits):
            raise DataError("--cloud_values and --qa_bits need --cloud_band, the band that they are of")
        if options.cloud_values and options.qa_bits:
            raise DataError("--cloud_values are values and --qa_bits bits of the band; take one of them")
        require_choice((*DEQUANTIZE, None), dequantize=options.dequantize)
        if options.grid is not None and not options.align:
            raise DataError("--grid names the grid that --align true reads rasters onto; say both")
        classes = options.class_values
        if classes is not None and (len(classes) < 2 or len(set(classes)) < len(classes)):
            raise DataError(f"--class_values are numbers of two classes or more, each once, got {classes}")
        nearest = options.resampling == "nearest" or classes is not None
        align = None if not options.align else "nearest" if nearest else "bilinear"
        grid = None if options.grid is None else (options.grid, inspect_raster(options.grid))
        return cls(
            bands=_numbers(options.bands),
            cloud_band=options.cloud_band,
            cloud_values=_numbers(options.cloud_values),
            qa_bits=_numbers(options.qa_bits),
            dequantize=options.dequantize,
            align=align,
            class_values=_numbers(classes),
            grid=grid,
            named_grid=None if grid is None else True,
        )

    @classmethod
    def from_config(cls, saved: Mapping[str, Any] | None) -> Reading:
        """As a model's config keeps it, see `as_config`."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in (saved or {}).items()}
        return cls(**fields)

    def as_config(self) -> dict[str, Any] | None:
        """For a config: plain lists; None where a raster is read as it is."""
        kept = asdict(replace(self, grid=None))
        del kept["grid"]
        if not self.named_grid:
            del kept["named_grid"]
        fields = {k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()}
        return fields if any(value is not None for value in kept.values()) else None

    def chosen(self, bands: int) -> list[int]:
        """Positions, from 0, of the bands that a model sees, of a raster with so many."""
        if self.bands is not None:
            return [number - 1 for number in self.bands]
        return [position for position in range(bands) if position + 1 != self.cloud_band]

    def frame_bands(self, bands: int) -> int:
        """How many bands a frame has, of a raster with so many."""
        return len(self.class_values or self.chosen(bands))

    def dtype(self, raster: RasterInfo) -> str:
        """The type of a frame's pixels."""
        if self.class_values:
            return "uint8"
        return "float32" if self.dequantize else raster.dtype

    def require_possible(self, path: RasterFile | os.PathLike, raster: RasterInfo) -> None:
        """Refuse a raster that cannot be read so.

        Raises:
            DataError: it lacks a band, or its pixels are of another type than the options suppose.
        """
        asked = [("--bands", number) for number in self.bands or ()]
        asked += [] if self.cloud_band is None else [("--cloud_band", self.cloud_band)]
        for flag, number in asked:
            if not 1 <= number <= raster.bands:
                raise DataError(f"{path}: has {raster.bands} bands, numbered from 1, and {flag} is {number}")
        if not self.chosen(raster.bands):
            raise DataError(f"{path}: has no band beside the --cloud_band {self.cloud_band}")
        if self.qa_bits and raster.dtype.startswith("float"):
            raise DataError(f"{path}: --qa_bits are of whole numbers, its pixels are {raster.dtype}")
        if self.class_values and (len(self.chosen(raster.bands)) > 1 or raster.dtype.startswith("float")):
            raise DataError(
                f"{path}: --class_values are of one band of whole numbers, and it has {raster.bands} of {raster.dtype}; "
                "choose one with --bands"
            )
        if self.dequantize and raster.dtype != "int8":
            raise DataError(f"{path}: --dequantize aef takes int8 embeddings, its pixels are {raster.dtype}")

    def clouds(self, pixels: np.ndarray) -> np.ndarray | bool:
        """Which pixels the cloud band rules out, (..., height, width) bool for (..., height, width, all bands)."""
        if self.cloud_band is None:
            return False
        band = pixels[..., self.cloud_band - 1]
        if self.qa_bits:
            bits = sum(1 << bit for bit in self.qa_bits)
            return (band.astype(np.int64) & bits) != 0
        return np.isin(band, self.cloud_values) if self.cloud_values else band != 0

    def frame(self, pixels: np.ndarray, holes: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """A frame and what of it was not measured, of all bands of a raster and its own mask.

        Raises:
            DataError: a measured pixel is of no class that `class_values` names; `name` is that of the raster.
        """
        holes = holes | self.clouds(pixels)
        chosen = self.chosen(pixels.shape[-1])
        if chosen != list(range(pixels.shape[-1])):
            pixels = np.ascontiguousarray(pixels[..., chosen])
        if self.class_values:
            return one_hot(pixels[..., 0], holes, self.class_values, name), holes
        if self.dequantize is None:
            return pixels, holes
        return dequantized(pixels), holes | (pixels == AEF_NODATA).any(-1)


def one_hot(numbers: np.ndarray, holes: np.ndarray, classes: Sequence[int], name: str) -> np.ndarray:
    """(..., height, width) numbers of classes as (..., height, width, classes) uint8, 0 throughout in holes.

    Raises:
        DataError: a number is none of the classes, outside of holes.

    >>> one_hot(np.array([10, 30, 0]), np.array([False, False, True]), (10, 20, 30), "map.tif").tolist()
    [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    """
    bands = (numbers[..., None] == np.array(classes)) & ~holes[..., None]
    strange = ~holes & ~bands.any(-1)
    if strange.any():
        unknown = sorted(set(numbers[strange].tolist()))
        raise DataError(
            f"{name}: holds the numbers {listed(unknown)}, which are none of --class_values {' '.join(map(str, classes))}; "
            "name them, or say with --nodata which number was not measured"
        )
    return bands.astype(np.uint8)


def dequantized(pixels: np.ndarray) -> np.ndarray:
    """AlphaEarth's int8 embeddings as float32: sign(x) (x / 127.5)^2.

    >>> dequantized(np.array([-127, 0, 127], np.int8)).astype(float).round(4).tolist()
    [-0.9922, 0.0, 0.9922]
    """
    scaled = pixels.astype(np.float32) / 127.5
    return np.sign(scaled) * scaled**2


def _numbers(values: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if values is None else tuple(values)
