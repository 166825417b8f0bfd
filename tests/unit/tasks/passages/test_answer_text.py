"""Generated tokens to text: as the passages spell it, for tokenizers of the three kinds, in a trial and in a reader."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from readers_for_tests import sentence_piece
from tokenizers import Tokenizer, models
from tokenizers_for_tests import TEXT, bert, roberta
from transformers import AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

import model_hub_rqa.tasks.fid.model
import model_hub_rqa.trials.fid
from model_hub_rqa import train
from model_hub_rqa.data.predictions import read_questions
from model_hub_rqa.data.tokens import TextEncoder
from model_hub_rqa.metrics.text import exact_match_score
from model_hub_rqa.pipeline import load_reader
from model_hub_rqa.records import Passage, Question
from model_hub_rqa.tasks.passages.generation import AnswerDecoder


@pytest.fixture(scope="session")
def word_piece(minilm: str) -> Any:
    return AutoTokenizer.from_pretrained(minilm)


def through(tokenizer: Any, answer: str, *passages: str) -> str:
    """What an answer has become once it was encoded, as a target is, and decoded."""
    (ids,) = TextEncoder(tokenizer)([answer])
    return AnswerDecoder(tokenizer)([*ids.tolist(), *tokenizer.all_special_ids[-1:]], passages)


@pytest.mark.parametrize(
    ("answer", "passage", "expected"),
    [
        ("al-Ain", "It plays in al-Ain.", "al-Ain"),
        ("U.S.", "The U.S. army", "U.S."),
        ("$3.5 billion", "for $3.5 billion,", "$3.5 billion"),
        ("Levi's  Stadium", "at Levi's Stadium", "Levi's Stadium"),
        ("Ögedei Khan", "when Ögedei\nKhan died", "Ögedei Khan"),
        ("Ögedei", "when O\u0308gedei died", "O\u0308gedei"),  # the mark stands by itself there
        ("ain", "chain, ain", "ain"),  # whole words before parts of them
        ("lion", "a million", "lion"),
        ("the rapist", "the therapist, the rapist", "the rapist"),
        ("therapist", "the rapist", "therapist"),  # white space between letters is no matter of spelling
        ("Amazonia", "Amazônia, usually Amazonia; as Amazonia", "Amazonia"),  # the commonest spelling
        ("亚马逊河", "called 亚马逊河 in Chinese", "亚马逊河"),
        ("ꙮ bc", "the ꙭ bc and the ꙮ bc", "ꙭ bc"),  # both are unknown
        ("x ꙮ", "x y, x ꙮ", "x ꙮ"),  # y is known, so it is not meant
        ("", "any", ""),
    ],
)
def test_word_piece_answers_are_spelled_as_the_passage(
    answer: str, passage: str, expected: str, word_piece: Any
) -> None:
    """Punctuation, accents, case, unknown characters."""
    assert through(word_piece, answer, "Another passage.", passage) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("al-Ain", "al-ain"),
        ("U.S.", "u.s."),
        ("$3.5 billion", "$3.5 billion"),
        ("1,000 people (10:30)", "1,000 people (10:30)"),
        ('Levi\'s "Big House", yes!', 'levi\'s "big house", yes!'),
        ("we do not", "we do not"),  # the tokenizer's own cleaning makes it "don't"
        ("“Hi”", "“hi”"),
    ],
)
def test_word_piece_without_passages(answer: str, expected: str, word_piece: Any) -> None:
    """As English writes it."""
    assert through(word_piece, answer) == expected


def test_sentence_piece_takes_back_its_compatibility_forms() -> None:
    """ "km²" is read as "km2", and an unknown character is what the passage has in its place."""
    assert through(sentence_piece(), "5,500,000 km²") == "5,500,000 km2"
    assert through(sentence_piece(), "5,500,000 km²", "covers 5,500,000 km²") == "5,500,000 km²"
    assert through(sentence_piece(), "the Ωl price", "the Ωl price") == "the Ωl price"
    assert through(sentence_piece(), "the oil price", "the  oil price") == "the oil price"


def test_byte_level_text_is_as_it_is() -> None:
    """Nothing was lost, so nothing is looked up: "U. S." stays, whatever a passage has, and so does white space."""
    assert through(roberta(), "U. S. oil .", "U.S. oil.") == "U. S. oil ."
    assert AnswerDecoder(roberta())(roberta()(" oil", add_special_tokens=False).input_ids, []) == "oil"


@given(st.sampled_from(TEXT), st.integers(0, 100), st.integers(0, 100))
def test_any_words_of_a_text_come_back(text: str, first: int, second: int) -> None:
    """From the text that they were taken from, by every tokenizer, equal to it but for case where several fit."""
    words = text.split()
    begin, end = sorted((first % len(words), second % (len(words) + 1)))
    answer = " ".join(words[begin:end])
    for tokenizer in (bert(), roberta(), sentence_piece()):
        assert exact_match_score(through(tokenizer, answer, text), answer)


def sentence_piece_of(texts: list[str]) -> PreTrainedTokenizerFast:
    """The tests' SentencePiece tokenizer with every character of the texts in its vocabulary."""
    backend = Tokenizer.from_str(sentence_piece().backend_tokenizer.to_str())
    state = json.loads(backend.to_str())["model"]
    known = {piece for piece, _ in state["vocab"]}
    characters = sorted(set(backend.normalizer.normalize_str("".join(texts))) - known - {" "})
    vocabulary = [*map(tuple, state["vocab"]), *((character, -12.0) for character in characters)]
    backend.model = models.Unigram(vocabulary, unk_id=state["unk_id"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="<sep>")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["word piece", "byte level", "sentence piece"])
def test_gold_answers_come_back(kind: str, rqa_data: Path, word_piece: Any) -> None:
    """All gold answers of SQuAD's dev-v1.1: exact match 100, so a perfect reader can reach it."""
    rows = read_questions(rqa_data / "squad/dev-v1.1.json").rows
    answers = [answer for row in rows for answer in row["answers"]]
    byte_level, pieces = roberta(), sentence_piece_of(answers)
    tokenizer = {"word piece": word_piece, "byte level": byte_level, "sentence piece": pieces}[kind]
    decode, encoded = AnswerDecoder(tokenizer), iter(TextEncoder(tokenizer)(answers))
    wrong = [
        (answer, text)
        for row in rows
        for answer in row["answers"]
        if not exact_match_score(text := decode(next(encoded), [row["passages"][0]["text"]]), answer)
    ]
    assert len(answers) > 15_000
    assert wrong == []


# ---- where it is used ----

ANSWERS = ["US$3 per barrel", "the basin's 7,000,000", "Université de Montréal", "October 1973"]


def test_a_trial_and_its_reader_spell_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of the gold answers are scored as such, and the reader says the same words."""
    tokenizer = bert()
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tokenizer), **shape)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    passages = [f"{answer}; {text}" for answer, text in zip(ANSWERS, TEXT, strict=True)]
    lines = [
        {"id": str(i), "question": "What?", "answers": [ANSWERS[i]], "ctxs": [{"title": "", "text": passages[i]}]}
        for i in range(4)
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    config = {
        "name": "tiny",
        "entrypoint": "model_hub_rqa.trials.fid:FiDTrial",
        "data": {"train_file": str(file), "validation_file": str(file), "encoder_decoder_from": str(tmp_path / "bert")},
        "hyperparameters": {"global_batch_size": 4, "max_steps": 1},
        "searcher": {"name": "single", "metric": "exact_match", "smaller_is_better": False},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")

    def perfect(model: Any, batch: Any, **settings: Any) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(tokenizer(ANSWERS[i]).input_ids) for i in batch["example_index"].tolist()], batch_first=True
        )

    monkeypatch.setattr(model_hub_rqa.tasks.fid.task, "fusion_generate", perfect)
    assert train.main([str(path), "--output-dir", str(tmp_path / "run")]) == 0
    written = (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["prediction"] for line in written] == ANSWERS
    reader = load_reader(tmp_path / "run")
    asked = [Question("What?", (Passage("", passage),)) for passage in passages]
    assert [answer.text for answer in reader.read_passages(asked)] == ANSWERS
