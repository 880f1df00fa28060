"""What a type checker sees of geohf."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import geohf

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_mypy_finds_no_error():
    """The rooms that `[tool.mypy]` of pyproject.toml names; `python -m mypy` says the same."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("needs mypy, of the extra test")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-error-summary"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_lazy_names_are_visible_to_a_type_checker():
    """The imports that only a type checker runs name what the table of lazy imports names, from the same modules."""
    tree = ast.parse((ROOT / "geohf" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (part for part in tree.body if isinstance(part, ast.If))
    assert ast.unparse(block.test) == "TYPE_CHECKING"
    imports = [part for part in block.body if isinstance(part, ast.ImportFrom)]
    assert len(imports) == len(block.body)
    # without `as` a checker of a program that uses geohf takes an import for geohf's own affair
    assert all(alias.asname == alias.name for part in imports for alias in part.names)
    assert {alias.name: part.module for part in imports for alias in part.names} == geohf._LAZY


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "geohf" / "py.typed").is_file()
