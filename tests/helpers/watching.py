"""What a run really did: a setting that changes no result must be seen to have taken effect."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import GenerationMixin
from transformers.modeling_layers import GradientCheckpointingLayer

from model_hub_rqa.trials.task_trial import TaskTrial


@dataclass
class Watched:
    """What was seen of the trials that were built since `watch`.

    Attributes:
        trial: the newest.
        batches, steps: batches trained on, and steps of the optimizer.
        layer_calls: forward passes of the model's last layer in training, where that layer can be checkpointed.
        dtypes: of what linear layers gave in training.
        encoder_rows: passages, or texts, in each call of the encoder, in training and out of it.
        num_beams: of each call of ``generate``.
    """

    trial: Any = None
    batches: int = 0
    steps: int = 0
    layer_calls: int = 0
    dtypes: set[torch.dtype] = field(default_factory=set)
    encoder_rows: list[int] = field(default_factory=list)
    num_beams: list[int | None] = field(default_factory=list)


def watch(monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Watches every trial that this process builds from now on."""
    watched = Watched()
    build, generate = TaskTrial._build, GenerationMixin.generate

    def watched_build(self: Any, context: Any) -> None:
        build(self, context)
        watched.trial = self
        _watch_model(watched, self.model)
        self.optimizer.register_step_post_hook(lambda *_: _count(watched, "steps"))

    def watched_batch(self: Any, *args: Any, **kwargs: Any) -> Any:
        _count(watched, "batches")
        return train_batch(self, *args, **kwargs)

    def watched_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        watched.num_beams.append(kwargs.get("num_beams"))
        return generate(self, *args, **kwargs)

    train_batch = TaskTrial.train_batch
    monkeypatch.setattr(TaskTrial, "_build", watched_build)
    monkeypatch.setattr(TaskTrial, "train_batch", watched_batch)
    monkeypatch.setattr(GenerationMixin, "generate", watched_generate)
    return watched


def _count(watched: Watched, name: str) -> None:
    setattr(watched, name, getattr(watched, name) + 1)


def _watch_model(watched: Watched, model: Any) -> None:
    def linear(module: Any, args: Any, output: torch.Tensor) -> None:
        if module.training:
            watched.dtypes.add(output.dtype)

    def layer(module: Any, *_: Any) -> None:
        if module.training:
            _count(watched, "layer_calls")

    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(linear)
    # within the layer, whose own hooks are not called again, and before: recomputing ends with what it needs
    for checkpointed in [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)][-1:]:
        leaf = next(one for one in checkpointed.modules() if not list(one.children()))
        leaf.register_forward_pre_hook(layer)
    if model.config.is_encoder_decoder:
        watch_encoder(model, watched.encoder_rows)


def watch_encoder(model: Any, rows: list[int]) -> None:
    """Notes how many rows each call of the encoder gets."""

    def encoder(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        rows.append(len(next(kwargs[name] for name in ("input_ids", "inputs_embeds") if kwargs.get(name) is not None)))

    model.get_encoder().register_forward_pre_hook(encoder, with_kwargs=True)
