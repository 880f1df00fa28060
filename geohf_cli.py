"""The command `geohf`: what `recipes/` holds, from any folder.

It lies beside the package and not in it: `import geohf` registers models and so brings torch, and help has no use for
that. Every command is a module of `geohf.recipes`, imported when it runs.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import importlib.util
import os
import runpy
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

TASKS = ("region", "street", "parts", "place", "tiles")
COMMANDS = {
    "train": "train a model of a task, under accelerate launch",
    "predict": "ask a model about files, folders, tables or datasets",
    "evaluate": "measure a model on data with a truth",
    "push": "push the folder that a run left to the Hub",
    "index": "keep the descriptors of an area, to find photographs in it",
    "pairs": "name pairs of images that may show one place, for hloc, COLMAP and kapture",
    "export": "write a place, street or region model as ONNX",
    "convert": "bring published weights to a model, or annotations of parts from one layout to the other",
    "demo": "try a model in a browser",
    "push-demo": "make the demo of a model a Space of the Hub",
    "env": "show versions, devices and caches, for a report of a bug",
}
HELP = ("-h", "--help")
# what `geohf convert` takes weights of, see `published` in place and street; known before torch is imported
PUBLISHED = (
    *("cosplace", "eigenplaces", "mixvpr", "salad", "cliquemining"),
    *("boq-dinov2", "boq-resnet50", "megaloc", "fol", "geoclip", "osv5m"),
)

USAGE = f"""usage: geohf COMMAND ...

{chr(10).join(f"  {name:<11}{what}" for name, what in COMMANDS.items())}

`geohf COMMAND --help` shows what a command takes, `geohf --version` which geohf this is.
"""
TRAIN_USAGE = f"""usage: geohf train [FLAGS OF accelerate launch] TASK [FLAGS OF THE RECIPE]

TASK is {", ".join(TASKS[:-1])} or {TASKS[-1]}. Without a flag the task's painted sample is trained on: offline, minutes on a CPU.

  geohf train street
  geohf train street --config street.yaml --data path/to/competition
  geohf train --num_processes 2 street --data path/to/photos
  geohf train --config_file fsdp.yaml street --data path/to/photos

A file that --config or --config_file names without a folder, and that does not lie here, is geohf's own.
`geohf train TASK --help` shows every flag of a recipe, `accelerate launch --help` those of the launcher.
"""
# of the launcher and of no recipe: behind the task they would be unknown
LAUNCHER_FLAGS = ("--num_processes", "--num_machines", "--multi_gpu", "--config_file")


def main(words: Sequence[str] | None = None) -> int:
    """Run one command, and return its exit status: 2 where the words make no command."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in HELP:
        print(USAGE, end="")
        return 0
    command, *words = words
    if command == "--version":
        print(importlib.metadata.version("geohf"))
        return 0
    if command not in COMMANDS:
        return refuse("command", command, COMMANDS)
    if command == "train":
        return train(words)
    module = command.replace("-", "_")
    if command == "predict":
        # waiting threads of OpenMP would spin on the cores that decode; read when torch is loaded
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if command == "convert" and len(words) > 1:
        if words[0] in (*PUBLISHED, "timm"):
            module = "convert_backbone" if words[0] == "timm" else "convert_weights"
        elif len(words) > 2 and not any(word.startswith("-") for word in words[:3]):
            # annotations are named by one word alone
            return refuse("kind of weights", words[0], (*PUBLISHED, "timm"))
    return run_here(module, f"geohf {command}", words)


def train(words: list[str]) -> int:
    """Launch a task's recipe as `accelerate launch` does, and end as it ended."""
    if not words or words[0] in HELP:
        print(TRAIN_USAGE, end="")
        return 0
    if not words[0].startswith("-") and words[0] not in TASKS:  # known before torch is imported
        return refuse("task", words[0], TASKS)
    if words[0] in TASKS and set(HELP) & set(words):
        return run_here(f"train_{words[0]}", f"geohf train {words[0]}", ["--help"])

    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    args = launch_command_parser().parse_args(words)
    task, flags = args.training_script, args.training_script_args
    if task not in TASKS:
        return refuse("task", task, TASKS)
    misplaced = next((flag for flag in flags if flag.partition("=")[0] in LAUNCHER_FLAGS), None)
    if misplaced:
        return say(
            f"{misplaced} is accelerate's and stands before the task: geohf train {misplaced} ... {task}"
        )
    if args.config_file:
        args.config_file = own_file(args.config_file, "accelerate")
    args.module, args.training_script = True, f"geohf.recipes.train_{task}"
    args.training_script_args = with_own_config(flags)
    try:
        launch_command(args)
    except subprocess.CalledProcessError as error:  # the recipe has said why
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except ChildFailedError as error:
        return max(1, *(failure.exitcode for failure in error.failures.values()))
    return 0


def run_here(module: str, program: str, words: Sequence[str]) -> int:
    """Run a module of `geohf.recipes` in this process, as `python -m` would."""
    sys.argv = [program, *words]
    runpy.run_module(f"geohf.recipes.{module}", run_name="__main__")
    return 0


def with_own_config(flags: Sequence[str]) -> list[str]:
    """The flags with geohf's own file where `--config` names one of these."""
    flags = list(flags)
    for position, flag in enumerate(flags):
        if flag.startswith("--config="):
            flags[position] = f"--config={own_file(flag.partition('=')[2], 'configs')}"
        elif flag == "--config" and position + 1 < len(flags):
            flags[position + 1] = own_file(flags[position + 1], "configs")
    return flags


def own_file(name: str, folder: str) -> str:
    """The path of the file of that name in a folder of `geohf.recipes`; a file of the user's comes first."""
    package = importlib.util.find_spec("geohf")  # found without being imported
    own = Path(str(package and package.origin)).parent / "recipes" / folder / name
    bare = Path(name).name == name
    return str(own) if bare and own.is_file() and not Path(name).exists() else name


def refuse(kind: str, word: str, known: Iterable[str]) -> int:
    """Say in one line that a word is unknown, and what comes near."""
    close = difflib.get_close_matches(word, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return say(f"unknown {kind} {word!r}: {hint}")


def say(message: str) -> int:
    sys.stderr.write(f"error: {message}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
