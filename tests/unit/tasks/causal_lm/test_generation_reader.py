"""A checkpoint of GenerationTrial, asked: the trial's own answers, and how sure they are."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_fusion import records, write_lines
from tiny_generation import causal_folder, experiment, predictions
from tokenizers_for_tests import chat_tokenizer
from transformers import GPT2ForSequenceClassification

from model_hub_rqa import cli, train
from model_hub_rqa.errors import CheckpointError, ConfigError, DataError
from model_hub_rqa.pipeline import load_reader
from model_hub_rqa.readers import GenerationReader
from model_hub_rqa.records import Passage, Question, Turn

PASSAGES = (Passage("1", "Paris is in France.", "Paris"), Passage("2", "Rome is in Italy.", "Rome"))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration, and its run, in which the model learnt eight questions by heart."""
    folder = tmp_path_factory.mktemp("learned")
    config = experiment(
        folder, train=8, validation=8, max_steps=150, learning_rate=1e-2, eval_steps=150, save_steps=150
    )
    assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
    return config, folder / "run"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a model that was not trained."""
    path = causal_folder(tmp_path_factory.mktemp("causal"))
    (path / "reader.json").write_text(json.dumps({"max_length": 64, "max_new_tokens": 5}), encoding="utf-8")
    return path


def features_of(reader: Any, question: Question) -> Any:
    return reader.task.features(reader.task.examples_of([question]), training=False)


def question(record: dict[str, Any]) -> Question:
    passages = (Passage(str(i), one["text"], one["title"]) for i, one in enumerate(record["ctxs"]))
    return Question(record["question"], tuple(passages))


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_the_trials_answers(learned: tuple[Path, Path], batch_size: int) -> None:
    """From the run's folder, whatever the batch and the order."""
    _, output = learned
    reader = load_reader(output, batch_size=batch_size)
    assert isinstance(reader, GenerationReader)
    assert reader.settings.max_new_tokens == 6
    assert reader.n_context == 2
    asked = [question(record) for record in records(8)]
    answers = reader.read_passages(asked[::-1])[::-1]
    assert [answer.text for answer in answers] == [line["prediction"] for line in predictions(output)]
    assert all(answer.score is None for answer in answers)


def test_scores_are_the_mean_probability_of_tokens(folder: Path) -> None:
    """Token by token, each from all before it."""
    reader = GenerationReader.from_pretrained(folder)
    asked = [Question("Where is Paris?", PASSAGES), Question("Rome?", PASSAGES[1:])]
    answers = reader.read_passages(asked, scores=True)
    for one, answer in zip(asked, answers, strict=True):
        (feature,) = features_of(reader, one)
        ids, product, count = list(feature["input_ids"]), 1.0, 0
        for _ in range(5):
            with torch.no_grad():
                shares = reader.model(input_ids=torch.tensor([ids])).logits[0, -1].softmax(dim=0)
            ids.append(int(shares.argmax()))
            product, count = product * float(shares.max()), count + 1
            if ids[-1] in reader.task.end_ids:
                break
        assert answer.text == reader.task.tokenizer.decode(ids[-count:], skip_special_tokens=True).strip()
        assert answer.score == pytest.approx(product ** (1 / count), rel=1e-4)
        assert answer.passage_scores is None


def test_passages_beyond_the_length_are_cut_and_questions_are_not(folder: Path) -> None:
    """A passage too many changes nothing, nor do passages beyond n_context; a question that is too long is named."""
    reader = GenerationReader.from_pretrained(folder, n_context=1)
    long = Passage("3", "word " * 500)
    (feature,) = features_of(reader, Question("Where is Paris?", (long, *PASSAGES)))
    assert feature["length"] <= 64
    assert reader.task.tokenizer.decode(feature["input_ids"]).endswith("Where is Paris?\nAnswer:")
    with pytest.raises(DataError, match=r"question 'Who Who .*must fit into max_length \(64 tokens\), got \d+"):
        reader.read_passages([Question("Where?", PASSAGES), Question("Who " * 100)])


def test_without_passages(folder: Path) -> None:
    """What was learnt by heart needs none."""
    (answer,) = GenerationReader.from_pretrained(folder).read_passages([Question("Who?")], scores=True)
    assert 0 < (answer.score or 0) <= 1


def test_turns_before_the_question(tmp_path: Path) -> None:
    """A chat template shows them."""
    tokenizer = chat_tokenizer()
    causal_folder(tmp_path, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    reader = GenerationReader.from_pretrained(tmp_path, apply_chat_template=True, max_length=120, max_new_tokens=8)
    (feature,) = features_of(reader, Question("And Rome?", PASSAGES, (Turn("user", "Where is Paris?"),)))
    text = tokenizer.decode(feature["input_ids"])
    assert text.index("Where is Paris?") < text.index("And Rome?")


def test_other_models_and_settings(folder: Path, tmp_path: Path) -> None:
    """A classifier has no head to write with, and its tied weights would hide that; settings of others are refused."""
    GPT2ForSequenceClassification(load_reader(folder).model.config).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"a causal language model.*, got GPT2ForSequenceClassification"):
        load_reader(tmp_path)
    with pytest.raises(ConfigError, match="doc_stride: is not a setting of"):
        load_reader(folder, doc_stride=3)


def test_from_the_command_line(
    learned: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One question, a file of them, and an index to read from."""
    _, output = learned
    checkpoint = ["--checkpoint", str(output)]
    assert cli.main(["predict", *checkpoint, "--question", "Where?", "--context", "Here."]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {"answer", "score"}
    data = write_lines(tmp_path / "data.jsonl", records(8))
    assert cli.main(["predict", *checkpoint, "--data", data, "--output", str(tmp_path / "answers.json")]) == 0
    written = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert list(written.values()) == [line["prediction"] for line in predictions(output)]
    capsys.readouterr()
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"_id": p.id, "title": p.title, "text": p.text} for p in PASSAGES])
    index = ["--output", str(tmp_path / "index")]
    assert cli.main(["index", "--corpus", corpus, "--retriever", "bm25", *index]) == 0
    capsys.readouterr()
    asked = ["ask", *checkpoint, "--index", str(tmp_path / "index"), "Where is Paris?"]
    assert cli.main(asked) == 0
    assert "   -  " in capsys.readouterr().out
    assert cli.main([*asked, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert [passage["reader_score"] for passage in answer["passages"]] == [None] * len(answer["passages"])
    evaluation = ["evaluate", *checkpoint, "--data", data, "--index", str(tmp_path / "index")]
    assert cli.main([*evaluation, "--output-dir", str(tmp_path / "evaluation")]) == 0
    assert "exact_match" in json.loads((tmp_path / "evaluation/score.json").read_text(encoding="utf-8"))
