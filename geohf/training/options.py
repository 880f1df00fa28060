"""Arguments that several tasks share: a field's name, type and help stand here once.

A task's dataclass inherits from these; where its default is another one it says
`validation_share: float = with_default(SplitArguments, "validation_share", 0.15)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from geohf.errors import ON_ERROR, DataError, require_choice, require_whole
from geohf.training.arguments import GeoTrainingArguments, argument
from geohf.vision.preprocessing import FITS

FINETUNE = ("all", "last", "lora", "none")


def with_default(holder: type, name: str, default: Any) -> Any:
    """A field that `holder` has, with its help and another default.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Rows(SplitArguments):
    ...     test_share: float = with_default(SplitArguments, "test_share", 0.2)
    >>> Rows()
    Rows(validation_share=0.1, test_share=0.2)
    """
    (known,) = (known for known in fields(holder) if known.name == name)
    return field(default=default, metadata=known.metadata)


@dataclass
class SplitArguments:
    """How many rows are held out."""

    row_word: ClassVar[str] = "rows"

    validation_share: float = argument(
        0.1, "Share of the training rows for choosing the best weights and calibrating."
    )
    test_share: float = argument(
        0.1, "Share for the reported numbers where the data have no test rows; 0: report on validation."
    )

    def __post_init__(self) -> None:
        shares = self.validation_share, self.test_share
        if not min(shares) >= 0 or not sum(shares) < 1:
            raise DataError(
                f"validation_share and test_share must leave {self.row_word} to train on, got {shares}"
            )


@dataclass
class DataArguments(SplitArguments):
    """What happens to rows that cannot be used, and how many are held out."""

    on_error: str = argument("raise", "Rows that cannot be used: raise, or skip and list them.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(ON_ERROR, on_error=self.on_error)


@dataclass
class StreamingArguments:
    """Whether training rows are read as they are needed, instead of all beforehand."""

    streaming: bool = argument(
        False,
        "Read training rows as they are needed, until --max_steps, from tables that memory does not hold; "
        "held-out rows are kept on the disk.",
    )
    buffer_size: int = argument(
        1000, "Rows that --streaming true draws the next one from; 0: in the table's order."
    )

    def require_steps(self, args: GeoTrainingArguments) -> None:
        """Raise DataError, before anything is read, where a stream's end is not said."""
        if self.streaming and args.max_steps <= 0:
            raise DataError("--streaming true needs --max_steps: a stream is read as often as these take")


@dataclass
class BackboneArguments:
    """Where the weights of the backbone come from."""

    backbone_weights: str | None = argument(
        None,
        "File of weights for the backbone instead of its published ones: .safetensors, or .pth and .bin "
        "as tensors alone.",
    )
    pretrained: bool | None = argument(
        None, "Load the backbone's published weights; default: yes, but not for the sample's tiny one."
    )


@dataclass
class PhotoArguments(DataArguments, BackboneArguments):
    """Of a task of photographs of places: what the backbone sees of them, and what the run's map shows."""

    fit: str | None = argument(
        None,
        "What is seen of a picture: squeeze or pad (all of it), or crop (its middle); default: as the "
        "backbone was published, for place squeeze.",
    )
    thumbnails: int = argument(
        0, "Of how many held-out rows map.html holds small photographs, which a push uploads with it."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice((*FITS, None), fit=self.fit)
        require_whole(0, thumbnails=self.thumbnails)


@dataclass
class HeadingArguments:
    """Whether the model tells which way a camera looked."""

    predict_heading: bool = argument(
        False, "Learn to tell which way each photograph looks, where the rows say so."
    )


@dataclass
class FinetuneArguments(GeoTrainingArguments):
    """How much of the backbone learns, once the heads have learned on its frozen features."""

    finetune: str = argument("all", f"What learns of the backbone: {', '.join(FINETUNE)}.")
    finetune_blocks: int = argument(6, "Blocks that --finetune last unfreezes.")
    lora_rank: int = argument(8, "Rank of the adapters of --finetune lora.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(FINETUNE, finetune=self.finetune)


@dataclass
class HeadFirstArguments(FinetuneArguments):
    """FinetuneArguments of a task whose heads learn alone before a backbone that learns with them."""

    backbone_epochs: ClassVar[float]  # what `num_train_epochs` is where the backbone learns and nobody said

    head_epochs: float = argument(
        5.0, "Epochs of the heads alone, on the frozen backbone's features, before a backbone that learns."
    )
    # transformers declares it as float: None is settled before it is read
    num_train_epochs: float | None = argument(  # type: ignore[assignment]
        None,
        "Epochs of the training with what --finetune lets learn. By default as many as --head_epochs "
        "where that is the heads alone, and fewer or more, as the task needs, where the backbone learns.",
    )

    def __post_init__(self) -> None:
        if self.num_train_epochs is None:
            self.num_train_epochs = self.head_epochs if self.finetune == "none" else self.backbone_epochs
        super().__post_init__()

    @property
    def epochs_of_heads(self) -> float:
        """Of the phase in which the heads learn alone: the whole training, where the backbone is frozen."""
        return (self.num_train_epochs or 0.0) if self.finetune == "none" else self.head_epochs

    @property
    def finetunes(self) -> bool:
        """Whether a phase with the backbone follows."""
        return self.finetune != "none" and bool(self.num_train_epochs)
