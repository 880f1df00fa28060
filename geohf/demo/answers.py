"""Answers of each task as one piece of HTML: maps, bars, boxes, strips. No name of a file and no tag is in it."""

from __future__ import annotations

import base64
import html
import io
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from geohf.demo.uploads import cell_of, check_count, pictures_of
from geohf.errors import DataError
from geohf.geo import great_circle_m
from geohf.models.modeling import GeoPreTrainedModel
from geohf.report.maps import write_map
from geohf.report.strips import Answer, plot_strips
from geohf.report.tables import format_number
from geohf.report.tiles import plot_filmstrip
from geohf.vision.exif import ExifPosition, exif_position
from geohf.vision.thumbnails import thumbnail

SIDE = 320  # pixels of a photo that is shown
STRIP = 5  # answers beside a query


def answer_page(
    model: GeoPreTrainedModel,
    uploads: Sequence[bytes],
    show_positions: bool = False,
    last_values: str = "",
    photos: str | Path | None = None,
    index: Any = None,
) -> str:
    """What the model answers for these uploads, as HTML; what cannot be used is said in it.

    Args:
        uploads: contents of files, in the order in which they were chosen.
        show_positions: also say where the photos' EXIF says that they were taken.
        last_values: of a tile: numbers separated by commas, one for each target; empty where nothing is known.
        photos: the folder of the index's photos, to show them.
        index: of a place model, see `GeoPlaceModel.predict`.
    """
    kind = model.config.model_type
    try:
        if kind == "geohf_tiles":
            return _tiles(model, uploads, last_values)
        pictures, problems = pictures_of(uploads)
        shown = "".join(map(_message, problems))
        if not pictures:
            return shown
        if kind == "geohf_place":
            return shown + _place(model, pictures, index, photos)
        if kind == "geohf_parts":
            return shown + _parts(model, pictures)
        positions = {i: _own_position(uploads[i - 1]) if show_positions else None for i in pictures}
        return shown + _located(model, pictures, positions)
    except DataError as error:
        return _message(str(error))


def _own_position(upload: bytes) -> ExifPosition | None:
    with suppress(DataError):  # of another datum: none to compare with
        return exif_position(io.BytesIO(upload))
    return None


# ---- one task each


def _answers(model, pictures: Mapping[int, Image.Image], **options: Any) -> dict[int, Any]:
    return dict(zip(pictures, model.predict(list(pictures.values()), **options), strict=True))


def _located(model, pictures: Mapping[int, Image.Image], positions: Mapping[int, Any]) -> str:
    """Region and street: a map with radius, and the names with their probabilities as bars."""
    answers, cards = _answers(model, pictures), []
    for number, answer in answers.items():
        radius, unit = _radius(answer), getattr(answer, "unit", "m")
        place = f"{answer.latitude:.4f}, {answer.longitude:.4f}"
        facts = [f"<b>{place}</b>" + (" (units of the data)" if unit != "m" else "")]
        if radius is not None:
            share = f"{100 * model.config.radius_coverage:.0f} %"
            length = _distance(radius) if unit == "m" else f"{format_number(radius, 3)} units"
            facts.append(f"within {length} with {share}")
        position = positions[number]
        if position is not None and unit == "m":
            own = np.array([position.latitude, position.longitude])
            away = great_circle_m(np.array([answer.latitude, answer.longitude]), own)
            facts.append(f"EXIF: {own[0]:.4f}, {own[1]:.4f}, {_distance(float(away))} away")
        named: Iterable = getattr(answer, "states", None) or getattr(answer, "regions", None) or ()
        cards.append(_card(number, pictures[number], "<br>".join(facts) + _bars(named)))
    if any(getattr(answer, "unit", "m") != "m" for answer in answers.values()):
        return "".join(cards)  # a planar frame has no place on a map of the earth
    return _map(answers, positions, pictures) + "".join(cards)


def _radius(answer: Any) -> float | None:
    return getattr(answer, "radius_m", getattr(answer, "radius", None))


def _map(
    answers: Mapping[int, Any], positions: Mapping[int, Any], pictures: Mapping[int, Image.Image]
) -> str:
    points = [[answer.latitude, answer.longitude] for answer in answers.values()]
    known = [positions[number] for number in answers]
    truth = [[p.latitude, p.longitude] if p else [np.nan, np.nan] for p in known] if any(known) else None
    page = io.StringIO()
    write_map(
        page,
        points,
        truth,
        labels=[f"photo {number}" for number in answers],
        radius_m=[_radius(answer) for answer in answers.values()],
        title="Where the model puts them",
        thumbnails=[thumbnail(pictures[number]) for number in answers],
    )
    return (
        '<iframe class="geohf-map" title="map" sandbox="allow-scripts allow-popups" style="width:100%;height:460px;'
        f'border:1px solid #dfe4e9;border-radius:8px" srcdoc="{html.escape(page.getvalue())}"></iframe>'
    )


def _parts(model, pictures: Mapping[int, Image.Image]) -> str:
    from geohf.parts.overlays import overlay

    config, cards = model.config, []
    states = {name: i for i, name in config.id2state.items()}
    for number, answer in _answers(model, pictures).items():
        detections = {
            "boxes": np.array([part.box for part in answer.parts], float).reshape(-1, 4),
            "scores": np.array([part.score for part in answer.parts]),
            "labels": np.array([config.label2id[part.part] for part in answer.parts], int),
            "states": np.array([states[part.state] for part in answer.parts], int),
        }
        picture = overlay(pictures[number], detections, config.id2label, config.id2state, score_threshold=0.0)
        rows = [(p.part, _percent(p.score), p.state, _percent(p.state_score)) for p in answer.parts]
        head = ("part", "score", "state", "probability")
        text = _table(head, rows) if rows else "<p>No part was found.</p>"
        missing = ", ".join(map(html.escape, answer.missing)) or "none"
        cards.append(_card(number, picture, f"{text}<p><b>Missing:</b> {missing}</p>", 720))
    return "".join(cards)


def _place(model, pictures: Mapping[int, Image.Image], index, photos) -> str:
    if index is None:
        return _alike(model, pictures)
    answers = _answers(model, pictures, index=index, top_k=min(STRIP, len(index)))
    strips, cards = [], []
    for number, answer in answers.items():
        best = answer.answers[:STRIP]
        shown = [Answer(_photo_of(a.image, photos), f"{a.similarity:.2f}", None) for a in best]
        strips.append((pictures[number], f"photo {number}", shown))
        rows = [(a.image, f"{a.latitude:.5f}, {a.longitude:.5f}", f"{a.similarity:.3f}") for a in best]
        sure = "" if answer.confidence is None else f", {_percent(answer.confidence)} sure"
        head = f"<b>{answer.latitude:.5f}, {answer.longitude:.5f}</b>{sure}"
        head += f", half of the answers within {_distance(answer.spread_m)}"
        cards.append(_card(number, pictures[number], head + _table(("image", "place", "cosine"), rows)))
    strip = _drawn(lambda path: plot_strips(path, strips, "Most similar first")) if photos else ""
    return _map(answers, dict.fromkeys(answers), pictures) + strip + "".join(cards)


def _alike(model, pictures: Mapping[int, Image.Image]) -> str:
    """Without an index, which of the uploads show one place."""
    if len(pictures) < 2:
        raise DataError("upload two photos or more to compare them, or start this page with --index")
    numbers, images = list(pictures), list(pictures.values())
    vectors = np.stack([answer.descriptor for answer in model.predict(images)])
    cosine, strips = vectors @ vectors.T, []
    for i, number in enumerate(numbers):
        others = [j for j in np.argsort(-cosine[i], kind="stable") if j != i][:STRIP]
        shown = [Answer(images[j], f"photo {numbers[j]}: {cosine[i, j]:.2f}", None) for j in others]
        strips.append((images[i], f"photo {number}", shown))
    return _drawn(lambda path: plot_strips(path, strips, "Most similar first"))


def _photo_of(name: str, folder: str | Path | None) -> Image.Image:
    """The photo of an index in its folder; a gray field where it is not there."""
    from geohf.vision.images import open_image

    if folder is not None:
        path = (Path(folder) / name).resolve()
        if path.is_relative_to(Path(folder).resolve()) and path.is_file():
            return _small(open_image(path))
    return Image.new("RGB", (64, 48), "#e4e7eb")


def _tiles(model, uploads: Sequence[bytes], last_values: str) -> str:
    from geohf.tiles.masks import read_frame

    check_count(uploads)
    cells = [cell_of(content, f"image {i}") for i, content in enumerate(uploads, start=1)]
    sample: dict[str, Any] = {"frames": cells}
    if last_values.strip():
        sample["last_values"] = _numbers(last_values, model.config.targets)
    (answer,) = model.predict([sample])
    frames = [read_frame(cell)[0] for cell in cells]
    columns = [f"image {i}" for i in range(1, len(frames) + 1)]
    if answer.image is not None:
        frames, columns = [*frames, answer.image], [*columns, "answer"]
    strip = _drawn(lambda path: plot_filmstrip(path, [("tile", frames)], columns))
    rows = []
    for name, value in answer.values.items():
        known = answer.low is not None and answer.high is not None
        ends = f"{format_number(answer.low[name])} to {format_number(answer.high[name])}" if known else "–"
        rows.append((name, format_number(value), ends))
    return strip + (_table(("target", "answer", "interval"), rows) if rows else "")


def _numbers(text: str, names: Sequence[str]) -> dict[str, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(names) or not np.isfinite(numbers).all():
        raise DataError(f"last values: want {len(names)} numbers with commas between: {', '.join(names)}")
    return dict(zip(names, numbers, strict=True))


# ---- pieces of HTML


def _message(text: str) -> str:
    return (
        '<p class="geohf-error" role="alert" style="border-left:4px solid #c3203f;padding:6px 12px">'
        f"{html.escape(text)}</p>"
    )


def _card(number: int, picture: Image.Image, body: str, side: int = SIDE) -> str:
    file = io.BytesIO()
    _small(picture, side).convert("RGB").save(file, "JPEG", quality=85)
    return (
        '<div class="geohf-answer" style="display:flex;flex-wrap:wrap;align-items:flex-start;gap:16px;padding:12px 0">'
        f'<img alt="photo {number}" style="max-width:100%;border-radius:6px" src="{_data(file.getvalue(), "jpeg")}">'
        f'<div style="flex:1;min-width:240px"><h3>photo {number}</h3>{body}</div></div>'
    )


def _bars(named: Iterable) -> str:
    return "".join(
        f'<div style="margin:6px 0">{html.escape(item.name)} <span style="float:right">{100 * item.probability:.1f} %</span>'
        '<div style="background:#e4e7eb;border-radius:3px"><div style="height:8px;border-radius:3px;'
        f'background:#2477b3;width:{100 * item.probability:.1f}%"></div></div></div>'
        for item in named
    )


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    body = line("th", names) + "".join(line("td", row) for row in rows)
    return f'<table style="text-align:left;border-spacing:12px 2px">{body}</table>'


def _small(picture: Image.Image, side: int = SIDE) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side, side))
    return small


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _drawn(draw: Callable[[Path], None]) -> str:
    """The picture that a function of `geohf.report` writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "drawn.png"
        draw(path)
        source = _data(path.read_bytes(), "png")
    return f'<img class="geohf-strip" alt="strip" style="max-width:100%" src="{source}">'


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _distance(meters: float) -> str:
    return f"{format_number(meters / 1000, 3)} km" if meters >= 1000 else f"{format_number(meters, 3)} m"
