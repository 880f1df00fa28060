"""The page: one Gradio app that learns the task from the model's config."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geohf.demo.answers import answer_page
from geohf.demo.uploads import MAX_BYTES, MAX_FILES, MAX_PIXELS
from geohf.errors import DataError, optional_package
from geohf.models.loading import load_model
from geohf.vision.formats import image_suffixes

if TYPE_CHECKING:
    from gradio import Blocks

TASKS = {
    "geohf_region": ("Where in the area?", "Photos of the area that the model knows."),
    "geohf_street": ("Where on earth?", "Street views, one place each."),
    "geohf_parts": ("Which parts, and in what state?", "Photos of the object."),
    "geohf_place": ("Which place is this?", "Photos to find in the index, or to compare with each other."),
    "geohf_tiles": ("What comes next?", "The images of one tile, oldest first."),
}
KEEP_S = 600  # uploads are deleted when they are older


def make_app(
    model: str | os.PathLike,
    device: str | None = None,
    index: str | os.PathLike | None = None,
    photos: str | os.PathLike | None = None,
    examples: str | os.PathLike | None = None,
) -> Blocks:
    """The page of a model: `make_app("org/geo-street").launch()`, or `launch` of this module with its limits.

    Args:
        model: a folder, or a repo of the Hub.
        index, photos: of a place model, a `PlaceIndex` file, and the folder of its photos, to show them.
        examples: a folder of photos to try.

    Raises:
        DataError: gradio is missing, a model that cannot be loaded, an index of another model or task, no example.
    """
    gr = optional_package("gradio", "demo", "the demo needs")
    loaded: Any = load_model(model, device)  # of whichever task
    name = Path(model).name or str(model)
    kind = loaded.config.model_type
    is_tile = kind == "geohf_tiles"
    if index is not None and kind != "geohf_place":
        raise DataError(f"{index}: an index belongs to a place model; {model} is a {kind} model")
    opened = None if index is None else loaded.open_index(index)
    title, hint = TASKS[kind]

    def answer(uploads, show_positions, last_values):
        return answer_page(loaded, uploads or [], show_positions, last_values or "", photos, opened)

    with gr.Blocks(title=f"{title} {name}", analytics_enabled=False, delete_cache=(60, KEEP_S)) as app:
        gr.Markdown(f"# {title}\n{hint} Model: `{name.replace('`', '')}`.")
        endings = sorted(image_suffixes() | ({".tif", ".tiff"} if is_tile else set()))
        files = gr.File(
            label=f"At most {MAX_FILES} files of {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} megapixels",
            file_count="multiple",
            file_types=endings,
            type="binary",
        )
        located = kind in ("geohf_region", "geohf_street")
        shown = gr.Checkbox(False, label="Compare with the position in the photo's EXIF", visible=located)
        needs_last = is_tile and loaded.config.answers != "level"
        last = gr.Textbox(
            value="",  # a default for those who ask by the API
            label=f"Last known values: {', '.join(loaded.config.targets)}" if is_tile else "",
            visible=needs_last,
        )
        button = gr.Button("Answer", variant="primary")
        page = gr.HTML(label="Answer")
        button.click(answer, [files, shown, last], page, api_name="answer")
        if examples is not None:
            tried = example_files(examples, endings)
            gr.Examples([[tried]] if is_tile else [[[file]] for file in tried], [files])
    return app


def example_files(folder: str | os.PathLike, endings: Sequence[str]) -> list[str]:
    """The first photos of a folder, by name.

    Raises:
        DataError: there is none.
    """
    photos = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in endings)[:MAX_FILES]
    if not photos:
        raise DataError(f"{folder}: holds no photo to try")
    return [str(path) for path in photos]


def launch(app: Blocks, port: int | None = None, share: bool = False, block: bool = True) -> str:
    """Serve a page to this machine, or with `share` through Gradio's tunnel to everybody who has the link.

    Returns:
        The page's address.
    """
    import gradio as gr

    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # no font from afar
    _, address, _ = app.queue(max_size=32).launch(
        theme=theme,
        share=share,
        server_name="127.0.0.1",
        server_port=port,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        prevent_thread_lock=not block,
        quiet=not block,
        footer_links=[],
    )
    return address
