"""How much of a backbone learns: nothing, its last blocks, adapters, or all of it."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from geohf.errors import DataError
from geohf.training.settings import require_a_batch, require_recomputing
from geohf.vision.towers import tower_blocks

# the linear layers of attention and MLP under the names that transformers and timm give them
LORA_TARGETS = r".*tower\..*\.(q_proj|k_proj|v_proj|out_proj|qkv|proj|query|key|value|dense|fc1|fc2)"
LEAST_SHARE = 0.1  # of a backbone's weights in such layers


def unfreeze(model: Any, args: Any) -> nn.Module:
    """Let the heads learn, and as much of the backbones as `args.finetune` says; the model, with LoRA wrapped by peft.

    Args:
        model: its backbones are its modules named `tower`, its heads all the others.
        args: with `finetune` (`all`, `last`, `lora` or `none`), `finetune_blocks` and `lora_rank`.

    Raises:
        DataError: LoRA, see `require_adapters`.
    """
    if args.finetune == "lora":
        require_adapters(model)
    model.requires_grad_(True)
    if args.finetune != "all":
        for tower in _towers(model):
            tower.requires_grad_(False)
            if args.finetune == "last":
                unfreeze_last(tower, args.finetune_blocks)
    return with_adapters(model, args.lora_rank) if args.finetune == "lora" else model


def unfreeze_last(tower: nn.Module, blocks: int) -> None:
    """Let the last blocks learn, and what stands behind them."""
    last = tower_blocks(tower)[-blocks:]
    chosen = {id(parameter) for block in last for parameter in block.parameters()}
    behind = False
    for parameter in tower.parameters():
        inside = id(parameter) in chosen
        behind = behind or inside
        parameter.requires_grad_(inside or behind)


def layer_shares(model: nn.Module, decay: float) -> dict[int, float]:
    """The share of the backbone's learning rate that each of its parameters takes, by id; empty with a decay of 1.

    A block takes `decay` times what the one behind it takes, and what stands before the first block one time more; what
    stands behind the last takes all (Clark et al., ELECTRA, ICLR 2020, as BEiT and DINOv2 are fine-tuned).
    """
    shares: dict[int, float] = {}
    for tower in _towers(model) if decay != 1.0 else ():
        blocks, behind = tower_blocks(tower), False
        depth = {id(p): len(blocks) - 1 - i for i, block in enumerate(blocks) for p in block.parameters()}
        for parameter in tower.parameters():
            behind = behind or id(parameter) in depth
            shares[id(parameter)] = decay ** depth.get(id(parameter), 0 if behind else len(blocks))
    return shares


def require_adapters(model: Any) -> None:
    """Raise DataError where the layers that `LORA_TARGETS` names hold less than `LEAST_SHARE` of the backbone's weights.

    So it is in convolutional towers, whose attention over channels alone has such names.
    """
    adapted = {
        name: sum(p.numel() for p in module.parameters())
        for name, module in model.named_modules()
        if re.fullmatch(LORA_TARGETS, name)
    }
    share = sum(adapted.values()) / max(1, sum(p.numel() for p in model.tower.parameters()))
    if share < LEAST_SHARE:
        told = f"only {share:.0%} of its weights, as in {min(adapted)}" if adapted else "none in this one"
        raise DataError(
            "--finetune lora adapts the linear layers of attention and MLP that a transformer has, and finds "
            f"{told}: take --finetune last or all"
        )


def require_finetunable(model: nn.Module, args, rows: int) -> None:
    """Raise DataError for a fine-tuning on so many rows that cannot be done, before anything is trained."""
    if args.finetune != "none":
        require_recomputing(model, args)
        require_a_batch(args, rows)
    if args.finetune == "lora":
        require_adapters(model)


def with_adapters(model: nn.Module, rank: int) -> nn.Module:
    """The model with LoRA on its backbones (Hu et al. 2021) and its heads as they are, wrapped by peft."""
    from peft import LoraConfig, get_peft_model

    # peft compares ends of names: a backbone may have a `projection` of its own
    whole = [name if name == "head" else f"model.{name}" for name in _heads(model)]
    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, modules_to_save=whole)
    return get_peft_model(model, lora)


def _towers(model: nn.Module) -> list[nn.Module]:
    return [module for name, module in model.named_modules() if name.split(".")[-1] == "tower"]


def _heads(model: nn.Module, prefix: str = "") -> list[str]:
    """Names of the largest modules with a state that hold no backbone; a list of modules is none itself."""
    names = []
    for name, child in model.named_children():
        if name == "tower" or not child.state_dict():
            continue
        whole = not isinstance(child, nn.ModuleList) and not _towers(child)
        names += [prefix + name] if whole else _heads(child, f"{prefix}{name}.")
    return names
