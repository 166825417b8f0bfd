"""Features of an extractive reader: questions and contexts become windows of tokens, with labels or with offsets.

A context longer than a window is cut into overlapping ones (Devlin et al. 2019, section 4.2; ``doc_stride`` is the
overlap in tokens, as in transformers). Each context of a batch is tokenised once and shared by its questions, and the
windows are gathered from flat arrays; the result equals that of the tokenizer's own ``return_overflowing_tokens``.
"""

import logging
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from model_hub_rqa.data.arrow_cache import map_features
from model_hub_rqa.data.tokens import padded_width, text_backend, text_backend_json
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import COLLATORS

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

EXAMPLES_A_BATCH = 4096  # examples tokenised at a time: enough to share contexts and to fill the tokenizer's threads


@dataclass(frozen=True)
class PairTemplate:
    """What a tokenizer puts round a pair of texts: the special tokens before, between and after them.

    ``prefix``, ``middle`` and ``suffix`` hold (token id, token type) pairs; ``types`` the token types of the two
    texts; ``cls_index`` the index of the CLS token, counted from the end where negative.
    """

    prefix: tuple[tuple[int, int], ...]
    middle: tuple[tuple[int, int], ...]
    suffix: tuple[tuple[int, int], ...]
    types: tuple[int, int]
    cls_index: int

    @property
    def num_special(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)


def check_tokenizer(tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises ConfigError unless the tokenizer is a fast one: only those know the characters of each token."""
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            f"hyperparameters.tokenizer_name: extractive reading needs a fast tokenizer (one with a tokenizer.json), "
            f"got the slow {type(tokenizer).__name__}"
        )


def pair_template(backend: "Tokenizer", cls_token_id: int | None) -> PairTemplate:
    """Reads the template off a probe pair, so that every tokenizer's own post-processor decides."""
    probe = backend.encode("a", "b")
    sequence = probe.sequence_ids
    first, second = sequence.index(0), sequence.index(1)
    last_first = len(sequence) - 1 - sequence[::-1].index(0)
    last_second = len(sequence) - 1 - sequence[::-1].index(1)
    tokens = list(zip(probe.ids, probe.type_ids, strict=True))
    special = [*range(first), *range(last_first + 1, second), *range(last_second + 1, len(tokens))]
    cls_index = 0
    for index in special:
        if probe.ids[index] == cls_token_id:
            cls_index = index if index < first else index - len(tokens)
            break
    return PairTemplate(
        tuple(tokens[:first]),
        tuple(tokens[last_first + 1 : second]),
        tuple(tokens[last_second + 1 :]),
        (probe.type_ids[first], probe.type_ids[second]),
        cls_index,
    )


class _Texts:
    """Distinct texts, tokenised once: flat arrays of ids and character offsets, and where each text begins."""

    def __init__(self, backend: "Tokenizer", texts: list[str], with_offsets: bool) -> None:
        number: dict[str, int] = {}
        self.number = np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64)
        encode = backend.encode_batch if with_offsets else backend.encode_batch_fast
        encodings = encode(list(number), add_special_tokens=False)
        self.lengths = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
        self.begin = np.concatenate([[0], np.cumsum(self.lengths)])
        total = int(self.begin[-1])
        self.ids = np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), np.int32, total)
        self.offsets = np.empty((0, 2), np.int32)
        if with_offsets:
            pairs = chain.from_iterable(encoding.offsets for encoding in encodings)
            self.offsets = np.fromiter(chain.from_iterable(pairs), np.int32, 2 * total).reshape(-1, 2)


def _gather(begin: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The indices begin[i] .. begin[i] + lengths[i] - 1 of all segments i, one after another."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    result: np.ndarray = np.arange(total) + np.repeat(begin - (ends - lengths), lengths)
    return result


def _list_array(values: np.ndarray, lengths: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32), values)


class FeatureBuilder:
    """Turns a batch of examples into features; see `build_features`.

    Args:
        tokenizer: a fast tokenizer. Its padding side is ignored.
        max_seq_length: tokens of a window, special tokens and question included.
        doc_stride: tokens that neighbouring windows of one context share.
        labels: True for training (start_positions, end_positions), False for evaluation (offsets).
        question_first: whether the question stands before the context (see `model.reads_question_first`).
        return_offsets: True to have cls_index, context_position and context_length in training as well.

    Raises:
        ConfigError: the tokenizer is slow, or no window can hold a question and move on through the context.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        max_seq_length: int,
        doc_stride: int,
        labels: bool,
        question_first: bool = True,
        return_offsets: bool = False,
    ) -> None:
        check_tokenizer(tokenizer)
        self.backend_json = text_backend_json(tokenizer)  # text, and not the object: its hash is always the same
        cls_token_id = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        self.template = pair_template(text_backend(self.backend_json), cls_token_id)
        self.question_first = question_first
        self.max_seq_length = max_seq_length
        self.doc_stride = doc_stride
        self.labels = labels
        self.return_offsets = return_offsets
        # A window needs one token beyond the overlap to move on; the question gets what is left.
        self.max_question = max_seq_length - self.template.num_special - doc_stride - 1
        if self.max_question < 1:
            raise ConfigError(
                f"data.doc_stride: must leave room for a question below max_seq_length {max_seq_length} "
                f"({self.template.num_special} special tokens), got {doc_stride}"
            )

    def __call__(self, table: pa.Table, indices: list[int]) -> pa.Table:
        """Features of the examples of ``table`` (columns question, context and, for labels, answers).

        Returns:
            A table with a row a feature: input_ids, token_type_ids, length (tokens), example_index (from
            ``indices``), feature_index (the window's number within its example) and, for training, start_positions
            and end_positions (both the CLS index where the window lacks the answer) or, for evaluation, cls_index,
            context_position (the first context token's index), offset_starts and offset_ends (characters of the
            context as given). Outer white space of questions, contexts and answers is not read, and what looks like
            a special token in them is text.
        """
        backend = text_backend(self.backend_json)
        given = table["context"].to_pylist()
        stripped = np.array([len(text) - len(text.lstrip()) for text in given], np.int32)  # at each context's start
        questions = _Texts(backend, [text.strip() for text in table["question"].to_pylist()], with_offsets=False)
        contexts = _Texts(backend, [text.strip() for text in given], with_offsets=True)
        question_length = np.minimum(questions.lengths[questions.number], self.max_question)
        cut = int((questions.lengths[questions.number] > self.max_question).sum())
        if cut:
            logger.warning("%d questions longer than %d tokens were cut", cut, self.max_question)

        # windows: context tokens that fit beside the question, moved on by all but the overlap
        room = self.max_seq_length - self.template.num_special - question_length
        context_length = contexts.lengths[contexts.number]
        step = room - self.doc_stride
        windows = 1 + np.maximum(0, -((room - context_length) // step))
        example = np.repeat(np.arange(len(windows)), windows)
        window = np.arange(len(example)) - np.repeat(np.cumsum(windows) - windows, windows)
        skipped = window * step[example]
        length = np.minimum(room[example], context_length[example] - skipped)

        question_begin = questions.begin[questions.number][example]
        context_begin = contexts.begin[contexts.number][example] + skipped
        columns = self._tokens(questions, contexts, question_begin, question_length[example], context_begin, length)
        position = len(self.template.prefix) + (
            question_length[example] + len(self.template.middle) if self.question_first else 0
        )
        cls_index = self.template.cls_index
        cls = columns["length"] + cls_index if cls_index < 0 else np.full(len(example), cls_index)
        columns["example_index"] = np.asarray(indices)[example]
        columns["feature_index"] = window
        if self.labels:
            start, end = self._answer_tokens(table, contexts, stripped)
            start, end = start[example] - skipped, end[example] - skipped
            inside = (start >= 0) & (end < length) & (end >= 0)
            columns["start_positions"] = np.where(inside, start + position, cls)
            columns["end_positions"] = np.where(inside, end + position, cls)
            if self.return_offsets:
                columns["cls_index"] = cls
                columns["context_position"] = np.broadcast_to(position, len(example))
                columns["context_length"] = length
        else:
            offsets = contexts.offsets[_gather(context_begin, length)] + np.repeat(stripped[example], length)[:, None]
            columns["cls_index"] = cls
            columns["context_position"] = np.broadcast_to(position, len(example))
            columns["offset_starts"] = _list_array(np.ascontiguousarray(offsets[:, 0]), length)
            columns["offset_ends"] = _list_array(np.ascontiguousarray(offsets[:, 1]), length)
        return pa.table({name: _column(values) for name, values in columns.items()})

    def _tokens(
        self,
        questions: _Texts,
        contexts: _Texts,
        question_begin: np.ndarray,
        question_length: np.ndarray,
        context_begin: np.ndarray,
        context_length: np.ndarray,
    ) -> dict[str, Any]:
        """input_ids, token_type_ids and length: five segments a feature, gathered from one pool of tokens."""
        template = self.template
        special = np.array([*template.prefix, *template.middle, *template.suffix], np.int32).reshape(-1, 2)
        question_type, context_type = template.types if self.question_first else template.types[::-1]
        ids = np.concatenate([special[:, 0], questions.ids, contexts.ids])
        types = np.concatenate(
            [
                special[:, 1],
                np.full(len(questions.ids), question_type, np.int32),
                np.full(len(contexts.ids), context_type, np.int32),
            ]
        )
        question = (question_begin + len(special), question_length)
        context = (context_begin + len(special) + len(questions.ids), context_length)
        first, second = (question, context) if self.question_first else (context, question)
        n, m, k = len(template.prefix), len(template.middle), len(template.suffix)
        zeros = np.zeros_like(context_length)
        begin = np.stack([zeros, first[0], zeros + n, second[0], zeros + n + m], axis=1)
        lengths = np.stack([zeros + n, first[1], zeros + m, second[1], zeros + k], axis=1)
        indices = _gather(begin.ravel(), lengths.ravel())
        total = lengths.sum(axis=1)
        return {
            "input_ids": _list_array(ids[indices], total),
            "token_type_ids": _list_array(types[indices].astype(np.int8), total),
            "length": total,
        }

    def _answer_tokens(self, table: pa.Table, contexts: _Texts, stripped: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and last context token of each example's first answer; -1 and -1 where it has none.

        The first token is the last that begins at or before the answer, the last token the first that ends at or
        after the answer's end. ``stripped`` says how many characters each context lost at its start.
        """
        count = len(contexts.number)
        begin, end = np.full(count, -1, np.int64), np.full(count, -1, np.int64)
        for i, answers in enumerate(table["answers"].to_pylist()):
            text = answers["text"][0] if answers["text"] else ""
            if bare := text.strip():
                begin[i] = answers["answer_start"][0] + len(text) - len(text.lstrip()) - stripped[i]
                end[i] = begin[i] + len(bare)
        # one sorted array over all contexts: the context's number in the high bits, the character in the low ones
        base = np.repeat(np.arange(len(contexts.lengths)), contexts.lengths) << 32
        starts, ends = base + contexts.offsets[:, 0], base + contexts.offsets[:, 1]
        high = contexts.number << 32
        first = contexts.begin[contexts.number]
        last = np.maximum(contexts.lengths[contexts.number] - 1, 0)
        start_token = np.clip(np.searchsorted(starts, high + begin, side="right") - 1 - first, 0, last)
        end_token = np.clip(np.searchsorted(ends, high + end, side="left") - first, start_token, last)
        answered = (begin >= 0) & (contexts.lengths[contexts.number] > 0)
        return np.where(answered, start_token, -1), np.where(answered, end_token, -1)


def _column(values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(np.asarray(values, dtype=np.int32))


def build_features(examples: "Dataset", builder: FeatureBuilder, *, overwrite_cache: bool = False) -> "Dataset":
    """The features of all examples, from the cache unless ``overwrite_cache`` (see `arrow_cache.map_features`).

    Returns:
        A dataset in numpy format with the columns that `FeatureBuilder.__call__` names.
    """
    rows = examples.with_format("arrow")
    return map_features(rows, builder, overwrite_cache=overwrite_cache, batch_size=EXAMPLES_A_BATCH)


def keep_negative_windows(features: "Dataset", keep: float, *, cls_index: int, seed: int) -> "Dataset":
    """Training features without some of the windows that do not hold their question's answer.

    All other windows stay, in their order, and of a question that has no answer at all at least one window.

    Args:
        features: those of a FeatureBuilder with labels.
        keep: below 1 the share of all such windows that is kept, from 1 on how many of each question.
        cls_index: the builder's ``template.cls_index``, which windows without the answer are labelled with.
        seed: of the draw.
    """
    example, start, length = (features[name][:] for name in ("example_index", "start_positions", "length"))
    negative = start == (cls_index if cls_index >= 0 else length + cls_index)
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(negative))
    windows = drawn[np.argsort(example[drawn], kind="stable")]  # question by question, in the order of the draw
    owner = example[windows]
    rank = np.arange(len(windows)) - np.searchsorted(owner, owner)
    kept = rank < keep if keep >= 1 else np.isin(windows, drawn[: round(keep * len(drawn))])
    kept |= (rank == 0) & ~np.isin(owner, example[~negative])
    return features.select(np.sort(np.concatenate([np.flatnonzero(~negative), windows[kept]])))


@COLLATORS.register("ExtractiveCollator")
class ExtractiveCollator:
    """Pads features on the right to the longest of the batch and returns plain tensors.

    The tokenizer's padding side is ignored: models count positions from the left, so that padding there would move the
    text by as much as a batch's longest is longer.

    Args:
        tokenizer: gives the padding id, and whether its model takes token_type_ids.
        pad_to_multiple_of: the padded length is a multiple of this (8 suits GPUs), where max_length leaves room.
        min_length: the padded length is at least this.
        max_length: the padded length is at most this, the longest input of the model; None where there is no limit.

    Returns (of a call with B features, T the padded length):
        input_ids, attention_mask and, where the model takes them, token_type_ids: [B, T] int64; length, example_index,
        feature_index: [B]; for training start_positions, end_positions [B]; for evaluation cls_index [B] and
        offsets [B, T, 2]: the characters of each context token, -1 elsewhere.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        pad_to_multiple_of: int = 1,
        min_length: int = 1,
        max_length: int | None = None,
    ) -> None:
        self.min_length, self.max_length = min_length, max_length
        self.pad_token_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
        self.token_types = "token_type_ids" in tokenizer.model_input_names
        self.pad_type_id = int(getattr(tokenizer, "pad_token_type_id", 0))
        self.pad_to_multiple_of = pad_to_multiple_of

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        import torch

        lengths = [int(feature["length"]) for feature in features]
        width = padded_width(max(*lengths, self.min_length), self.pad_to_multiple_of, self.max_length)
        size = (len(features), width)
        batch = {"input_ids": np.full(size, self.pad_token_id, np.int64), "attention_mask": np.zeros(size, np.int64)}
        if self.token_types:
            batch["token_type_ids"] = np.full(size, self.pad_type_id, np.int64)
        for row, (feature, length) in enumerate(zip(features, lengths, strict=True)):
            batch["input_ids"][row, :length] = feature["input_ids"]
            batch["attention_mask"][row, :length] = 1
            if self.token_types:
                batch["token_type_ids"][row, :length] = feature["token_type_ids"]
        for name in ("length", "example_index", "feature_index", "cls_index", "start_positions", "end_positions"):
            if name in features[0]:
                batch[name] = np.array([feature[name] for feature in features], np.int64)
        if "offset_starts" in features[0]:
            batch["offsets"] = self._offsets(features, size)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _offsets(self, features: list[dict[str, Any]], size: tuple[int, int]) -> np.ndarray:
        offsets = np.full((*size, 2), -1, np.int64)
        for row, feature in enumerate(features):
            first = int(feature["context_position"])
            offsets[row, first : first + len(feature["offset_starts"]), 0] = feature["offset_starts"]
            offsets[row, first : first + len(feature["offset_ends"]), 1] = feature["offset_ends"]
        return offsets
