"""A tiny training that the tests of the Trainer share; as a script it is killed, resumed and spread over processes.

python training_run.py kill FOLDER SCENES MOMENTS  kills runs at many moments, resumes them, and prints what came out
python training_run.py spread FOLDER SCENES        trains in two processes
python training_run.py stream FOLDER SETTINGS      trains on a stream in two processes
"""

import gc
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from accelerate import debug_launcher
from datasets import Dataset, IterableDataset
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import TrainerCallback

from geohf.data.tensor_dataset import TensorDictDataset, identity_collate
from geohf.geo import great_circle_m
from geohf.street.configuration import GeoStreetConfig
from geohf.street.head import StreetHead
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.phase import PhaseTrainer

CENTROIDS = [[47.0, 8.0], [46.0, 7.0], [52.5, 13.4], [48.9, 2.3], [41.9, 12.5]]


def make_head(dropout=0.0, seed=0):
    torch.manual_seed(seed)
    config = GeoStreetConfig(
        feature_size=16,
        hidden_size=12,
        gps_hidden_size=8,
        dropout=dropout,
        class_centroids=CENTROIDS,
        gps_box=[40.0, 0.0, 55.0, 15.0],
    )
    return StreetHead(config)


def make_table(rows, seed=0):
    """Features that hold their class, with a third of labels and a quarter of coordinates unknown."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (rows,), generator=generator)
    directions = torch.randn(5, 16, generator=torch.Generator().manual_seed(99))
    features = directions[labels][:, None] + torch.randn(rows, 2, 16, generator=generator)
    coordinates = torch.tensor(CENTROIDS, dtype=torch.float64)[labels]
    coordinates = coordinates + 0.3 * torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    unlabeled = torch.rand(rows, generator=generator) < 1 / 3
    unlocated = torch.rand(rows, generator=generator) < 1 / 4
    return TensorDictDataset(
        features=features,
        labels=torch.where(unlabeled, -100, labels),
        coordinates=torch.where(unlocated[:, None], torch.nan, coordinates),
    )


def metrics(prediction):
    logits, points = prediction.predictions[:2]
    labels, truth = prediction.label_ids
    known, located = labels >= 0, np.isfinite(truth).all(-1)
    return {
        "accuracy": (logits.argmax(-1) == labels)[known].mean(),
        "mean_km": great_circle_m(points[located].astype(float), truth[located]).mean() / 1000,
        "rows": len(labels),
    }


def make_trainer(
    folder, rows=40, eval_rows=19, dropout=0.0, model=None, callbacks=None, train_dataset=None, **changes
):
    collators = {name: changes.pop(name) for name in ("data_collator", "eval_collator") if name in changes}
    settings = {
        "output_dir": str(folder),
        "use_cpu": True,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "learning_rate": 3e-3,
        "disable_tqdm": True,
        "early_stopping_patience": 0,
    } | changes
    trainer = PhaseTrainer(
        model if model is not None else make_head(dropout),
        GeoTrainingArguments(**settings),
        train_dataset=make_table(rows) if train_dataset is None else train_dataset,
        eval_dataset=make_table(eval_rows, seed=1),
        compute_metrics=metrics,
        callbacks=callbacks,
        **collators,
    )
    trainer.label_names = ["labels", "coordinates"]  # as a task's does
    return trainer


def history(trainer):
    """The log without what a clock decides."""
    clock = ("runtime", "per_second", "preparation_time", "flos")
    return [{k: v for k, v in row.items() if not k.endswith(clock)} for row in trainer.state.log_history]


# Killed and resumed


class KilledAt:
    """An audit hook that kills this process when it touches the run's folder for the nth time."""

    def __init__(self, folder, moment=None):
        self.folder, self.moment, self.seen = str(folder), moment, 0

    def __call__(self, event, arguments):
        if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
            return
        # removing a tree names its files by their bare names
        inside = event == "os.remove" or str(arguments[0]).startswith(self.folder)
        reads = event == "open" and (not isinstance(arguments[1], str) or "r" in arguments[1])
        if inside and not reads:
            self.seen += 1
            if self.seen == self.moment:
                os.kill(os.getpid(), signal.SIGKILL)


def in_a_fork(function, *arguments):
    """Run in a process of its own, which may be killed; whether it was."""
    child = os.fork()
    if not child:
        tqdm.set_lock(
            threading.RLock()
        )  # forks share tqdm's, and a killed one that holds it stops all others
        try:
            function(*arguments)
        except BaseException as error:
            print("failed:", repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit("a run failed")
    return os.WIFSIGNALED(status)


def train(folder, settings, moment=None, resume=False):
    hook = KilledAt(folder, moment)
    steps = []

    class Count(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    trainer = make_trainer(folder, callbacks=[Count()], **settings)
    sys.addaudithook(hook)
    trainer.run(resume=resume)
    total = hook.seen
    hook.moment = -1
    save_file(trainer.model.state_dict(), folder.with_suffix(".safetensors"))
    folder.with_suffix(".json").write_text(
        json.dumps({"events": total, "steps": steps, "history": history(trainer)})
    )


def result(folder):
    return load_file(folder.with_suffix(".safetensors")), json.loads(folder.with_suffix(".json").read_text())


def kill_and_resume(folder, scenes, moments):
    torch.set_num_threads(1)
    for name, settings in scenes.items():
        whole = folder / name
        in_a_fork(train, whole, settings)
        weights, expected = result(whole)
        for number in range(moments):
            # from the first touch of the folder to the last one
            moment = 1 + round(number * (expected["events"] - 1) / (moments - 1))
            run = folder / f"{name}-{moment}"
            report = {"scene": name, "moment": moment, "killed": in_a_fork(train, run, settings, moment)}
            in_a_fork(train, run, settings, None, True)
            found, log = result(run)
            report["equal"] = all(torch.equal(found[name], weight) for name, weight in weights.items())
            report["same_history"] = evaluations(log) == evaluations(expected)
            report["steps"], report["all_steps"] = len(log["steps"]), len(expected["steps"])
            print(json.dumps(report), flush=True)


def evaluations(log):
    return [row for row in log["history"] if "loss" in row or "eval_loss" in row]


# Several processes


def spread(folder, scenes):
    torch.set_num_threads(1)
    for name, settings in scenes.items():
        trainer = make_trainer(folder / name, **settings)
        trainer.train()
        final = trainer.evaluate()
        trainer.accelerator.wait_for_everyone()
        rank = trainer.args.process_index
        save_file(trainer.model.state_dict(), folder / f"{name}-{rank}.safetensors")
        log = {"history": history(trainer), "final": final, "processes": trainer.args.world_size}
        (folder / f"{name}-{rank}.json").write_text(json.dumps(log))


# Streams


def feature_rows(shards):
    """The rows of `make_table`, one by one, of one shard after the other."""
    for table in shards:
        for i in range(len(table)):
            yield {name: column[i].tolist() for name, column in table.columns.items()}


def batch_of(rows):
    kinds = {"features": torch.float32, "labels": torch.long, "coordinates": torch.float64}
    return {name: torch.tensor([row[name] for row in rows], dtype=kind) for name, kind in kinds.items()}


def make_stream_trainer(folder, rows=40, order=None, dropout=0.0, callbacks=None, **changes):
    """A training on a stream of one shard, or on the same rows in memory in the order given."""
    source = list(feature_rows([make_table(rows)]))
    if order is None:
        dataset = IterableDataset.from_generator(feature_rows, gen_kwargs={"shards": [make_table(rows)]})
    else:
        dataset = Dataset.from_list([source[i] for i in order])
    trainer = make_trainer(
        folder,
        rows=rows,
        model=make_head(dropout),
        callbacks=callbacks,
        train_dataset=dataset,
        data_collator=batch_of,
        eval_collator=identity_collate,
        train_sampling_strategy="sequential",
        **changes,
    )
    return trainer


def train_stream(folder, settings, killed_after=None, resume=False):
    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == killed_after:
                os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    trainer = make_stream_trainer(folder, callbacks=[Kill()], **settings)
    trainer.run(resume=resume)
    save_file(trainer.model.state_dict(), folder / f"weights-{trainer.args.process_index}.safetensors")


def streams(folder, settings):
    in_a_fork(train_stream, folder / "whole", settings)
    if not in_a_fork(train_stream, folder / "killed", settings, 8):
        sys.exit("the run was not killed")
    in_a_fork(train_stream, folder / "killed", settings, None, True)
    settings |= {"per_device_train_batch_size": 4}
    debug_launcher(train_stream, (folder / "two", settings), num_processes=2)


if __name__ == "__main__":
    gc.freeze()  # collections within a run then pass over what the imports brought
    kind, folder, scenes = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
    if kind == "kill":
        kill_and_resume(folder, scenes, moments=int(sys.argv[4]))
    elif kind == "spread":
        debug_launcher(spread, (folder, scenes), num_processes=2)
    elif kind == "stream":
        streams(folder, scenes)
