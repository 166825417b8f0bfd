"""Readers of several passages, and a retriever before them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_beams
import torch
from readers_for_tests import CORPUS, InOrder, Repeater, fusion_folder
from tiny_generation import causal_folder
from transformers import BertConfig, BertModel, FSMTConfig

from model_hub_rqa.checkpoints import TOKENIZER_SUM, tokenizer_sum
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.pipeline import RQAPipeline, load_reader
from model_hub_rqa.readers import BeamSearchReader, ExtractiveReader, FusionReader, GenerationReader, Reader
from model_hub_rqa.records import Question
from model_hub_rqa.registry import TASKS
from model_hub_rqa.tasks.beam_search.decoding import decode_beams
from model_hub_rqa.tasks.beam_search.task import BeamSearch
from model_hub_rqa.tasks.extractive.decoding import DecodedSpans, choose_passage, decode_many
from model_hub_rqa.tasks.extractive.spans import SpanCandidates
from model_hub_rqa.tasks.fid.model import end_of_answers

PASSAGES = tuple(CORPUS)


@pytest.fixture(scope="module")
def fusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fusion_folder(tmp_path_factory.mktemp("fusion"))


@pytest.fixture(scope="module")
def extractive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.model_folder(tmp_path_factory.mktemp("extractive"))


# ---- the pipeline ----


def test_what_is_found_is_read() -> None:
    """The hits' passages stand in the question, in their order; both times are counted."""
    pipeline = RQAPipeline(Repeater(), InOrder(), top_k=2)
    first, second = pipeline.ask(["What?", Question("Who?")])
    assert first.answer.text == second.answer.text == "October"
    assert first.question.passages == tuple(hit.passage for hit in first.hits) == PASSAGES[:2]
    assert pipeline.n_questions == 2
    assert pipeline.retrieval_seconds > 0
    assert pipeline.reading_seconds > 0


def test_without_a_retriever_own_passages_are_read() -> None:
    """And there are no hits."""
    (found,) = RQAPipeline(Repeater()).ask([Question("What?", PASSAGES[1:])])
    assert found.answer.text == "barrel"
    assert found.hits == ()


def test_top_k_is_at_least_one() -> None:
    """Nothing could be read otherwise."""
    with pytest.raises(ConfigError, match="top_k: must be at least 1, got 0"):
        RQAPipeline(Repeater(), top_k=0)


# ---- the extractive reader ----


def decoded(*entries: tuple[str, float], null: float | None = None, threshold: float = 0.0) -> DecodedSpans:
    """What is decoded of one passage; each entry has a text and the sum of its logits."""
    everything = [*entries, *([("", null)] if null is not None else [])]
    n_best = [{"text": text, "probability": 0.0, "start_logit": total, "end_logit": 0.0} for text, total in everything]
    spans = [(place, place + len(text)) if text else (-1, -1) for place, (text, _) in enumerate(everything)]
    difference = None if null is None else null - entries[0][1]
    best = len(entries) if difference is not None and difference > threshold else 0
    return DecodedSpans(everything[best][0], n_best, spans, best, difference, 0.0)


@pytest.mark.parametrize(
    ("passages", "answer", "passage"),
    [
        ([decoded(("a", 1.0)), decoded(("b", 2.0), ("c", 1.0))], "b", 1),
        ([decoded(("a", 2.0)), decoded(("b", 2.0))], "a", 0),  # of equals, the better ranked
        ([decoded(("a", 9.0), null=8.0), decoded(("b", 2.0), null=0.0)], "a", 0),  # margins are not compared
        ([decoded(("a", -10.0), null=-18.0), decoded(("b", 12.0), null=6.0)], "b", 1),
        ([decoded(("b", 12.0), null=6.0), decoded(("a", -10.0), null=-18.0)], "b", 0),
        ([decoded(("a", -10.0), null=-18.0), decoded(("b", 12.0), null=14.0)], "a", 0),  # b says "no answer"
        ([decoded(("a", 9.0), null=10.0), decoded(("b", 2.0), null=1.5)], "b", 1),
        ([decoded(("a", 1.0), null=2.0), decoded(("b", 2.0), null=3.0)], "", -1),  # though b exceeds a's null
        ([decoded(("a", 1.0), null=2.0, threshold=1.0), decoded(("b", 2.0), null=3.5, threshold=1.0)], "a", 0),
        ([decoded(("a", 2.0), null=1.0, threshold=-2.0), decoded(("b", 1.0), null=-2.0, threshold=-2.0)], "b", 1),
        ([decoded(("a", 2.0), null=0.0), decoded(("b", 2.0), null=-9.0)], "a", 0),  # of equals, the better ranked
    ],
)
def test_choosing_a_passage(passages: list[DecodedSpans], answer: str, passage: int) -> None:
    """The span of the highest logits; in v2.0 among the passages whose own "no answer" does not win."""
    found = choose_passage(passages)
    assert (found.text, found.passage) == (answer, passage)


@pytest.mark.parametrize(
    ("passages", "answer", "passage"),
    [
        # log P(span), log-odds of "no answer": P(span) (1 - P(no answer)) is 0.5 * 0.50 and 0.45 * 0.99, 0.25 < 0.44
        ([(0.5, 0.0), (0.45, -4.6)], "b", 1),
        ([(0.5, -4.6), (0.45, -4.6)], "a", 0),
        ([(0.1, -9.0), (0.9, -0.1)], "b", 1),  # 0.1 and 0.9 * 0.52: the surer passage has the weaker span
        ([(0.9, 0.1), (0.2, -0.1)], "b", 1),  # a says "no answer"
        ([(0.9, 0.1), (0.2, 0.1)], "", -1),
    ],
)
def test_choosing_a_passage_from_beams(passages: list[tuple[float, float]], answer: str, passage: int) -> None:
    """A beam-search head's logits are probabilities within the passage, and its null score says whether it answers."""
    found = [
        decode_beams(["ab"], [[beam(math.log(span), number, null)]], version_2_with_negative=True)[0]
        for number, (span, null) in enumerate(passages)
    ]
    chosen = choose_passage(found, BeamSearch.passage_rank)
    assert (chosen.text, chosen.passage) == (answer, passage)


def beam(log_prob: float, place: int, null: float) -> SpanCandidates:
    logits, start = np.array([log_prob], np.float32), np.array([place], np.int32)
    return SpanCandidates(logits, np.zeros_like(logits), start, start + 1, null, 0.0)


def test_a_passage_whose_best_span_is_white_space_does_not_answer() -> None:
    """In v1 too the answer comes from a passage with text, where there is one."""
    (blank,) = decode_many([" oil"], [[beam(9.0, 0, 0.0), beam(8.0, 2, 0.0)]])
    (word,) = decode_many(["oil"], [[beam(1.0, 0, 0.0)]])
    assert (choose_passage([blank, word]).text, choose_passage([blank, word]).passage) == ("o", 1)
    assert (choose_passage([blank]).text, choose_passage([blank]).passage) == ("", -1)


def test_probabilities_are_over_all_passages() -> None:
    """The answer's is its share of all entries; a passage's is the sum of its texts'; "no answer" takes the rest."""
    found = choose_passage([decoded(("a", 0.0), ("b", 0.0)), decoded(("c", 1.0), null=-1.0)])
    mass = 2 + 2.718281828459045 + 1 / 2.718281828459045
    assert found.score == pytest.approx(2.718281828459045 / mass)
    assert found.passage_scores == pytest.approx((2 / mass, 2.718281828459045 / mass))


def test_one_passage_is_read_as_a_context(extractive: Path) -> None:
    """The answer, its place and its score are those of asking with that context."""
    reader = ExtractiveReader.from_pretrained(extractive)
    (found,) = reader.read_passages([Question("oil price?", PASSAGES[:1])])
    expected = reader.answer("oil price?", PASSAGES[0].text)
    assert (found.text, found.start, found.end) == (expected.text, expected.start, expected.end)
    assert found.score == pytest.approx(expected.score)
    assert PASSAGES[0].text[found.start : found.end] == found.text


def test_the_order_of_passages_changes_no_answer(extractive: Path) -> None:
    """Only the number of the passage follows the order."""
    reader = ExtractiveReader.from_pretrained(extractive, batch_size=2)
    one, other = reader.read_passages([Question("oil?", PASSAGES), Question("oil?", PASSAGES[::-1])])
    assert one.text == other.text
    assert one.passage == 2 - other.passage


# ---- the Fusion-in-Decoder reader ----


def test_answers_do_not_depend_on_the_batch(fusion: Path) -> None:
    """Alone or together, and in any order, each question gets its answer."""
    questions = [Question("oil?", PASSAGES), Question("when did it begin?", PASSAGES[:1]), Question("a", PASSAGES[1:])]
    together = FusionReader.from_pretrained(fusion, batch_size=3, bf16=False).read_passages(questions)
    alone = FusionReader.from_pretrained(fusion, batch_size=1, bf16=False).read_passages(questions[::-1])[::-1]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert len({answer.text for answer in together}) > 1  # so that a mix-up would show
    assert all(answer.score is None for answer in together)


def test_scores_of_an_answer(fusion: Path) -> None:
    """The geometric mean of its tokens' probabilities, as transformers scores what it generates."""
    reader = FusionReader.from_pretrained(fusion, bf16=False)
    (found,) = reader.read_passages([Question("oil?", PASSAGES[:1])], scores=True)
    features = reader.task.features(reader.task.examples_of([Question("oil?", PASSAGES[:1])]), training=False)
    batch = reader.task.collate([features[0]])
    output: Any = reader.model.generate(
        input_ids=batch["passage_ids"][None],  # one passage: the plain model reads the same
        max_new_tokens=8,
        output_scores=True,
        return_dict_in_generate=True,
    )
    logs = reader.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    assert found.score == pytest.approx(logs[0].mean().exp().item(), rel=1e-4)


def test_shares_of_passages(fusion: Path) -> None:
    """They sum up to one; a passage beyond n_context was not read and has none."""
    reader = FusionReader.from_pretrained(fusion, n_context=2, bf16=False)
    (found,) = reader.read_passages([Question("oil?", PASSAGES)], scores=True)
    assert found.passage_scores is not None
    assert sum(found.passage_scores) == pytest.approx(1)
    assert found.passage_scores[2] == 0.0
    (fewer,) = reader.read_passages([Question("oil?", PASSAGES[:2])])
    assert fewer.text == found.text


def test_the_end_of_an_answer_counts_once() -> None:
    """What follows the first end token is padding, also where it is the end token itself."""
    written = torch.tensor([[5, 1, 1, 0], [5, 6, 7, 8]])
    assert end_of_answers(written, 1).tolist() == [[5, 1, -100, -100], [5, 6, 7, 8]]
    assert end_of_answers(written, [1, 7]).tolist() == [[5, 1, -100, -100], [5, 6, 7, -100]]
    assert end_of_answers(written, None).tolist() == written.tolist()


@pytest.mark.parametrize("kind", ["fusion", "extractive"])
def test_a_question_without_passages(kind: str, request: pytest.FixtureRequest) -> None:
    """Is named, by either reader."""
    reader = load_reader(request.getfixturevalue(kind))
    with pytest.raises(DataError, match="passages: needs at least one to answer 'Who\\?'"):
        reader.read_passages([Question("What?", PASSAGES), Question("Who?")])


# ---- loading ----


def test_a_folder_tells_its_kind(fusion: Path, extractive: Path) -> None:
    """And brings the settings of its training, which may be overridden."""
    assert isinstance(load_reader(extractive), ExtractiveReader)
    reader = load_reader(fusion, num_beams=2)
    assert isinstance(reader, FusionReader)
    assert (reader.settings.max_encoder_seq_length, reader.settings.num_beams) == (32, 2)


@pytest.mark.parametrize("kept", [None, {"max_seq_length": 48, "doc_stride": 8}])
@pytest.mark.parametrize("kind", ["extractive", "beam-search"])
def test_a_folder_of_version_0_1_is_read(kind: str, kept: dict[str, Any] | None, tmp_path: Path) -> None:
    """Its reader.json names no task, or is not there: its architecture tells what it is."""
    if kind == "extractive":
        folder = tiny.model_folder(tmp_path / "model")
    else:
        folder = tiny_beams.model_folder(tmp_path / "model", "xlnet")
    if kept is not None:
        (folder / "reader.json").write_text(json.dumps(kept), encoding="utf-8")
    reader = load_reader(folder, n_best_size=30)
    assert type(reader) is {"extractive": ExtractiveReader, "beam-search": BeamSearchReader}[kind]
    assert reader.task.name == kind
    expected = {"extractive": 128, "beam-search": 384}[kind] if kept is None else 48  # 128: the model's longest input
    assert reader.settings.max_seq_length == expected
    answer = reader.answer("oil price?", PASSAGES[0].text)
    assert PASSAGES[0].text[answer.start : answer.end] == answer.text != ""


# What version 0.1 wrote into reader.json: every setting of the task, and no task.
KEPT_BY_BOTH = {
    **{"n_context": None, "num_hard_negatives": 0, "embedding_model": "", "corpus_file": None, "index": None},
    **{"embedding_max_num_to_retrieve": 3, "num_beams": 1, "length_penalty": 1.0, "early_stopping": False},
    **{"no_repeat_ngram_size": 0, "min_new_tokens": 0, "do_sample": False, "temperature": 1.0, "top_p": 1.0},
}
KEPT = {
    "fid": {
        **{**KEPT_BY_BOTH, "max_encoder_seq_length": 32, "max_decoder_seq_length": 8, "prompt_template": "fid"},
        **{"user_prefix": "USER:", "assistant_prefix": "ASSISTANT:", "encoder_chunk_size": 32},
        **{"max_new_tokens": None, "encoder_decoder_from": None},
    },
    "causal-lm": {
        **{**KEPT_BY_BOTH, "max_length": 128, "max_new_tokens": 6, "predict_with_generate": True},
        **{"apply_chat_template": False, "user_start_tag": "", "user_end_tag": "\n", "asst_tag": "Answer: "},
        **{"system_prompt": None, "passage_template": "{title}: {context}\n"},
    },
}


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    ("kind", "reader_class", "make"),
    [("fid", FusionReader, fusion_folder), ("causal-lm", GenerationReader, causal_folder)],
    ids=["fid", "causal-lm"],
)
def test_a_folder_of_version_0_1_that_generates_is_read(
    kind: str, reader_class: type[Reader], make: Callable[[Path], Path], kept: bool, tmp_path: Path
) -> None:
    """Its settings hold where they were kept, whose tokenizer is checked, and give the answers of today's folder."""
    folder = make(tmp_path / "model")
    settings = {**KEPT[kind], TOKENIZER_SUM: tokenizer_sum(folder)}
    (folder / "reader.json").write_text(json.dumps(settings), encoding="utf-8")
    if not kept:
        (folder / "reader.json").unlink()
    reader = load_reader(folder, num_beams=2)
    assert (type(reader), reader.task.name) == (reader_class, kind)
    assert vars(reader.settings).items() >= ({**KEPT[kind], "num_beams": 2} if kept else {"num_beams": 2}).items()
    question = Question("oil price?", PASSAGES)
    (answer,) = reader.answer_questions([question], scores=True)
    assert 0 < (answer.score or 0) <= 1
    (folder / "reader.json").write_text(json.dumps({**vars(reader.settings), "task": kind}), encoding="utf-8")
    assert load_reader(folder).answer_questions([question], scores=True) == [answer]
    if kept:
        (folder / "reader.json").write_text(json.dumps({**settings, TOKENIZER_SUM: "0" * 64}), encoding="utf-8")
        with pytest.raises(CheckpointError, match="its tokenizer is not the one that the model was trained with"):
            load_reader(folder)


def test_a_task_that_derives_from_another_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both read an architecture, whatever their names sort to."""
    folder = tiny_beams.model_folder(tmp_path / "model", "xlnet")
    monkeypatch.setattr(TASKS, "names", lambda: ["extractive", "beam-search"])
    assert type(load_reader(folder)) is BeamSearchReader


def test_the_old_name_of_answer_questions(extractive: Path) -> None:
    """read_passages gives the same."""
    reader = load_reader(extractive)
    questions = [Question("oil price?", PASSAGES[:1]), Question("what?", PASSAGES)]
    assert reader.answer_questions(questions) == reader.read_passages(questions) != []


def test_settings_of_the_other_kind_are_refused(fusion: Path, extractive: Path) -> None:
    """Rather than passed over."""
    with pytest.raises(ConfigError, match="max_answer_length: is not a setting of"):
        load_reader(fusion, max_answer_length=3)
    with pytest.raises(ConfigError, match="num_beams: is not a setting of"):
        load_reader(extractive, num_beams=2)


def test_other_models_are_refused(tmp_path: Path) -> None:
    """A plain encoder answers nothing; a folder without a config, or with a broken one, is no model."""
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(tmp_path / "bert")
    with pytest.raises(
        CheckpointError,
        match=r"must be one of .*an extractive reader.*, got BertModel",
    ):
        load_reader(tmp_path / "bert")
    FSMTConfig(architectures=["FSMTForConditionalGeneration"]).save_pretrained(tmp_path / "fsmt")  # no weights
    with pytest.raises(CheckpointError, match="must name a model with one vocabulary, got a fsmt"):
        load_reader(tmp_path / "fsmt")
    with pytest.raises(CheckpointError, match="is neither a run's folder"):
        load_reader(tmp_path)
    (tmp_path / "bert/config.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="has no config that can be read"):
        load_reader(tmp_path / "bert")


def test_damaged_settings_are_named(fusion: Path, tmp_path: Path) -> None:
    """The file that training left beside the weights, by its path."""
    folder = fusion_folder(tmp_path / "copy")
    (folder / "reader.json").write_text("[", encoding="utf-8")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_reader(folder)
    (folder / "reader.json").write_text(json.dumps({"num_beams": 0}), encoding="utf-8")
    with pytest.raises(ConfigError, match="num_beams: must be >= 1, got 0"):
        load_reader(folder)
