"""What the bad inputs are measured against: left alone, every command does its work."""

import pytest
from helpers.bad_world import World

COMMANDS = {
    "train_region": World.train_region,
    "train_streetclip": World.train_street,
    "train_parts": World.train_parts,
    "train_place": World.train_place,
    "train_tiles": World.train_tiles,
    "predict, street": World.predict,
    "predict, table": World.predict_table,
    "predict, region": lambda world: world.predict("region"),
    "predict, parts": lambda world: world.predict("parts"),
    "predict, place": lambda world: world.predict("place"),
    "predict, tiles": lambda world: world.predict("tiles"),
    "evaluate, street": World.evaluate,
    "evaluate, region": lambda world: world.evaluate("region"),
    "evaluate, parts": lambda world: world.evaluate("parts"),
    "evaluate, tiles": lambda world: world.evaluate("tiles"),
    "index_places": World.index,
    "convert_parts": World.convert_parts,
    "convert_parts, COCO": lambda world: world.convert_parts("coco"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_left_alone_the_command_does_its_work(name, world):
    command = COMMANDS[name](world)
    done = world.recipe(command.recipe, *command.words)
    assert done.returncode == 0, done.stderr
    assert any(world.out.iterdir())
