"""What a trial does with the components that its configuration chose by name: see `model_hub_rqa.components`."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from model_hub_rqa.components import Component, Components, read_components
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.objectives import Batch, Objective, Task, build_objective


class ChosenComponents:
    """The part of `BaseTransformerTrial` that puts registered components in the place of the trial's own; its methods
    may use whatever the trial has.

    Attributes:
        components: what the configuration chose.
        objective: the objective in place of `compute_loss`, or None.
        reference: a frozen copy of the initial model where the objective needs one: no part of checkpoints, made anew
            from the same initial weights after a resume, and not seen by DistributedDataParallel.
        set_settings: of each data set that a handler loaded, the settings that it brings along.
    """

    components = Components()
    objective: Objective | None = None
    reference: torch.nn.Module | None = None

    def parse_components(self: Any, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Raises ConfigError with every fault of plugins, names, arguments and of the objective's data sets."""
        self.components = read_components(hparams, data)
        self.set_settings: dict[str, Mapping[str, Any]] = {}
        self.objective = build_objective(self.components, *self.training_sets(data))
        if getattr(self.objective, "needs_reference", False) and not hasattr(self, "answer_log_probs"):
            raise ConfigError(
                f"hyperparameters.objective: {self.components.objective.name} needs the probabilities of answers, "
                f"which {type(self).__name__} does not give (answer_log_probs)"
            )

    def training_sets(self: Any, data: Mapping[str, Any]) -> Any:
        """The names of the data sets that are trained on, and whether a batch is ``{name: batch of that set}``."""
        return [data["train"]] if isinstance(data.get("train"), str) else [], False

    def load_components(self: Any) -> Mapping[str, Any]:
        """The examples that registered handlers give, where ``data.datasets`` chooses some."""
        from model_hub_rqa.data.qa_dataset import load_components

        chosen = {split: self.components.datasets[getattr(self.data, split)] for split in ("train", "validation")}
        offered = {"cache_dir": self.data.cache_dir, "on_bad_record": self.data.on_bad_record}
        found = load_components(chosen, **offered)
        self.set_settings = {split: loaded.settings for split, loaded in found.items()}
        return {split: loaded.examples for split, loaded in found.items()}

    def build_chosen_model(self: Any, component: Component) -> torch.nn.Module:
        """What a registered model handler makes."""
        model: torch.nn.Module = component.build(
            config=self.config,
            tokenizer=self.tokenizer,
            model_kwargs=self.model_kwargs,
            use_pretrained_weights=self.trainer.use_pretrained_weights,
        )
        return model

    def build_chosen_collator(self: Any) -> Callable[[list[Any]], dict[str, Any]] | None:
        """The registered collator that was chosen, or None."""
        component = self.components.collator
        if component is None:
            return None
        multiple = 8 if self.context.device.type == "cuda" else 1
        collator: Callable[[list[Any]], dict[str, Any]] = component.build(
            tokenizer=self.tokenizer, pad_to_multiple_of=multiple
        )
        return collator

    def build_reference(self: Any, model: torch.nn.Module) -> torch.nn.Module | None:
        """A frozen copy of the initial model, where the objective needs one."""
        if not getattr(self.objective, "needs_reference", False):
            return None
        return copy.deepcopy(model).requires_grad_(False).eval().to(self.context.device)

    def training_loss(self: Any, batch: Batch) -> torch.Tensor:
        """What training makes small: the objective that was chosen, or `compute_loss`."""
        if self.objective is None:
            loss: torch.Tensor = self.compute_loss(batch)
            return loss
        return self.objective(Task(self.compute_loss, self._log_probs, self._reference_log_probs), batch)

    def _log_probs(self: Any, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = self.answer_log_probs(self.model, batch)
        return found

    def _reference_log_probs(self: Any, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = self.answer_log_probs(self.reference, batch)
        return found
