"""One parser for flags and YAML: names in the file are those of the flags, and a flag wins."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import HfArgumentParser

from geohf.errors import DataError, did_you_mean
from geohf.training.arguments import GeoTrainingArguments

logger = logging.getLogger(__name__)

# flags of version 0.1 that go on for one release: name -> the one that has taken its place
RENAMED = {
    "phase1_epochs": "head_epochs",
    "phase1_min_steps": "head_min_steps",
    "phase1_batch_size": "head_batch_size",
    "finetune_epochs": "num_train_epochs",
}
# how a task may call what others call so
ELSEWHERE = {"data": ("train_csv", "train_dir")}


class GeoArgumentParser(HfArgumentParser):
    """transformers' parser with `--config file.yaml`; flags win over the file, unknown keys are errors."""

    def __init__(self, *dataclass_types, **kwargs):
        kwargs.setdefault("allow_abbrev", False)  # a shortened --config would be accepted and never read
        super().__init__(list(dataclass_types), **kwargs)
        self.add_argument("--config", help="YAML file of arguments; flags on the command line win over it.")

    def parse(self, arguments: Sequence[str] | None = None) -> tuple:
        """The dataclasses' instances, from the command line or a list of words.

        Raises:
            DataError: a flag that no argument has, or values that the dataclasses refuse; the YAML file is missing,
                is not a mapping, or holds a key that no argument has.
        """
        words = self._renamed(list(sys.argv[1:] if arguments is None else arguments))
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config", nargs="?", action="append", default=[])
        configs = finder.parse_known_args(words)[0].config
        if len(configs) > 1:
            raise DataError("--config is given more than once: put what these files say into one")
        given, empty = self._words_of_yaml(Path(configs[0])) if configs and configs[0] else ([], [])
        defaults = {name: self.get_default(name) for name in empty}
        self.set_defaults(**dict.fromkeys(empty))  # no flag can say so
        try:
            # the file's values stand before the flags, and argparse lets the last one win
            *parsed, _, unknown = self.parse_args_into_dataclasses(
                args=given + words, look_for_args_file=False, return_remaining_strings=True
            )
        except DataError:
            raise
        except (ValueError, ImportError) as error:  # what transformers says of values that it refuses
            raise DataError(str(error)) from None
        finally:
            self.set_defaults(**defaults)
        if unknown:
            raise DataError(f"unknown argument {unknown[0]!r}{self._near(unknown[0].partition('=')[0])}")
        for args in parsed:
            if isinstance(args, GeoTrainingArguments):
                from geohf.training.settings import rehearse

                args.require_known_metric()
                rehearse(args)
        return tuple(parsed)

    def _near(self, name: str) -> str:
        known = [flag.removeprefix("--") for flag in self._option_string_actions if flag.startswith("--")]
        name = name.removeprefix("--")
        same = [repr(other) for other in ELSEWHERE.get(name, ()) if other in known]
        return f" (did you mean {' or '.join(same)}?)" if same else did_you_mean(name, known)

    def _renamed(self, words: list[str]) -> list[str]:
        """The words with today's names of flags for those of `RENAMED`; DataError for one given under both names."""
        given = [word.partition("=") for word in words]
        names = {_plain(name) for name, *_ in given if name.startswith("--")}
        for old in sorted(names & RENAMED.keys()):
            new = RENAMED[old]
            if f"--{old}" in self._option_string_actions or f"--{new}" not in self._option_string_actions:
                continue
            if new in names:
                raise DataError(f"{old} is now called {new}, and both are given; see --help of {new}")
            logger.warning("%s is now called %s; the old name goes with the next version", old, new)
            given = [
                (f"--{new}" if name.startswith("--") and _plain(name) == old else name, sign, value)
                for name, sign, value in given
            ]
        return ["".join(parts) for parts in given]

    def _words_of_yaml(self, path: Path) -> tuple[list[str], list[str]]:
        """The flags that a file stands for, and the fields to which it gives no value."""
        import yaml

        try:
            content = yaml.load(path.read_text(encoding="utf-8"), _yaml_loader())
        except UnicodeDecodeError:
            raise DataError(f"{path}: is not UTF-8 text") from None
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        except yaml.YAMLError as error:
            raise DataError(f"{path}: is not YAML: {error}") from None
        if not isinstance(content, dict):
            raise DataError(f"{path}: must hold `name: value` lines")
        words, empty = [], []
        options = self._renamed([f"--{key}" for key in content])
        for (key, value), option in zip(content.items(), options, strict=True):
            if option not in self._option_string_actions or key == "config":
                raise DataError(f"{path}: unknown key {key!r}{self._near(str(key))}")
            if value is None:
                empty.append(_plain(option))
            elif isinstance(value, list):
                words += [option, *map(str, value)]
            else:
                # in one word, or a value that begins with a minus would be taken for a flag
                text = json.dumps(value) if isinstance(value, (dict, bool)) else str(value)
                words.append(f"{option}={text}")
        return words, empty


def _plain(flag: str) -> str:
    """A flag's name as its field's: transformers takes hyphens, too."""
    return flag.removeprefix("--").replace("-", "_")


def _yaml_loader():
    import yaml

    class Loader(yaml.SafeLoader):
        """PyYAML reads 1e-4 as text, `eval_strategy: no` as False, 010 as 8, and takes the last of two equal keys; here
        all is as in YAML 1.2.
        """

        def construct_mapping(self, node, deep=False):
            seen = set()
            for key, _ in node.value:
                if _plain(str(key.value)) in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1} says {key.value} once more")
                seen.add(_plain(str(key.value)))
            return super().construct_mapping(node, deep)

    tag, digits = "tag:yaml.org,2002:", list("-+0123456789")
    Loader.yaml_implicit_resolvers = {
        first: [(kind, pattern) for kind, pattern in resolvers if kind not in (tag + "bool", tag + "int")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    Loader.add_implicit_resolver(
        tag + "bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
    )
    number = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver(tag + "float", number, digits)
    Loader.add_implicit_resolver(tag + "int", re.compile(r"^[-+]?[0-9]+$"), digits)
    Loader.add_constructor(tag + "int", lambda loader, node: int(node.value))
    return Loader
