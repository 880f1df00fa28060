"""What every recipe does around its training: begin, report, push, and fail politely."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import datasets
import torch
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, StrictDataclassError
from transformers.utils import logging as transformers_logging

from geohf.errors import DataError
from geohf.report.tables import markdown_table
from geohf.training.trainer import GeoTrainer, rows_of_numbers

logger = logging.getLogger("geohf")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # as malloc.h numbers them

# of the Hub's HTTP library, which changes with its versions: no connection, which is no OSError
NO_CONNECTION: type[Exception] = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")


def run_recipe(main: Callable[[], Any]) -> None:
    """Run a recipe's `main`: bad input ends with one message and exit code 2, not with a traceback."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    transformers_logging.disable_progress_bar()  # bars for writing one file; training and features have their own
    datasets.disable_progress_bars()
    logger.setLevel(logging.INFO if int(os.environ.get("RANK", 0)) == 0 else logging.ERROR)
    keep_freed_memory()
    try:
        main()
        leave_process_group()
    except (DataError, OSError, HFValidationError) as error:  # the Hub's answers are OSErrors, too
        fail(error)
    except NO_CONNECTION as error:
        fail(DataError(f"the Hub cannot be reached ({error})"))
    except StrictDataclassError as error:  # what a config says of its fields, without the wrapping
        fail(error.__cause__ or error)


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB that is freed for what is asked for next; for a whole process alone.

    It gives large blocks back at once, as a layer's outputs are, and each page that is asked for again costs a fault: a
    third of the time of a small backbone on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    # an older glibc takes no more than 32 MiB here; the other alone would give back more than glibc does by itself
    if mallopt is not None and (mallopt(M_MMAP_THRESHOLD, 1 << 30) or mallopt(M_MMAP_THRESHOLD, 1 << 25)):
        mallopt(M_TRIM_THRESHOLD, 1 << 30)


@contextmanager
def leave_cores(args) -> Iterator[None]:
    """On a CPU, torch's threads and the loader's workers would wait for the same cores; for a whole process alone."""
    threads = torch.get_num_threads()
    if args.device.type == "cpu" and args.dataloader_num_workers and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, threads - args.dataloader_num_workers))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def leave_process_group() -> None:
    """Leave the process group; call it where the Trainer is out of reach.

    The wrapper that spread a model keeps the group's threads alive, and such a thread may abort a process that ends with
    its work done. Trainers lie in circles of references, so they are collected first.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()
        torch.distributed.destroy_process_group()


def fail(error: BaseException) -> NoReturn:
    """Say on standard error what is wrong, and end."""
    what = str(error)
    if isinstance(error, OSError) and error.filename and error.strerror:
        what = f"{error.filename}: {error.strerror}"
    sys.stderr.write(f"\nerror: {what}\n")
    sys.exit(2)


def show(trainer: GeoTrainer, columns: Sequence[str], hint: str) -> None:
    """Print what the last evaluation found beside the constant baseline, and where everything lies."""
    evaluation = trainer.evaluated
    if evaluation is None or not trainer.args.should_save:
        return
    told = {"constant baseline": evaluation.baseline, "model": evaluation.values_by_name}
    table, facts = markdown_table(rows_of_numbers(told, columns)), trainer.data_facts(evaluation, "rows")
    print(f"\nOn {facts['measured']} {facts['split_name']} rows:\n\n{table}\n")
    print(f"Everything lies in {trainer.args.output_dir}. {hint}")
