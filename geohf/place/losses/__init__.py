"""The losses of the place task, as pure functions of descriptors and of who is whose neighbor."""

from geohf.place.losses.cosface import CellClassifier, cosface
from geohf.place.losses.hybrid import hybrid
from geohf.place.losses.info_nce import info_nce
from geohf.place.losses.masks import pair_masks
from geohf.place.losses.multi_similarity import multi_similarity
from geohf.place.losses.triplet import triplet

__all__ = ["CellClassifier", "cosface", "hybrid", "info_nce", "multi_similarity", "pair_masks", "triplet"]
