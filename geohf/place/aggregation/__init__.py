"""Pooling that learns: from a backbone's map, or its tokens, to one vector."""

from __future__ import annotations

from torch import nn

from geohf.place.aggregation.boq import BoQ
from geohf.place.aggregation.gem import GeM, GeMLinear
from geohf.place.aggregation.mixvpr import MixVPR
from geohf.place.aggregation.netvlad import NetVLAD
from geohf.place.aggregation.salad import SALAD
from geohf.place.aggregation.supervlad import SuperVLAD
from geohf.place.configuration import GeoPlaceConfig

__all__ = ["SALAD", "BoQ", "GeM", "GeMLinear", "MixVPR", "NetVLAD", "SuperVLAD", "make_aggregator"]


# pooling -> its module, and the fields of the config that this takes, in its order
AGGREGATORS: dict[str, tuple[type[nn.Module], str]] = {
    "gem": (GeM, ""),
    "gem_linear": (GeMLinear, "channels gem_dim"),
    "mixvpr": (MixVPR, "map_shape mix_depth mix_channels mix_rows"),
    "netvlad": (NetVLAD, "channels clusters"),
    "supervlad": (SuperVLAD, "channels clusters"),
    "salad": (SALAD, "channels clusters cluster_dim token_dim salad_linear_dim salad_attention"),
    "boq": (BoQ, "channels boq_channels boq_queries boq_blocks boq_rows"),
}


def make_aggregator(config: GeoPlaceConfig) -> nn.Module:
    """The head's own pooling, which does nothing where the backbone has pooled."""
    kind, fields = AGGREGATORS.get(config.pooling, (nn.Identity, ""))
    return kind(*(getattr(config, field) for field in fields.split()))
