"""How much of a tower learns: nothing, its last blocks, adapters, or all of it."""

from __future__ import annotations

from torch import nn

from geohf.vision.backbones import tower_blocks

# the linear layers of attention and MLP under the names that transformers and timm give them
LORA_TARGETS = r".*tower\..*\.(q_proj|k_proj|v_proj|out_proj|qkv|proj|query|key|value|dense|fc1|fc2)"


def unfreeze(model: nn.Module, args) -> nn.Module:
    """Let the head learn, and as much of the tower as `args.finetune` says.

    Args:
        model: has a `tower` and a `head`.
        args: with `finetune` (`all`, `last`, `lora` or `none`), `finetune_blocks` and `lora_rank`.

    Returns:
        The model, with LoRA wrapped by peft.
    """
    model.requires_grad_(args.finetune == "all")
    model.head.requires_grad_(True)
    if args.finetune == "last":
        unfreeze_last(model.tower, args.finetune_blocks)
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


def with_adapters(model: nn.Module, rank: int) -> nn.Module:
    """The model with LoRA on its tower (Hu et al. 2021) and its head as it is, wrapped by peft."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=LORA_TARGETS, modules_to_save=["head"])
    return get_peft_model(model, lora)
