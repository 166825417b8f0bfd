"""What a trial does with the components that its configuration chose by name: see `model_hub_rqa.registry`."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch

from model_hub_rqa.data.features import INDEX, check_batch
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.objectives import Batch, Objective, Task, build_objective, needed_sets, needs_reference
from model_hub_rqa.registry import RegisteredObject, RegisteredObjects, read_registered

_LATER = ("context", "model", "optimizer", "lr_scheduler", "reference", "bf16", "scaler")
"""What a trial does not have until its model is built; ``rqa validate`` has no context either."""


class ChosenComponents:
    """The part of `TaskTrial` that puts registered components in the place of the trial's own; its methods
    may use whatever the trial has.

    Attributes:
        components: what the configuration chose.
        objective: the objective in place of `compute_loss`, or None.
        reference: a frozen copy of the initial model where the objective needs one: no part of checkpoints, made anew
            from the same initial weights after a resume, and not seen by DistributedDataParallel.
        set_settings: by side and name of a data set, the task's settings that it brings along for itself alone.
    """

    components = RegisteredObjects()
    objective: Objective | None = None
    reference: torch.nn.Module | None = None

    def parse_components(self: Any, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Raises ConfigError with every error of plugins, names, arguments and of the objective's data sets."""
        self.components = read_registered(hparams, data)
        self.set_settings: dict[tuple[str, str], Mapping[str, Any]] = {}
        train, keyed = data.get("train"), data.get("mixing") == "keyed"
        entries = train if isinstance(train, list) else []
        names = [entry.get("name") if isinstance(entry, Mapping) else entry for entry in entries]
        self.objective = build_objective(self.components, [str(name) for name in names], keyed)
        if needs_reference(self.objective) and not hasattr(self.task_class or self, "answer_log_probs"):
            raise ConfigError(
                f"hyperparameters.objective: {self.components.objective.name} needs the probabilities of answers, "
                f"which {type(self).__name__} does not give (answer_log_probs)"
            )

    def objective_takes_sets(self: Any) -> bool:
        """Whether the objective takes batches of several sets by name; so may one that is at error itself."""
        return bool(needed_sets(self.objective)) or (self.objective is None and "objective" in self.hparams)

    def take_settings(self: Any, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """The examples that were loaded; what registered data sets bring along goes to ``self.set_settings``."""
        examples: dict[str, Any] = dict(loaded)
        for side, parts in loaded.items():
            if not isinstance(parts, Mapping):
                continue
            examples[side] = {name: getattr(part, "examples", part) for name, part in parts.items()}
            brought = {(side, name): getattr(part, "settings", {}) for name, part in parts.items()}
            self.set_settings |= {key: settings for key, settings in brought.items() if settings}
        return examples

    def build_chosen_model(self: Any, component: RegisteredObject) -> torch.nn.Module:
        """What a registered model's factory makes."""
        model = component.build(
            config=self.config,
            tokenizer=self.tokenizer,
            model_kwargs=self.model_kwargs,
            use_pretrained_weights=self.trainer.use_pretrained_weights,
        )
        if not isinstance(model, torch.nn.Module):
            given = f"{component.name} must give a torch.nn.Module, got a {type(model).__name__}"
            raise ConfigError(f"{component.path}: {given}")
        return model

    def build_chosen_collator(self: Any) -> Callable[[list[Any]], dict[str, Any]] | None:
        """The registered collator that was chosen, or None."""
        component = self.components.collator
        if component is None:
            return None
        collator: Callable[[list[Any]], dict[str, Any]] = component.build(
            tokenizer=self.tokenizer, pad_to_multiple_of=self.pad_to_multiple_of
        )
        return collator

    @property
    def pad_to_multiple_of(self: Any) -> int:
        """To what lengths batches are padded: on a GPU to a multiple of 8 tokens."""
        context = getattr(self, "context", None)  # None for rqa validate
        return 8 if context is not None and context.device.type == "cuda" else 1

    def check_batches(self: Any) -> bool:
        """Tries the collator on two features of each split.

        Returns:
            Whether it could be tried: not where it needs what the trial has only once its model is built.

        Raises:
            DataError, ConfigError: it fails, or its batches lack ``example_index``.
        """
        chosen, validates = self.components.collator, type(self).evaluate_batch
        source = f"{type(self).__name__}.build_collator" if chosen is None else f"{chosen.path}: {chosen.name}"
        indexed = not self._overrides("evaluate_batch") or INDEX in validates.__code__.co_consts
        try:
            collator = self.build_chosen_collator() or self.build_collator()
            for split, features in self.datasets.items():
                check_batch(collator, features, split, indexed=indexed and split == "validation", source=source)
        except (AttributeError, DataError) as error:
            missing = error if isinstance(error, AttributeError) else error.__cause__
            if isinstance(missing, AttributeError) and missing.obj is self and missing.name in _LATER:
                return False
            raise
        return True

    def build_reference(self: Any, model: torch.nn.Module) -> torch.nn.Module | None:
        """A frozen copy of the initial model, where the objective needs one."""
        if not needs_reference(self.objective):
            return None
        return copy.deepcopy(model).requires_grad_(False).eval().to(self.context.device)

    def training_loss(self: Any, batch: Batch) -> torch.Tensor:
        """The training objective: the one that was chosen, or `compute_loss`."""
        if self.objective is None:
            return self._loss_of_copy(batch)  # type: ignore[no-any-return]
        task = Task(self._loss_of_copy, self._log_probs, self._reference_log_probs)
        loss: torch.Tensor = self.objective(task, batch)
        return loss

    def _loss_of_copy(self: Any, batch: Batch) -> torch.Tensor:
        """`compute_loss`, which may take columns out of its batch, as is usual with transformers' Trainer."""
        loss: torch.Tensor = self.compute_loss(copy.copy(batch))
        return loss

    def _log_probs(self: Any, batch: Batch) -> torch.Tensor:
        found: torch.Tensor = (self.task or self).answer_log_probs(self.model, batch)
        return found

    def _reference_log_probs(self: Any, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            found: torch.Tensor = (self.task or self).answer_log_probs(self.reference, batch)
        return found
