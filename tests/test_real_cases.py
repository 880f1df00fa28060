"""Every reported situation has a row in real_cases.tsv, and a test that holds it and is marked with its id."""

from __future__ import annotations

import ast
import csv
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

# (page, letter, count): `use-` real use, `files-` real files, `six-` what was found wrong in parts and tiles
PAGES = [("use-", "S", 21), ("use-", "B", 15), ("use-", "U", 12), ("use-", "M", 9), ("use-", "O", 13)]
PAGES += [("files-", "A", 22), ("files-", "B", 1), ("files-", "C", 12), ("files-", "D", 19), ("six-", "", 7)]
IDS = ["first-aligned", "first-doors", "real-size"]
IDS += [f"{page}{letter}{i}" for page, letter, count in PAGES for i in range(1, count + 1)]


@cache
def rows() -> list[dict[str, str]]:
    with open(FOLDER / "real_cases.tsv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def cases_of(node: ast.AST) -> set[str]:
    """The ids in all `pytest.mark.case(...)` of decorators or of a `pytestmark`."""
    calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
    calls = [call for call in calls if ast.unparse(call.func) == "pytest.mark.case"]
    return {ast.literal_eval(word) for call in calls for word in call.args}


@cache
def marked() -> dict[str, set[str]]:
    """path::name of every test, with the ids that it is marked with."""
    found = {}
    for path in sorted(FOLDER.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        whole = [node for node in tree.body if isinstance(node, ast.Assign)]
        of_all = set().union(*(cases_of(n) for n in whole if ast.unparse(n.targets[0]) == "pytestmark"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                own = set().union(*map(cases_of, node.decorator_list))
                found[f"{path.relative_to(FOLDER.parent).as_posix()}::{node.name}"] = own | of_all
    return found


def test_every_situation_is_a_row_and_none_stands_twice():
    assert [row["id"] for row in rows()] == IDS
    assert all(row["what it was"] for row in rows())


def test_every_row_has_a_test_that_is_marked_with_it_or_a_reason():
    for row in rows():
        tests = row["tests that hold it"].split()
        assert tests or len(row["reason where none does"].split()) > 3, row["id"]
        for test in tests:
            assert row["id"] in marked().get(test, ()), f"{row['id']}: no {test}, or it has another mark"


def test_every_mark_is_a_row():
    unknown = {(test, case) for test, cases in marked().items() for case in cases - set(IDS)}
    assert not unknown
