"""The extractive reader's forward pass and loss, shared by training, evaluation and prediction."""

from typing import Any

import torch

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def span_logits(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
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


def position_loss(
    start_logits: torch.Tensor, end_logits: torch.Tensor, start_positions: torch.Tensor, end_positions: torch.Tensor
) -> torch.Tensor:
    """Mean of the cross entropies of the start and the end position (Devlin et al. 2019, section 4.2).

    Computed in float64: a softmax does not see what shifts all its logits, so some weights have a gradient of zero
    but for rounding, which Adam divides by its own size. The finer rounding keeps that noise out of the weights.

    Args:
        start_logits, end_logits: [B, T].
        start_positions, end_positions: [B], the CLS token's place where there is no answer.
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


def freeze_unread(model: torch.nn.Module, *, token_types: bool = True) -> None:
    """Freezes weights that a reader's forward pass never reads: several ranks would wait for their gradients.

    XLNet's embedding of what is to be predicted in pretraining, and XLM's of languages, which batches do not name;
    without token types also what XLNet compares them with.
    """
    unread = {"mask_emb", "lang_embeddings"} | (set() if token_types else {"seg_embed", "r_s_bias"})
    for name, parameter in model.named_parameters():
        if not unread.isdisjoint(name.split(".")):
            parameter.requires_grad_(False)


def length_limit(config: Any, tokenizer: Any) -> int:
    """The most tokens that the model and its tokenizer take; a large number where neither sets a limit."""
    limit = int(min(tokenizer.model_max_length, 10**9))
    positions = getattr(config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return limit
    if config.model_type in {"roberta", "xlm-roberta", "camembert", "mpnet", "longformer", "xlm-roberta-xl"}:
        positions -= config.pad_token_id + 1  # these count positions from after the padding id
    return min(limit, positions)
