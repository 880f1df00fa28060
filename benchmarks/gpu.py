"""What half precision, torch.compile and a second device gain on a GPU, for the model of every task.

    python benchmarks/gpu.py                          # says so where there is no GPU
    python benchmarks/gpu.py --device cpu --rounds 1  # the same code on tiny models: that it runs, not how fast

Weights are random and pictures noise, so nothing is downloaded. All ways share one model and one optimizer, so peaks of
memory compare: bf16 and fp16 are autocast over float32 weights, as in the Trainer. float32 is torch's own setting, in which
a GPU may compute convolutions in TF32. A step is forward, backward and a fused AdamW step, without dropout, whose draws
differ from way to way. Time is elapsed, a median of interleaved rounds; a first round warms up and compiles. Peers are
torchvision's Faster R-CNN and sentence-transformers' CLIP with the same weights. Where there are two devices, the recipes
run on both, on the painted samples. A comparison that fails is named at the end, and the exit code is 1.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import bench_parts
import torch
from gpu_models import SIZES, STEPS, TASKS, answers_of, make_batch, make_clip_pair, make_model
from measure import Row, installed, make_parser, report, require
from memory import MIB, peak_added
from torch import nn

from geohf.vision.towers import tower_features

ROOT = Path(__file__).resolve().parents[1]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# the furthest that predictions and losses may be from float32's, as a share of their norm
TOLERANCES = {"bf16": 0.1, "fp16": 0.05, "compile": 0.02}
RECIPES = {task: f"train_{task}.py" for task in TASKS} | {"street": "train_streetclip.py"}


class Ways:
    """Steps and predictions of one model in every way.

    Args:
        model: on the device.
        batch: what it learns from.
        names: of the ways.
    """

    def __init__(self, model: nn.Module, batch: Mapping[str, torch.Tensor], names: list[str]):
        self.model, self.batch, self.device = model, batch, batch["pixel_values"].device.type
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.called = {name: torch.compile(model) if name == "compile" else model for name in names}
        # so low that weights stay as they are; the scale so low that no step is left out
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-9, weight_decay=0, fused=True)
        self.scalers = {n: torch.amp.GradScaler(self.device, 256.0, enabled=n == "fp16") for n in names}

    def step(self, name: str) -> torch.Tensor:
        """One training step; its loss."""
        torch.manual_seed(0)  # the regions that a detector draws
        self.model.train()
        with autocast(self.device, name):
            loss = self.called[name](**self.batch).loss
        scaler = self.scalers[name]
        scaler.scale(loss).backward()
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad()
        return loss.detach()

    @torch.no_grad()
    def predict(self, name: str):
        """Outputs for the batch's pictures."""
        self.model.eval()
        with autocast(self.device, name):
            return self.called[name](pixel_values=self.batch["pixel_values"])


def autocast(device: str, way: str) -> torch.autocast:
    return torch.autocast(device, DTYPES.get(way), enabled=way in DTYPES)


def require_close(what: str, found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Stop where answers are further apart than a share of their norm."""
    off = float((found.float() - expected.float()).norm() / expected.float().norm())
    require(off <= tolerance, f"{what}: {off:.2g} of the norm apart, {tolerance} is allowed")


def measured(ways: Mapping[str, Callable], rounds: int, device: str) -> dict[str, tuple[float, float]]:
    """Median elapsed seconds and highest MiB of each way; on a CPU the MiB that it adds (Linux), 1 at least."""
    took: dict[str, list[float]] = {name: [] for name in ways}
    peaks = dict.fromkeys(ways, 1.0)

    def once(name: str) -> None:
        start = time.perf_counter()
        ways[name]()
        if device == "cuda":
            torch.cuda.synchronize()
        took[name].append(time.perf_counter() - start)

    for number in range(rounds + 1):
        for name in ways:
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
                once(name)
                peak = torch.cuda.max_memory_allocated() / MIB
            else:
                peak = peak_added(lambda name=name: once(name))
            if number:  # compiling takes memory, too
                peaks[name] = max(peaks[name], peak)
    return {name: (statistics.median(values[1:]), peaks[name]) for name, values in took.items()}


def rows_of(what: str, found: dict[str, tuple[float, float]], images: int, base: str) -> list[Row]:
    """Each way's speed and peak of memory beside those of `base`."""
    seconds, peak = found[base]
    against = f"{base} ({images / seconds:.4g} images a second, {peak:.4g} MiB)"
    rows = []
    for name in [name for name in found if name != base]:
        shown = f"{what}, {name} ({images / found[name][0]:.4g} images a second)"
        rows.append(Row(shown, against, seconds / found[name][0]))
        memory = found[name][1] / peak
        rows.append(Row(f"peak memory of {what}, {name}", against, memory, None, True, "× the memory"))
    return rows


def task_rows(task: str, size: str, names: list[str], rounds: int, device: str) -> list[Row]:
    """Steps and predictions of a task's model in every way, compared first."""
    backbone, side, batch = SIZES[size][task]
    inputs = {name: value.to(device) for name, value in make_batch(task, side, batch).items()}
    ways = Ways(make_model(task, backbone, side).to(device), inputs, ["float32", *names])
    answers = {name: answers_of(task, ways.predict(name)) for name in ways.called}
    losses = {name: ways.step(name) for name in ways.called}
    for name in names:
        require_close(f"predictions, {name}", answers[name], answers["float32"], TOLERANCES[name])
        require_close(f"loss, {name}", losses[name], losses["float32"], TOLERANCES[name])
    images = batch * (STEPS if task == "tiles" else 1)
    model, rows = f"{task}, {backbone}, {images} images of {side} px", []
    for what, way in (("training step", ways.step), ("prediction", ways.predict)):
        found = measured({n: lambda n=n, way=way: way(n) for n in ways.called}, rounds, device)
        rows += rows_of(f"{what} of {model}", found, images, "float32")
    return rows


def torchvision_rows(size: str, rounds: int, device: str) -> list[Row]:
    """Predictions of torchvision's detector bare, with the same weights."""
    backbone, side, batch = SIZES[size]["parts"]
    bare, ours = (model.to(device) for model in bench_parts.make_pair(backbone, side))
    pixels, truth, targets = bench_parts.make_batch(batch, side)
    truth = {name: value.to(device) for name, value in truth.items()}
    targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
    pixels, base = pixels.to(device), "torchvision's Faster R-CNN bare"
    bench_parts.compare(bare, ours, pixels, truth, targets)  # leaves both in evaluation mode
    ways = {base: lambda: bare(list(pixels)), "geohf": lambda: ours(pixels)}
    with torch.no_grad():
        return rows_of(f"prediction of parts, {backbone}", measured(ways, rounds, device), batch, base)


def clip_rows(size: str, rounds: int, device: str) -> list[Row]:
    """Features of CLIP by sentence-transformers and by a place model, with the same random weights."""
    base = "sentence-transformers' CLIP"
    if not installed("sentence_transformers"):
        return [Row("features of CLIP", base, None)]
    theirs, ours, side = make_clip_pair(size == "tiny", device)
    batch = SIZES[size]["place"][2]
    pixels = torch.randn(batch, 3, side, side, device=device)
    ways = {
        base: lambda: theirs({"pixel_values": pixels, "modality": "image"})["sentence_embedding"],
        "geohf": lambda: tower_features(ours.tower, pixels),
    }
    with torch.no_grad():
        require_close("features of CLIP", ways["geohf"](), ways[base](), 1e-3)
        return rows_of(f"features of CLIP of {side} px", measured(ways, rounds, device), batch, base)


def launched(task: str, kind: str, processes: int, words: tuple[str, ...] = ()) -> tuple[float, float]:
    """Samples a second and training loss of the recipe's last phase under `accelerate launch`, 16 samples a step."""
    config = ROOT / "geohf" / "recipes" / "accelerate" / f"{kind}.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--num_processes", str(processes), "--main_process_port", "0"]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    with tempfile.TemporaryDirectory() as folder:
        command += [str(ROOT / "recipes" / RECIPES[task]), "--output_dir", folder, *words]
        command += ["--per_device_train_batch_size", str(16 // processes)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        lines = done.stderr.strip().splitlines() or [""]
        require(done.returncode == 0, f"{task} by {kind} on {processes}: {lines[-1]}")
        with open(Path(folder, "log_history.csv"), newline="") as file:
            rows = [row for row in csv.DictReader(file) if row.get("train_samples_per_second")]
    return float(rows[-1]["train_samples_per_second"]), float(rows[-1]["train_loss"])


def launch_rows(task: str) -> list[Row]:
    """The recipe on two devices beside one."""
    alone, loss = launched(task, "ddp", 1)
    rows = []
    for kind in ("ddp", "fsdp"):
        speed, found = launched(task, kind, 2)
        # every process draws its own dropout and augmentation
        require_close(f"training loss, {kind}", torch.tensor(found), torch.tensor(loss), 0.2)
        what = f"samples a second of {RECIPES[task]} by {kind} on two devices"
        rows.append(Row(what, f"one device ({alone:.4g})", speed / alone))
    return rows


def main() -> None:
    parser = make_parser(__doc__, rounds=20)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--ways", nargs="*", choices=tuple(TOLERANCES), default=tuple(TOLERANCES))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU: nothing was measured (--device cpu runs the same code, tiny)")
        return
    how, rows, failed = (options.rounds, options.device), [], []
    sizes = ("tiny",) if options.device == "cpu" else ("small", "published")
    jobs: dict[str, Callable[[], list[Row]]] = {}
    for size in sizes:
        for task in options.tasks:
            jobs[f"{task} {size}"] = lambda t=task, s=size: task_rows(t, s, list(options.ways), *how)
        if "parts" in options.tasks:
            jobs[f"torchvision {size}"] = lambda s=size: torchvision_rows(s, *how)
    if "place" in options.tasks:
        jobs["CLIP"] = lambda: clip_rows(sizes[-1], *how)
    if options.device == "cuda" and torch.cuda.device_count() > 1:
        jobs |= {f"{task} on two": lambda t=task: launch_rows(t) for task in options.tasks}
    else:
        print("fewer than two GPUs: DDP and FSDP were not run")
    for name, job in jobs.items():
        try:
            rows += job()
        except (Exception, SystemExit) as error:  # the others keep their rows
            failed.append(
                f"{name} ({str(error).strip().splitlines()[0] if str(error) else type(error).__name__})"
            )
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
    print(f"{where}, torch {torch.__version__}")
    report(rows, options.json)
    if failed:
        sys.exit("failed: " + "; ".join(failed))


if __name__ == "__main__":
    main()
