"""What geohf overrides and calls of transformers' private methods, which any of its releases may change.

This is the one table of them. Where a new release renames one or gives it other parameters, it fails here, before
checkpoints or pushes do something else without a word: look at the method that is named, then mend the table.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import pytest
from transformers import Pipeline, PreTrainedModel, Trainer
from transformers.image_processing_backends import TorchvisionBackend

import geohf

# method of transformers -> its parameters
OVERRIDDEN = {
    "Trainer._determine_best_metric": "self metrics trial",
    "Trainer._evaluate": "self trial ignore_keys_for_eval skip_scheduler",
    "Trainer._finalize_training": "self trial num_train_samples start_time",
    "Trainer._get_grad_norm": "self model grad_norm",
    "Trainer._get_num_items_in_batch": "self batch_samples device",
    "Trainer._get_train_sampler": "self train_dataset",
    "Trainer._init_training_state": "self max_steps num_update_steps_per_epoch num_train_epochs resume_from_checkpoint trial",
    "Trainer._issue_warnings_after_load": "self load_result",
    "Trainer._load_from_checkpoint": "self resume_from_checkpoint model",
    "Trainer._load_optimizer_and_scheduler": "self checkpoint",
    "Trainer._load_rng_state": "self checkpoint",
    "Trainer._load_scaler": "self checkpoint",
    "Trainer._prepare_for_training": "self max_steps train_dataloader resume_from_checkpoint",
    "Trainer._push_from_checkpoint": "self checkpoint_folder",
    "Trainer._save": "self output_dir state_dict",
    "Trainer._save_checkpoint": "self model trial",
    "Trainer._save_optimizer_and_scheduler": "self output_dir",
    "Trainer._save_rng_state": "self output_dir",
    "Trainer._save_scaler": "self output_dir",
    "PreTrainedModel._init_weights": "self module",
    "PreTrainedModel._load_pretrained_model": "model state_dict checkpoint_files load_config expected_keys",
    "Pipeline._forward": "self input_tensors forward_parameters",
    "Pipeline._sanitize_parameters": "self pipeline_parameters",
}
CALLED = {
    "Trainer._finish_current_push": "self",
    "Trainer._get_output_dir": "self trial",
    "Trainer._hp_search_setup": "self trial",
    "Trainer._move_model_to_device": "self model device",
    "PreTrainedModel._from_config": "config kwargs",
    "TorchvisionBackend._standardize_kwargs": "self size crop_size pad_size default_to_square image_mean image_std kwargs",
    "TorchvisionBackend._validate_preprocess_kwargs": "self do_rescale rescale_factor do_normalize image_mean image_std do_resize size do_center_crop crop_size resample kwargs",
}
OWNERS = {kind.__name__: kind for kind in (Trainer, PreTrainedModel, Pipeline, TorchvisionBackend)}


def parameters(name: str) -> str:
    owner, _, method = name.partition(".")
    return " ".join(inspect.signature(getattr(OWNERS[owner], method)).parameters)


def overridden() -> dict[str, list[str]]:
    """Private methods of transformers -> the classes of geohf that define them anew."""
    found: dict[str, list[str]] = {}
    kinds = set()
    for module in pkgutil.walk_packages(geohf.__path__, "geohf."):
        if not module.name.startswith(("geohf.recipes.", "geohf.integrations.")):
            content = vars(importlib.import_module(module.name)).values()
            kinds |= {
                kind for kind in content if inspect.isclass(kind) and kind.__module__.startswith("geohf.")
            }
    for kind in kinds:
        private = [
            name
            for name, part in vars(kind).items()
            if name[0] == "_" != name[1] and callable(getattr(kind, name))
        ]
        for name in private:
            for base in kind.__mro__[1:]:
                if base.__module__.startswith("transformers.") and name in vars(base):
                    found.setdefault(f"{base.__name__}.{name}", []).append(kind.__qualname__)
                    break
    return found


def test_the_table_names_every_private_method_that_is_overridden():
    found = overridden()
    assert {name: found[name] for name in found if name not in OVERRIDDEN} == {}, "add them to the table"
    gone = sorted(OVERRIDDEN.keys() - found.keys())
    assert not gone, (
        f"transformers has these no more, and what geohf has by these names is never called: {gone}"
    )


@pytest.mark.parametrize(("name", "expected"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_a_private_method_takes_what_geohf_gives_and_is_given(name, expected):
    assert parameters(name) == expected
