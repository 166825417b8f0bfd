"""Features of a Fusion-in-Decoder reader: prompts and answers as tokens, cached without padding, and their batches."""

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model_hub_rqa.data.arrow_cache import map_features
from model_hub_rqa.data.tokens import TextEncoder, padded_width, single_template, target_template
from model_hub_rqa.tasks.fid.settings import FusionKwargs, Prompt

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100  # the label of padding, as cross entropy has it


class FusionFeatureBuilder:
    """Turns a batch of examples into features; see `build_fusion_features`.

    The question's half of the prompt gets at most half of ``max_encoder_seq_length``: the oldest turns of a dialogue
    are left out first, then the question's end. The passage gets what remains.

    Args:
        tokenizer: the reader's.
        settings: the prompt and the longest lengths.
        decoder_start_token_id: the token that the decoder starts from; 0 where no answers are needed.
        training: True to have every answer that may be drawn; False for one, of which the loss is computed.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        settings: FusionKwargs,
        *,
        decoder_start_token_id: int = 0,
        training: bool = False,
    ) -> None:
        self.encode = TextEncoder(tokenizer)
        self.prompt = Prompt(settings)
        self.prefix, self.suffix = single_template(tokenizer)
        self.answer_prefix, self.answer_suffix = target_template(tokenizer, decoder_start_token_id)
        self.max_prompt = settings.max_encoder_seq_length - len(self.prefix) - len(self.suffix)
        self.max_answer = settings.max_decoder_seq_length - len(self.answer_prefix) - len(self.answer_suffix)
        self.training = training

    def __call__(self, rows: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Features of the examples ``rows`` (columns question, chat_history, passages, target and answers).

        Returns:
            Columns question_ids (the question's half), passage_ids (the passages' halves, one after another),
            passage_lengths, answer_ids (all answers, each with its end, one after another), answer_lengths, length
            (tokens of all prompts) and example_index (from ``indices``).
        """
        questions = self._questions(rows["question"], rows["chat_history"])
        texts = [
            [self.prompt.passage_half(item["title"], item["text"]) for item in items] for items in rows["passages"]
        ]
        encoded = _regroup(self.encode([text for row in texts for text in row]), texts)
        read = [
            [ids[: self.max_prompt - len(question)] for ids in row]
            for question, row in zip(questions, encoded, strict=True)
        ]
        lengths = [[len(ids) for ids in row] for row in read]
        wrapping = len(self.prefix) + len(self.suffix)
        answers = self._answers(rows)
        return {
            "question_ids": questions,
            "passage_ids": [_join(row) for row in read],
            "passage_lengths": lengths,
            "answer_ids": [_join(row) for row in answers],
            "answer_lengths": [[len(ids) for ids in row] for row in answers],
            "length": [
                sum(row) + len(row) * (len(question) + wrapping)
                for question, row in zip(questions, lengths, strict=True)
            ],
            "example_index": list(indices),
        }

    def _questions(self, questions: Sequence[str], histories: Sequence[Sequence[Any]]) -> list[np.ndarray]:
        limit = self.max_prompt // 2
        encoded = self.encode([self.prompt.question_half(*pair) for pair in zip(questions, histories, strict=True)])
        cut = 0
        for i, question in enumerate(questions):
            history = list(histories[i]) if self.prompt.shows_dialogue else []
            while len(encoded[i]) > limit and history:
                history = history[1:]
                encoded[i] = self.encode([self.prompt.question_half(question, history)])[0]
            cut += len(encoded[i]) > limit
            encoded[i] = encoded[i][:limit]
        if cut:
            logger.warning("%d questions longer than %d tokens (half of max_encoder_seq_length) were cut", cut, limit)
        return encoded

    def _answers(self, rows: Mapping[str, list[Any]]) -> list[list[np.ndarray]]:
        texts = []
        for target, answers in zip(rows["target"], rows["answers"], strict=True):
            choices = [target.strip()] if target else list(dict.fromkeys(answer.strip() for answer in answers))
            texts.append(choices if self.training else choices[:1])
        bare = self.encode([text for row in texts for text in row])
        ids = [np.array([*self.answer_prefix, *one[: self.max_answer], *self.answer_suffix], np.int32) for one in bare]
        return _regroup(ids, texts)


def build_fusion_features(
    examples: "Dataset", builder: FusionFeatureBuilder, *, overwrite_cache: bool = False
) -> "Dataset":
    """The features of all examples, from the cache unless ``overwrite_cache`` (see `arrow_cache.map_features`).

    Returns:
        A dataset in numpy format with the columns that `FusionFeatureBuilder.__call__` names.
    """
    if not builder.prompt.shows_dialogue and any(map(len, examples["chat_history"][:])):
        logger.warning("the prompt leaves out the turns of chat_history: set data.prompt_template: chat to show them")
    from datasets import List, Value

    ids = List(Value("int32"))
    columns = {
        **dict.fromkeys(("question_ids", "passage_ids", "passage_lengths", "answer_ids", "answer_lengths"), ids),
        **dict.fromkeys(("length", "example_index"), Value("int32")),
    }
    return map_features(examples, builder, columns, overwrite_cache=overwrite_cache)


class FusionCollator:
    """Makes a batch of features: prompts one after another without padding, answers padded to the longest.

    Args:
        builder: made the features.
        pad_to_multiple_of: of the answers' padded length (8 suits GPUs), where max_length leaves room.
        max_length: answers are padded to at most this, what the decoder takes; None where there is no limit.

    Returns (of a call with B features, P their passages, N the tokens of those, A their answers):
        passage_ids [N], passage_lengths [P] (tokens), passage_counts [B]; answer_ids [A, L], -100 on padding,
        answer_counts [B]; example_index [B]; all int64.
    """

    def __init__(
        self, builder: FusionFeatureBuilder, pad_to_multiple_of: int = 1, max_length: int | None = None
    ) -> None:
        self.prefix = np.array(builder.prefix, np.int32)
        self.suffix = np.array(builder.suffix, np.int32)
        self.question_first = builder.prompt.question_first
        self.pad_to_multiple_of, self.max_length = pad_to_multiple_of, max_length

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        prompts: list[np.ndarray] = []
        answers: list[np.ndarray] = []
        for feature in features:
            question = feature["question_ids"]
            for passage in _split(feature["passage_ids"], feature["passage_lengths"]):
                halves = (question, passage) if self.question_first else (passage, question)
                prompts.append(np.concatenate([self.prefix, *halves, self.suffix]))
            answers += _split(feature["answer_ids"], feature["answer_lengths"])
        return {
            "passage_ids": torch.from_numpy(np.concatenate(prompts).astype(np.int64)),
            "passage_lengths": torch.tensor([len(prompt) for prompt in prompts]),
            "passage_counts": torch.tensor([len(feature["passage_lengths"]) for feature in features]),
            "answer_ids": pad_labels(answers, self.pad_to_multiple_of, self.max_length),
            "answer_counts": torch.tensor([len(feature["answer_lengths"]) for feature in features]),
            "example_index": torch.tensor([int(feature["example_index"]) for feature in features]),
        }


def pad_labels(
    answers: Sequence[np.ndarray], pad_to_multiple_of: int = 1, max_length: int | None = None
) -> torch.Tensor:
    """Answers as int64 [A, L], -100 on padding."""
    width = padded_width(max((len(answer) for answer in answers), default=0), pad_to_multiple_of, max_length)
    labels = torch.full((len(answers), width), IGNORED)
    for row, answer in zip(labels, answers, strict=True):
        row[: len(answer)] = torch.from_numpy(np.asarray(answer, np.int64))
    return labels


def draw_labels(batch: Mapping[str, torch.Tensor], *, seed: int, epoch: int) -> torch.Tensor:
    """One answer of each question of a batch, [B, L]: drawn anew every epoch, from the seed and the example alone.

    So the draw is the same on any number of ranks and after any resume.
    """
    counts, examples = batch["answer_counts"].tolist(), batch["example_index"].tolist()
    if max(counts) == 1:
        return batch["answer_ids"]
    first = np.cumsum([0, *counts[:-1]])
    drawn = [
        int(begin + np.random.default_rng([seed, epoch, example]).integers(count))
        for begin, count, example in zip(first, counts, examples, strict=True)
    ]
    return batch["answer_ids"][drawn]


def _regroup(flat: list[np.ndarray], like: Sequence[Sequence[Any]]) -> list[list[np.ndarray]]:
    items = iter(flat)
    return [[next(items) for _ in row] for row in like]


def _join(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(arrays) if len(arrays) else np.empty(0, np.int32)


def _split(flat: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    return list(np.split(flat, np.cumsum(lengths)[:-1])) if len(lengths) else []
