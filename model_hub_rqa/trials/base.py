"""BaseTransformerTrial: model-hub's base of a trial, a transformers model with its optimizer and its schedule."""

import functools
import logging
from typing import Any

import torch
from determined import pytorch

from model_hub_rqa.config import (
    default_parse_config_tokenizer_model_kwargs,
    default_parse_optimizer_lr_scheduler_kwargs,
)
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.build import build_using_auto
from model_hub_rqa.models.optimizers import build_default_lr_scheduler, build_default_optimizer
from model_hub_rqa.runtime import determined_cluster, determined_fixes
from model_hub_rqa.runtime.experiments import experiment_of
from model_hub_rqa.utils import AttrDict, compute_num_training_steps

logger = logging.getLogger(__name__)

_REQUIRED = ("use_apex_amp", "model_mode", "num_training_steps")


class BaseTransformerTrial(pytorch.PyTorchTrial):
    """Builds config, tokenizer, model, optimizer and schedule from hyperparameters; knows nothing of data.

    A trial derives from it and supplies ``build_training_data_loader``, ``build_validation_data_loader`` and
    ``evaluate_batch``, and wraps its custom reducers with ``context.wrap_reducer``. A trial written for Determined's
    model-hub runs with its imports replaced. `TaskTrial` supplies all of that from a `Task`.

    ``self.hparams``, ``self.data_config`` and ``self.exp_config`` stay where a subclass has set them before, such as to
    add num_labels.

    Attributes:
        context: Determined's.
        hparams, data_config: `AttrDict`: the two sections, references and search specifications resolved.
        exp_config: `AttrDict`: the whole configuration as it is written.
        config_kwargs, tokenizer_kwargs, model_kwargs: `AttrDict`: what each is built with.
        config: transformers' PretrainedConfig. tokenizer: a PreTrainedTokenizerBase.
        model: the PreTrainedModel, wrapped by the context. optimizer: AdamW or Adafactor, wrapped.
        lr_scheduler: steps after every batch.
        grad_clip_fn: clips gradients to max_grad_norm; None where it is 0.
    """

    hparams: Any
    data_config: Any
    exp_config: Any
    grad_clip_fn: Any = None

    def __init__(self, context: pytorch.PyTorchTrialContext) -> None:
        self.context = context
        determined_cluster.patch_context(context)
        determined_fixes.take_batch_encodings(context)
        experiment = experiment_of(context)
        if not hasattr(self, "hparams"):
            self.hparams = AttrDict(experiment.hyperparameters)
        if not hasattr(self, "data_config"):
            self.data_config = AttrDict(experiment.data)
        if not hasattr(self, "exp_config"):
            self.exp_config = AttrDict(context.get_experiment_config())
        self.check_hparams()
        kwargs = default_parse_config_tokenizer_model_kwargs(self.hparams, known=self.hparams)
        self.config_kwargs, self.tokenizer_kwargs, self.model_kwargs = kwargs
        optimizer_kwargs, scheduler_kwargs = default_parse_optimizer_lr_scheduler_kwargs(
            self.hparams, known=self.hparams
        )
        self.config, self.tokenizer, model = build_using_auto(
            self.config_kwargs,
            self.tokenizer_kwargs,
            self.hparams.model_mode,
            self.model_kwargs,
            use_pretrained_weights=self.hparams.use_pretrained_weights,
        )
        self.model: Any = context.wrap_model(model)
        self.optimizer = context.wrap_optimizer(build_default_optimizer(self.model, optimizer_kwargs))
        schedule: Any = build_default_lr_scheduler(self.optimizer, scheduler_kwargs, self.hparams.num_training_steps)
        every_batch = pytorch.LRScheduler.StepMode.STEP_EVERY_BATCH
        self.lr_scheduler = context.wrap_lr_scheduler(schedule, every_batch)
        if optimizer_kwargs.max_grad_norm > 0:
            self.grad_clip_fn = functools.partial(
                torch.nn.utils.clip_grad_norm_, max_norm=optimizer_kwargs.max_grad_norm
            )

    def check_hparams(self) -> None:
        """Completes ``self.hparams`` and makes it an `AttrDict`.

        ``num_training_steps`` is computed from ``searcher.max_length`` where it is missing; ``use_pretrained_weights``
        is true by default, which the log says.

        Raises:
            ConfigError: every required hyperparameter that is missing; or ``use_apex_amp: true``.
        """
        if not isinstance(self.hparams, AttrDict):
            self.hparams = AttrDict(self.hparams)
        errors: list[str] = []
        if "num_training_steps" not in self.hparams:
            try:
                batch_size = self.context.get_global_batch_size()
                self.hparams.num_training_steps = compute_num_training_steps(self.exp_config, batch_size)
            except ConfigError as error:
                errors += error.errors
        if "use_pretrained_weights" not in self.hparams:
            logger.warning("hyperparameters.use_pretrained_weights: is unset: the pretrained weights are used")
            self.hparams.use_pretrained_weights = True
        missing = [name for name in _REQUIRED if name not in self.hparams and not (errors and name == _REQUIRED[-1])]
        errors += [f"hyperparameters.{name}: is required by {type(self).__name__}" for name in missing]
        if self.hparams.get("use_apex_amp"):
            errors.append(
                "hyperparameters.use_apex_amp: must be false, since apex's amp is gone from today's torch, got true "
                "(TaskTrial takes bf16 and fp16; in a trial of your own, use torch.autocast and context.wrap_scaler)"
            )
        if errors:
            raise ConfigError(errors)

    def train_batch(self, batch: Any, epoch_idx: int, batch_idx: int) -> Any:
        """One batch: the model's own loss, backward, and a step of the optimizer.

        Returns:
            The loss, a scalar tensor.
        """
        outputs = self.model(**batch)
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
        self.context.backward(loss)
        self.context.step_optimizer(self.optimizer, self.grad_clip_fn)
        return loss
