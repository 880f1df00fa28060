"""What the command lines of all recipes without a training have in common; light to import."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from geohf.errors import ON_ERROR


def command_parser(description: str | None, **kwargs) -> argparse.ArgumentParser:
    """A parser that shows a module's docstring as it is written, and takes no abbreviations of flags."""
    return argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        **kwargs,
    )


def add_on_error(parser: argparse.ArgumentParser) -> None:
    """`--on_error raise|skip`."""
    parser.add_argument(
        "--on_error", choices=ON_ERROR, default="raise", help="Stop at what cannot be used, or leave it out."
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ...; by default a GPU where there is one.")


def parse_for_model(
    make_parser: Callable[..., argparse.ArgumentParser], kind: str
) -> tuple[argparse.ArgumentParser, argparse.Namespace, dict[str, Any]]:
    """Parse a command line whose first word is a model, with the options of that model's task.

    Args:
        make_parser: makes the recipe's own parser.
        kind: `predict_options` or `evaluate_options`, see `GeoPreTrainedModel`.

    Returns:
        The parser, what it read, and those of the task's options that were given.
    """
    from geohf.models.loading import model_class

    if all(word.startswith("-") for word in sys.argv[1:]):
        make_parser().parse_args()  # the help, or that a model is missing
    usage = make_parser().format_usage().removeprefix("usage: ")
    known, _ = make_parser(add_help=False, usage=usage).parse_known_args()
    parser, options = make_parser(), getattr(model_class(known.model), kind)
    for option, described in options.items():
        parser.add_argument(f"--{option}", **described)
    args = parser.parse_args()
    chosen = {option: value for option in options if (value := getattr(args, option)) is not None}
    return parser, args, chosen
