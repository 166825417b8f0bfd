"""Prompts, answers and passages of a causal reader as tokens, and their batches."""

import copy
import logging
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given
from hypothesis import strategies as st
from tiny_records import passage, row
from tokenizers_for_tests import CHATML, bert, chat_tokenizer, roberta

from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.tasks.causal_lm.features import (
    ChatPrompt,
    GenerationCollator,
    GenerationFeatureBuilder,
    build_generation_features,
    left_padded_prompts,
)
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs


def built(tokenizer: Any, rows: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    builder = GenerationFeatureBuilder(tokenizer, GenerationKwargs(**fields))
    columns = {name: [item[name] for item in rows] for name in rows[0]}
    found = builder(columns, list(range(len(rows))))
    return [{name: values[i] for name, values in found.items()} for i in range(len(rows))]


def test_a_plain_prompt() -> None:
    """Tags, passages and the question, one after another; white space before the answer is the answer's."""
    (feature,) = built(roberta(), [row("Who?", ("one", "two"))])
    assert roberta().decode(feature["input_ids"]) == "<s>Question: T: one\nT: two\nWho?\nAnswer:"
    assert roberta().decode(feature["answer_ids"]) == " oil</s>"
    assert feature["length"] == len(feature["input_ids"]) + len(feature["answer_ids"])


def test_tags_of_ones_own() -> None:
    """They may be empty, and the passages' words too are the settings'."""
    tags = {"user_start_tag": "", "user_end_tag": " ", "asst_tag": "", "passage_template": "({context})"}
    (feature,) = built(roberta(), [row("Who?", ("{one}",), target="the oil")], **tags)
    assert roberta().decode(feature["input_ids"]) == "<s>({one})Who?"
    assert roberta().decode(feature["answer_ids"]) == " the oil</s>"


@pytest.mark.parametrize("system", [None, "Be short."])
def test_a_chat_is_the_tokenizers_own(system: str | None) -> None:
    """The prompt's tokens are those of apply_chat_template; the answer ends as the template ends a turn."""
    tokenizer = chat_tokenizer()
    example = row(
        "Who?", ("one",), chat_history=[{"role": "user", "text": "Hi."}, {"role": "assistant", "text": "Yes?"}]
    )
    (feature,) = built(tokenizer, [example], apply_chat_template=True, system_prompt=system)
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Yes?"}]
    messages += [{"role": "user", "content": "T: one\nWho?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert feature["input_ids"] == expected
    assert tokenizer.decode(feature["answer_ids"]) == "oil<|im_end|>"
    whole = [*messages, {"role": "assistant", "content": "oil"}]
    full = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
    learned = feature["input_ids"] + feature["answer_ids"]
    assert full[: len(learned)] == learned


def test_a_template_without_an_end_of_turn_ends_with_the_tokenizers_token() -> None:
    """Nothing after the answer, or nothing that is a token of its own."""
    for template in (CHATML.replace("<|im_end|>\n", "\n"), CHATML.replace("<|im_end|>\n", "")):
        (feature,) = built(chat_tokenizer(template), [row()], apply_chat_template=True)
        assert feature["answer_ids"][-1] in (
            roberta().eos_token_id,
            chat_tokenizer().convert_tokens_to_ids("<|im_start|>"),
        )


@given(st.text(max_size=30), st.text(max_size=30))
def test_prompt_and_answer_never_hold_more_special_tokens(question: str, answer: str) -> None:
    """Whatever the texts are: <s> first, </s> last, and none between."""
    special = set(roberta().all_special_ids) - {roberta().unk_token_id}
    (feature,) = built(roberta(), [row(question or "?", ("one",), target=answer or "x")])
    ids = feature["input_ids"] + feature["answer_ids"]
    assert [number for number in ids if number in special] == [roberta().bos_token_id, roberta().eos_token_id]
    assert ids[0] == roberta().bos_token_id
    assert ids[-1] == roberta().eos_token_id


def test_passages_are_cut_and_nothing_else() -> None:
    """At their end, to the token, until question and answer stand alone; below that, nothing is cut."""
    example = row("Who proclaimed it?", ("an oil embargo began", "the price of oil had risen"), target="members")
    (whole,) = built(roberta(), [example], max_length=512)
    (bare,) = built(roberta(), [{**example, "passages": []}], max_length=512)
    for limit in range(bare["length"] - 2, whole["length"] + 2):
        (feature,) = built(roberta(), [example], max_length=limit)
        assert feature["answer_ids"] == whole["answer_ids"]
        text = roberta().decode(feature["input_ids"])
        assert text.startswith("<s>Question: ")
        assert text.endswith("Who proclaimed it?\nAnswer:")
        read = text.removeprefix("<s>Question: ").removesuffix("Who proclaimed it?\nAnswer:").rstrip("\n")
        assert "T: an oil embargo began\nT: the price of oil had risen".startswith(read)
        assert feature["length"] <= max(limit, bare["length"])
        if limit >= whole["length"]:
            assert feature == whole
        elif limit > bare["length"] + 4:
            assert feature["length"] >= limit - 3  # a cut wastes little: a line's end, half a word


def dataset(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list(rows)


def features_of(rows: list[dict[str, Any]], on_bad_record: str = "error", **fields: Any) -> Any:
    builder = GenerationFeatureBuilder(roberta(), GenerationKwargs(**fields))
    return build_generation_features(dataset(rows), builder, on_bad_record=on_bad_record, split="data.train")


def test_question_and_answer_that_do_not_fit(caplog: pytest.LogCaptureFixture) -> None:
    """All of them are errors of the data, or left out; none is cut."""
    rows = [row("Who?", id="short"), row("Who " * 40, id="long"), row("Who?", id="wordy", target="oil " * 40)]
    with pytest.raises(
        DataError, match=r"record long: question and answer must fit into max_length \(40 tokens\)"
    ) as caught:
        features_of(rows, max_length=40)
    assert [line.partition(", got")[0] for line in caught.value.errors] == [
        f"data.train: record {name}: question and answer must fit into max_length (40 tokens)"
        for name in ("long", "wordy")
    ]
    with caplog.at_level(logging.WARNING):
        kept = features_of(rows, "skip", max_length=40)
    assert kept["example_index"][:].tolist() == [0]
    assert "2 examples left out" in caplog.text
    with pytest.raises(DataError, match="record long: question and answer must fit"):
        features_of(rows[1:], "skip", max_length=40)


def test_the_builder_is_the_same_after_it_was_used() -> None:
    """Its hash is what features are cached under."""
    builder = GenerationFeatureBuilder(roberta(), GenerationKwargs())
    before = Hasher.hash(builder)
    build_generation_features(dataset([row(), row("Why?", ("a " * 300,))]), builder)
    assert Hasher.hash(builder) == before
    assert Hasher.hash(GenerationFeatureBuilder(roberta(), GenerationKwargs(max_length=9))) != before


def test_turns_that_a_plain_prompt_leaves_out_are_told(caplog: pytest.LogCaptureFixture) -> None:
    """Only a chat template shows them."""
    rows = [row(chat_history=[{"role": "user", "text": "Hi."}])]
    with caplog.at_level(logging.WARNING):
        features_of(rows)
    assert "apply_chat_template: true" in caplog.text


def test_a_batch_by_hand() -> None:
    """Padding on the right, labels on the answers alone."""
    features = [
        {"input_ids": np.array([5, 6, 7]), "answer_ids": np.array([8, 2]), "example_index": 4, "length": 5},
        {"input_ids": np.array([5]), "answer_ids": np.array([9, 9, 2]), "example_index": 1, "length": 4},
    ]
    given = [{**feature, "predict_with_generate": number == 0} for number, feature in enumerate(features)]
    batch = GenerationCollator(roberta(), pad_to_multiple_of=3)(given)
    pad = roberta().pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 2, pad], [5, 9, 9, 2, pad, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 2, -100], [-100, 9, 9, 2, -100, -100]]
    assert batch["prompt_lengths"].tolist() == [3, 1]
    assert batch["example_index"].tolist() == [4, 1]
    assert batch["predict_with_generate"].tolist() == [True, False]
    assert {value.dtype for value in batch.values()} == {torch.int64, torch.bool}


def test_prompts_for_generation_end_side_by_side() -> None:
    """Padding on the left, and nothing of an answer."""
    ids = torch.tensor([[5, 6, 7, 8], [5, 9, 9, 2]])
    prompts, mask = left_padded_prompts(ids, torch.tensor([3, 1]), 0)
    assert prompts.tolist() == [[5, 6, 7], [0, 0, 5]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"passage_template": "{title}"}, r"passage_template: must be a text with \{context\}"),
        ({"passage_template": "{context} {score}"}, "and no other field"),
        ({"passage_template": "{context"}, "must have its braces in pairs"),
        ({"asst_tag": 3}, r"asst_tag: must be text \(it may be empty\), got 3"),
        ({"system_prompt": "Hi"}, "system_prompt: needs apply_chat_template: true"),
        ({"corpus_file": "c.jsonl"}, "corpus_file: needs embedding_model, got none"),
        ({"max_length": 2}, "max_length: must be >= 8, got 2"),
    ],
)
def test_bad_settings(fields: dict[str, Any], error: str) -> None:
    """Each in its own words."""
    with pytest.raises(ConfigError, match=f"GenerationKwargs.{error}" if ":" in error else error):
        GenerationKwargs(**fields)


def test_tokenizers_that_cannot() -> None:
    """No chat template, one that fails, no end of a text; SEP will do for an end."""
    with pytest.raises(ConfigError, match="must be false for this tokenizer, which has no chat template"):
        ChatPrompt(roberta(), GenerationKwargs(apply_chat_template=True))
    broken = chat_tokenizer("{{ raise_exception('no system role') }}")
    with pytest.raises(ConfigError, match="refuses the roles user: no system role"):
        ChatPrompt(broken, GenerationKwargs(apply_chat_template=True))
    endless = copy.deepcopy(roberta())
    endless.eos_token = endless.sep_token = None
    with pytest.raises(ConfigError, match="must have an eos_token or a sep_token"):
        ChatPrompt(endless, GenerationKwargs())
    assert ChatPrompt(bert(), GenerationKwargs()).end_ids == [bert().sep_token_id]


def test_passages_of_a_row() -> None:
    """Title and text, as the template has them."""
    prompt = ChatPrompt(roberta(), GenerationKwargs(passage_template="[{title}] {context} "))
    assert prompt.passages([passage("one", "A"), passage("two")]) == "[A] one [] two "
