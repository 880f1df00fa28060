"""What the benchmarks share: interleaved rounds, and results as rows that benchmarks/run.py gathers."""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from geohf.report.tables import format_number, markdown_table

torch.set_num_threads(1)  # ratios of CPU time mean little where threads wait for each other


@dataclass
class Row:
    """One comparison.

    Attributes:
        what: was measured.
        against: what it is compared with.
        value: how many times as fast as `against` ours is; for a cost, ours over `against`, or a measure of its
            own with a unit. None where the peer is not installed.
        goal: what the value should be; None where there is none.
        cost: less is better.
        unit: of the value; by default "× as fast", and "× the time" for a cost.
    """

    what: str
    against: str
    value: float | None
    goal: float | None = None
    cost: bool = False
    unit: str = ""

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.value is None:
            return None
        return self.value <= self.goal if self.cost else self.value >= self.goal

    def shown(self) -> dict:
        """The row for a table."""
        unit = self.unit or ("× the time" if self.cost else "× as fast")
        goal = "" if self.goal is None else f"{'at most' if self.cost else 'at least'} {self.goal:g}"
        return {
            "what": self.what,
            "against": self.against,
            "ratio": "not installed" if self.value is None else f"{format_number(self.value, 3)} {unit}",
            "goal": goal,
            "met": "" if self.met is None else self.met,
        }


def medians(
    ways: Mapping[str, Callable], rounds: int, slow: tuple[str, ...] = (), times: int = 1
) -> dict[str, float]:
    """Median CPU seconds of each way; the ways take turns, and a first round that is not counted warms up.

    Args:
        slow: ways that run once only, and unwarmed.
        times: calls of each way in a round, for ways too short for the clock.
    """
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            if name in slow and number != 1:
                continue
            taken = seconds(lambda way=way: [way() for _ in range(times)])
            if number:
                spent[name].append(taken / times)
    return {name: statistics.median(values) for name, values in spent.items()}


def seconds(way: Callable) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    way()
    return time.process_time() - start


def require(holds: bool, message: str) -> None:
    """Stop the benchmark where results differ: a ratio of two different answers says nothing."""
    if not holds:
        sys.exit(f"results differ: {message}")


def mean_and_range(values: Sequence[float], digits: int = 3) -> str:
    """What a table says of several runs.

    >>> mean_and_range([0.25, 0.5])
    '0.375 (0.250 to 0.500)'
    """
    mean, low, high = (
        f"{value:.{digits}f}" for value in (statistics.fmean(values), min(values), max(values))
    )
    return f"{mean} ({low} to {high})"


def installed(module: str) -> bool:
    """Whether a peer can be compared with; its row has no value where not."""
    return importlib.util.find_spec(module) is not None


def make_parser(description: str, rounds: int | None = None) -> argparse.ArgumentParser:
    """A parser with `--json FILE`, where the rows go beside the printed table, and `--rounds` where there are any."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help="counted runs of each way")
    parser.add_argument("--json", help="also write the rows here")
    return parser


def report(rows: list[Row], path: str | None = None) -> None:
    """Print the rows as a table, and write them as JSON where a path is given."""
    print("\n" + markdown_table([row.shown() for row in rows]))
    if path:
        Path(path).write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
