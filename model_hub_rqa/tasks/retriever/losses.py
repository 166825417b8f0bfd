"""The loss of a batch of questions and passages, computed by sentence-transformers' losses.

In-batch negatives (Henderson et al. 2017, arXiv:1705.00652; cached: Gao et al. 2021, arXiv:2101.06983), triplets,
margin-MSE (Hofstätter et al. 2020, arXiv:2010.02666) and the KL divergence from a teacher's scores.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from model_hub_rqa.tasks.retriever.task import RetrieverKwargs

IN_BATCH = ("multiple_negatives", "cached_multiple_negatives")
DISTILLED = ("margin_mse", "kl")

Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def retriever_loss(
    model: Any,
    columns: Sequence[dict[str, torch.Tensor]],
    settings: "RetrieverKwargs",
    keys: dict[str, torch.Tensor],
    scores: torch.Tensor,
) -> torch.Tensor:
    """The loss, a scalar: the mean over the questions.

    Args:
        model: a SentenceTransformer, wrapped or not.
        columns: features of the questions [B, T], of a passage of each [B, T'], and so on: K passages a question, of
            which the first is the positive.
        settings: the loss and its numbers.
        keys: ``question_key`` [B], ``positive_keys`` [B, P] (0 fills up) and ``passage_keys`` [B, K].
        scores: of the K passages, from a teacher [B, K].
    """
    from sentence_transformers.sentence_transformer import losses

    inner = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    scale = settings.scale or (20.0 if inner.similarity_fn_name == "cosine" else 1.0)
    if settings.loss in IN_BATCH:
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        similarity = _without_false_negatives(inner.similarity, false_negatives(**keys))
        options: dict[str, Any] = {"scale": scale, "similarity_fct": similarity, "gather_across_devices": ranks > 1}
        if settings.loss == IN_BATCH[0]:
            return _value(losses.MultipleNegativesRankingLoss(model, **options)(columns, scores))
        options["mini_batch_size"] = settings.mini_batch_size
        cached = losses.CachedMultipleNegativesRankingLoss(inner, **options)  # which looks into the model
        cached.model = model
        return _value(cached(columns, scores))

    def scaled(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return _value(scale * inner.similarity_pairwise(one, other))

    if settings.loss == "margin_mse":
        return _value(losses.MarginMSELoss(model, scaled)(columns, scores))
    if settings.loss == "kl":
        temperature = settings.teacher_temperature
        return _value(losses.DistillKLDivLoss(model, scaled, teacher_temperature=temperature)(columns, scores))

    def distance(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return _value(-inner.similarity_pairwise(one, other))

    triplet = losses.TripletLoss(model, distance, settings.triplet_margin)
    embeddings = [model(column)["sentence_embedding"] for column in columns]
    parts = [triplet.compute_loss_from_embeddings([*embeddings[:2], one], scores) for one in embeddings[2:]]
    return torch.stack(parts).mean()


def _value(loss: Any) -> torch.Tensor:
    found: torch.Tensor = loss
    return found


def false_negatives(
    question_key: torch.Tensor, positive_keys: torch.Tensor, passage_keys: torch.Tensor
) -> torch.Tensor:
    """Which passages of a batch, of all ranks, are no negatives of a question.

    These are the positives of the question and of others with the same words, but the one that is learned; and texts
    that stand in the batch already, so that each counts once.

    Returns:
        [B, K * B']: the first passages of all B' questions of all ranks, then the second ones, and so on.
    """
    every, questions, begin = passage_keys, question_key, 0
    if torch.distributed.is_initialized():
        every, questions = _gathered(passage_keys), _gathered(question_key)
        begin = torch.distributed.get_rank() * len(question_key)
    columns = every.T.reshape(-1)
    own = torch.arange(begin, begin + len(question_key), device=columns.device)
    positives = torch.zeros(len(question_key), len(columns), dtype=torch.bool, device=columns.device)
    for keys in positive_keys.T:
        positives |= columns[None, :] == keys[:, None]
    same_question, learned = question_key[:, None] == questions[None, :], every[:, :1] == columns[None, :]
    positives |= (same_question.float() @ learned.float()) > 0
    before = torch.ones(len(columns), len(columns), dtype=torch.bool, device=columns.device).tril(-1)
    found = positives | ((columns[:, None] == columns[None, :]) & before).any(-1)[None, :]
    found[torch.arange(len(own), device=columns.device), own] = False
    return found


def _gathered(keys: torch.Tensor) -> torch.Tensor:
    parts = [torch.empty_like(keys) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, keys.contiguous())
    return torch.cat(parts)


def _without_false_negatives(similarity: Similarity, mask: torch.Tensor) -> Similarity:
    """A similarity of questions and passages that is minus infinity where ``mask`` is true.

    The cached loss asks for some rows at a time, in their order, and may ask again from the beginning.
    """
    done = 0

    def masked(questions: torch.Tensor, passages: torch.Tensor) -> torch.Tensor:
        nonlocal done
        rows = mask[done : done + len(questions)]
        done = (done + len(questions)) % len(mask)
        return similarity(questions, passages).masked_fill(rows, float("-inf"))

    return masked
