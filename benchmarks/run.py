"""Every comparison in one table: each benchmark in a process of its own, on one thread.

    python benchmarks/run.py                      # half an hour on one core
    python benchmarks/run.py --only geo tiles

Prints a Markdown table and writes it to FILE.md, and its rows with the machine to FILE.json. A benchmark that fails is
named at the end, the rows of the others stay, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from measure import Row

from geohf.io import atomic_write
from geohf.report.tables import markdown_table

HERE = Path(__file__).resolve().parent
BENCHMARKS = {
    "all tasks": ("geo", "images", "inference", "trainer", "features", "phase1", "real_size"),
    "street": ("cells",),
    "region": ("dbscan", "region"),
    "parts": ("parts", "parts_eval"),
    "place": ("pairs", "place"),
    "tiles": ("tiles", "convlstm"),
}
NAMES = [name for names in BENCHMARKS.values() for name in names]
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def measure(name: str, folder: str) -> tuple[list[Row], str | None]:
    """A benchmark's rows, or none and the last line that it wrote."""
    file = Path(folder, f"{name}.json")
    command = [sys.executable, str(HERE / f"bench_{name}.py"), "--json", str(file)]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return [], lines[-1] if lines else f"exit code {done.returncode}"
    return [Row(**row) for row in json.loads(file.read_text())], None


def machine() -> dict[str, str | int]:
    """What the ratios depend on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    bfloat16 = any(flag in line.split() for line in lines for flag in ("amx_bf16", "avx512_bf16"))
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": "in hardware" if bfloat16 else "emulated",
        "cores": os.cpu_count() or 1,
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def table(rows: dict[str, list[Row]]) -> str:
    """All rows, grouped by task."""
    shown = []
    for task, names in BENCHMARKS.items():
        shown += [{"task": task} | row.shown() for name in names for row in rows.get(name, [])]
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    note = "Ratios of CPU time, medians of interleaved rounds, results compared first."
    return f"{note} Machine: {where}.\n\n{markdown_table(shown)}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", choices=NAMES, default=NAMES, help=", ".join(NAMES)
    )
    parser.add_argument("--output", type=Path, default=Path("outputs/benchmarks"), metavar="FILE")
    options = parser.parse_args()
    rows, failed = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [name for name in NAMES if name in options.only]:
            start = time.monotonic()
            rows[name], reason = measure(name, folder)
            if reason:
                failed[name] = reason
            print(f"{name}: {reason or f'{time.monotonic() - start:.0f} s'}", file=sys.stderr, flush=True)
    text = table(rows)
    print(text, end="")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    found = {name: [vars(row) | {"met": row.met} for row in part] for name, part in rows.items()}
    with atomic_write(options.output.with_suffix(".md")) as file:
        file.write(text)
    with atomic_write(options.output.with_suffix(".json")) as file:
        json.dump({"machine": machine(), "rows": found, "failed": failed}, file, indent=2)
    if failed:
        sys.exit("failed: " + "; ".join(f"{name} ({reason})" for name, reason in failed.items()))


if __name__ == "__main__":
    main()
