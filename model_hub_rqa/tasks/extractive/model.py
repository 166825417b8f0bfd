"""The extractive reader's forward pass and loss, shared by training, evaluation and prediction."""

import logging
from collections.abc import Mapping
from typing import Any

import torch

from model_hub_rqa.models.limits import Limits
from model_hub_rqa.tasks.extractive.features import PairTemplate

logger = logging.getLogger(__name__)

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def span_logits(model: torch.nn.Module, batch: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Start and end logits of a batch, float32 [B, T], minus infinity on padding.

    Padding takes no part in the softmax of the loss, so a loss does not depend on how far its batch was padded.

    Args:
        model: a question-answering model of transformers.
        batch: input_ids, attention_mask and, where the model takes them, token_type_ids, [B, T]; other keys are left.
    """
    output = model(**{name: batch[name] for name in MODEL_INPUTS if name in batch})
    padding = batch["attention_mask"] == 0
    start, end = output.start_logits.float(), output.end_logits.float()
    return start.masked_fill(padding, -torch.inf), end.masked_fill(padding, -torch.inf)


def span_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, start_positions: torch.Tensor, end_positions: torch.Tensor
) -> torch.Tensor:
    """Mean of the cross entropies of the start and the end position (Devlin et al. 2019, section 4.2).

    Computed in float64: a softmax does not see what shifts all its logits, so some weights have a gradient of zero
    but for rounding, which Adam divides by its own size. The finer rounding keeps that noise out of the weights.

    Args:
        start_logits, end_logits: [B, T].
        start_positions, end_positions: [B], the CLS token's index where there is no answer.
    """
    if start_logits.device.type != "mps":  # which has no float64
        start_logits, end_logits = start_logits.double(), end_logits.double()
    start = torch.nn.functional.cross_entropy(start_logits, start_positions)
    end = torch.nn.functional.cross_entropy(end_logits, end_positions)
    return (start + end) / 2


def freeze_span_bias(model: torch.nn.Module) -> None:
    """Freezes the bias of the span head, which no loss and no answer depends on.

    It shifts every start (or end) logit alike, and so do the null score and every span. Its gradient is rounding noise.
    """
    head = getattr(model, "qa_outputs", None)
    if isinstance(head, torch.nn.Linear) and head.bias is not None:
        head.bias.requires_grad_(False)


def freeze_unused_parameters(model: torch.nn.Module, *, token_types: bool = True) -> None:
    """Freezes weights that a reader's forward pass never reads: several ranks would wait for their gradients.

    XLNet's embedding of what is to be predicted in pretraining, and XLM's of languages, which batches do not name;
    without token types also what XLNet compares them with.
    """
    unread = {"mask_emb", "lang_embeddings"} | (set() if token_types else {"seg_embed", "r_s_bias"})
    for name, parameter in model.named_parameters():
        if not unread.isdisjoint(name.split(".")):
            parameter.requires_grad_(False)


def reads_question_first(config: Any) -> bool:
    """Whether a model is given the question before the context: every kind but XLNet is.

    A model with causal attention sees of a text what stands before it, so the question has to come first. XLNet was
    pretrained, and is fine-tuned by its authors' and by transformers' scripts, with the CLS token last and the context
    first (Yang et al. 2019, arXiv:1906.08237). The tokenizer's padding side, which those scripts go by, is ignored.

    Args:
        config: of the model, or None.
    """
    return getattr(config, "model_type", None) != "xlnet" or config.attn_type == "uni"


def is_causal(config: Any) -> bool:
    """Whether each token of a model sees those before it alone."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if config is None or config.is_encoder_decoder:
        return False
    if config.model_type == "xlnet":
        return bool(config.attn_type == "uni")
    decodes = type(config) in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) not in MODEL_FOR_MASKED_LM_MAPPING
    return decodes or bool(getattr(config, "is_decoder", False))


def longest_window(limits: Limits, tokenizer: Any) -> int:
    """The most tokens that a model and its tokenizer take; `limits.UNLIMITED` where neither sets a limit."""
    return int(min(tokenizer.model_max_length, limits.tokens))


def check_token_types(tokenizer: Any, template: PairTemplate, limits: Limits) -> list[str]:
    """Holds a tokenizer's token types to the model's table of them: errors, as ConfigError takes them.

    A tokenizer without types for a model that knows several is a warning: the model then has no sign which tokens are
    the question's, but for the separators.
    """
    used = [kind for _, kind in (*template.prefix, *template.middle, *template.suffix)]
    largest = max(*used, *template.types, int(getattr(tokenizer, "pad_token_type_id", 0)))
    given = "token_type_ids" in tokenizer.model_input_names
    if limits.token_types is None:
        return []
    if given and largest >= limits.token_types:
        return [
            f"hyperparameters.tokenizer_name: token types must be below {limits.token_types}, as many as the model has "
            f"(type_vocab_size), got {largest}: take the model's own tokenizer, or one whose model_input_names lack "
            "token_type_ids"
        ]
    if limits.token_types > 1 and not (given and len({*template.types}) > 1):
        logger.warning(
            "hyperparameters.tokenizer_name: the model has %d token types, but the tokenizer gives question and "
            "context the same one (model_input_names: %s)",
            limits.token_types,
            ", ".join(tokenizer.model_input_names),
        )
    return []
