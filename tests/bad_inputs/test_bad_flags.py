"""Flags and YAML files that cannot be used: nothing is loaded, trained or executed for them."""

from itertools import cycle

import pytest
from helpers.bad_world import Case, Command, World

RECIPES = {
    "train_region": World.train_region,
    "train_streetclip": World.train_street,
    "train_parts": World.train_parts,
    "train_place": World.train_place,
    "train_tiles": World.train_tiles,
}
TOOLS = {
    "predict": World.predict,
    "evaluate": World.evaluate,
    "index_places": World.index,
    "convert_parts": World.convert_parts,
    "push": lambda w: Command("push", [w.model("street"), "org/x"]),
}


def flags(entry, *words):
    return lambda world: entry(world).plus(*words)


def config(entry, text, name="run.yaml"):
    """The command with a YAML file that holds this; None writes no file."""

    def build(world):
        command = entry(world)
        if text is not None:
            path = world.folder / name
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return command.plus("--config", world.folder / name)

    return build


# what the one parser and its arguments refuse for all recipes
PARSED_FLAGS = [
    (["--learning_rat", "1"], ["--learning_rat", "learning_rate"]),
    (["--learning_rate", "fast"], ["learning_rate", "fast"]),
    (["--learning_rate"], ["learning_rate", "expected one argument"]),
    (["--num_train_epochs", "two"], ["num_train_epochs", "two"]),
    (["--eval_strategy", "sometimes"], ["sometimes"]),
    (["--lr_scheduler_type", "zigzag"], ["zigzag"]),
    (["--optim", "sgdd"], ["sgdd"]),
    (["--per_device_train_batch_size", "-4"], ["per_device_train_batch_size", "-4"]),
    (["--per_device_train_batch_size", "0"], ["per_device_train_batch_size", "0"]),
    (["--per_device_eval_batch_size", "-4"], ["per_device_eval_batch_size", "-4"]),
    (["--gradient_accumulation_steps", "0"], ["gradient_accumulation_steps", "0"]),
    (["--num_train_epochs", "-1", "--max_steps", "-1"], ["num_train_epochs", "-1"]),
    (["--learning_rate", "-1"], ["learning_rate", "-1"]),
    (["--learning_rate", "nan"], ["learning_rate", "nan"]),
    (["--bf16", "true", "--fp16", "true"], ["fp16"]),
    (["--push_to_hub", "--hub_model_id", "a/b/c"], ["a/b/c"]),
    (["--report_to", "blackboard"], ["blackboard"]),
    (["stray"], ["stray"]),
]  # fmt: skip
# what each task looks at by itself
TASK_FLAGS = [
    (["--split", "sideways"], ["split", "sideways"]),
    (["--on_error", "ignore"], ["on_error", "ignore"]),
    (["--image_size", "-32"], ["image_size", "-32"]),
    (["--validation_share", "1.5"], ["validation"]),
    (["--validation_share", "-0.1"], ["validation"]),
    (["--seed", "-1"], ["seed", "-1"]),
]  # fmt: skip
YAMLS = [
    ("an unknown key", "learning_rat: 1\n", ["run.yaml", "'learning_rat'", "did you mean 'learning_rate'"]),
    ("a wrong type", "num_train_epochs: many\n", ["num_train_epochs", "many"]),
    ("a mapping for a number", "num_train_epochs: {a: 1}\n", ["num_train_epochs"]),
    ("a list for a number", "learning_rate: [1, 2]\n", ["2"]),
    ("no mapping", "- learning_rate\n", ["run.yaml", "name: value"]),
    ("text alone", "hello\n", ["run.yaml", "name: value"]),
    ("an empty file", "", ["run.yaml", "name: value"]),
    ("broken YAML", "a: [1\nb: }", ["run.yaml", "not YAML"]),
    ("a key that is a list", "[a, b]: 1\n", ["run.yaml"]),
    ("binary", b"\x89PNG\xff", ["run.yaml", "UTF-8"]),
    ("no file", None, ["run.yaml", "No such file"]),
    ("a config in a config", "config: other.yaml\n", ["run.yaml", "'config'"]),
    ("a Python object", "seed: !!python/object/apply:os.system ['touch hacked']\n", ["run.yaml", "python/object/apply"]),
    ("a Python module", "seed: !!python/name:os.system\n", ["run.yaml", "python/name"]),
    ("an alias that grows", "a: &a [1,1]\nb: &b [*a,*a]\nseed: *b\n", ["run.yaml"]),
]  # fmt: skip
OF_TASKS = [
    Case("region: planar haversine", flags(World.train_region, "--frame", "planar", "--point_loss", "haversine"), ["point_loss", "haversine"]),
    Case("region: a scaler that is none", flags(World.train_region, "--scaler", "cubic"), ["scaler", "cubic"]),
    Case("region: shares of more than all", flags(World.train_region, "--validation_share", 0.6, "--test_share", 0.5), ["validation_share"]),
    Case("region: nothing to measure on", flags(World.train_region, "--test_share", 0), ["test_share"]),
    Case("region: augment", flags(World.train_region, "--augment", "wild"), ["augment", "wild"]),
    Case("region: percentiles swapped", flags(World.train_region, "--percentile_low", 99, "--percentile_high", 1), ["percentile"]),
    Case("region: start from nothing", flags(World.train_region, "--start_from", "no/where"), ["no/where"]),
    Case("region: start from a street model", lambda w: w.train_region().plus("--start_from", w.model("street")), ["street", "GeoStreetModel", "GeoRegionModel"]),
    Case("region: start with a region that it has not", lambda w: w.train_region().plus("--start_from", w.model("region"), "--regions", "99"), ["'99'"]),
    Case("region: start in the other frame", lambda w: w.train_region().plus("--start_from", w.model("region"), "--frame", "planar"), ["wgs84", "planar"]),
    Case("street: no validation", flags(World.train_street, "--validation_share", 0), ["validation_share"]),
    Case("street: fusion", flags(World.train_street, "--fusion", "nuclear"), ["nuclear"]),
    Case("street: finetune", flags(World.train_street, "--finetune", "some"), ["finetune", "some"]),
    Case("street: smoothing", flags(World.train_street, "--smoothing", "sand"), ["smoothing", "sand"]),
    Case("street: gps_loss", flags(World.train_street, "--gps_loss", "l7"), ["gps_loss", "l7"]),
    Case("street: gps_head", flags(World.train_street, "--gps_head", "two"), ["gps_head", "two"]),
    Case("street: outlines that are not there", flags(World.train_street, "--outlines", "no.geojson"), ["no.geojson"]),
    Case("street: a backbone that nobody knows", flags(World.train_street, "--backbone", "resnot50"), ["resnot50"]),
    Case("street: a backbone of the Hub that is not there", flags(World.train_street, "--backbone", "org/none"), ["org/none"]),
    Case("parts: absent", flags(World.train_parts, "--absent", "maybe"), ["absent", "maybe"]),
    Case("parts: overrides that are no JSON", flags(World.train_parts, "--config_overrides", "{a"), ["config_overrides"]),
    Case("parts: overrides that nobody knows", flags(World.train_parts, "--config_overrides", '{"anchors": 7}'), ["anchors"]),
    Case("parts: overrides of a wrong type", flags(World.train_parts, "--config_overrides", '{"roi_size": "big"}'), ["roi_size"]),
    Case("parts: overrides that are a list", flags(World.train_parts, "--config_overrides", "[1]"), ["config_overrides"]),
    Case("parts: a size that is no multiple of 32", flags(World.train_parts, "--image_size", 50, 50), ["image_size", "50"]),
    Case("parts: trust beyond 1", flags(World.train_parts, "--min_trust", 3), ["min_trust", "3"]),
    Case("parts: a metric that nobody computes", flags(World.train_parts, "--metric_for_best_model", "beauty"), ["beauty"]),
    Case("parts: metrics not batch by batch", flags(World.train_parts, "--batch_eval_metrics", "false"), ["batch_eval_metrics"]),
    Case("place: methods", flags(World.train_place, "--methods", "theirs"), ["methods", "theirs"]),
    Case("place: audit", flags(World.train_place, "--audit", "lenient"), ["audit", "lenient"]),
    Case("place: mining", flags(World.train_place, "--audit", "off", "--mining", "gold"), ["mining", "gold"]),
    Case("place: pooling", flags(World.train_place, "--audit", "off", "--pooling", "car"), ["pooling", "car"]),
    Case("place: radii", flags(World.train_place, "--audit", "off", "--radii_m", "-5"), ["radii_m", "-5"]),
    Case("place: negatives nearer than positives", flags(World.train_place, "--audit", "off", "--positive_m", 50, "--negative_m", 5), ["negative_m", "positive_m"]),
    Case("tiles: one label", flags(World.train_tiles, "--labels", 2021), ["labels"]),
    Case("tiles: labels twice", flags(World.train_tiles, "--labels", 2021, 2021), ["labels"]),
    Case("tiles: encoder", flags(World.train_tiles, "--encoder", "gru9"), ["encoder", "gru9"]),
    Case("tiles: attention without a backbone", flags(World.train_tiles, "--encoder", "attention"), ["--backbone"]),
    Case("tiles: leaks", flags(World.train_tiles, "--split", "random"), ["leak"]),
    Case("tiles: task", flags(World.train_tiles, "--task", "guess"), ["task", "guess"]),
    Case("tiles: kernel sizes", flags(World.train_tiles, "--kernel_sizes", 3, 3, 3, 3, 3), ["kernel_sizes"]),
    Case("tiles: coverage", flags(World.train_tiles, "--coverage", 1.5), ["coverage"]),
    Case("tiles: frames", flags(World.train_tiles, "--frames", "-3"), ["frames", "-3"]),
    Case("tiles: images that are not there", flags(World.train_tiles, "--image_dir", "nowhere"), ["nowhere", "no such folder"]),
    Case("predict: no output", lambda w: Command("predict", w.predict().words[:2]), ["--output"]),
    Case("predict: no inputs", lambda w: Command("predict", [w.model("street"), "--output", "a.csv"]), ["one input or more"]),
    Case("predict: nothing", lambda w: Command("predict", []), ["model"]),
    Case("predict: an option of another task", flags(World.predict, "--threshold", "0.5"), ["--threshold"]),
    Case("predict: a shortened flag", flags(World.predict, "--batch", "3"), ["--batch"]),
    Case("predict: no samples in a batch", flags(World.predict, "--batch_size", "0"), ["batch_size", "0"]),
    Case("predict: a negative batch", flags(World.predict, "--batch_size", "-2"), ["batch_size", "-2"]),
    Case("predict: a device that nobody has", flags(World.predict, "--device", "warp"), ["device", "warp"]),
    Case("predict: a GPU that is not there", flags(World.predict, "--device", "cuda:77"), ["cuda:77"]),
    Case("predict: the top 0", flags(World.predict, "--top_k", "0"), ["top_k"]),
    Case("predict: a threshold beyond 1", lambda w: w.predict("parts").plus("--threshold", 7), ["threshold", "7"]),
    Case("predict: an index that is not there", lambda w: w.predict("place").plus("--index", "no.parquet"), ["no.parquet", "no such index"]),
    Case("predict: an index that is a table", lambda w: w.predict("place").plus("--index", w.photos_table()), ["photos.csv"]),
    Case("predict: an index that is broken", lambda w: w.predict("place").plus("--index", _written(w, "a.parquet", b"PAR1")), ["a.parquet", "no place index"]),
    Case("predict: an index that is no index", lambda w: w.predict("place").plus("--index", w.model("street") / "model.safetensors"), ["model.safetensors", "no place index"]),
    Case("predict: GeoJSON of what has no place", lambda w: _ending(w.predict("place"), ".geojson"), ["answers.geojson", "no places"]),
    Case("predict: a region that the model has not", lambda w: w.predict("region").plus("--region", "99"), ["'99'"]),
    Case("evaluate: no samples in a batch", flags(World.evaluate, "--batch_size", "0"), ["batch_size", "0"]),
    Case("index: a model of another task", lambda w: Command("index_places", [w.model("street"), w.photos_table(), "--output", "a.parquet"]), ["street", "GeoStreetModel", "GeoPlaceModel"]),
    Case("convert: a share beyond 1", flags(World.convert_parts, "--validation", "1.5"), ["validation", "1.5"]),
    Case("convert: a layout that is none", flags(World.convert_parts, "--to", "tfrecord"), ["--to", "tfrecord"]),
    Case("convert: a source that is not there", lambda w: Command("convert_parts", [w.folder / "gone"]), ["gone"]),
    Case("push: a repo's name that is none", lambda w: Command("push", [w.model("street"), "a/b/c"]), ["a/b/c"]),
]  # fmt: skip


def _written(world, name, content):
    path = world.folder / name
    path.write_bytes(content)
    return path


def _ending(command, ending):
    command.words[3] = command.words[3].with_suffix(ending)
    return command


CASES = [
    Case(f"{name}: {' '.join(words)}", flags(entry, *words), says)
    for name, entry in RECIPES.items()
    for words, says in TASK_FLAGS
    if (name, words[0]) != ("train_place", "--split")  # it always holds out blocks
]
CASES += [
    # one parser reads them for all recipes, so each is tried at one, in turn
    Case(f"{name}: {what}", config(entry, text), says)
    for (name, entry), (what, text, says) in zip(cycle(RECIPES.items()), YAMLS, strict=False)
]
CASES += [
    Case(f"{name}: {' '.join(words)}", flags(entry, *words), says)
    for (name, entry), (words, says) in zip(cycle(RECIPES.items()), PARSED_FLAGS, strict=False)
]
CASES += [
    Case(f"{name}: an unknown flag", flags(entry, "--magic", "1"), ["--magic"])
    for name, entry in TOOLS.items()
]
CASES += OF_TASKS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_flags(case, world):
    world.refuses(case)
    assert not (world.folder / "hacked").exists()
