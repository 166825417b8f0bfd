"""Outer white space of questions, passages and answers changes nothing that a reader reads or says."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from datasets import Dataset
from tokenizers import Tokenizer, processors
from tokenizers_for_tests import ALL, TEXT, roberta
from transformers import PreTrainedTokenizerFast

from model_hub_rqa.readers import ExtractiveReader
from model_hub_rqa.tasks.beam_search.decoding import decode_beams
from model_hub_rqa.tasks.causal_lm.features import GenerationFeatureBuilder
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.extractive.decoding import decode_spans, decode_top
from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features
from model_hub_rqa.tasks.extractive.spans import SpanCandidates, TopSpan
from model_hub_rqa.tasks.fid.features import FusionFeatureBuilder
from model_hub_rqa.tasks.fid.settings import FusionKwargs

SPACES = [("", " "), (" ", ""), ("\n\t ", " \u00a0\n"), (" " * 3000, "")]


def untrimmed() -> PreTrainedTokenizerFast:
    """Byte-level BPE whose offsets include the space before a word, as those of DeBERTa do."""
    backend = Tokenizer.from_str(roberta().backend_tokenizer.to_str())
    ids = [(token, backend.token_to_id(token)) for token in ("<s>", "</s>")]
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=ids
    )
    tokenizer = copy.deepcopy(roberta())
    tokenizer._tokenizer = backend
    return tokenizer


KINDS = {**ALL, "untrimmed": untrimmed}


def features(tokenizer: Any, row: dict[str, Any], *, labels: bool) -> list[dict[str, Any]]:
    builder = FeatureBuilder(tokenizer, max_seq_length=40, doc_stride=8, labels=labels)
    found = build_features(Dataset.from_list([row]), builder)
    return [{name: np.asarray(value).tolist() for name, value in feature.items()} for feature in found]


def squad_row(question: str, context: str, answer: str, start: int) -> dict[str, Any]:
    return {"id": "1", "question": question, "context": context, "answers": {"text": [answer], "answer_start": [start]}}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), SPACES)
def test_a_window_holds_no_outer_white_space(kind: str, before: str, after: str) -> None:
    """Windows and labels are those of the bare texts; the offsets count characters of the context as given."""
    question, context, answer = "Who proclaimed it?", TEXT[0], "October 1973"
    plain = squad_row(question, context, answer, context.index(answer))
    start = len(before) + context.index(answer)
    given = squad_row(before + question + after, before + context + after, answer, start)
    tokenizer = KINDS[kind]()
    assert features(tokenizer, given, labels=True) == features(tokenizer, plain, labels=True)
    found, expected = features(tokenizer, given, labels=False), features(tokenizer, plain, labels=False)
    for name in ("offset_starts", "offset_ends"):
        assert [[place - len(before) for place in one.pop(name)] for one in found] == [
            one.pop(name) for one in expected
        ]
    assert found == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("low", "high"), [(0, 1), (1, 0), (1, 1)])
def test_an_answers_outer_white_space_is_not_labelled(kind: str, low: int, high: int) -> None:
    """`" mother to child "` has the label of `"mother to child"`."""
    context = "Transmission from mother to child is the main cause."
    start = context.index("mother")
    answer = context[start - low : start + len("mother to child") + high]
    tokenizer = KINDS[kind]()
    plain = features(tokenizer, squad_row("What?", context, "mother to child", start), labels=True)
    assert any(one["end_positions"] > one["start_positions"] for one in plain)
    assert features(tokenizer, squad_row("What?", context, answer, start - low), labels=True) == plain


def fusion_row(before: str = "", after: str = "") -> dict[str, list[Any]]:
    def given(text: str) -> str:
        return before + text + after

    return {
        "question": [given("Who proclaimed it?")],
        "chat_history": [[{"role": "user", "text": given("Hi.")}, {"role": "assistant", "text": given("Yes?")}]],
        "passages": [[{"title": given("OAPEC"), "text": given(TEXT[0])}, {"title": "", "text": given(TEXT[1])}]],
        "target": [None],
        "answers": [[given("the members of OAPEC"), "OAPEC"]],
    }


@pytest.mark.parametrize(("before", "after"), SPACES)
@pytest.mark.parametrize(
    "builder",
    [
        FusionFeatureBuilder(roberta(), FusionKwargs(max_encoder_seq_length=64), training=True),
        FusionFeatureBuilder(roberta(), FusionKwargs(prompt_template="chat"), training=True),
        GenerationFeatureBuilder(roberta(), GenerationKwargs()),
    ],
)
def test_readers_that_generate_read_the_bare_texts(builder: Any, before: str, after: str) -> None:
    """Questions, turns, titles, passages and answers."""
    found, plain = builder(fusion_row(before, after), [0]), builder(fusion_row(), [0])
    for name, values in plain.items():
        assert np.array_equal(found[name][0], values[0]) or all(map(np.array_equal, found[name][0], values[0])), name


def test_an_answer_twice_is_one_answer() -> None:
    """Answers that differ by outer white space alone are drawn as one."""
    rows = {**fusion_row(), "answers": [["OAPEC", "OAPEC ", "the members"]]}
    found = FusionFeatureBuilder(roberta(), FusionKwargs(), training=True)(rows, [0])
    assert len(found["answer_lengths"][0]) == 2


# ---- decoding ----

CONTEXT = " an  oil embargo.\n"  # places: " an" 0-3, " " 3-4, " oil" 4-8, " embargo." 8-17, "\n" 17-18


def spans(*rows: tuple[float, int, int], null: float = 0.0) -> SpanCandidates:
    scores, starts, ends = (np.array(column) for column in zip(*rows, strict=True))
    logits = scores.astype(np.float32)
    return SpanCandidates(logits, np.zeros_like(logits), starts.astype(np.int32), ends.astype(np.int32), null, 0.0)


@pytest.mark.parametrize(
    ("start", "end", "text", "place"),
    [(8, 17, "embargo.", (9, 17)), (3, 8, "oil", (5, 8)), (0, 3, "an", (1, 3)), (9, 18, "embargo.", (9, 17)),
     (9, 17, "embargo.", (9, 17))],
)  # fmt: skip
def test_decoded_spans_are_trimmed(start: int, end: int, text: str, place: tuple[int, int]) -> None:
    """Text and place together, in every way of decoding."""
    found = spans((3.0, start, end), (1.0, 5, 8))
    for decode in (lambda v2: decode_spans(CONTEXT, [found], version_2_with_negative=v2),
                   lambda v2: decode_beams([CONTEXT], [[found]], version_2_with_negative=v2)[0]):  # fmt: skip
        for version_2 in (False, True):
            answer = decode(version_2)
            assert (answer.prediction, answer.spans[answer.best]) == (text, place)
            assert answer.n_best[answer.best]["text"] == text
            assert CONTEXT[slice(*place)] == text
    top = TopSpan(np.array([start]), np.array([end]), np.array([3.0], np.float32), np.array([2]))
    assert decode_top([CONTEXT], [0], top) == [text]


@pytest.mark.parametrize("blank", [(0, 1), (3, 4), (17, 18)])
def test_white_space_is_no_answer(blank: tuple[int, int]) -> None:
    """In v2 the next span answers, or nobody; in v1 the prediction is as empty as that of a token without width."""
    for null in (-9.0, 9.0):
        found = spans((3.0, *blank), (1.0, 5, 8), null=null)
        answer = decode_spans(CONTEXT, [found], version_2_with_negative=True)
        assert (answer.prediction, answer.score_diff) == ("oil" if null < 0 else "", null - 1.0)
        (beam,) = decode_beams([CONTEXT], [[found]], version_2_with_negative=True)
        assert beam.prediction == ("oil" if null < 0 else "")
        alone = decode_spans(CONTEXT, [spans((3.0, *blank), null=null)], version_2_with_negative=True)
        assert (alone.prediction, alone.score_diff) == ("", null)
    assert decode_spans(CONTEXT, [spans((3.0, *blank), (1.0, 5, 8))]).prediction == ""
    assert decode_spans(CONTEXT, [spans((3.0, *blank))]).prediction == "empty"
    for count, text in ((2, ""), (1, "empty")):
        top = TopSpan(np.array(blank[:1]), np.array(blank[1:]), np.array([3.0], np.float32), np.array([count]))
        assert decode_top([CONTEXT], [0], top) == [text]


def test_a_reader_says_the_same_of_padded_texts(tmp_path: Path) -> None:
    """The answer is bare, and its place is that in the context as given."""
    reader = ExtractiveReader.from_pretrained(tiny.model_folder(tmp_path))
    plain = reader.answer("oil price?", TEXT[0])
    found = reader.answer("\n  oil price? ", f"\n {TEXT[0]}  ")
    assert found.text == plain.text == plain.text.strip() != ""
    assert (found.start, found.end) == (plain.start + 2, plain.end + 2)
    assert found.score == plain.score
