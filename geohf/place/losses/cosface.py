"""CosFace over cells of UTM and heading, as CosPlace trains: places become classes, and no pairs are mined.

Berton, Masone and Caputo, Rethinking Visual Geo-localization for Large-Scale Applications, CVPR 2022; the loss: Wang et al.,
CosFace: Large Margin Cosine Loss for Deep Face Recognition, CVPR 2018. The numbers are CosPlace's. It trains one group of
classes an epoch, this one all of them in every batch: an image competes with the classes of its own group alone either way.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from geohf.errors import DataError
from geohf.geo.utm import utm_from_points

SCALE, MARGIN = 30.0, 0.4
APART, APART_HEADINGS = 5, 2  # cells, and sectors of heading, from a class to the next one of its group


def cosface(
    cosines: torch.Tensor,
    classes: torch.Tensor,
    competing: torch.Tensor,
    scale: float = SCALE,
    margin: float = MARGIN,
) -> torch.Tensor:
    """Cross-entropy of `scale` x cosines, those of the right classes lowered by `margin`: the mean over images, a scalar.

    Args:
        cosines: (n, c) of images with classes.
        classes: (n,) int64, the right one of each image.
        competing: (n, c) bool, classes that the right one is told from; it is one of them.

    >>> cosines = torch.tensor([[0.8, 0.4, 0.9]])
    >>> first = torch.tensor([[True, True, False]])
    >>> round(cosface(cosines, torch.tensor([0]), first, scale=1.0).item(), 4)  # log(1 + exp(0.4 - (0.8 - 0.4)))
    0.6931
    """
    lowered = cosines - margin * F.one_hot(classes, cosines.shape[1])
    return F.cross_entropy((scale * lowered).masked_fill(~competing, -torch.inf), classes)


def place_cells(
    points: np.ndarray, headings: np.ndarray, cell_m: float = 10.0, heading_deg: float | None = 30.0
) -> np.ndarray:
    """The cell of each image: UTM zone, columns to the east, rows to the north, and sector of heading.

    Args:
        points: (n, 2) degrees. Rows south of the equator count below zero.
        headings: (n,) degrees clockwise from north, NaN where unknown.
        cell_m: side of a cell.
        heading_deg: width of a sector, of which there is an even number: the nearest width is taken. None: headings do
            not matter, and all are in sector 0.

    Returns:
        (n, 4) int64; the sector is -1 where the heading is unknown.

    >>> place_cells(np.array([[0.0, 3.0], [-0.0001, 9.0]]), np.array([-10.0, np.nan])).tolist()
    [[31, 50000, 0, 11], [32, 50000, -2, -1]]
    """
    zones = ((points[:, 1] + 180) % 360 // 6).astype(np.int64) + 1
    cells = np.zeros((len(points), 4), np.int64)
    cells[:, 0] = zones
    for zone in np.unique(zones):
        rows = zones == zone
        cells[rows, 1:3] = utm_from_points(points[rows], f"{zone} north") // cell_m
    if heading_deg is not None:
        sectors = sectors_of(heading_deg)
        known = np.isfinite(headings)
        cells[known, 3] = headings[known] % 360 // (360 / sectors) % sectors
        cells[~known, 3] = -1
    return cells


def sectors_of(heading_deg: float) -> int:
    """Into how many sectors headings are divided: the even number whose width is nearest to the one asked for.

    >>> 360 / sectors_of(50)
    45.0
    """
    return APART_HEADINGS * max(1, round(360 / heading_deg / APART_HEADINGS))


def group_of_cells(cells: np.ndarray) -> np.ndarray:
    """(n,) the group of each of (n, 4) cells, within which no two cells are neighbors, nor in neighboring zones.

    Cells of one group lie `APART` columns and rows from each other, or their sectors `APART_HEADINGS`; an image without a
    heading looks anywhere, and is told from others without one.

    >>> group_of_cells(np.array([[31, 0, 0, 0], [31, 5, 0, 2], [31, 1, 0, 0], [32, 0, 0, 0]])).tolist()
    [0, 0, 1, 2]
    """
    sectors = np.where(cells[:, 3] < 0, APART_HEADINGS, cells[:, 3] % APART_HEADINGS)
    places = np.c_[cells[:, 0] % 2, cells[:, 1:3] % APART, sectors]
    groups: dict[tuple, int] = {}
    return np.array([groups.setdefault(tuple(place), len(groups)) for place in places.tolist()])


class CellClassifier(nn.Module):
    """Classes of training images with a direction each, which training turns with the model and then lays aside.

    Args:
        descriptors: (n, d) of the training images as the model sees them now: a class begins as their mean.
        points, headings, cell_m, heading_deg: see `place_cells`.

    Raises:
        DataError: no group has two classes, so that nothing is told from anything.
    """

    groups: torch.Tensor

    def __init__(
        self,
        descriptors: torch.Tensor,
        points: np.ndarray,
        headings: np.ndarray,
        cell_m: float = 10.0,
        heading_deg: float | None = None,
    ):
        super().__init__()
        self.cell_m, self.heading_deg = cell_m, heading_deg
        cells, classes = np.unique(self._cells(points, headings), axis=0, return_inverse=True)
        self._numbers = {tuple(cell): number for number, cell in enumerate(cells.tolist())}
        groups = group_of_cells(cells)
        if len(np.unique(groups)) == len(groups):
            raise DataError(
                f"cosface has nothing to learn: the {len(points)} training images lie in {len(groups)} cells of {cell_m:g} m, "
                f"and none has another one {APART} cells away to be told from; take a smaller --cell_m, or another --loss"
            )
        self.register_buffer("groups", torch.from_numpy(groups))
        sums = torch.zeros(len(cells), descriptors.shape[1])
        self.weight = nn.Parameter(
            F.normalize(sums.index_add(0, torch.from_numpy(classes.reshape(-1)), descriptors.float()), dim=1)
        )

    def _cells(self, points: np.ndarray, headings: np.ndarray) -> np.ndarray:
        # a batch has headings as float32
        return place_cells(points, headings.astype(np.float32), self.cell_m, self.heading_deg)

    def classes_of(self, coordinates: torch.Tensor, headings: torch.Tensor | None) -> torch.Tensor:
        """(n,) the class of each training image, by its (n, 2) degrees and (n,) headings; DataError for one of no class."""
        points = coordinates.cpu().double().numpy()
        headings = torch.full((len(points),), torch.nan) if headings is None else headings
        cells = self._cells(points, headings.cpu().numpy())
        numbers = [self._numbers.get(tuple(cell), -1) for cell in cells.tolist()]
        if -1 in numbers:
            raise DataError(
                f"no class of cosface lies at {points[numbers.index(-1)].tolist()}: its classes are cells of the images that the "
                "training began with"
            )
        return torch.tensor(numbers, device=coordinates.device)

    def forward(
        self, descriptors: torch.Tensor, coordinates: torch.Tensor, headings: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The loss of (n, d) descriptors of length 1, or of their first numbers, with (n, 2) degrees and (n,) headings."""
        classes = self.classes_of(coordinates, headings)
        directions = F.normalize(self.weight[:, : descriptors.shape[1]], dim=1)
        competing = self.groups[classes][:, None] == self.groups
        return cosface(descriptors.float() @ directions.T, classes, competing)
