"""Painted photos of bicycles with the states of their 22 parts, in the layout of DelftBikes.

A model can learn from them which part is where and in which state, and a test can tell that from luck. Numbers
measured here say nothing about photographs.

| in the picture                                   | follows                                                        |
|--------------------------------------------------|----------------------------------------------------------------|
| a part at its place on the bicycle               | it is intact, damaged or occluded                              |
| rust, bends, a bright crack, missing pieces      | it is damaged                                                  |
| nothing but the frame, often with a mount left   | it is absent; its box says where it would be                   |
| leaves, cloth or paper over most of its box      | it is occluded, whatever is behind                             |
| `back_` and `front_` of pedals, handles, brakes  | the far side, darker, and the camera's side of the bicycle     |
| size, turn, facing, build, colors, crank        | the picture, by chance                                         |
| wall, rings and bars on it, ground, light, noise | the picture, by chance                                         |

The frame is always whole, so that a missing part leaves a place where a detector expects one.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np

from geohf.io import atomic_write
from geohf.parts.scene import paint_photo
from geohf.parts.vocabulary import STATES
from geohf.samples import write_once

ANNOTATIONS, IMAGES = "train_annotations.json", "train"
# what the sample is trained with: a small detector that learns in minutes on a CPU, from random weights
SAMPLE_FIELDS = {
    "backbone": "test_byobnet",
    "norm": "group",
    "image_size": [192, 224],
    "pyramid_channels": 48,
    "anchor_sizes": [[10], [20], [36], [64], [100]],
    "aspect_ratios": [0.4, 1.0, 2.5],
    "rpn_fg_iou": 0.6,
    "rpn_batch_size_per_image": 128,
    "rpn_pre_nms_top_n_train": 400,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_train": 200,
    "rpn_post_nms_top_n_test": 100,
    "roi_canonical_size": 64,
    "box_hidden_size": 256,
    "box_batch_size_per_image": 64,
    "box_positive_fraction": 0.5,
    "state_hidden_size": 128,
}
_STAGES = {"depths": [1, 1, 1, 1], "out_features": ["stage2", "stage3", "stage4"], "embedding_size": 16}
_RESNET = _STAGES | {
    "model_type": "rt_detr_resnet",
    "layer_type": "basic",
    "hidden_sizes": [16, 32, 64, 96],
}
_HGNET = _STAGES | {
    "model_type": "hgnet_v2",
    "hidden_sizes": [32, 48, 64, 96],
    "stem_channels": [3, 16, 16],
    "stage_in_channels": [16, 32, 48, 64],
    "stage_mid_channels": [16, 16, 32, 32],
    "stage_out_channels": [32, 48, 64, 96],
    "stage_num_blocks": [1] * 4,
    "stage_numb_of_layers": [2] * 4,
    "stage_kernel_size": [3, 3, 5, 5],
    "stage_downsample": [False, True, True, True],
    "stage_light_block": [False, False, True, True],
}
_VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "image_size": 256,
    "patch_size": 16,
    "out_features": ["stage2", "stage4"],
}
_DINO = _VIT | {"model_type": "rf_detr_dinov2", "num_windows": 2, "num_register_tokens": 0}
_LW_VIT = _VIT | {"model_type": "lw_detr_vit", "num_windows": 4, "window_block_indices": [0, 2]}
_DECODER = {"d_model": 64, "decoder_layers": 3, "decoder_ffn_dim": 128, "num_queries": 60}
_REAL_TIME = _DECODER | {
    "encoder_hidden_dim": 64,
    "encoder_ffn_dim": 128,
    "encoder_attention_heads": 4,
    "hidden_expansion": 0.5,
    "decoder_in_channels": [64] * 3,
    "decoder_attention_heads": 4,
    "num_denoising": 60,
}
_FINE = _REAL_TIME | {"backbone_config": _HGNET, "encoder_in_channels": [48, 64, 96], "depth_mult": 0.34}
_GROUPED = _DECODER | {
    "group_detr": 5,
    "decoder_self_attention_heads": 4,
    "decoder_cross_attention_heads": 4,
    "c2f_num_blocks": 1,
    "dropout": 0.0,
}
_TINY = {
    "rt_detr_v2": _REAL_TIME | {"backbone_config": _RESNET, "encoder_in_channels": [32, 64, 96]},
    "d_fine": _FINE,
    "deimv2": _FINE,
    "rf_detr": _GROUPED | {"backbone_config": _DINO},
    "lw_detr": _GROUPED | {"backbone_config": _LW_VIT, "projector_scale_factors": [1.0]},
}
# the same for each of transformers' detectors
SAMPLE_DETECTORS = {
    name: {"norm": "group", "image_size": [192, 256], "state_hidden_size": 128, "detector_config": fields}
    for name, fields in _TINY.items()
}
_RULES = 1  # raise it when pictures or boxes change


def write_sample(folder: str | Path, seed: int = 0, size: int = 320, width: int = 224) -> Path:
    """Write `train_annotations.json` and the photos in `train`; like the real ones, test photos have no labels. Returns the folder.

    The same arguments give the same bytes. A folder that holds the whole sample is left as it is.

    Args:
        size: number of photos.
        width: of the photos in pixels; their height is 3/4 of it.

    Raises:
        DataError: the folder holds such files that no sample wrote.
    """
    if size < 1 or width < 64:
        raise ValueError(f"size must be at least 1 and width at least 64, not {size} and {width}")
    settings = {"rules": _RULES, "seed": seed, "size": size, "width": width}
    return write_once(folder, settings, (ANNOTATIONS, IMAGES), lambda path: _write(path, seed, size, width))


def _write(folder: Path, seed: int, size: int, width: int) -> None:
    shutil.rmtree(folder / IMAGES, ignore_errors=True)  # of another sample
    (folder / IMAGES).mkdir(parents=True)
    annotations = {}
    for number in range(size):
        rng = np.random.default_rng([seed, number])
        image, parts = paint_photo(rng, width)
        name = f"{10_000 + number}.jpg"
        image.save(folder / IMAGES / name, quality=90)
        annotations[name] = {
            "image": {"filename": name, "width": image.width, "height": image.height, "channels": 3},
            "parts": {part: _annotation(rng, part, *found) for part, found in parts.items()},
        }
    with atomic_write(folder / ANNOTATIONS) as file:
        json.dump(annotations, file)


def _annotation(rng, part: str, box: np.ndarray, state: str) -> dict:
    left, top, right, bottom = (round(float(value), 1) for value in box)
    sides = {"left": left, "top": top, "width": round(right - left, 1), "height": round(bottom - top, 1)}
    return {
        "part_name": part,
        "object_state": state,
        "object_state_class": STATES.index(state),
        "trust": round(float(rng.beta(8, 1)), 2),
        "absolute_bounding_box": sides,
    }
