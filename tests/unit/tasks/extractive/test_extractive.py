"""Features of the extractive reader: equal to the tokenizer's own windows, with labels that give the answer back."""

import copy
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers_for_tests import ALL, TEXT, bert, xlnet
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PythonBackend

from model_hub_rqa.data.tokens import text_backend, text_backend_json
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.tasks.extractive.features import (
    ExtractiveCollator,
    FeatureBuilder,
    build_features,
    check_tokenizer,
    pair_template,
)


def example(question: str, context: str, *answers: str, key: str = "1") -> dict[str, Any]:
    found = {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]}
    return {"id": key, "title": "", "question": question, "context": context, "answers": found}


def question_first(tokenizer: Any) -> bool:
    """XLNet's alone reads the context first; the others' padding side is left as it is."""
    return tokenizer.cls_token != "<cls>"


def features(
    tokenizer: Any, rows: list[dict[str, Any]], length: int, stride: int, labels: bool
) -> list[dict[str, Any]]:
    builder = FeatureBuilder(
        tokenizer, max_seq_length=length, doc_stride=stride, labels=labels, question_first=question_first(tokenizer)
    )
    return list(build_features(Dataset.from_list(rows), builder))


def plain_windows(tokenizer: Any, rows: list[dict[str, Any]], length: int, stride: int) -> Any:
    """The plain way: the tokenizer truncates each pair and returns what overflows."""
    right = question_first(tokenizer)
    names = ("question", "context") if right else ("context", "question")
    return tokenizer(
        *([row[name] for row in rows] for name in names),
        truncation="only_second" if right else "only_first",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        padding=False,
    )


def assert_equal_to_plain(tokenizer: Any, rows: list[dict[str, Any]], length: int, stride: int) -> None:
    ours = features(tokenizer, rows, length, stride, labels=False)
    bare = [{**row, **{name: row[name].strip() for name in ("question", "context")}} for row in rows]
    plain = plain_windows(tokenizer, bare, length, stride)
    assert [list(feature["input_ids"]) for feature in ours] == plain["input_ids"]
    if "token_type_ids" in tokenizer.model_input_names:
        assert [list(feature["token_type_ids"]) for feature in ours] == plain["token_type_ids"]
    assert [feature["example_index"] for feature in ours] == plain["overflow_to_sample_mapping"]
    context = 1 if question_first(tokenizer) else 0
    for i, feature in enumerate(ours):
        sequence = plain.sequence_ids(i)
        text = rows[feature["example_index"]]["context"]
        moved = np.array(plain["offset_mapping"][i]) + len(text) - len(text.lstrip())
        offsets = [tuple(pair) for pair, part in zip(moved.tolist(), sequence, strict=True) if part == context]
        assert list(zip(feature["offset_starts"], feature["offset_ends"], strict=True)) == offsets
        assert not offsets or feature["context_position"] == sequence.index(context)
        ids = plain["input_ids"][i]
        cls = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id is not None else 0
        assert feature["cls_index"] == cls


ROWS = [
    example("Who proclaimed an embargo?", TEXT[0], "the members of OAPEC"),
    example("When did it begin?", TEXT[0], "October 1973"),
    example("What is the river called in Chinese?", TEXT[3], "亚马逊河", "Amazonas"),
    example("How big?", " ".join(TEXT), "5,500,000 km2"),
    example("Is there an answer?", TEXT[1]),
]


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("length", "stride"), [(384, 128), (64, 16), (48, 0), (60, 7)])
def test_features_equal_the_tokenizers_own(kind: str, length: int, stride: int) -> None:
    """Windows, types, offsets and CLS index are those of return_overflowing_tokens, for every kind of tokenizer."""
    assert_equal_to_plain(ALL[kind](), ROWS, length, stride)


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(ALL)),
    context=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=300),
    question=st.text("abc 123?é亚\n", min_size=1, max_size=12),
    stride=st.integers(0, 12),
)
def test_any_text_gives_the_tokenizers_own_features(kind: str, context: str, question: str, stride: int) -> None:
    """Also control characters, emoji, accents and text that tokenises to nothing."""
    assert_equal_to_plain(ALL[kind](), [example(question, context)], 80, stride)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dev-v1.1", "dev-v2.0"])
def test_real_features_equal_the_tokenizers_own(name: str, rqa_data: Path, minilm: str) -> None:
    """All of SQuAD's development sets, with a real BERT vocabulary."""
    assert_equal_to_plain(AutoTokenizer.from_pretrained(minilm), squad_rows(rqa_data / f"squad/{name}.json"), 384, 128)


def squad_rows(path: Path) -> list[dict[str, Any]]:
    rows = []
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                answers = {name: [answer[name] for answer in qa["answers"]] for name in ("text", "answer_start")}
                rows.append({"id": qa["id"], "context": paragraph["context"], "answers": answers, **qa_text(qa)})
    return rows


def qa_text(qa: dict[str, Any]) -> dict[str, str]:
    return {"question": qa["question"].strip()}


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(("length", "stride"), [(384, 128), (64, 16)])
def test_labels_give_the_answer_back(kind: str, length: int, stride: int) -> None:
    """Some window holds each answer, the label's characters are the answer's, and windows without it say CLS."""
    tokenizer = ALL[kind]()
    labelled = features(tokenizer, ROWS, length, stride, labels=True)
    plain = plain_windows(tokenizer, ROWS, length, stride)
    found = set()
    for i, feature in enumerate(labelled):
        row = ROWS[feature["example_index"]]
        ids, start, end = plain["input_ids"][i], feature["start_positions"], feature["end_positions"]
        cls = ids.index(tokenizer.cls_token_id) if tokenizer.cls_token_id is not None else 0
        if start == end == cls:
            continue
        offsets = plain["offset_mapping"][i]
        answer = row["context"][offsets[start][0] : offsets[end][1]]
        assert answer.strip(" ,") == row["answers"]["text"][0]
        found.add(feature["example_index"])
    assert found == {0, 1, 2, 3}  # the last has no answer


def test_a_label_by_hand() -> None:
    """[CLS] who [SEP] the oil ... : positions counted by hand, the first of several answers taken."""
    tokenizer = bert()
    row = example("oil", "the oil price of oil", "price", "the oil")
    (feature,) = features(tokenizer, [row], 64, 8, labels=True)
    tokens = tokenizer.convert_ids_to_tokens(feature["input_ids"])
    start, end = feature["start_positions"], feature["end_positions"]
    assert "".join(tokens[start : end + 1]).replace("##", "") == "price"
    assert tokens[:3] == ["[CLS]", "oil", "[SEP]"]
    assert tokens[-1] == "[SEP]"


def test_an_answer_that_is_the_contexts_last_token_is_labelled() -> None:
    """The published preprocessing loses an answer whose first token is the last of the context; ours does not."""
    (feature,) = features(bert(), [example("when", "it began in 1973", "1973")], 64, 8, labels=True)
    last = feature["length"] - 2  # before the closing [SEP]
    assert feature["end_positions"] == last
    assert 0 < feature["start_positions"] <= last


def test_windows_overlap_by_the_stride() -> None:
    """Neighbouring windows share doc_stride context tokens, and together hold all of them."""
    context = " ".join(["oil"] * 100)
    windows = features(bert(), [example("who", context)], 24, 5, labels=False)
    starts = [list(window["offset_starts"]) for window in windows]
    assert all(a[-5:] == b[:5] for a, b in itertools.pairwise(starts))
    assert sorted({start for window in starts for start in window}) == [4 * i for i in range(100)]
    assert [window["feature_index"] for window in windows] == list(range(len(windows)))


def test_a_question_longer_than_a_window_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """The question leaves room for the stride and one token; it is cut, and that is said."""
    rows = [example("who " * 100, "the oil price", "oil")]
    (feature, *_) = features(bert(), rows, 32, 8, labels=True)
    assert feature["length"] <= 32
    assert "1 questions longer than 20 tokens were cut" in caplog.text


def test_a_megabyte_of_context() -> None:
    """A context of a megabyte becomes many windows, of which some hold the answer."""
    context = "the price of oil " * 60_000 + "began in October"
    assert len(context) > 1_000_000
    labelled = features(bert(), [example("when", context, "October")], 384, 128, labels=True)
    assert len(labelled) > 500
    assert labelled[-1]["start_positions"] > 0


def test_a_stride_that_leaves_no_room_is_refused() -> None:
    """The message names the field, the rule and the value."""
    with pytest.raises(ConfigError, match=r"data.doc_stride: must leave room .* max_seq_length 32 .* got 30"):
        FeatureBuilder(bert(), max_seq_length=32, doc_stride=30, labels=True)


def test_a_slow_tokenizer_is_refused() -> None:
    """A tokenizer without a fast backend knows no offsets."""

    class Slow(PythonBackend):
        vocab_size = 1

        def get_vocab(self) -> dict[str, int]:
            return {"a": 0}

    with pytest.raises(ConfigError, match=r"needs a fast tokenizer .* got the slow Slow"):
        check_tokenizer(Slow())


def test_the_callers_tokenizer_is_left_as_it_is() -> None:
    """Truncation and padding that a tokenizer file sets disturb no features, and stay on for others."""
    tokenizer = bert()
    tokenizer.backend_tokenizer.enable_truncation(5)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    try:
        rows = [example("who", TEXT[0])]
        (feature,) = features(tokenizer, rows, 64, 8, labels=False)
        assert feature["length"] > 20
        assert tokenizer.backend_tokenizer.truncation["max_length"] == 5
        assert tokenizer.backend_tokenizer.padding["length"] == 9
    finally:
        tokenizer.backend_tokenizer.no_truncation()
        tokenizer.backend_tokenizer.no_padding()


@pytest.mark.parametrize(("kind", "prefix", "middle", "suffix", "cls"), [
    ("bert", 1, 1, 1, 0),
    ("roberta", 1, 2, 1, 0),
    ("xlnet", 0, 1, 2, -1),
    ("t5", 0, 1, 1, 0),
])  # fmt: skip
def test_the_template_is_read_off_the_tokenizer(kind: str, prefix: int, middle: int, suffix: int, cls: int) -> None:
    """Special tokens before, between and after a pair, and where CLS stands among them."""
    tokenizer = ALL[kind]()
    template = pair_template(text_backend(text_backend_json(tokenizer)), tokenizer.cls_token_id)
    assert (len(template.prefix), len(template.middle), len(template.suffix)) == (prefix, middle, suffix)
    assert template.cls_index == cls
    assert template.num_special == prefix + middle + suffix


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["bert", "xlnet"])
def test_the_collator_pads_on_the_right(kind: str, side: str) -> None:
    """Ids, masks, labels, CLS and offsets stay in their places, whatever the tokenizer's padding side."""
    tokenizer = copy.deepcopy(ALL[kind]())
    tokenizer.padding_side = side
    for labels in (True, False):
        rows = features(tokenizer, ROWS, 64, 16, labels=labels)
        batch = ExtractiveCollator(tokenizer, pad_to_multiple_of=8)(rows)
        assert batch["input_ids"].shape[1] % 8 == 0
        assert type(batch) is dict
        for i, row in enumerate(rows):
            ids = batch["input_ids"][i][batch["attention_mask"][i].bool()]
            assert ids.tolist() == list(row["input_ids"])
            assert batch["attention_mask"][i, : row["length"]].all()
            if labels:
                assert batch["start_positions"][i] == row["start_positions"]
            else:
                assert batch["input_ids"][i, batch["cls_index"][i]] == tokenizer.cls_token_id
                context = batch["offsets"][i, :, 0] >= 0
                assert (
                    batch["offsets"][i][context].tolist()
                    == np.stack([row["offset_starts"], row["offset_ends"]], axis=1).tolist()
                )
                assert not (context & ~batch["attention_mask"][i].bool()).any()


@pytest.mark.parametrize(("limit", "width"), [(None, 32), (32, 32), (30, 30), (26, 26)])
def test_padding_ends_at_the_models_longest_input(limit: int | None, width: int) -> None:
    """A multiple of 8 beyond the table of positions would fail on a GPU, and there alone."""
    rows = features(bert(), [example("who", TEXT[0] * 9)], 26, 8, labels=False)
    batch = ExtractiveCollator(bert(), pad_to_multiple_of=8, max_length=limit)(rows)
    assert batch["input_ids"].shape[1] == width
    assert max(row["length"] for row in rows) == 26


def test_features_are_cached_between_processes(tmp_path: Path) -> None:
    """The builder hashes the same when it is made anew, so that datasets finds its cache."""

    def make(stride: int) -> FeatureBuilder:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tmp_path)
        return FeatureBuilder(tokenizer, max_seq_length=64, doc_stride=stride, labels=True)

    xlnet().save_pretrained(tmp_path)
    before = Hasher.hash(make(8))
    make(8)(Dataset.from_list(ROWS).with_format("arrow")[:], list(range(len(ROWS))))
    assert Hasher.hash(make(8)) == before
    assert Hasher.hash(make(9)) != before


def test_batches_hold_plain_tensors() -> None:
    """Determined cannot move a BatchEncoding to a device."""
    batch = ExtractiveCollator(bert())(features(bert(), ROWS, 64, 16, labels=True))
    assert all(type(values) is torch.Tensor for values in batch.values())
