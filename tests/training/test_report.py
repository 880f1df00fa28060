"""What a run leaves of its way."""

from helpers.five_tasks import rows_of, trainer_of

from geohf.training.report import write_history, write_report


def test_a_run_that_logged_and_evaluated_nothing_has_a_history_and_no_curves(tmp_path):
    """As with `--eval_strategy no --logging_strategy no`: only the end is a row."""
    end = {"phase": "train", "step": 5, "epoch": 1.0, "train_loss": 1.25, "total_flos": 0.0}
    write_history(tmp_path, [end], ("map",))
    assert (tmp_path / "log_history.csv").read_text().splitlines()[1].startswith("train,5,1")
    assert not (tmp_path / "learning_curves.png").exists()
    write_history(tmp_path, [{"phase": "train", "step": 5, "loss": 2.5}, end], ("map",))
    assert (tmp_path / "learning_curves.png").is_file()


def test_what_an_earlier_run_left_in_the_folder_is_not_taken_for_this_ones(tmp_path):
    for name in ("filmstrip.png", "predictions.geojson", "skipped.csv", "mine.png", "metrics.json"):
        (tmp_path / name).write_bytes(b"of an earlier run")
    trainer = trainer_of("tiles", tmp_path)
    write_report(trainer, trainer.evaluate(rows_of("tiles")))
    assert "filmstrip" not in (tmp_path / "README.md").read_text()
    assert {"filmstrip.png", "predictions.geojson", "skipped.csv"}.isdisjoint(
        p.name for p in tmp_path.iterdir()
    )
    assert (tmp_path / "mine.png").is_file()


def test_files_of_a_folder_without_a_report_are_the_users_and_skipped_rows_stay_in_a_second_report(tmp_path):
    (tmp_path / "map.html").write_text("mine")
    trainer, rows = trainer_of("tiles", tmp_path), rows_of("tiles")
    skipped = [{"source": "a.csv", "row": 2, "reason": "is empty"}]
    write_report(trainer, trainer.evaluate(rows), skipped)
    assert (tmp_path / "map.html").read_text() == "mine"
    write_report(trainer, trainer.evaluate(rows))  # as a push does after another `evaluate`
    assert "is empty" in (tmp_path / "skipped.csv").read_text()
