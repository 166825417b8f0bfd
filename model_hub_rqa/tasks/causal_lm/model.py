"""The loss of a causal language model on answers, shared by training, evaluation and objectives."""

from collections.abc import Sequence
from typing import Any

import torch

from model_hub_rqa.tasks.passages.generating import generate


def answer_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropies of each answer: each token is predicted from those before it.

    >>> answer_losses(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]]))
    (tensor([2.7726]), tensor([2]))

    Args:
        logits: [B, T, V].
        labels: [B, T], -100 on what is not learned; the first token is never learned.
        label_smoothing: the share of the probability that is spread over all V tokens (Szegedy et al. 2016,
            arXiv:1512.00567).

    Returns:
        The sum over its tokens (float32) and how many these are, [B] each.
    """
    targets = labels[:, 1:]
    kept = (targets != -100).any(dim=0)  # columns of prompts alone need no softmax over the vocabulary
    targets = targets[:, kept]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1][:, kept].float().transpose(1, 2),
        targets,
        ignore_index=-100,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.sum(dim=1), (targets != -100).sum(dim=1)


def generate_answers(
    model: Any,
    prompts: torch.Tensor,
    mask: torch.Tensor,
    *,
    end_ids: Sequence[int],
    padding: int,
    seed: Sequence[int] = (0,),
    **settings: Any,
) -> torch.Tensor:
    """What a model writes behind prompts.

    Args:
        model: a causal language model of transformers.
        prompts: [B, T], padded on the left; mask: [B, T], 1 for their tokens.
        end_ids: the tokens at which an answer ends.
        padding: the token behind an answer's end.
        seed, settings: as `models.generating.generate` has them: num_beams, max_new_tokens ...

    Returns:
        The tokens of the answers alone, [B, at most max_new_tokens].
    """
    ends = {"eos_token_id": list(end_ids), "pad_token_id": padding}
    inputs = {"input_ids": prompts, "attention_mask": mask}
    written = generate(model, inputs, seed=seed, use_cache=True, **ends, **settings)
    return written[:, prompts.shape[1] :]


def causal_lm_fault(config: Any) -> str | None:
    """Why a model of this config is no causal language model, or None."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING

    if config.is_encoder_decoder:
        return f"must name a causal language model, got a {config.model_type} (FiDTrial takes encoder-decoders)"
    encodes = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encodes:
        return f"must name a causal language model, got a {config.model_type}"
    return None
