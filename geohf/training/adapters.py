"""Adapters that a phase trained: they are pushed beside the merged model, with the model that they belong to."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from geohf.hub.card import write_card
from geohf.hub.files import push_folder


def push_adapter(model, args, base: Path, adapter: Path) -> None:
    """Push an adapter and its base as `<repo>-adapter` and `<repo>-base`, where `args` say.

    Args:
        model: calibrated, with the adapter merged; what its config promises holds for base and adapter together.
        base: the folder of the model that the adapter belongs to.
        adapter: what peft saved.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=args.hub_token)
    name = args.hub_model_id or Path(args.output_dir).name
    repo_id = api.create_repo(name, exist_ok=True).repo_id  # with its owner
    for part, source in (("base", base), ("adapter", adapter)):
        with tempfile.TemporaryDirectory() as copy:
            shutil.copytree(source, copy, dirs_exist_ok=True)
            described = Path(copy) / "adapter_config.json"
            if part == "base":
                model.config.save_pretrained(copy)
            else:
                settings = json.loads(described.read_text()) | {"base_model_name_or_path": f"{repo_id}-base"}
                described.write_text(json.dumps(settings, indent=2))
            write_card(copy, model.card_template, model.config, repo_id=f"{repo_id}-{part}")
            push_folder(copy, f"{repo_id}-{part}", private=args.hub_private_repo, token=args.hub_token)
