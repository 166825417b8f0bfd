"""Optimizers and learning rate schedules, from kwargs dataclasses or plain mappings of the same names."""

import functools
import logging
import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import transformers
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from model_hub_rqa.config import (
    METRIC_LR_SCHEDULER_TYPES,
    Kwargs,
    LRSchedulerKwargs,
    OptimizerKwargs,
    parse_dict_to_dataclasses,
)
from model_hub_rqa.errors import ConfigError

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Kwargs)

# torch's norms and those that transformers writes itself: LayerNorm, BatchNorm1d, T5LayerNorm, LlamaRMSNorm, NoNorm,
# MambaRMSNormGated ... but neither ConvNormLayer nor RobertaPreLayerNormEmbeddings, which hold other things as well.
_NORM_CLASS = re.compile(r"Norm(\dd|Gated|PerHead)?$")


def build_default_optimizer(
    model: nn.Module, optimizer_kwargs: Mapping[str, Any] | OptimizerKwargs
) -> torch.optim.Optimizer:
    """Build AdamW (Loshchilov and Hutter 2019), fused where torch has it for the model's device, or Adafactor.

    The parameters that need a gradient are in two groups, without an empty one: those with weight decay, then those of
    `no_decay_names` without. Parameters that are tied count once. Adafactor (Shazeer and Stern 2018) takes no
    learning rate with ``relative_step``.

    Raises:
        ConfigError: a setting is wrong, or no parameter needs a gradient.
    """
    settings = _instance(OptimizerKwargs, optimizer_kwargs)
    no_decay = no_decay_names(model)
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("optimizer: no parameter of the model needs a gradient")
    split = (
        ([parameter for name, parameter in trained if name not in no_decay], settings.weight_decay),
        ([parameter for name, parameter in trained if name in no_decay], 0.0),
    )
    groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in split if parameters]
    if settings.use_adafactor:
        return transformers.Adafactor(
            groups,
            lr=None if settings.relative_step else settings.learning_rate,
            scale_parameter=settings.scale_parameter,
            relative_step=settings.relative_step,
            warmup_init=settings.warmup_init,
        )
    return torch.optim.AdamW(
        groups,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=all(_has_fused_adamw(parameter.device, parameter.dtype) for _, parameter in trained),
    )


def no_decay_names(model: nn.Module) -> set[str]:
    """The parameters without weight decay, by their names in ``model.named_parameters()``: biases, norms and vectors.

    Vectors are all parameters of one dimension or none. A norm is known by its module's class (and the classes that it
    inherits from), so that T5's ``layer_norm`` is one whatever it is called; an embedding that is named a bias (T5's
    ``relative_attention_bias``) counts as a bias.
    """
    found: set[int] = set()
    for path, module in model.named_modules():
        is_norm = any(_NORM_CLASS.search(kind.__name__) for kind in type(module).__mro__)
        in_bias = path.rpartition(".")[2].endswith("bias")
        own = module.named_parameters(recurse=False)
        found.update(
            id(parameter) for name, parameter in own if is_norm or in_bias or "bias" in name or parameter.ndim < 2
        )
    return {name for name, parameter in model.named_parameters() if id(parameter) in found}


@functools.cache
def _has_fused_adamw(device: torch.device, dtype: torch.dtype) -> bool:
    # Only a step tells: the constructor takes fused=True on any device, and which have it differs between releases.
    parameter = nn.Parameter(torch.zeros(1, device=device, dtype=dtype))
    parameter.grad = torch.zeros_like(parameter)
    try:
        torch.optim.AdamW([parameter], fused=True).step()
    except (RuntimeError, NotImplementedError):  # torch's, of a device or dtype that has none
        return False
    return True


def build_default_lr_scheduler(
    optimizer: torch.optim.Optimizer,
    scheduler_kwargs: Mapping[str, Any] | LRSchedulerKwargs,
    num_training_steps: int | None = None,
) -> LRScheduler:
    """Build a schedule of transformers, to be stepped after every optimizer step.

    An Adafactor that finds its own learning rate (``relative_step``) gets a schedule that only reports that rate.

    Args:
        optimizer: as `build_default_optimizer` makes it.
        scheduler_kwargs: type, warmup and what the type takes beside. The warmup is ``warmup_steps``, or else
            ``ceil(warmup_ratio * num_training_steps)``.
        num_training_steps: all optimizer steps; None takes the field of that name.

    Raises:
        ConfigError: the type steps on a metric, or what it needs is missing or wrong.
    """
    settings = _instance(LRSchedulerKwargs, scheduler_kwargs)
    kind, extra = settings.lr_scheduler_type, dict(settings.lr_scheduler_kwargs or {})
    if kind in METRIC_LR_SCHEDULER_TYPES:
        raise ConfigError(f"lr_scheduler_type: must be one that steps with the optimizer, but {kind} steps on a metric")
    if any(group["lr"] is None for group in optimizer.param_groups):
        return transformers.optimization.AdafactorSchedule(optimizer)
    total = settings.num_training_steps if num_training_steps is None else num_training_steps
    warmup = _warmup_steps(settings, total)
    if total is not None and warmup > total:
        logger.warning("the warmup of %d steps is longer than the training of %d", warmup, total)
    try:
        result: LRScheduler = transformers.get_scheduler(kind, optimizer, warmup, total, extra)
        return result
    except (ValueError, TypeError, ArithmeticError) as error:
        config_path = "num_training_steps" if total is None else "lr_scheduler_kwargs"
        raise ConfigError(f"{config_path}: {kind}: {error}") from error


def _warmup_steps(settings: LRSchedulerKwargs, total: int | None) -> int:
    if settings.warmup_steps > 0 or settings.warmup_ratio == 0:
        return settings.warmup_steps
    if total is None:
        raise ConfigError("num_training_steps: is required with warmup_ratio")
    return math.ceil(settings.warmup_ratio * total)


def compute_num_training_steps(
    *, batches_per_epoch: int, num_train_epochs: float, max_steps: int = -1, gradient_accumulation_steps: int = 1
) -> int:
    """Optimizer steps of a whole run, as transformers' Trainer counts them.

    ``max_steps`` where it is at least 0, else ``ceil(num_train_epochs * ceil(batches_per_epoch / accumulation))``: the
    last, smaller accumulation of an epoch is a step of its own.

    Args:
        batches_per_epoch: batches that one slot sees in an epoch, ``ceil(examples / global_batch_size)``.
        num_train_epochs: passes over the data, also a fraction, or none.
        max_steps: optimizer steps, or -1.
        gradient_accumulation_steps: batches for one step.

    Raises:
        ConfigError: there is no batch, or an argument is out of its range.
    """
    if max_steps >= 0:
        return max_steps
    names, values = (
        ("batches_per_epoch", "gradient_accumulation_steps"),
        (batches_per_epoch, gradient_accumulation_steps),
    )
    errors = [f"{name}: must be > 0, got {value}" for name, value in zip(names, values, strict=True) if not value > 0]
    if not num_train_epochs >= 0:
        errors.append(f"num_train_epochs: must be >= 0, got {num_train_epochs}")
    if errors:
        raise ConfigError(errors)
    steps_per_epoch = -(-batches_per_epoch // gradient_accumulation_steps)
    return math.ceil(num_train_epochs * steps_per_epoch)


def _instance(kind: type[K], kwargs: Mapping[str, Any] | K) -> K:
    read: list[K] = parse_dict_to_dataclasses((kind,), kwargs, section="") if isinstance(kwargs, Mapping) else [kwargs]
    return read[0]
