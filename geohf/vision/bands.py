"""Published weights of backbones for red, green and blue, fitted to images of any number of bands."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from geohf.errors import DataError


def adapt_first_convolution(
    name: str, weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The weights of a backbone for three bands, for one that differs from it in the number of bands alone.

    As timm does (`timm.models.adapt_input_conv`): the first convolution's weights are repeated over the bands and
    scaled by 3 / bands, or summed for one band.

    Raises:
        DataError: the backbones differ in more than a convolution over three bands.
    """
    from timm.models import adapt_input_conv

    weights = dict(weights)
    for key, new in wanted.items():
        old = weights.get(key, new)
        if old.shape == new.shape:
            continue
        if old.ndim != 4 or old.shape[1] != 3:
            raise DataError(
                f"{name}: the backbone's weights {key} {tuple(old.shape)} cannot be fitted to {tuple(new.shape)}; take "
                "one of timm's towers, or --pretrained false"
            )
        weights[key] = adapt_input_conv(new.shape[1], old)
    return weights
