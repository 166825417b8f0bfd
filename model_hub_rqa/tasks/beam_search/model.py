"""Question-answering heads that predict the end from the start, with a beam of both: XLNet's and XLM's."""

from typing import Any, NamedTuple

import numpy as np
import torch

HEADS = {"xlnet": "XLNetForQuestionAnswering", "xlm": "XLMForQuestionAnswering"}
"""By model type, the class of transformers; its Auto class for question answering gives others, without a beam."""

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "cls_index", "p_mask")
_LABELS = ("start_positions", "end_positions", "is_impossible")


class BeamSearchHead:
    """Builds the model of `HEADS` for a config, as transformers' Auto classes do for theirs."""

    @staticmethod
    def from_config(config: Any, **kwargs: Any) -> Any:
        """A model with random weights."""
        kwargs.pop("trust_remote_code", None)
        return _head_class(config)._from_config(config, **kwargs)

    @staticmethod
    def from_pretrained(name: Any, *, config: Any = None, **kwargs: Any) -> Any:
        """A model with weights from a folder or from the hub."""
        from transformers import AutoConfig

        if config is None:
            config = AutoConfig.from_pretrained(name, local_files_only=kwargs.get("local_files_only", False))
        return _head_class(config).from_pretrained(name, config=config, **kwargs)


def _head_class(config: Any) -> Any:
    import transformers

    if config.model_type not in HEADS:
        raise ValueError(f"a beam search needs {' or '.join(HEADS.values())}, got a {config.model_type}")
    return getattr(transformers, HEADS[config.model_type])


def set_beam(model: Any, start_n_top: int | None, end_n_top: int | None) -> None:
    """Sets the sizes of the beam, where they are given, in the model and in its config."""
    head = getattr(model, "qa_outputs", model)  # XLM has it in a module of its own
    for name, size in (("start_n_top", start_n_top), ("end_n_top", end_n_top)):
        if size is not None:
            setattr(head, name, size)
            setattr(model.config, name, size)


def prepare_head(model: Any) -> None:
    """Freezes weights that no loss depends on, and keeps XLNet from holding every layer's states in evaluation.

    The biases shift all starts, or all ends, alike: their gradients are rounding noise.
    """
    head = getattr(model, "qa_outputs", model)
    for bias in (head.start_logits.dense.bias, head.end_logits.dense_1.bias):
        bias.requires_grad_(False)
    if hasattr(model.config, "use_mems_eval"):
        model.config.use_mems_eval = False


def check_head(config: Any, max_seq_length: int) -> list[str]:
    """What keeps a config from a beam search; errors as ConfigError takes them."""
    field = "hyperparameters.pretrained_model_name_or_path"
    if config.model_type not in HEADS:
        return [f"{field}: must name a model with a beam-search head ({', '.join(HEADS)}), got a {config.model_type}"]
    return [
        f"hyperparameters.config_overrides: {name} must be <= max_seq_length ({max_seq_length}), got {size}"
        for name in ("start_n_top", "end_n_top")
        if (size := getattr(config, name)) > max_seq_length
    ]


def beam_loss(model: torch.nn.Module, batch: dict[str, Any]) -> torch.Tensor:
    """The model's own loss of a batch: the mean of start's and end's cross entropy, and half of the answerability's.

    It needs no mending: ``p_mask`` keeps padding and question out of its softmax, so that it does not depend on how far
    a batch was padded, and ``is_impossible`` comes as a float, which its binary cross entropy wants (transformers
    documents a LongTensor, and fails on one). In training the end is predicted from the true start, and so is whether
    there is an answer; in evaluation the latter is predicted from the expected start.
    """
    output = model(**{name: batch[name] for name in (*_INPUTS, *_LABELS) if name in batch})
    loss: torch.Tensor = output.loss
    return loss


class Beams(NamedTuple):
    """What `beam_candidates` takes: S starts, E ends for each, as log-probabilities and tokens."""

    start_log_probs: np.ndarray
    start_index: np.ndarray
    end_log_probs: np.ndarray
    end_index: np.ndarray
    cls_logits: np.ndarray


def search_beams(model: torch.nn.Module, batch: dict[str, Any]) -> Beams:
    """The beam of each feature of a batch.

    What transformers calls log_probs are probabilities, and its ends are flat with the starts innermost, [B, E * S];
    the published example reads them as if the ends were. A probability too small for float32 counts as the smallest.
    """
    output = model(**{name: batch[name] for name in _INPUTS if name in batch})
    size, n_starts = output.start_top_index.shape
    smallest = torch.finfo(torch.float32).tiny  # its logarithm is a number that JSON has
    starts, ends = (
        one.float().clamp(min=smallest).log() for one in (output.start_top_log_probs, output.end_top_log_probs)
    )

    def by_start(flat: torch.Tensor) -> np.ndarray:
        return flat.view(size, -1, n_starts).transpose(1, 2).cpu().numpy()

    return Beams(
        starts.cpu().numpy(),
        output.start_top_index.cpu().numpy(),
        by_start(ends),
        by_start(output.end_top_index),
        output.cls_logits.float().cpu().numpy(),
    )
