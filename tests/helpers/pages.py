"""What stands on the pages that people read: their code, their commands, their tables."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
# those whose docstring shows commands: what only leads on to geohf/recipes shows none
RECIPES = sorted(
    path
    for folder in ("recipes", "geohf/recipes")
    for path in (ROOT / folder).glob("*.py")
    if re.search(r"^    (python|accelerate launch) ", path.read_text(encoding="utf-8"), re.M)
)
TASKS = ("region", "street", "parts", "place", "tiles")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return [code for found, code in FENCE.findall(text) if found == language]


def spans(text: str) -> list[str]:
    """Code within lines, of a page without its fenced blocks."""
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text))


def commands(path: Path) -> list[str]:
    """Every command of a page, or of a recipe's docstring, that runs something of `recipes`."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    if path.suffix == ".py":
        code = (
            ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).replace("\\\n", " ").splitlines()
        )
    else:
        code = [line for block in blocks(text, "bash") for line in block.splitlines()] + spans(text)
    lines = [line.split("&&")[-1].strip() for line in code]
    if path.name == "tiles.md":  # its table leaves out what all rows begin with
        lines = [re.sub(r"^\.\.\.", "accelerate launch recipes/train_tiles.py", line) for line in lines]
    return [line for line in lines if re.match(r"(accelerate launch|python) .*recipes/\w+\.py", line)]


def table_after(text: str, heading: str) -> list[list[str]]:
    """The cells of the rows, without the head, of the first table behind a line."""
    lines = text.split(f"\n{heading}", 1)[1].splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| :"))
    rows = []
    for line in lines[first + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows
