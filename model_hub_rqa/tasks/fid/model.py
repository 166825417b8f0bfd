"""Fusion-in-Decoder over any encoder-decoder of transformers (Izacard and Grave 2020, arXiv:2007.01282).

Each passage, with the question before it, is encoded by itself; the states of all real tokens of a question's passages
stand side by side, and the decoder attends to them at once. Padding is neither fused nor, but for what evens out
passages that are encoded together, computed. The model stays what it is: nothing is wrapped or subclassed, and
``save_pretrained`` writes a plain folder.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from model_hub_rqa.errors import ConfigError
from model_hub_rqa.models.signature import unwrapped
from model_hub_rqa.tasks.passages.generation import generate

PASSAGE_INPUTS = ("passage_ids", "passage_lengths", "passage_counts")
"""What a batch of B questions with P passages of N tokens in all holds: passage_ids [N] (all prompts, one after
another), passage_lengths [P] (tokens of each) and passage_counts [B] (passages of each question)."""

# What one more call of the encoder costs, in tokens: a GPU waits for each call, a CPU is busy with each token.
_CALL_COST = {"cpu": 32}
_CALL_COST_ELSEWHERE = 4096

_TAKES_EMBEDDINGS: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # of encoders, see _takes_embeddings


class FusedStates(NamedTuple):
    """What the decoder attends to: ``states`` [B, T, hidden] and ``attention_mask`` [B, T], 1 for real tokens."""

    states: torch.Tensor
    attention_mask: torch.Tensor

    @property
    def inputs(self) -> dict[str, Any]:
        """As a model of transformers takes them."""
        outputs = BaseModelOutput(last_hidden_state=self.states)
        return {"encoder_outputs": outputs, "attention_mask": self.attention_mask}


def enable_fusion(model: torch.nn.Module, encoder_chunk_size: int = 32) -> torch.utils.hooks.RemovableHandle:
    """Lets ``model(passage_ids=..., passage_lengths=..., passage_counts=..., ...)`` fuse and decode in one call.

    A hook before the model's own forward encodes the passages, so that the whole runs inside the call of a
    DistributedDataParallel around it, and gradients are reduced over ranks. Call it before the model is wrapped. Calls
    without passages are left alone. What fusion never uses (an encoder's pooler, T5Gemma2's part for images) is frozen:
    DistributedDataParallel would wait for its gradients.

    Args:
        model: an encoder-decoder of transformers.
        encoder_chunk_size: passages encoded at a time.

    Returns:
        A handle whose ``remove()`` takes the hook off.
    """
    for name in ("pooler", "vision_tower", "multi_modal_projector"):
        unused = getattr(unwrapped(model).get_encoder(), name, None)
        if unused is not None:
            unused.requires_grad_(False)

    def fuse(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "passage_ids" not in kwargs:
            return None
        fused = encode_passages(module, kwargs, encoder_chunk_size=encoder_chunk_size)
        rest = {name: value for name, value in kwargs.items() if name not in PASSAGE_INPUTS}
        return args, {**rest, **fused.inputs}

    return model.register_forward_pre_hook(fuse, with_kwargs=True)


def encode_passages(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor], *, encoder_chunk_size: int = 32
) -> FusedStates:
    """Encodes every passage by itself and fuses the states of each question's tokens, passage after passage.

    Args:
        model: an encoder-decoder of transformers.
        batch: PASSAGE_INPUTS; other keys are left.
        encoder_chunk_size: passages encoded at a time, those of like length together.
    """
    inner = unwrapped(model)
    encoder = inner.get_encoder()
    ids = batch["passage_ids"]
    lengths = batch["passage_lengths"].cpu().numpy()
    counts = batch["passage_counts"].cpu().numpy()
    begin = np.concatenate([[0], np.cumsum(lengths)])
    multiple = 1 if ids.device.type == "cpu" else 8
    position = np.empty(len(ids), np.int64)  # where each token's state stands among all states, padding included
    real, token = [], []  # of each chunk: which of its positions hold a token, and which
    done = 0
    for chunk in encoder_chunks(lengths, encoder_chunk_size, _CALL_COST.get(ids.device.type, _CALL_COST_ELSEWHERE)):
        width = -(-int(lengths[chunk].max()) // multiple) * multiple
        real.append(np.arange(width) < lengths[chunk][:, None])
        token.append(np.where(real[-1], begin[chunk][:, None] + np.arange(width), 0))
        position[token[-1][real[-1]]] = done + np.flatnonzero(real[-1])
        done += real[-1].size
    inputs, name = ids[torch.from_numpy(np.concatenate([part.ravel() for part in token])).to(ids.device)], "input_ids"
    if _takes_embeddings(encoder, ids):
        # All at once: the gradient of each lookup would be as large as the vocabulary.
        inputs, name = encoder.get_input_embeddings()(inputs), "inputs_embeds"
    parts = [
        encoder(**{name: part.view(*mask.shape, *part.shape[1:])}, attention_mask=_attention_mask(mask, ids.device))[0]
        for part, mask in zip(inputs.split([mask.size for mask in real]), real, strict=True)
    ]
    ends = begin[np.concatenate([[0], np.cumsum(counts)])]
    return _fuse(torch.cat([part.flatten(0, 1) for part in parts]), position, ends)


def _takes_embeddings(encoder: Any, ids: torch.Tensor) -> bool:
    """Whether the encoder makes of embeddings what it makes of their tokens: some scale them in its forward, and only
    where they come from tokens (Pegasus, Marian). Both ways are compared once."""
    found = _TAKES_EMBEDDINGS.get(encoder)
    if found is None:
        modes = [(module, module.training) for module in encoder.modules()]
        encoder.eval()
        try:
            # Without autocast, which would keep the weights that it casts here, without gradients, for the next call.
            with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
                few = ids[None, :8]
                states = encoder(input_ids=few)[0]
                found = torch.equal(states, encoder(inputs_embeds=encoder.get_input_embeddings()(few))[0])
        finally:
            for module, mode in modes:
                module.training = mode
        _TAKES_EMBEDDINGS[encoder] = found
    return found


def _attention_mask(real: np.ndarray, device: torch.device) -> torch.Tensor | None:
    """None where nothing is padded: attention may then take its fastest way."""
    return None if real.all() else torch.from_numpy(real).to(device).long()


def _fuse(states: torch.Tensor, position: np.ndarray, ends: np.ndarray) -> FusedStates:
    """Gathers states [any, hidden] into one row a question; its tokens are ``position[ends[i] : ends[i + 1]]``."""
    totals = np.diff(ends)
    real = np.arange(totals.max()) < totals[:, None]
    # Padding of a row repeats some real state: it is masked, and so its gradient is zero.
    token = np.where(real, ends[:-1, None] + np.arange(totals.max()), ends[:-1, None])
    index = torch.from_numpy(position[token]).to(states.device)
    return FusedStates(_rows(states, index), torch.from_numpy(real).to(states.device).long())


def _rows(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """``states[index]`` as an embedding, whose backward pass runs in parallel, which index_select's does not."""
    return torch.nn.functional.embedding(index, states)


def encoder_chunks(lengths: np.ndarray, max_size: int, call_cost: int) -> list[np.ndarray]:
    """Groups passages, at most ``max_size`` together, so that the fewest tokens are computed, padding included.

    Sorted by length, the best groups are neighbours; where to cut is found by dynamic programming.

    Args:
        lengths: tokens of each passage.
        max_size: passages of a group.
        call_cost: what another group costs, in tokens.

    Returns:
        The passages' indices, group by group, the longest first.
    """
    order = np.argsort(-lengths, kind="stable")
    longest = lengths[order]
    count = len(order)
    cost = np.zeros(count + 1)  # of the best grouping of the first i passages
    cut = np.zeros(count + 1, np.int64)  # where its last group begins
    for i in range(1, count + 1):
        first = np.arange(max(0, i - max_size), i)
        costs = cost[first] + longest[first] * (i - first) + call_cost
        best = int(np.argmin(costs))
        cost[i], cut[i] = costs[best], first[best]
    groups = []
    while count:
        groups.append(order[cut[count] : count])
        count = int(cut[count])
    return groups[::-1]


def fusion_error(config: Any) -> str | None:
    """Why a model of this config cannot be a Fusion-in-Decoder reader, or None; asked before weights are loaded."""
    if not config.is_encoder_decoder:
        return f"must name an encoder-decoder, got a {config.model_type} (encoder_decoder_from makes one of an encoder)"
    # FSMT has two vocabularies always, Marian where it is told to. Answers would be learned as tokens of the wrong one.
    if hasattr(config, "tgt_vocab_size") or getattr(config, "share_encoder_decoder_embeddings", True) is False:
        return f"must name a model with one vocabulary, got a {config.model_type}, whose answers have their own"
    return None


def decoder_start_token_id(config: Any) -> int:
    """The token that a decoder starts from: what its config names, else BOS, else padding (T5's way).

    Raises:
        ConfigError: the config names none of them.
    """
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    raise ConfigError(
        "hyperparameters.config_overrides: decoder_start_token_id must be set, this model's config lacks it"
    )


def shift_right(labels: torch.Tensor, decoder_start_token_id: int, pad_token_id: int) -> torch.Tensor:
    """What the decoder reads while it learns labels [B, L]: the start token, then all labels but the last."""
    shifted = labels.roll(1, dims=1)
    shifted[:, 0] = decoder_start_token_id
    return shifted.masked_fill(shifted == -100, pad_token_id)


def end_of_answers(tokens: torch.Tensor, eos_token_id: int | list[int] | None) -> torch.Tensor:
    """Labels [B, L] of answers that were generated: -100 behind the first end token of each."""
    ends = torch.tensor([] if eos_token_id is None else eos_token_id, device=tokens.device).reshape(-1)
    ended = torch.isin(tokens, ends).long().cumsum(dim=1)
    behind = ended - torch.isin(tokens, ends).long() > 0
    return tokens.masked_fill(behind, -100)


@torch.no_grad()
def fusion_generate(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    fused: FusedStates | None = None,
    encoder_chunk_size: int = 32,
    seed: Sequence[int] = (0,),
    **generate_kwargs: Any,
) -> torch.Tensor:
    """``model.generate`` on fused passages: encoded once, and a question's beams share what they attend to.

    Args:
        model: an encoder-decoder of transformers, or its DistributedDataParallel.
        batch: PASSAGE_INPUTS; other keys are left.
        fused: the states, where they are known already.
        encoder_chunk_size: passages encoded at a time.
        seed, generate_kwargs: as `generate` has them: num_beams, max_new_tokens ...

    Returns:
        Token ids, [B * num_return_sequences, tokens].
    """
    inner = unwrapped(model)
    if fused is None:
        fused = encode_passages(inner, batch, encoder_chunk_size=encoder_chunk_size)
    settings = {"use_cache": True, "decoder_start_token_id": decoder_start_token_id(inner.config), **generate_kwargs}
    copies = max(settings.get("num_beams") or 1, settings.get("num_return_sequences") or 1)
    if settings["use_cache"] and copies > 1:
        settings["past_key_values"] = _shared_cache(inner, fused, copies)
    return generate(inner, fused.inputs, seed=seed, **settings)


class _SharedCache(EncoderDecoderCache):
    """Beams of one question attend to the same states, so a change among them leaves the cross-attention as it is."""

    def reorder_cache(self, beam_idx: Any) -> None:
        self.self_attention_cache.reorder_cache(beam_idx)


def _shared_cache(model: Any, fused: FusedStates, copies: int) -> EncoderDecoderCache:
    """Keys and values of the fused states, computed once a question and seen by all of its beams."""
    output = _first_step(model, fused, use_cache=True)
    cross = output.past_key_values.cross_attention_cache
    for layer in cross.layers:
        for name in ("keys", "values"):
            states = getattr(layer, name)
            shared = states.unsqueeze(1).expand(-1, copies, *states.shape[1:])
            setattr(layer, name, shared.flatten(0, 1))  # no copy for a single question
    return _SharedCache(DynamicCache(), cross)


def _first_step(model: Any, fused: FusedStates, **settings: Any) -> Any:
    start = fused.attention_mask.new_full((len(fused.states), 1), decoder_start_token_id(model.config))
    return model(**fused.inputs, decoder_input_ids=start, **settings)


@torch.no_grad()
def passage_scores(
    model: torch.nn.Module,
    batch: Mapping[str, torch.Tensor],
    *,
    fused: FusedStates | None = None,
    encoder_chunk_size: int = 32,
) -> torch.Tensor:
    """How much the reader looks at each passage as it begins its answer (Izacard and Grave 2021, arXiv:2012.04584).

    The score is the mean, over layers, heads and the passage's tokens, of the logarithm of the first decoded token's
    cross-attention. The paper averages what enters the softmax; the logarithm of what leaves it differs from that by
    the same amount for all passages of a question, so their order, and a softmax over them, are the paper's.

    Args:
        model: an encoder-decoder of transformers, or its DistributedDataParallel.
        batch: PASSAGE_INPUTS; other keys are left.
        fused: the states, where they are known already.
        encoder_chunk_size: passages encoded at a time.

    Returns:
        [P] float32, to be compared among the passages of one question.
    """
    inner = unwrapped(model)
    if fused is None:
        fused = encode_passages(inner, batch, encoder_chunk_size=encoder_chunk_size)
    decoder = inner.get_decoder()
    usual = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")  # the faster ones never hold the attention as numbers
    try:
        attentions = _first_step(inner, fused, use_cache=False, output_attentions=True).cross_attentions
    finally:
        decoder.set_attn_implementation(usual)
    tiny = torch.finfo(torch.float32).tiny
    logs = torch.stack([layer[:, :, 0].float().clamp_min(tiny).log().mean(dim=1) for layer in attentions]).mean(dim=0)
    lengths = batch["passage_lengths"]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=logs.device), lengths)
    sums = logs.new_zeros(len(lengths)).index_add_(0, owner, logs[fused.attention_mask.bool()])
    return sums / lengths
