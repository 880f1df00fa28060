"""What the benchmarks share: interleaved rounds, and results as rows that benchmarks/run.py gathers."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from geohf.report import markdown_table


@dataclass
class Row:
    """One comparison.

    Attributes:
        what: was measured.
        against: what it is compared with.
        ratio: how many times as fast as `against` ours is; for a cost, ours over `against`.
        goal: what the ratio should be, or text; None where there is none.
        cost: the ratio is a cost, so that less is better.
    """

    what: str
    against: str
    ratio: float
    goal: float | None = None
    cost: bool = False

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.cost else self.ratio >= self.goal

    def shown(self) -> dict:
        """The row for a table."""
        goal = "" if self.goal is None else f"{'at most' if self.cost else 'at least'} {self.goal:g}"
        return {
            "what": self.what,
            "against": self.against,
            "ratio": self.ratio,
            "goal": goal,
            "met": "" if self.met is None else self.met,
        }


def medians(ways: Mapping[str, Callable], rounds: int, slow: tuple[str, ...] = ()) -> dict[str, float]:
    """Median CPU seconds of each way; the ways take turns, and a first round that is not counted warms up.

    Args:
        slow: ways that run once only, and unwarmed.
    """
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            if name in slow and number != 1:
                continue
            start = time.process_time()
            way()
            if number:
                spent[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in spent.items()}


def require(holds: bool, message: str) -> None:
    """Stop the benchmark where results differ: a ratio of two different answers says nothing."""
    if not holds:
        sys.exit(f"results differ: {message}")


def make_parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--json FILE`, where the rows go beside the printed table."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="also write the rows here")
    return parser


def report(rows: list[Row], path: str | None = None) -> None:
    """Print the rows as a table, and write them as JSON where a path is given."""
    print("\n" + markdown_table([row.shown() for row in rows], digits=3))
    if path:
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
