"""The text model of a CLIP: captions as vectors that compare with its features of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geohf.errors import DataError
from geohf.vision.backbones import backbone_config
from geohf.vision.repos import hub_files, hub_weights, read_tensors, reason_of

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")


@dataclass
class TextModel:
    """A CLIP's text model.

    Attributes:
        name: of the repo or folder.
        model, tokenizer: transformers'.
        scale: what CLIP multiplies cosines with, before the softmax.
        vision: the tensors of its vision model, by name.
    """

    name: str
    model: Any
    tokenizer: Any
    scale: float
    vision: dict[str, torch.Tensor]

    @torch.inference_mode()
    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """(n, size) vectors of length 1.

        Raises:
            DataError: a caption is empty, or longer than the model reads.
        """
        most = self.model.config.max_position_embeddings
        tokens = self.tokenizer(list(captions), padding=True, return_tensors="pt")
        for caption, count in zip(captions, tokens["attention_mask"].sum(1).tolist(), strict=True):
            if not caption.strip():
                raise DataError("a caption is empty")
            if count > most:
                raise DataError(
                    f"the caption {caption[:40]!r}... has {count} tokens, and {self.name} reads {most}"
                )
        return nn.functional.normalize(self.model(**tokens).text_embeds.float(), dim=-1)

    def is_of(self, tower: nn.Module) -> bool:
        """Whether a vision backbone has the weights that were published together with this text model."""
        own = tower.state_dict()
        shared = [name for name in self.vision if name in own]
        return bool(shared) and all(
            own[name].shape == self.vision[name].shape
            and torch.equal(own[name].float().cpu(), self.vision[name].float())
            for name in shared
        )


def load_text_model(name: str) -> TextModel:
    """The text model of a CLIP of transformers.

    Args:
        name: a repo of the Hub, or a folder.

    Raises:
        DataError: it is no CLIP, or lacks the weights or the tokenizer of a text model.
    """
    from transformers import AutoConfig, CLIPTextModelWithProjection, CLIPTokenizer

    folder, raw = backbone_config(name)
    if folder is None or raw.get("model_type") != "clip" or "text_config" not in raw:
        kind = raw.get("model_type") or "timm"
        raise DataError(f"{name}: is no CLIP with a text model ({kind}), so it reads no captions")
    whole = AutoConfig.from_pretrained(folder)
    whole.text_config.projection_dim = whole.projection_dim
    where = Path(name) if Path(name).is_dir() else hub_weights(name)
    tensors = read_tensors(where)
    text = {key: tensor for key, tensor in tensors.items() if key.startswith("text_")}
    loaded: Any = CLIPTextModelWithProjection.from_pretrained(
        None,
        config=whole.text_config,
        state_dict=text,
        output_loading_info=True,
        ignore_mismatched_sizes=True,
    )
    model, info = loaded
    lacking = sorted(info["missing_keys"]) + sorted(str(key) for key, *_ in info["mismatched_keys"])
    if lacking or "logit_scale" not in tensors:
        raise DataError(
            f"{name}: lacks weights of the text model: {', '.join((lacking or ['logit_scale'])[:5])}"
        )
    files = folder if Path(name).is_dir() else hub_files(name, ("config.json", *TOKENIZER_FILES))
    try:
        tokenizer = CLIPTokenizer.from_pretrained(files or folder)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{name}: has no tokenizer that can be read: {reason_of(error)}") from error
    vision = {key: tensor for key, tensor in tensors.items() if key.startswith(("vision_model.", "visual_"))}
    return TextModel(name, model.eval(), tokenizer, float(tensors["logit_scale"].float().exp()), vision)
