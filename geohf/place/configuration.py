"""The config of the place model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from geohf.errors import require_within
from geohf.models.configuration import GeoConfig, as_data_error
from geohf.place.confidence import forget_confidence

# The reference implementation's six encoders; any other timm or transformers name serves as well.
ENCODERS = {
    "clip_b32": "openai/clip-vit-base-patch32",
    "clip_l14": "openai/clip-vit-large-patch14",
    "siglip_b16": "google/siglip-base-patch16-224",
    "dinov2_b": "facebook/dinov2-base",
    "convnext_b": "convnext_base.fb_in22k_ft_in1k",
    "resnet50": "resnet50.a1_in1k",
}
# pooled by the head, which learns how
MAP_POOLINGS = ("gem", "gem_linear", "mixvpr", "netvlad", "supervlad", "salad", "boq")
# they give a descriptor, and no head stands behind them
PROJECTING_POOLINGS = tuple(name for name in MAP_POOLINGS if name != "gem")


@strict
class GeoPlaceConfig(GeoConfig):
    """Everything that a place model needs to turn photographs into descriptors, and what it was trained for.

    Args:
        vision_config: the backbone's own config; any model type of transformers, or `geohf_timm`.
        feature_size: length of the backbone's own pooled feature.
        backbone_name, backbone_license: where the backbone's first weights came from, None for random ones.
        pooling: `tower` (the backbone's own feature), `cls`, `avg`, `gem`, `gem_linear`, `mixvpr`, `netvlad`,
            `supervlad`, `salad` or `boq`, see `geohf.place.aggregation`.
        feature_map: channels, rows and columns of the tower's map; None with the pooling `tower`.
        gem_dim: length of what the pooling `gem_linear` gives.
        mix_depth, mix_channels, mix_rows: of MixVPR: feature mixers, and the two sides of what it gives.
        clusters: of `salad`, `netvlad` and `supervlad`.
        cluster_dim, token_dim, salad_linear_dim: of `salad`: lengths of what a cluster sums, of what is taken of the class
            token, and of what MegaLoc's last layer gives; None for no such layer.
        salad_attention: of `salad`: the class token's attention to a patch scores its bin, as in FoL.
        boq_channels, boq_queries, boq_blocks, boq_rows: channels inside `boq`, queries of a block, blocks, rows it gives.
        standardize: `mixvpr`, `salad`, `boq` and `mlp` take features of mean 0 and variance 1, by the training images.
        head: what projects the pooled feature: `mlp`, the reference implementation's (none where `projection_dim` is
            None), or `residual`, which begins as the feature itself.
        projection_dim, dropout: of the `mlp`: length of the descriptor behind it; None for no projection.
        truncate_dim: numbers of the projected descriptor that are kept, its first ones; None: all. A trained model is cut by
            `from_pretrained(..., truncate_dim=128)`.
        matryoshka_dims: the loss is also taken of this many first numbers, so that descriptors may be cut there.
        whitening_dim: length of the descriptor behind PCA whitening; None for none.
        positive_m, negative_m: pairs up to `positive_m` apart are the same place, pairs beyond `negative_m` are not.
        heading_deg: pairs of the same place look the same way within so many degrees, where that is known; None: headings
            do not matter. Classes of `cosface` are an even number of sectors, as near to this width as that allows.
        cell_m: side of the cells that are the classes of `cosface`.
        loss: `hybrid`, the sum of InfoNCE and the triplet loss, `multi_similarity` or `cosface`, see `geohf.place.losses`.
        contrastive_weight, triplet_weight: of the parts of `hybrid`.
        temperature: of the contrastive loss.
        margin, mining, hard_share: of the triplet loss, see `geohf.place.losses.triplet`.
        confidence_m: an answer is right within so many meters.
        confidence_weights: of similarity, gap and one, for the confidence; None where too few queries were there to fit
            them, see `geohf.place.confidence`.
        abstain_precision, abstain_below: the model abstains where its confidence is below `abstain_below`, which was
            chosen for a precision of `abstain_precision` on validation queries; None: it always answers.
        verify_below: answers are verified where the best one is ahead of those from elsewhere by less, see
            `geohf.place.verification`, chosen on validation queries; 0: never; None: it was not chosen, and all are.
    """

    model_type = "geohf_place"
    ranges: ClassVar = {
        "(0, inf)": ("temperature", "cell_m"),
        "[0, inf)": ("margin",),
        "[0, 1]": ("hard_share",),
        "[0, 180]": ("heading_deg",),
        "[1, inf)": ("clusters",),
    }
    sub_configs_defaults: ClassVar = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="dinov2")
    }

    vision_config: dict | PreTrainedConfig | None = None
    feature_size: int = 768
    pooling: Literal[
        "tower", "cls", "avg", "gem", "gem_linear", "mixvpr", "netvlad", "supervlad", "salad", "boq"
    ] = "tower"
    feature_map: list | None = None
    gem_dim: int = 512
    mix_depth: int = 4
    mix_channels: int = 512
    mix_rows: int = 4
    clusters: int = 64
    cluster_dim: int = 128
    token_dim: int = 256
    salad_linear_dim: int | None = None
    salad_attention: bool = False
    boq_channels: int = 384
    boq_queries: int = 64
    boq_blocks: int = 2
    boq_rows: int = 32
    standardize: bool = True
    head: Literal["mlp", "residual"] = "mlp"
    projection_dim: int | None = 256
    dropout: float = 0.1
    whitening_dim: int | None = None
    truncate_dim: int | None = None
    matryoshka_dims: list[int] | None = None
    positive_m: float = 25.0
    negative_m: float = 100.0
    heading_deg: float | None = None
    cell_m: float = 10.0
    loss: Literal["hybrid", "multi_similarity", "cosface"] = "hybrid"
    contrastive_weight: float = 1.0
    triplet_weight: float = 0.3
    temperature: float = 0.07
    margin: float = 0.5
    mining: Literal["batch_hard", "semi_hard", "half_hard"] = "half_hard"
    hard_share: float = 0.5
    confidence_m: float = 25.0
    confidence_weights: list | None = None
    abstain_precision: float | None = None
    abstain_below: float | None = None
    verify_below: float | None = None

    @property
    def backbone_pool(self) -> str:
        """What is taken of the backbone's output, see `geohf.vision.pooling`."""
        if self.pooling == "salad":
            return "attended" if self.salad_attention else "tokens"
        return "map" if self.pooling in MAP_POOLINGS else self.pooling

    @property
    def channels(self) -> int:
        """Channels of what the head is given."""
        return self.map_shape[0]

    @property
    def map_shape(self) -> list[int]:
        """Channels, rows and columns of what the head is given; of a pooled feature its length, 1 and 1."""
        pooled = self.pooling == "tower" or self.feature_map is None
        return [self.feature_size, 1, 1] if pooled else list(self.feature_map or ())

    @property
    def aggregated_size(self) -> int:
        """Length of the pooled feature before the projection."""
        sizes = {
            "mixvpr": self.mix_channels * self.mix_rows,
            "gem_linear": self.gem_dim,
            "netvlad": self.channels * self.clusters,
            "supervlad": self.channels * self.clusters,
            "salad": self.salad_linear_dim or self.token_dim + self.clusters * self.cluster_dim,
            "boq": self.boq_channels * self.boq_rows,
        }
        return sizes.get(self.pooling) or self.channels

    @property
    def whole_size(self) -> int:
        """Length of the projected descriptor before it is cut."""
        return (self.projection_dim if self.head == "mlp" else None) or self.aggregated_size

    @property
    def projected_size(self) -> int:
        """Length of the descriptor before whitening."""
        return self.truncate_dim or self.whole_size

    @property
    def descriptor_size(self) -> int:
        """Length of the descriptor."""
        return self.whitening_dim or self.projected_size

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers, with checks; descriptors that are cut to another length lose their confidence.

        Raises:
            DataError: settings that do not go together, or descriptors to cut that are whitened.
        """
        made = super().from_dict(config_dict, **kwargs)
        config = made[0] if isinstance(made, tuple) else made
        cut = config.truncate_dim != config_dict.get("truncate_dim")
        with as_data_error():
            if cut and config.whitening_dim is not None:
                raise ValueError(
                    f"truncate_dim: the descriptors are whitened to {config.whitening_dim} numbers and cannot be cut; "
                    "train with whitening_dim 0"
                )
            if kwargs:
                config.validate_architecture()
        if cut:
            forget_confidence(config, f"descriptors are cut to {config.projected_size} numbers")
        return made

    def validate_architecture(self):
        """Refuse settings that do not go together (called by transformers)."""
        super().validate_architecture()
        if not 0 < self.positive_m <= self.negative_m:
            raise ValueError(
                f"positive_m ({self.positive_m}) must be above 0 and at most negative_m ({self.negative_m})"
            )
        if self.loss == "cosface" and self.heading_deg == 0:
            raise ValueError("heading_deg is the width of cosface's sectors, and must be above 0")
        if self.pooling != "tower" and (self.feature_map is None or len(self.feature_map) != 3):
            raise ValueError(f"pooling {self.pooling!r} needs feature_map: channels, rows and columns")
        if self.pooling == "salad" and self.clusters >= self.feature_map[1] * self.feature_map[2]:
            raise ValueError(
                f"salad needs fewer clusters ({self.clusters}) than the map has places "
                f"({self.feature_map[1]} x {self.feature_map[2]})"
            )
        if self.salad_attention and (self.pooling != "salad" or self.standardize):
            raise ValueError("salad_attention needs the pooling 'salad', and standardize False")
        if self.pooling == "boq" and self.boq_channels > 64 and self.boq_channels % 64:
            raise ValueError(f"boq_channels must be a multiple of 64 or below it, got {self.boq_channels}")
        if self.abstain_below is not None and self.confidence_weights is None:
            raise ValueError("abstain_below is a confidence, and there are no confidence_weights")
        whole = f"[1, {self.whole_size}]"  # the descriptor's length
        require_within(whole, truncate_dim=self.truncate_dim)
        for dim in self.matryoshka_dims or ():
            require_within(whole, matryoshka_dims=dim)
        require_within(f"[1, {self.projected_size}]", whitening_dim=self.whitening_dim)
