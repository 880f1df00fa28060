"""Model cards: a Jinja template a task on top of a shared one, filled in by the run."""

from __future__ import annotations

import importlib.resources
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from geohf.errors import DataError
from geohf.hub.provenance import shell_command, versions, without_access
from geohf.io import atomic_write, plain
from geohf.report.tables import format_number, markdown_table
from geohf.vision.licenses import is_noncommercial

TOPICS = {"parts": "object-detection"}
PIPELINE_TAGS = {
    "parts": "part-state-detection",
    "place": "place-recognition",
    "region": "geo-region",
    "street": "street-geolocation",
    "tiles": "tile-sequence-regression",
}
# what a run draws, and so what its card shows; any other picture in its folder may be somebody's photograph
PLOTS = sorted(
    f"{name}.png"
    for name in (
        *("learning_curves", "confusion", "reliability", "risk_coverage", "examples"),
        *("error_map", "error_cdf", "error_scatter", "regions", "answers", "dropped"),  # of places
        *("average_precision", "precision_recall"),  # of parts
        *("filmstrip", "occlusion", "tile_errors", "folds_errors"),  # of tiles
    )
)


def write_card(
    folder: str | Path,
    template: str,
    config: PreTrainedConfig,
    *,
    repo_id: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    titles: Mapping[str, str] | None = None,
    data: Mapping[str, Any] | None = None,
    tags: Sequence[str] = (),
    **context: Any,
) -> Path:
    """Write README.md into a model's folder.

    Args:
        template: a file of `model_cards/`, which extends `card.md`.
        repo_id: as which the model can be loaded; None: the folder as it is given, of an absolute path its last part.
        metrics: `eval`, `baseline` and `intervals`, each name -> number (a pair of them).
        titles: of the metrics that the card names first, which also make up its `model-index`.
        tags: to find it by, beside geohf's own.
        data: facts of the run's data, see `data_source` and `model_cards/card.md`.
        context: whatever else the template uses.
    """
    import jinja2

    folder, task = Path(folder), template.removesuffix(".md")
    path = folder.resolve().name if folder.is_absolute() or ".." in folder.parts else folder.as_posix()
    name, data = repo_id or path, data or {}
    measured = _measured(plain(metrics or {}), titles or {}, data.get("baseline", "baseline"))
    sources = importlib.resources.files("geohf.model_cards")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda file: sources.joinpath(file).read_text(encoding="utf-8")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    bibliography = _entries(sources.joinpath("references.bib").read_text(encoding="utf-8"))
    environment.globals |= {
        "table": markdown_table,
        "number": format_number,
        "cite": lambda *keys: "\n\n".join(bibliography[key] for key in keys),
    }
    environment.filters |= {"text": text, "code": code, "literal": literal}
    body = environment.get_template(template).render(
        config=config,
        repo_id=name,
        pipeline=PIPELINE_TAGS[task],
        measured=measured,
        data=data,
        license=config.backbone_license,
        noncommercial=is_noncommercial(config.backbone_license),
        backbone=config.backbone_name,
        tower=_tower(config),
        is_repo=_is_repo(config.backbone_name),
        figures=[name for name in PLOTS if (folder / name).is_file()],
        files={path.name for path in folder.iterdir()},
        versions=versions(),
        **({"command": _fenced(shell_command())} | context),
    )
    head = _head(config, name, task, data, measured, tags)
    target = folder / "README.md"
    with atomic_write(target) as file:
        body = re.sub(r"\n{3,}", "\n\n", body).strip()
        file.write(f"---\n{head.strip()}\n---\n\n{body}\n")
    return target


def data_source(source: str | None) -> dict[str, Any]:
    """Facts of where a run's data came from: `name`, `generated`, and `dataset`, its name on the Hub or None.

    Args:
        source: None for the built-in sample, a file or folder (of which only the name is told), or the name of a dataset.
    """
    if source is None:
        return {"name": "generated sample", "generated": True, "dataset": None}
    path = Path(source)
    is_dataset = not path.exists() and _is_repo(str(source))
    name = str(source) if is_dataset else without_access(path.resolve().name)
    return {"name": name, "generated": False, "dataset": name if is_dataset else None}


def readdressed(card: str, repo_id: str) -> str:
    """The card of a model that moves to another repo: its code loads it from there, and it bears its name."""
    from huggingface_hub import ModelCard

    quoted = r'"(?:[^"\\\n]|\\.)*"'
    card = re.sub(rf"(from_pretrained\(|model=){quoted}", lambda found: found[1] + literal(repo_id), card)
    try:
        parsed = ModelCard(card)
        data: Any = parsed.data  # of fields that the class sets by name
        name = data.model_name if data.eval_results else None
    except Exception:  # somebody's own words in it: their card goes along as it is
        return card
    own = repo_id.rpartition("/")[2]
    if name is not None and name != own:
        data.model_name = own
        card = str(parsed)
    title = f"\n# {text(name)}\n" if name is not None else None
    return card.replace(title, f"\n# {text(own)}\n", 1) if title else card


def tagged(card: str, tags: Sequence[str]) -> str:
    """The card with further tags in its metadata.

    Raises:
        DataError: the metadata cannot be read.
    """
    from huggingface_hub import ModelCard

    if not tags:
        return card
    try:
        parsed = ModelCard(card)
    except Exception as error:  # somebody's own words
        raise DataError(f"README.md: its metadata take no tags, for they cannot be read: {error}") from None
    data: Any = parsed.data
    data.tags = list(dict.fromkeys([*(data.tags or ()), *tags]))
    return str(parsed)


# ---- words of others in a card


def text(value: Any) -> str:
    """Words that a user wrote as plain text of Markdown: on one line, without any markup.

    >>> text("a *b*\\n# <c> back_wheel")
    'a \\\\*b\\\\* \\\\# \\\\<c\\\\> back_wheel'
    """
    line = " ".join(str(value).split())
    return re.sub(r"[\\`*\[\]<>|#~$]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], line)


def code(value: Any) -> str:
    """Words that a user wrote as a code span of Markdown."""
    return f"`{' '.join(str(value).replace('`', chr(39)).split())}`"


def literal(value: Any) -> str:
    """A value as a Python literal on one line, text in double quotes.

    >>> literal('a"b'), literal(None)
    ('"a\\\\"b"', 'None')
    """
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _fenced(command: str) -> str:
    if not command:
        return ""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}"


# ---- numbers and metadata


def _measured(metrics: Mapping, titles: Mapping[str, str], baseline: str) -> list[dict]:
    """A row per metric that the run has measured, with its interval and the baseline's number where there are any."""
    found, rows = metrics.get("eval") or {}, []
    for key, title in titles.items():
        value = found.get(key)
        if value is None or not math.isfinite(value):
            continue
        ends, constant = ((metrics.get(part) or {}).get(key) for part in ("intervals", "baseline"))
        row = {"key": key, "metric": title, "value": float(value)}
        row |= {"95 % interval": ends and " to ".join(map(format_number, ends)), baseline: constant}
        rows.append(row)
    return rows


def _head(config, name: str, task: str, data: Mapping, measured: list[dict], tags: Sequence[str]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    evaluation = [
        EvalResult(
            task_type=PIPELINE_TAGS[task],
            dataset_type=data["dataset"] or re.sub(r"[^\w.-]+", "-", data["name"]).strip("-") or "data",
            dataset_name=data["name"],
            dataset_split=data["split_name"],
            metric_type=row["key"],
            metric_name=row["metric"],
            metric_value=row["value"],
        )
        for row in measured
    ]
    return ModelCardData(
        # weights that were fine-tuned stay under the license of the weights they began with
        license=config.backbone_license or ("unknown" if config.backbone_name else "mit"),
        library_name="geohf",
        pipeline_tag=PIPELINE_TAGS[task],
        tags=["geohf", TOPICS.get(task, "geolocation"), config.model_type, *tags],
        base_model=config.backbone_name if _is_repo(config.backbone_name) else None,
        datasets=[data["dataset"]] if data.get("dataset") else None,
        model_name=name.rpartition("/")[2] or name,
        eval_results=evaluation or None,
    ).to_yaml()


def _tower(config: PreTrainedConfig) -> str | None:
    """The backbone's architecture, where the model has one that is made by its config."""
    tower = getattr(config, "vision_config", None)
    return tower and getattr(tower, "architecture", tower.model_type)


def _is_repo(name: str | None) -> bool:
    return name is not None and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _entries(bibliography: str) -> dict[str, str]:
    """Key -> entry of a BibTeX file."""
    entries = (entry.strip() for entry in re.split(r"\n(?=@)", bibliography.strip()))
    return {key[1]: entry for entry in entries if (key := re.match(r"@\w+\{([\w-]+),", entry))}
