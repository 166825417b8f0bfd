"""Answers that no span can be, and training windows that hold no answer."""

from typing import TYPE_CHECKING

import numpy as np

from model_hub_rqa.data.tokens import text_backend, text_backend_json

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


def count_long_answers(
    examples: "Dataset", tokenizer: "PreTrainedTokenizerBase", max_answer_length: int
) -> dict[str, int]:
    """How many questions cannot be answered in full, because all their answers are longer than a span may be.

    Args:
        examples: columns context and answers; questions without an answer are not counted.
        tokenizer: a fast one.
        max_answer_length: in its tokens.

    Returns:
        answered (questions with an answer) and longer_than_max_answer_length (those of them with longer ones alone).
    """
    questions: list[int] = []
    texts: list[str] = []
    columns = zip(examples["context"][:], examples["answers"][:], strict=True)
    for number, (context, answers) in enumerate(columns):
        for text, given in zip(answers["text"], answers["answer_start"], strict=True):
            bare = text.strip()
            start = given + len(text) - len(text.lstrip())
            # The space before a word is a part of its token to some tokenizers.
            space = " " if start > 0 and context[start - 1] == " " and context.startswith(bare, start) else ""
            questions.append(number)
            texts.append(space + bare)
    distinct = list(dict.fromkeys(texts))
    encodings = text_backend(text_backend_json(tokenizer)).encode_batch_fast(distinct, add_special_tokens=False)
    lengths = {text: len(encoding) for text, encoding in zip(distinct, encodings, strict=True)}
    shortest: dict[int, int] = {}
    for number, text in zip(questions, texts, strict=True):
        shortest[number] = min(lengths[text], shortest.get(number, lengths[text]))
    longer = sum(length > max_answer_length for length in shortest.values())
    return {"answered": len(shortest), "longer_than_max_answer_length": longer}


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
