"""Autocast that casts an activation once, however many layers read it.

torch.autocast keeps its casts of weights and repeats those of everything else: attention's query, key and value each
cast the same states, and so does every layer of a decoder with the encoder's. Here linear layers share one cast, and
the gradient is cast back once. What a layer computes stays as it is.
"""

from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

_WORTH_LOOKING_UP = 2**16  # elements: a cast of fewer is as quick as finding it


def share_casts(model: torch.nn.Module) -> None:
    """Lets the linear layers of a model, under torch.autocast, share the casts of what several of them read."""
    casts = _Casts()
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.register_forward_pre_hook(casts.before)


class _Casts:
    """Casts, each kept as long as what was cast."""

    def __init__(self) -> None:
        self._kept: Any = WeakTensorKeyDictionary()

    def before(self, module: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """The arguments of a linear layer, cast as torch.autocast would."""
        if len(args) != 1:  # given by name
            return None
        states: torch.Tensor = args[0]
        if states.dtype != torch.float32 or states.numel() < _WORTH_LOOKING_UP:
            return None
        if states.is_inference() or not torch.is_autocast_enabled(states.device.type):
            return None  # tensors of inference mode do not tell whether they were changed
        dtype = torch.get_autocast_dtype(states.device.type)
        version, cast = self._kept.get(states, (None, None))
        tracked = states.requires_grad and torch.is_grad_enabled()
        if version != states._version or cast.dtype != dtype or cast.requires_grad != tracked:
            cast = states.to(dtype)
            self._kept[states] = (states._version, cast)
        return (cast,)
