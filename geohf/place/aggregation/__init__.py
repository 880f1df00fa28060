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


def make_aggregator(config: GeoPlaceConfig) -> nn.Module:
    """The head's own pooling, which does nothing where the backbone has pooled."""
    if config.pooling == "gem":
        return GeM()
    if config.pooling == "gem_linear":
        return GeMLinear(config.channels, config.gem_dim)
    if config.pooling == "mixvpr":
        return MixVPR(config.map_shape, config.mix_depth, config.mix_channels, config.mix_rows)
    if config.pooling == "netvlad":
        return NetVLAD(config.channels, config.clusters)
    if config.pooling == "supervlad":
        return SuperVLAD(config.channels, config.clusters)
    if config.pooling == "salad":
        return SALAD(
            *(config.channels, config.clusters, config.cluster_dim, config.token_dim),
            linear_dim=config.salad_linear_dim,
            attention=config.salad_attention,
        )
    if config.pooling == "boq":
        return BoQ(
            config.channels, config.boq_channels, config.boq_queries, config.boq_blocks, config.boq_rows
        )
    return nn.Identity()
