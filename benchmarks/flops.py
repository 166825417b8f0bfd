"""How much a model has to compute for its real tokens: the matrix products alone, two operations a multiplication."""

from collections.abc import Iterable
from typing import Any

from benchmarks.machine import gemm_ceiling
from benchmarks.timing import Row, Timing

TRAINING = 3  # times a forward pass: the backward pass has two products for each of its


def encoder(config: Any, lengths: Iterable[int]) -> float:
    """A forward pass of BERT over sequences of so many tokens, in floating-point operations."""
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    result: float = sum(
        layers * (_layer(hidden, inner) * tokens + _attention(hidden, tokens, tokens)) for tokens in lengths
    )
    return result


def fusion(config: Any, questions: Iterable[tuple[list[int], int]]) -> float:
    """A forward pass of T5 as Fusion-in-Decoder, for questions of (tokens of each passage, tokens of the answer)."""
    hidden, inner = config.d_model, config.d_ff
    width = config.num_heads * config.d_kv  # of queries, keys and values
    total = 0.0
    for passages, answer in questions:
        for tokens in passages:
            total += config.num_layers * (_layer(hidden, inner, width) * tokens + _attention(width, tokens, tokens))
        seen = sum(passages)
        per_layer = _layer(hidden, inner, width) * answer + _attention(width, answer, answer)
        cross = 2 * hidden * width * (2 * answer + 2 * seen) + _attention(width, answer, seen)
        total += config.num_decoder_layers * (per_layer + cross) + 2 * hidden * config.vocab_size * answer
    return total


def share(what: str, operations: float, timing: Timing, dtype: Any, shape: tuple[int, int, int]) -> Row:
    """The row of how much of the machine's best rate at the shape [rows, inner, columns] was reached."""
    rate, ceiling = operations / timing.median / 1e9, gemm_ceiling(*shape, dtype)
    name = str(dtype).removeprefix("torch.")
    return Row(f"{what}: share of the {name} GEMM ceiling, real tokens", rate / ceiling, _rate(rate), _rate(ceiling))


def _layer(hidden: int, inner: int, width: int | None = None) -> float:
    """Of one token: queries, keys, values and output, and the two products of the feed-forward part."""
    return 2.0 * (4 * hidden * (width or hidden) + 2 * hidden * inner)


def _attention(width: int, queries: int, keys: int) -> float:
    """Scores and weighted sums over all heads."""
    return 4.0 * width * queries * keys


def _rate(gflops: float) -> str:
    return f"{gflops:.0f} GFLOP/s"
