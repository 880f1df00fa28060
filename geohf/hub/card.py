"""Model cards: a Jinja template a task, filled in by the run."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from geohf.report.files import atomic_write
from geohf.report.tables import format_number, markdown_table

PACKAGES = ("geohf", "transformers", "datasets", "accelerate", "torch", "torchvision", "timm")


def write_card(
    folder: str | Path,
    template: str,
    config: PreTrainedConfig,
    *,
    repo_id: str | None = None,
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    data: Mapping[str, Any] | None = None,
    results: Sequence[Mapping[str, Any]] = (),
    **context: Any,
) -> Path:
    """Write README.md into a model's folder.

    Args:
        template: a file of `model_cards/`, without its metadata head.
        repo_id: as which the model can be loaded; the folder's name where None.
        metrics: split or stage -> name -> number.
        data: facts of the training data: `name`, `places`, `split`, `generated` (bool).
        results: the numbers for the `model-index`: dicts with `name`, `type`, `value`.
        context: whatever else the template uses.
    """
    import jinja2

    folder = Path(folder)
    name = repo_id or folder.resolve().name
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals |= {"table": markdown_table, "number": format_number}
    source = importlib.resources.files("geohf.model_cards").joinpath(template).read_text(encoding="utf-8")
    body = environment.from_string(source).render(
        config=config,
        repo_id=name,
        metrics=metrics or {},
        data=data or {},
        license=config.backbone_license,
        backbone=config.backbone_name,
        figures=sorted(path.name for path in folder.glob("*.png")),
        versions=versions(),
        **({"command": shell_command()} | context),
    )
    head = _head(config, name, template.removesuffix(".md"), data or {}, results)
    path = folder / "README.md"
    with atomic_write(path) as file:
        file.write(f"---\n{head.strip()}\n---\n\n{body}")
    return path


def readdressed(card: str, repo_id: str) -> str:
    """The card of a model that moves to another repo: its code loads it from there."""
    return re.sub(r'(from_pretrained\(|model=)"[^"]*"', rf'\1"{repo_id}"', card)


def versions() -> dict[str, str]:
    """Package -> installed version, and Python's."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def shell_command() -> str:
    """The command line of this process, with the script by its plain name."""
    import shlex

    script = Path(sys.argv[0])
    name = f"{script.parent.name}/{script.name}" if script.parent.name == "recipes" else script.name
    return shlex.join(["accelerate", "launch", name, *sys.argv[1:]]) if name.startswith("recipes/") else ""


def _head(config, name: str, task: str, data: Mapping, results: Sequence[Mapping]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    pipeline = PIPELINE_TAGS[task]
    evaluation = [
        EvalResult(
            task_type=pipeline,
            dataset_type=data.get("name", "unknown"),
            dataset_name=data.get("name", "unknown"),
            dataset_split=data.get("split_name", "test"),
            metric_type=result["type"],
            metric_name=result["name"],
            metric_value=float(result["value"]),
        )
        for result in results
    ]
    return ModelCardData(
        # weights that were fine-tuned stay under the licence of the weights they began with
        license=config.backbone_license or "mit",
        library_name="geohf",
        pipeline_tag=pipeline,
        tags=["geohf", TOPICS.get(task, "geolocation"), config.model_type],
        base_model=config.backbone_name if _is_repo(config.backbone_name) else None,
        model_name=name.rpartition("/")[2],
        eval_results=evaluation or None,
    ).to_yaml()


def _is_repo(name: str | None) -> bool:
    return name is not None and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


TOPICS = {"parts": "object-detection"}
PIPELINE_TAGS = {
    "parts": "part-state-detection",
    "place": "place-recognition",
    "region": "geo-region",
    "street": "street-geolocation",
    "tiles": "tile-sequence-regression",
}
