"""Two optimizer steps on a sample: by hand in one process, or `python tiles_steps.py` in each of several."""

import sys

from geohf.recipes import train_tiles
from geohf.recipes.running import leave_process_group
from geohf.tiles.arguments import TileArguments, TileTrainingArguments


def take_steps(sample, out, batch_size):
    options = TileArguments(
        data=f"{sample}/tiles.csv", hidden_sizes=[8], validation_share=0.2, loss="mse", target_years=1
    )
    args = TileTrainingArguments(
        output_dir=str(out),
        cache_dir=f"{sample}/cache",
        per_device_train_batch_size=int(batch_size),
        per_device_eval_batch_size=50,
        max_steps=2,
        optim="sgd",
        learning_rate=0.1,
        lr_scheduler_type="constant",
        warmup_steps=0,
        eval_strategy="no",
        save_strategy="no",
        augment=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    train_tiles.run(options, args)


if __name__ == "__main__":
    take_steps(*sys.argv[1:])
    leave_process_group()
