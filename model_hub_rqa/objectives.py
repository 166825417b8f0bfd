"""Training objectives: what a step minimizes, from the losses that the task gives.

An objective is a function ``objective(task, batch, **args)``, or a class whose instances are called with (task, batch);
it returns a scalar. ``task`` is a `TrainedTask`: it computes losses of a batch, which never need to be taken apart.
Either may have three attributes: ``sets`` names the data sets that its batches hold (a batch is then ``{name: batch of
that set}``, and ``data.mixing: keyed``); ``anchor`` names the one of them whose length is an epoch, unless
``data.anchor`` does; and ``needs_reference = True`` asks for a frozen copy of the initial model.

    @OBJECTIVES.register("Clipped")
    def clipped(task, batch, floor: float = 0.1):
        return task.loss(batch).clamp_min(floor)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn import functional

from model_hub_rqa.config.fields import did_you_mean
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import OBJECTIVES, RegisteredObjects

Batch = Mapping[str, Any]
Objective = Callable[["TrainedTask", Batch], torch.Tensor]


@dataclass(frozen=True)
class TrainedTask:
    """What a trial computes of a batch, for an objective to combine.

    Attributes:
        loss: the trial's own training loss, a scalar: the mean over the batch's examples.
        log_probs: the logarithm of the probability of each example's answer given its prompt, summed over the answer's
            tokens, [B].
        reference_log_probs: the same by the frozen copy of the initial model, without gradients.
    """

    loss: Callable[[Batch], torch.Tensor]
    log_probs: Callable[[Batch], torch.Tensor]
    reference_log_probs: Callable[[Batch], torch.Tensor]


@OBJECTIVES.register("finetune")
def finetune(task: TrainedTask, batch: Batch) -> torch.Tensor:
    """The trial's own loss: ``L(batch)``."""
    return task.loss(batch)


@OBJECTIVES.register("GradAscent")
def grad_ascent(task: TrainedTask, batch: Batch) -> torch.Tensor:
    """Gradient ascent on what is to be forgotten: ``-L(forget)`` (Jang et al. 2023, arXiv:2210.01504, equation 1).

    It trains on the forget set alone. Nothing bounds it: few steps are enough, and more of them ruin the model.
    """
    return -task.loss(batch)


@dataclass(frozen=True, kw_only=True)
class _ForgetRetain:
    """Weights of two sets; the retain set is ignored, and not needed, where its weight is 0."""

    anchor: ClassVar[str] = "forget"

    gamma: float = 1.0
    alpha: float = 1.0

    def __post_init__(self) -> None:
        errors = [
            f"args.{name}: must be a number >= 0, got {value!r}"
            for name, value in vars(self).items()
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf")
        ]
        if errors:
            raise ConfigError(errors)

    @property
    def sets(self) -> tuple[str, ...]:
        """The data sets that a batch holds."""
        return ("forget", "retain") if self.alpha else ("forget",)

    def retain_term(self, task: TrainedTask, batch: Batch) -> torch.Tensor | float:
        """``alpha L(retain)``."""
        return self.alpha * task.loss(batch["retain"]) if self.alpha else 0.0


@OBJECTIVES.register("GradDiff")
class GradDiff(_ForgetRetain):
    """Ascent on what is to be forgotten and descent on what is to be kept: ``-gamma L(forget) + alpha L(retain)``.

    Gradient difference (Liu et al. 2022, "Continual Learning and Private Unlearning", as Maini et al. 2024,
    arXiv:2401.06121, section 4, have it for language models).
    """

    def __call__(self, task: TrainedTask, batch: Batch) -> torch.Tensor:
        return -self.gamma * task.loss(batch["forget"]) + self.retain_term(task, batch)


@OBJECTIVES.register("NPO")
@dataclass(frozen=True, kw_only=True)
class NPO(_ForgetRetain):
    """Negative preference optimization (Zhang et al. 2024, arXiv:2404.05868), with a term for what is to be kept:
    ``gamma L_NPO(forget) + alpha L(retain)``.

    With pi the model, pi_ref the frozen copy of the model that unlearning starts from, and a pair (x, y) of prompt and
    answer, the paper has

        L_NPO = -2 / beta * E[log sigmoid(-beta * log(pi(y|x) / pi_ref(y|x)))]

    It is DPO's loss with the answer as the one refused, and none preferred. Its gradient is that of gradient ascent,
    weighted down as an answer becomes unlikely; beta towards 0 gives gradient ascent itself. The second term is the
    paper's NPO+RT.
    """

    needs_reference: ClassVar[bool] = True

    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta:
            raise ConfigError("args.beta: must be > 0, got 0: GradDiff is its limit")

    def __call__(self, task: TrainedTask, batch: Batch) -> torch.Tensor:
        forget = batch["forget"]
        log_ratio = task.log_probs(forget) - task.reference_log_probs(forget)
        loss = -2 / self.beta * functional.logsigmoid(-self.beta * log_ratio).mean()
        return self.gamma * loss + self.retain_term(task, batch)


def build_objective(components: RegisteredObjects, train_names: Sequence[str], keyed: bool) -> Objective | None:
    """The objective that a configuration chose, or None; its data sets are there.

    Args:
        components: with the objective.
        train_names: the names of the data sets that are trained on.
        keyed: whether a batch is ``{name: batch of that set}``.

    Raises:
        ConfigError: the objective's own errors, or a data set that it needs is not there.
    """
    component = components.objective
    if component is None:
        return None
    objective: Objective = component.build()
    needed = needed_datasets(objective)
    missing = [name for name in needed if name not in train_names]
    config_path, got = component.path, ", ".join(train_names) or "none"
    wanted = " and ".join(needed)
    if missing:
        hints = "".join(did_you_mean(name, train_names) for name in missing[:1])
        raise ConfigError(
            f"{config_path}: {component.name} needs data.train to name the sets {wanted}: there is no {missing[0]} set "
            f"(got {got}){hints}"
        )
    if needed and not keyed:
        raise ConfigError(f"{config_path}: {component.name} needs data.mixing: keyed, so that each batch has {wanted}")
    return objective


def needed_datasets(objective: Objective | None) -> tuple[str, ...]:
    """The data sets that an objective's batches hold, by name; nothing where they are the trial's own batches."""
    return tuple(getattr(_declared(objective), "sets", ()))


def anchor_of(objective: Objective | None) -> str | None:
    """The data set whose length is an epoch of the objective's batches; None where it does not say."""
    return getattr(_declared(objective), "anchor", None)


def needs_reference(objective: Objective | None) -> bool:
    """Whether an objective asks for a frozen copy of the initial model."""
    return bool(getattr(_declared(objective), "needs_reference", False))


def _declared(objective: Objective | None) -> Any:
    """What the user wrote: a function with its arguments bound hides its attributes."""
    return getattr(objective, "func", objective)
