"""What the command lines of all recipes without a training have in common; light to import."""

from __future__ import annotations

import argparse

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
