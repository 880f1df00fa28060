"""The phases of a training: each a Trainer of its own, what of the backbone learns in it, and whether it helped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file

from geohf.errors import DataError
from geohf.training.finetuning import unfreeze
from geohf.training.phase import PhaseTrainer
from geohf.training.settings import phase_arguments

logger = logging.getLogger(__name__)

# what people change in a Trainer, and what a phase's Trainer does here
OF_THE_LOOP = (
    "compute_loss",
    "training_step",
    "create_optimizer",
    "create_scheduler",
    "create_optimizer_and_scheduler",
    "get_train_dataloader",
)


class RunsPhases(PhaseTrainer):
    """The part of `GeoTrainer` that a task's `run_phases` calls."""

    phase_class: ClassVar[type[PhaseTrainer]]
    histories: dict[str, list[dict]]  # phase -> rows of its log
    adapter_of: str | None  # the phase that trained the adapter which is merged into the model
    frozen: bool  # the backbone is as it was when its features were cached
    _held: list[torch.nn.Parameter]
    _own_callbacks: list[Any]
    _of_whole_model: dict[str, Any]

    @property
    def _given(self) -> dict[str, Any]:
        """What the user gave, at the start or since, that goes into every phase."""
        callbacks = [one for one in self.callback_handler.callbacks if one not in self._own_callbacks]
        measures = {} if self._measures_its_own else {"compute_metrics": self.compute_metrics}
        return {"callbacks": callbacks, **measures}

    def _require_own_loop(self) -> None:
        """Raise DataError where a subclass changes the loop of training, which is not this Trainer's."""
        known = [vars(base) for base in (*RunsPhases.__mro__, *self.phase_class.__mro__)]
        for name in OF_THE_LOOP:
            if not any(getattr(type(self), name) is names.get(name) for names in known):
                raise DataError(
                    f"{type(self).__name__}.{name} would never be called: each phase trains with a "
                    f"{self.phase_class.__name__} of its own; put {name} into a subclass of that, and say phase_class = it"
                )

    def _given_for(self, module: torch.nn.Module) -> dict[str, Any]:
        """What the user gave: a collator and optimizers for the model do not fit a part of it."""
        return self._given | (self._of_whole_model if _is_whole(module) else {})

    def _hold_frozen(self) -> None:
        """Note what a user has frozen by hand (`requires_grad_(False)`)."""
        own = set(self.model.tower.parameters()) if self.model.starts_frozen else set()
        self._held = [p for p in self.model.parameters() if not p.requires_grad and p not in own]

    def _tell_of_woken(self, learner: torch.nn.Module) -> None:
        """Say where options let weights learn that a user has frozen: two ways to say it, and these win."""
        known = {id(parameter) for parameter in self._held}
        woken = {id(p) for p in learner.parameters() if p.requires_grad and id(p) in known}
        if woken:
            logger.warning(
                "%d weights came with requires_grad False, and learn all the same: --%s says what of a backbone learns",
                *(len(woken), "finetune" if hasattr(self.args, "finetune") else "trained_stages"),
            )
        self._held = [parameter for parameter in self._held if id(parameter) not in woken]

    def _release(self) -> None:
        """Let all weights learn again but those that a user has frozen, and no phase has let learn."""
        self.model.requires_grad_(True)
        for parameter in self._held:
            parameter.requires_grad_(False)

    def run_phase(
        self,
        name: str,
        module: torch.nn.Module | None = None,
        train=None,
        evaluation=None,
        resume: bool = False,
        default_metric: str | None = None,
        extras: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Any:
        """Train one phase to its end.

        Args:
            module: what learns; the model where None.
            train, evaluation: the phase's datasets; the Trainer's own where None.
            default_metric: chooses the best checkpoint where the user named none.
            extras: more keyword arguments of `phase_class`.
            changes: arguments that differ in this phase.

        Returns:
            Its Trainer, of `phase_class`, whose module has the weights to keep.
        """
        learner = self.model if module is None else module
        self._tell_of_woken(learner)
        if _is_whole(learner):
            name_there = self.args.hub_model_id or self.run_folder.name
            changes |= {"push_to_hub": self.args.push_to_hub, "hub_model_id": name_there}
        if self.eval_dataset is None:
            changes |= {"eval_strategy": "no", "load_best_model_at_end": False}
        phase = self.phase_class(
            learner,
            phase_arguments(self.args, name, default_metric, **changes),
            train_dataset=self.train_dataset if train is None else train,
            eval_dataset=self.eval_dataset if evaluation is None else evaluation,
            **self._given_for(learner) | dict(extras or {}),
        )
        phase.run(resume)
        self.histories[name] = phase.state.log_history
        return phase

    def finetune(
        self,
        name: str,
        resume: bool = False,
        default_metric: str | None = None,
        part: torch.nn.Module | None = None,
        **changes: Any,
    ) -> Any:
        """The phase in which as much of the backbone learns as `args.finetune` says, with what stands on it.

        The model of before is saved first, see `base_folder`: adapters belong to it, and `restore` takes it again.

        Args:
            part: of the model, learns alone; nothing is saved then.
        """
        base, lora = self.base_folder(name), self.args.finetune == "lora"
        if part is None and self.args.should_save:
            self.model.save_pretrained(base)
        if part is None and lora:
            # peft writes it into the adapter, as the model that it belongs to
            self.model.name_or_path = str(base)
        trained: Any = unfreeze(self.model if part is None else part, self.args)
        phase = self.run_phase(name, trained, resume=resume, default_metric=default_metric, **changes)
        if lora:
            if part is None and self.is_world_process_zero():
                trained.save_pretrained(self.run_folder / "adapter")
            merged = trained.merge_and_unload()
            if part is None:
                self._take(merged)
                self.adapter_of = name
        self.model.requires_grad_(True).eval()
        self.frozen = False
        return phase

    def measuring(self, module: torch.nn.Module, default_metric: str | None = None, **extras: Any) -> Any:
        """A Trainer of `phase_class` for a module as it is, which saves nothing; see `run_phase`."""
        plain = phase_arguments(self.args, "", default_metric, eval_strategy="no", save_strategy="no")
        return self.phase_class(module, plain, **extras)

    def score(
        self, module: torch.nn.Module, rows: Any, default_metric: str | None = None, **extras: Any
    ) -> float:
        """The metric that chooses checkpoints, of a module as it is on these rows, as large-is-better; see `run_phase`."""
        phase = self.measuring(module, default_metric, eval_dataset=rows, **self._given_for(module) | extras)
        phase.state.log_history = [phase.predict(rows, metric_key_prefix="eval").metrics or {}]
        return phase.best_score()

    def score_after(
        self, phase: Any, module: torch.nn.Module, rows: Any, default_metric: str | None = None, **extras: Any
    ) -> float:
        """As `score`, of the weights that a phase left, if there was one: its best, where it evaluated and took them again."""
        if phase is not None and phase.args.load_best_model_at_end and phase.best_row() is not None:
            return phase.best_score()
        return self.score(module, rows, default_metric, **extras)

    def base_folder(self, name: str) -> Path:
        """Where `finetune` saves the model as it was before the phase."""
        return self.run_folder / "checkpoints" / f"before-{name}"

    def restore(self, name: str) -> None:
        """Take the weights of before a phase again; the object stays the same."""
        self.model.load_state_dict(load_file(self.base_folder(name) / "model.safetensors"))
        self.frozen, self.adapter_of = True, None

    def _take(self, model) -> None:
        self.model = self.model_wrapped = model
        if self.place_model_on_device:
            self._move_model_to_device(model, self.args.device)


def _is_whole(module: Any) -> bool:
    """Whether a module is a model, perhaps with adapters, and no part of one."""
    base = module.get_base_model() if hasattr(module, "peft_config") else module
    return hasattr(base, "config_class")
