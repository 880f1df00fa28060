"""Annotations of parts from one layout to another: COCO, DelftBikes, CVAT, Label Studio, YOLO and Pascal VOC, states too.

    python recipes/convert_parts.py data/delftbikes --to coco --validation 0.125   # train_coco.json, val_coco.json
    python recipes/convert_parts.py export.xml --images photos --to yolo --folder data/yolo
    python recipes/convert_parts.py answers.csv --images photos --to label_studio   # what a model found, as a start

Prints what was written: photos, boxes, and how many of them are in which state. The photos stay where they are; those of
YOLO and VOC are copied into the folders that these layouts want.
"""

import argparse
from pathlib import Path

from geohf.parts.convert import LAYOUTS, convert
from geohf.recipes.parsing import add_on_error, command_parser
from geohf.recipes.running import run_recipe
from geohf.report.tables import markdown_table


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = command_parser(__doc__)
    parser.add_argument("source", help="A folder or a file of annotations, or a table of answers.")
    parser.add_argument("--to", default="coco", choices=tuple(LAYOUTS), help="The layout to write.")
    parser.add_argument("--folder", help="Where the files go; by default the source's own folder.")
    parser.add_argument("--images", help="Folder of the photos, where it is not beside the annotations.")
    parser.add_argument(
        "--state_attribute", help="The attribute that is a box's state; default: state or condition."
    )
    parser.add_argument("--attributes", nargs="+", default=(), help="Attributes of a box beside its state.")
    parser.add_argument("--validation", type=float, default=0.0, help="Share of train to hold out.")
    parser.add_argument("--seed", type=int, default=42, help="Of the held-out share.")
    parser.add_argument("--min_trust", type=float, default=0.0, help="Leave out parts trusted less, 0 to 1.")
    parser.add_argument("--truths", help="A COCO file whose ids answers get, as COCO's results.")
    add_on_error(parser)
    return parser


def main() -> None:
    """Run the command with the arguments of the command line."""
    args = make_parser().parse_args()
    source = Path(args.source)
    folder = args.folder or (source if source.is_dir() else source.parent)
    keys = ("images", "min_trust", "on_error", "state_attribute", "attributes")
    loading = {key: getattr(args, key) for key in keys}
    statistics = convert(source, folder, args.to, args.validation, args.seed, args.truths, **loading)
    rows = (
        {"split": split, "images": counts["images"], "annotations": counts["annotations"], **counts["states"]}
        for split, counts in statistics.items()
    )
    print(markdown_table(rows))


if __name__ == "__main__":
    run_recipe(main)
