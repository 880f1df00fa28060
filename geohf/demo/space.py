"""The demo as a Space of the Hub: a folder of three files, and photos to try."""

from __future__ import annotations

import json
import os
from pathlib import Path

from geohf.demo.app import TASKS, example_files
from geohf.errors import DataError
from geohf.io import atomic_write
from geohf.models.loading import model_class
from geohf.vision.formats import image_suffixes

APP = """from geohf.demo.app import make_app

app = make_app({model}{examples})

if __name__ == "__main__":
    app.queue(max_size=32).launch(max_file_size={limit})
"""
CARD = """---
title: {title}
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
models:
- {model}
tags:
- geohf
---

# {title}

The demo of [{model}](https://huggingface.co/{model}), made by `geohf push-demo`. Photos that are uploaded are deleted
within minutes, and their positions are not shown unless a visitor asks for it.
"""


def write_space(
    folder: str | os.PathLike, model: str, examples: str | os.PathLike | None = None
) -> list[Path]:
    """Write app.py, requirements.txt, README.md and the photos to try; the files.

    Args:
        model: a repo of the Hub.
        examples: a folder of photos; all their tags are left out, positions among them.

    Raises:
        DataError: the model cannot be found, or is a folder; a folder that holds other files; no photo.
    """
    import gradio

    import geohf
    from geohf.demo.uploads import MAX_BYTES
    from geohf.vision.images import open_image
    from geohf.vision.thumbnails import without_tags

    folder = Path(folder)
    if Path(model).exists():
        raise DataError(f"{model}: a Space loads its model from the Hub: push it, and name it org/name")
    kind = model_class(model).config_class.model_type
    if folder.exists() and any(folder.iterdir()):
        raise DataError(f"{folder}: is not empty; name a new folder")
    files = {
        "app.py": APP.format(
            model=json.dumps(model), limit=MAX_BYTES, examples=', examples="examples"' if examples else ""
        ),
        "requirements.txt": f"geohf[demo]=={geohf.__version__}\n",
        "README.md": CARD.format(title=TASKS[kind][0].rstrip("?"), model=model, gradio=gradio.__version__),
    }
    tried = [Path(path) for path in example_files(examples, sorted(image_suffixes()))] if examples else []
    stems = [path.stem for path in tried]
    for path in tried:
        name = path.stem if stems.count(path.stem) == 1 else path.name
        target = folder / "examples" / f"{name}.png"
        with atomic_write(target, binary=True) as file:
            without_tags(open_image(path)).save(file, "PNG")
    for name, text in files.items():
        with atomic_write(folder / name) as file:
            file.write(text)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def push_space(folder: str | os.PathLike, repo_id: str, private: bool | None = None) -> str:
    """Upload a Space folder, and return the Space's address."""
    from huggingface_hub import HfApi

    api = HfApi()
    url = api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
    api.upload_folder(
        repo_id=url.repo_id, repo_type="space", folder_path=Path(folder), commit_message="geohf demo"
    )
    return str(url)
