"""Bands that lie in files of their own, as Sentinel-2's do, read as one raster: a virtual one of GDAL's (VRT)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np

from geohf.errors import DataError
from geohf.tiles.grid import WARP, require_same_grid
from geohf.tiles.rasters import RasterInfo, open_raster, raster_info
from geohf.tiles.reading import Reading
from geohf.tiles.sources import VIRTUAL, BandFiles

ON_REQUEST = "of one image --align true takes bands of other resolutions, and no others: warp them to one grid, with gdalwarp"


def stacked(bands: BandFiles, reading: Reading, nodata: float | None = None) -> BandFiles:
    """The bands as one raster on the first one's grid, which `open_raster` opens.

    Where the reading aligns, bands of another resolution are read onto it: bilinear, the cloud band by the nearest pixel.
    Pixels have the type that holds those of all bands, and one that a file did not measure was not measured.

    Args:
        nodata: the value that means "not measured" in files that do not say it.

    Raises:
        DataError: a file has several bands or a color table, or lies on another grid; or is silent about the pixels that
            were not measured, which an interpolation would mix with the others.
    """
    infos: list[RasterInfo] = []
    types = []
    for number, path in enumerate(bands.files, start=1):
        with open_raster(path) as raster:
            infos.append(raster_info(raster, path))
            types.append(raster.dtypes[0])
        _require_plain(path, infos[-1], number == reading.cloud_band)
        here = _stretched(infos[-1], infos[0]) if reading.align else infos[-1]
        require_same_grid(path, here, bands.files[0], infos[0], ON_REQUEST if reading.align else WARP)
    how = [
        "nearest" if number == reading.cloud_band else reading.align or "bilinear"
        for number in range(1, len(infos) + 1)
    ]
    for path, info, resampling in zip(bands.files, infos, how, strict=True):
        resized = (info.height, info.width) != (infos[0].height, infos[0].width)
        if nodata is not None and not info.says_nodata and resized and resampling != "nearest":
            raise DataError(
                f"{path}: has another resolution than {bands.files[0]} and does not say which pixels were not measured, so "
                f"--nodata {nodata:g} would be mixed with the others; name it in its header (gdal_edit.py -a_nodata), or "
                "take --resampling nearest"
            )
    return replace(bands, vrt=_vrt(bands, infos, np.result_type(*types).name, how))


def _require_plain(path: str | os.PathLike, raster: RasterInfo, clouds: bool) -> None:
    if raster.bands != 1:
        raise DataError(f"{path}: has {raster.bands} bands; of several assets each is one band")
    if raster.palette is not None and not clouds:
        raise DataError(
            f"{path}: has a color table (classes), and among several assets only the --cloud_band may be of classes"
        )


def _stretched(raster: RasterInfo, first: RasterInfo) -> RasterInfo:
    """The header as it were if the same ground had the first one's number of pixels."""
    from rasterio import Affine

    scale = Affine.scale(raster.width / first.width, raster.height / first.height)
    return replace(raster, width=first.width, height=first.height, transform=tuple(raster.affine @ scale)[:6])


def _vrt(bands: BandFiles, infos: Sequence[RasterInfo], dtype: str, how: Sequence[str]) -> bytes:
    """GDAL's description of the stack, see https://gdal.org/en/stable/drivers/raster/vrt.html."""
    first = infos[0]
    kind = "Byte" if dtype == "uint8" else dtype.capitalize().replace("Uint", "UInt")
    whole = f'xOff="0" yOff="0" xSize="{first.width}" ySize="{first.height}"'

    def source(path: str | Path, info: RasterInfo, band: str, resampling: str) -> str:
        file = str(path) if str(path).startswith(VIRTUAL) else os.path.abspath(path)
        return (
            f'<SimpleSource resampling="{resampling}"><SourceFilename relativeToVRT="0">{escape(file)}</SourceFilename>'
            f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{info.width}" ySize="{info.height}"/>'
            f"<DstRect {whole}/></SimpleSource>"
        )

    lines = [f'<VRTDataset rasterXSize="{first.width}" rasterYSize="{first.height}">']
    lines += [] if first.crs is None else [f"<SRS>{escape(first.crs)}</SRS>"]
    if first.gcps:
        points = (
            f'Pixel="{column!r}" Line="{row!r}" X="{x!r}" Y="{y!r}"' for row, column, x, y in first.gcps
        )
        lines += ["<GCPList>", *(f"<GCP {point}/>" for point in points), "</GCPList>"]
    else:
        lines += [f"<GeoTransform>{', '.join(map(repr, first.affine.to_gdal()))}</GeoTransform>"]
    parts = zip(bands.names, bands.files, infos, how, strict=True)
    for number, (name, path, info, resampling) in enumerate(parts, start=1):
        nodata = info.nodata[0]
        lines += [
            f'<VRTRasterBand dataType="{kind}" band="{number}"><Description>{escape(name)}</Description>',
            f"<UnitType>{escape(info.units[0] or '')}</UnitType>",
            f"<Offset>{info.offsets[0]!r}</Offset><Scale>{info.scales[0]!r}</Scale>",
            "" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>",
            source(path, info, "1", resampling),
            "</VRTRasterBand>",
        ]
    if any(info.says_nodata for info in infos):
        lines += [
            '<MaskBand><VRTRasterBand dataType="Byte" subClass="VRTDerivedRasterBand">',
            "<PixelFunctionType>mul</PixelFunctionType><SourceTransferType>Float64</SourceTransferType>",
            *(source(path, info, "mask,1", "nearest") for path, info in zip(bands.files, infos, strict=True)),
            "</VRTRasterBand></MaskBand>",
        ]
    return "\n".join([*lines, "</VRTDataset>"]).encode()
