"""Features of a reader that is one causal language model: prompts and answers as tokens, and their batches."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from model_hub_rqa.data.arrow_cache import map_features
from model_hub_rqa.data.tokens import PromptEncoder, end_token_id, padded_width, single_template, special_tokens
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.registry import COLLATORS
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

IGNORED = -100  # the label of what is not learned, as cross entropy has it
_PROBE = "answer"


class ChatPrompt:
    """Prompts as a causal language model reads them, in plain words or in the tokenizer's chat template.

    What looks like one of the tokenizer's special tokens in a passage, a question, a turn or an answer is text; in the
    tags and in the chat template it becomes that token.

    Args:
        tokenizer: the reader's, a fast one.
        settings: the template's arguments.

    Attributes:
        end: the text that ends an answer (of a chat template, its end of a turn).
        end_ids: its tokens.

    Raises:
        ConfigError: apply_chat_template for a tokenizer without one, or with one that refuses a system_prompt or shows
            nothing of a question; or no token ends an answer.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: GenerationKwargs) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        self.encode = PromptEncoder(tokenizer)
        if not settings.apply_chat_template:
            end = end_token_id(tokenizer)
            self.end_ids = [] if end is None else [end]
            self.prefix = single_template(tokenizer)[0]
        elif tokenizer.chat_template is None:
            raise ConfigError("data.apply_chat_template: must be false for this tokenizer, which has no chat template")
        else:
            self.end_ids = self._end_of_turn()
            self.prefix = []
        if not self.end_ids:
            raise ConfigError("hyperparameters.tokenizer_name: the tokenizer must have an eos_token or a sep_token")

    def text(self, question: str, history: Sequence[Mapping[str, str]], passages: str) -> str:
        """A prompt, up to where the answer begins; a plain one leaves out the turns before the question.

        What looks like a special token in the texts is hidden in it (`tokens.PromptEncoder`), for `prompt_ids`.

        Raises:
            DataError: the chat template refuses these turns, or shows nothing of the question.
        """
        hide, question = self.encode.hide, question.strip()
        if not self.settings.apply_chat_template:
            tags = self.settings
            return f"{tags.user_start_tag}{hide(passages + question)}{tags.user_end_tag}{tags.asst_tag}"
        turns = [{"role": turn["role"], "content": hide(turn["text"].strip())} for turn in history]

        def chat(content: str) -> str:
            return self._chat([*turns, {"role": "user", "content": hide(content)}], add_generation_prompt=True)

        text = chat(passages + question)
        if text == chat(f"{passages}{_PROBE} {question} {_PROBE}"):
            raise DataError("the chat template shows nothing of the question")
        return text

    def passages(self, rows: Sequence[Mapping[str, str]]) -> str:
        """The passages of a prompt, one after another."""
        template = self.settings.passage_template
        return "".join(template.format(title=row["title"].strip(), context=row["text"].strip()) for row in rows)

    def prompt_ids(self, text: str) -> list[int]:
        """The tokens of a prompt; white space at the end of a plain one is left to the answer."""
        bare = text if self.settings.apply_chat_template else text.rstrip(" ")
        return [*self.prefix, *self.encode(bare)]

    def answer_ids(self, prompt: str, answer: str) -> list[int]:
        """The tokens of an answer as it follows the prompt's last line, and its end."""
        bare = prompt if self.settings.apply_chat_template else prompt.rstrip(" ")
        line = bare[bare.rfind("\n") + 1 :] if "\n" in bare[:-1] else bare
        following = prompt[len(bare) :] + self.encode.hide(answer.strip())
        before, whole = self.encode(line), self.encode(line + following)
        ids = whole[len(before) :] if whole[: len(before)] == before else self.encode(following)
        return [*ids, *self.end_ids]

    def _chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> str:
        system = self.settings.system_prompt
        first = [] if system is None else [{"role": "system", "content": system}]
        turns = [*first, *map(dict, messages)]
        try:
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, **options))
        except Exception as error:  # jinja2 raises several kinds, and templates their own
            roles = ", ".join(turn["role"] for turn in turns)
            reason = " ".join(str(error).split())
            raise DataError(f"the chat template refuses the roles {roles}: {reason}") from error

    def _end_of_turn(self) -> list[int]:
        """What the chat template writes after an answer, up to its first special token; the end token without one."""
        messages = [{"role": "user", "content": "question"}, {"role": "assistant", "content": _PROBE}]
        try:
            self.text("question", [], "")
            after = self.encode(self._chat(messages).rpartition(_PROBE)[2])
        except DataError as error:
            field = "apply_chat_template" if self.settings.system_prompt is None else "system_prompt"
            raise ConfigError(f"data.{field}: {error}") from error
        special = special_tokens(self.tokenizer)
        first = next((position for position, token in enumerate(after) if token in special), None)
        end = end_token_id(self.tokenizer)
        return after[: first + 1] if first is not None else [] if end is None else [end]


class GenerationFeatureBuilder:
    """Turns a batch of examples into features; see `build_generation_features`.

    Where prompt and answer are longer than ``max_length``, the passages are cut at their end, and neither the question
    nor the answer ever is. The answer to learn is the record's target, or else its first answer.

    Args:
        tokenizer: the reader's.
        settings: the prompt and the longest length.
        first: the number of the first example, where they are a part of several sets.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", settings: GenerationKwargs, first: int = 0) -> None:
        self.prompt = ChatPrompt(tokenizer, settings)
        self.settings = settings
        self.first = first

    def __call__(self, rows: Mapping[str, list[Any]], indices: list[int]) -> dict[str, list[Any]]:
        """Features of the examples ``rows`` (columns question, chat_history, passages, target and answers).

        Returns:
            Columns input_ids (the prompt), answer_ids (with the answer's end), length (tokens of both), error (why the
            example cannot be read; "" where it can), example_index (from ``indices`` and ``first``) and
            predict_with_generate.
        """
        columns = ("question", "chat_history", "passages", "target", "answers")
        prompts: list[list[int]] = []
        answers: list[list[int]] = []
        errors: list[str] = []
        limit = self.settings.max_length
        for question, history, passages, target, references in zip(*(rows[name] for name in columns), strict=True):
            prompt: list[int] = []
            answer: list[int] = []
            refused = ""
            try:
                prompt, answer = self._example(question, history, passages, target or references[0])
            except DataError as error:
                refused = str(error)
            if (length := len(prompt) + len(answer)) > limit:
                refused = f"question and answer must fit into max_length ({limit} tokens), got {length}"
            prompts.append(prompt)
            answers.append(answer)
            errors.append(refused)
        return {
            "input_ids": prompts,
            "answer_ids": answers,
            "length": [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)],
            "error": errors,
            "example_index": [self.first + number for number in indices],
            "predict_with_generate": [self.settings.predict_with_generate] * len(indices),
        }

    def _example(
        self, question: str, history: Sequence[Mapping[str, str]], passages: Sequence[Mapping[str, str]], answer: str
    ) -> tuple[list[int], list[int]]:
        read = self.prompt.passages(passages)
        while True:
            text = self.prompt.text(question, history, read)
            prompt, answered = self.prompt.prompt_ids(text), self.prompt.answer_ids(text, answer)
            over = len(prompt) + len(answered) - self.settings.max_length
            if over <= 0 or not read:
                return prompt, answered
            read = self._shortened(read, over)

    def _shortened(self, text: str, by: int) -> str:
        """The text without its last ``by`` tokens, at least one; a line's end stays at the end."""
        body = text.rstrip("\n")
        as_text = {"add_special_tokens": False, "split_special_tokens": True}
        offsets = self.prompt.tokenizer(body, return_offsets_mapping=True, verbose=False, **as_text)
        starts = [start for start, _ in offsets["offset_mapping"]]
        kept = body[: starts[-by]].rstrip() if by < len(starts) else ""
        return kept + text[len(body) :] if kept else ""


def build_generation_features(
    examples: "Dataset",
    builder: GenerationFeatureBuilder,
    *,
    on_bad_record: str = "error",
    split: str = "",
    overwrite_cache: bool = False,
) -> "Dataset":
    """The features of all examples, from the cache where it has them (see `arrow_cache.map_features`).

    Args:
        examples: rows as `formats.fid.FUSION_FEATURES` describes them.
        builder: makes the features.
        on_bad_record: what becomes of an example whose question and answer alone are longer than max_length, or that
            the chat template refuses: "error", or "skip" to leave it out with a warning.
        split: the examples' name, for messages.
        overwrite_cache: make the features anew.

    Returns:
        A dataset in numpy format with the columns that `GenerationFeatureBuilder.__call__` names, but for error.

    Raises:
        DataError: every example that is too long, or that the chat template refuses.
    """
    from datasets import List, Value

    if not builder.settings.apply_chat_template and any(map(len, examples["chat_history"][:])):
        logger.warning(
            "the prompt leaves out the turns of chat_history: set data.apply_chat_template: true to show them"
        )
    columns = {
        **dict.fromkeys(("input_ids", "answer_ids"), List(Value("int32"))),
        **dict.fromkeys(("length", "example_index"), Value("int32")),
        "predict_with_generate": Value("bool"),
        "error": Value("string"),
    }
    features = map_features(examples, builder, columns, overwrite_cache=overwrite_cache)
    errors = features["error"][:]
    features = features.remove_columns("error")
    bad = np.flatnonzero([bool(error) for error in errors])
    if not len(bad):
        return features
    ids = examples.select(bad)["id"][:]
    lines = [f"{split or 'data'}: record {id_}: {errors[number]}" for id_, number in zip(ids, bad, strict=True)]
    if on_bad_record != "skip" or len(bad) == len(features):
        raise DataError(lines)
    logger.warning("%d examples left out, the first is %s", len(lines), lines[0])
    return features.select(np.setdiff1d(np.arange(len(features)), bad))


@COLLATORS.register("GenerationCollator")
class GenerationCollator:
    """Makes a batch of features, padded on the right.

    Args:
        tokenizer: names the token of padding; the end token where it names none.
        pad_to_multiple_of: of the padded length (8 suits GPUs), where max_length leaves room.
        max_length: the padded length is at most this, the longest input of the model; None where there is no limit.

    Returns (of a call with B features, T tokens of the longest):
        input_ids [B, T] (prompt and answer), attention_mask [B, T], labels [B, T] (-100 on prompt and padding),
        prompt_lengths [B], example_index [B], predict_with_generate [B], the last a bool, all others int64.
    """

    def __init__(
        self, tokenizer: "PreTrainedTokenizerBase", pad_to_multiple_of: int = 1, max_length: int | None = None
    ) -> None:
        self.padding = padding_id(tokenizer)
        self.pad_to_multiple_of, self.max_length = pad_to_multiple_of, max_length

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(feature["input_ids"]) + len(feature["answer_ids"]) for feature in features]
        width = padded_width(max(lengths), self.pad_to_multiple_of, self.max_length)
        input_ids = torch.full((len(features), width), self.padding)
        labels = torch.full((len(features), width), IGNORED)
        mask = torch.zeros((len(features), width), dtype=torch.int64)
        for row, feature in enumerate(features):
            prompt, answer = (torch.as_tensor(np.asarray(feature[name])).long() for name in ("input_ids", "answer_ids"))
            input_ids[row, : lengths[row]] = torch.cat([prompt, answer])
            labels[row, len(prompt) : lengths[row]] = answer
            mask[row, : lengths[row]] = 1
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            "labels": labels,
            "prompt_lengths": torch.tensor([len(feature["input_ids"]) for feature in features]),
            "example_index": torch.tensor([int(feature["example_index"]) for feature in features]),
            "predict_with_generate": torch.tensor([bool(feature["predict_with_generate"]) for feature in features]),
        }


def end_ids(tokenizer: "PreTrainedTokenizerBase", settings: Iterable[GenerationKwargs]) -> list[int]:
    """The tokens at which an answer ends: those of the templates of all settings, and the tokenizer's own."""
    ends = [ChatPrompt(tokenizer, one).end_ids[-1] for one in settings]
    own = end_token_id(tokenizer)
    return list(dict.fromkeys(ends if own is None else [*ends, own]))


def padding_id(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token of padding; the end token, or 0, where there is none (masks tell padding apart)."""
    if tokenizer.pad_token_id is not None:
        return int(tokenizer.pad_token_id)
    return end_token_id(tokenizer) or 0


def left_padded_prompts(
    input_ids: torch.Tensor, prompt_lengths: torch.Tensor, padding: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompts of a batch alone, with their ends side by side, as generation needs them.

    >>> left_padded_prompts(torch.tensor([[5, 6, 7, 8], [5, 9, 0, 0]]), torch.tensor([3, 1]), 0)
    (tensor([[5, 6, 7],
            [0, 0, 5]]), tensor([[1, 1, 1],
            [0, 0, 1]]))

    Args:
        input_ids: [B, T], prompts from the left.
        prompt_lengths: [B].
        padding: the token to the left of shorter prompts.

    Returns:
        The prompts and their attention mask, [B, L].
    """
    width = int(prompt_lengths.max())
    positions = torch.arange(width, device=input_ids.device) - (width - prompt_lengths[:, None])
    real = positions >= 0
    return input_ids.gather(1, positions.clamp_min(0)).masked_fill(~real, padding), real.long()
