"""Flags and YAML: they mix, flags win, and what no argument is called is an error."""

from dataclasses import dataclass, field, fields
from pathlib import Path

import pytest

from geohf.errors import DataError
from geohf.training.arguments import GeoTrainingArguments
from geohf.training.parser import GeoArgumentParser


@dataclass
class Options:
    name: str = field(default="a", metadata={"help": "A name."})
    backbone_name: str | None = field(default="resnet", metadata={"help": "A name that may be None."})
    scale: float = field(default=1.0, metadata={"help": "A number."})
    steps: int = field(default=3, metadata={"help": "A whole number."})
    flag: bool = field(default=False, metadata={"help": "A switch."})
    on: bool = field(default=True, metadata={"help": "A switch that is on."})
    sizes: list[int] = field(default_factory=lambda: [1], metadata={"help": "Several."})
    settings: dict | str | None = field(default=None, metadata={"help": "A mapping."})


@pytest.fixture
def parse(tmp_path):
    def parse(yaml=None, *flags, kind=Options):
        words = list(flags)
        if yaml is not None:
            (tmp_path / "run.yaml").write_text(yaml)
            words = ["--config", str(tmp_path / "run.yaml"), *words]
        return GeoArgumentParser(kind).parse(words)[0]

    return parse


def test_without_anything_the_defaults_stand(parse):
    assert parse() == Options()


def test_the_file_and_flags_mix_and_flags_win_wherever_they_stand(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("name: file\nsteps: 7\n")
    for words in (["--config", path, "--name", "flag"], ["--name=flag", f"--config={path}"]):
        (options,) = GeoArgumentParser(Options).parse(list(map(str, words)))
        assert (options.name, options.steps, options.scale) == ("flag", 7, 1.0)


def test_the_command_line_is_read_where_no_words_are_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["recipe.py", "--steps", "9"])
    assert GeoArgumentParser(Options).parse()[0].steps == 9


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "0.0001", "1.0e-4", "+1e-4"])
def test_numbers_may_be_written_as_people_write_them(parse, text):
    assert parse(f"scale: {text}\n").scale == 1e-4


@pytest.mark.parametrize(("text", "value"), [("010", 10), ("-007", -7), ("1_000", 1000)])
def test_whole_numbers_are_decimal(parse, text, value):
    assert parse(f"steps: {text}\n").steps == value


def test_a_time_of_day_stays_as_it_is_written(parse):
    assert parse("name: 12:30\n").name == "12:30"


def test_negative_numbers_and_text_that_looks_like_a_flag_are_values(parse):
    options = parse("scale: -1e-4\nsteps: -5\nname: --odd\n")
    assert (options.scale, options.steps, options.name) == (-1e-4, -5, "--odd")


@pytest.mark.parametrize(
    ("text", "expected"), [("true", True), ("false", False), ("yes", True), ("no", False)]
)
def test_switches_go_both_ways(parse, text, expected):
    options = parse(f"flag: {text}\non: {text}\n")
    assert options.flag is options.on is expected


def test_a_switch_in_the_file_is_turned_by_a_flag(parse):
    assert parse("on: true\n", "--no_on").on is False
    assert parse("flag: true\n", "--flag", "false").flag is False


def test_the_word_no_stays_a_word_where_words_are_wanted(parse, tmp_path):
    yaml = f"output_dir: {tmp_path}\neval_strategy: no\nsave_strategy: no\nload_best_model_at_end: false\nuse_cpu: true\n"
    args = parse(yaml, kind=GeoTrainingArguments)
    assert (args.eval_strategy, args.save_strategy) == ("no", "no")


def test_lists_and_mappings_arrive_whole(parse):
    options = parse("sizes: [3, 4, 5]\nsettings: {min_lr: 1e-7}\n")
    assert options.sizes == [3, 4, 5]
    assert '{"min_lr": 1e-07}' in str(options.settings).replace("'", '"')
    assert parse("sizes: [3, 4]\n", "--sizes", "9").sizes == [9]


def test_null_takes_a_default_away_and_a_flag_gives_it_back(parse):
    assert parse("backbone_name: null\n").backbone_name is None
    assert parse("backbone_name:\n", "--backbone_name", "vit").backbone_name == "vit"


def test_a_parser_forgets_the_file_of_its_last_call(tmp_path):
    (tmp_path / "run.yaml").write_text("backbone_name: null\n")
    parser = GeoArgumentParser(Options)
    assert parser.parse(["--config", str(tmp_path / "run.yaml")])[0].backbone_name is None
    assert parser.parse([])[0] == Options()


@pytest.mark.parametrize("words", [["--config", "a.yaml", "--config=b.yaml"], ["--config=a.yaml"] * 2])
def test_of_two_files_none_is_passed_over(words):
    with pytest.raises(DataError, match="more than once"):
        GeoArgumentParser(Options).parse(words)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("stesp: 3\n", r"unknown key 'stesp' \(did you mean 'steps'\?\)"),
        ("zzzzzz: 3\n", "unknown key 'zzzzzz'$"),
        ("config: other.yaml\n", "unknown key 'config'"),
        ("3: 3\n", "unknown key 3"),
        ("- steps\n- 3\n", "must hold `name: value` lines"),
        ("just text", "must hold `name: value` lines"),
        ("", "must hold `name: value` lines"),
        ("steps: [3\n", "is not YAML"),
        ("steps: !!python/object/apply:os.getcwd []\n", "is not YAML"),
        ("steps: 3\nname: a\nsteps: 4\n", "line 3 says steps once more"),
        ("backbone_name: a\nbackbone-name: b\n", "line 2 says backbone-name once more"),
        ("settings: {min_lr: 1, min_lr: 2}\n", "line 1 says min_lr once more"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(parse, yaml, message):
    with pytest.raises(DataError, match=message) as caught:
        parse(yaml)
    assert "run.yaml" in str(caught.value)


def test_missing_and_binary_files_are_named(tmp_path):
    parser = GeoArgumentParser(Options)
    for name in ("absent.yaml", "."):
        with pytest.raises(DataError, match="cannot be read"):
            parser.parse(["--config", str(tmp_path / name)])
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not UTF-8"):
        parser.parse(["--config", str(tmp_path / "binary.yaml")])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stesp", "3"], r"unknown argument '--stesp' \(did you mean 'steps'\?\)"),
        (["--step=3"], r"unknown argument '--step=3' \(did you mean 'steps'"),
        (["--conf", "x.yaml"], "unknown argument '--conf'"),  # shortened, it would not be read
        (["3"], "unknown argument '3'"),
    ],
)
def test_unknown_flags_are_errors_also_shortened_ones(words, message):
    with pytest.raises(DataError, match=message):
        GeoArgumentParser(Options).parse(words)


@pytest.mark.parametrize("words", [["--steps", "many"], ["--config"]])
def test_wrong_values_end_the_run_and_name_the_flag(words, capsys):
    with pytest.raises(SystemExit) as caught:
        GeoArgumentParser(Options).parse(words)
    assert caught.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_several_dataclasses_share_one_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(f"steps: 5\nlearning_rate: 1e-3\noutput_dir: {tmp_path}\nuse_cpu: true\n")
    options, args = GeoArgumentParser(Options, GeoTrainingArguments).parse(
        ["--config", str(path), "--seed", "7"]
    )
    assert options.steps == 5
    assert (args.learning_rate, args.seed, args.output_dir) == (1e-3, 7, str(tmp_path))


# Training arguments


def test_defaults_are_those_that_geohf_documents(tmp_path):
    args = GeoTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert (args.eval_strategy, args.save_strategy, args.logging_strategy) == ("epoch",) * 3
    assert args.report_to == []
    assert args.optim == "adamw_torch_fused"
    assert args.lr_scheduler_type == "cosine"
    assert not args.logging_nan_inf_filter
    assert not args.remove_unused_columns


def test_half_precision_is_never_chosen_on_a_cpu(tmp_path):
    assert GeoTrainingArguments(output_dir=str(tmp_path), use_cpu=True).bf16 is False
    assert GeoTrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=True).bf16 is True


def test_processes_that_nothing_joins_do_not_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DataError, match=r"2 processes were launched and no GPU joins them; .*--use_cpu true"):
        GeoTrainingArguments(output_dir=str(tmp_path))


def test_every_argument_of_a_task_has_help():
    for name, spec in ((f.name, f) for f in fields(GeoTrainingArguments)):
        if name in GeoTrainingArguments.__annotations__:
            assert spec.metadata.get("help", "").endswith("."), name


def test_shipped_configs_hold_only_known_keys():
    from geohf.street.arguments import StreetArguments, StreetTrainingArguments

    configs = Path(__file__).parents[2] / "recipes" / "configs"
    parser = GeoArgumentParser(StreetArguments, StreetTrainingArguments)
    _, args = parser.parse([f"--config={configs / 'street.yaml'}", "--use_cpu"])
    assert args.lr_scheduler_kwargs["min_lr"] == pytest.approx(1e-7)
    assert isinstance(args.lr_scheduler_kwargs["min_lr"], float)
