"""The task reranker: its pairs, its losses beside sentence-transformers' own, and its rankings."""

import math
from pathlib import Path
from typing import Any

import pytest
import tiny_retrieval
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder import losses as st
from transformers import BertForSequenceClassification

from model_hub_rqa import cli
from model_hub_rqa.errors import DataError
from model_hub_rqa.models.build import build_config_and_tokenizer
from model_hub_rqa.models.limits import Limits
from model_hub_rqa.tasks.reranker import RerankerKwargs, RerankerTask, passages_of, reranker_loss


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("reranker")
    return str(tiny_retrieval.encoder_folder(folder, BertForSequenceClassification, num_labels=1))


def task_of(encoder: str, **settings: Any) -> tuple[RerankerTask, Any]:
    task = RerankerTask(RerankerKwargs(**{"num_hard_negatives": 2, **settings}))
    names = {"pretrained_model_name_or_path": encoder}
    config, tokenizer = build_config_and_tokenizer(names, names)
    task.setup(task.adapt_config(config, tokenizer), tokenizer, Limits(64))
    task.check()
    return task, task.build_model(None, names, True)


def batch_of(task: RerankerTask, records: list[dict[str, Any]], tmp_path: Path) -> dict[str, Any]:
    path = tiny_retrieval.write_lines(tmp_path / "records.jsonl", records)
    features = task.features(task.load(path), training=True)
    return task.training_batch(task.collate(list(features)), 0)


RECORDS = [tiny_retrieval.record(number) for number in (0, 1, 5)]
QUESTIONS = [one["question"] for one in RECORDS]
TEXTS = [[p["text"] for p in (*one["positive_ctxs"], *one["hard_negative_ctxs"])] for one in RECORDS]
SCORES = torch.tensor([[p["score"] for p in (*one["positive_ctxs"], *one["hard_negative_ctxs"])] for one in RECORDS])


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "lambda", "margin_mse"])
def test_losses_are_those_of_sentence_transformers(loss: str, encoder: str, tmp_path: Path) -> None:
    """Its CrossEncoder, on the texts of the same passages, gives the same value and the same gradients."""
    task, model = task_of(encoder, loss=loss)
    found = task.loss(model, batch_of(task, RECORDS, tmp_path))
    found.backward()
    other = CrossEncoder(encoder, device="cpu").eval()
    labels = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    if loss == "binary_cross_entropy":
        own: Any = st.BinaryCrossEntropyLoss(other, pos_weight=torch.tensor(2.0))
        asked = [[question for question in QUESTIONS for _ in range(3)], [text for row in TEXTS for text in row]]
        expected = own(asked, labels.flatten())
    elif loss == "lambda":
        expected = st.LambdaLoss(other, mini_batch_size=-1)([QUESTIONS, TEXTS], list(labels))
    else:
        expected = st.MarginMSELoss(other)([QUESTIONS, *map(list, zip(*TEXTS, strict=True))], SCORES)
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert expected.item() != 0
    theirs = {name.removeprefix("0.").partition(".")[2]: one.grad for name, one in other.named_parameters()}
    for name, one in model.named_parameters():
        assert torch.allclose(one.grad, theirs[name], rtol=1e-4, atol=1e-6), name


def test_the_softmax_by_hand() -> None:
    """The cross entropy of the positive, the mean over the questions."""
    logits = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 1.0]])
    expected = [math.log(math.e + 1 + math.e**2) - 1, math.log(math.e**3 + 2 * math.e) - 3]
    found = reranker_loss(logits, logits, RerankerKwargs(loss="softmax"))
    assert found.item() == pytest.approx(sum(expected) / 2)


def test_pairs_are_those_of_a_cross_encoder(encoder: str, tmp_path: Path) -> None:
    """Title and text, cut to the length that travels with the tokenizer."""
    record = RECORDS[0] | {"hard_negative_ctxs": [{"title": "Oil", "text": "oil price " * 60}]}
    task, model = task_of(encoder, max_seq_length=24, num_hard_negatives=1)
    batch = batch_of(task, [record], tmp_path)
    model.save_pretrained(tmp_path / "saved")
    task.tokenizer.save_pretrained(tmp_path / "saved")
    other = CrossEncoder(str(tmp_path / "saved"), device="cpu")
    assert other.max_seq_length == 24
    texts = [TEXTS[0][0], "Oil " + "oil price " * 60]
    expected = other.preprocess([(QUESTIONS[0], text) for text in texts])
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert batch[name][0].tolist() == expected[name].tolist(), name
    assert expected["input_ids"].shape == (2, 24)


def test_a_validation_has_a_feature_a_passage(encoder: str, tmp_path: Path) -> None:
    """Its scores are those of the CrossEncoder, by question and passage."""
    task, model = task_of(encoder)
    examples = task.load(tiny_retrieval.write_lines(tmp_path / "records.jsonl", RECORDS))
    features = task.features(examples, training=False)
    assert features["example_index"][:] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    found = task.predict(model.eval(), task.collate(list(features)))
    other = CrossEncoder(encoder, device="cpu", activation_fn=torch.nn.Identity())
    for row, (question, texts) in enumerate(zip(QUESTIONS, TEXTS, strict=True)):
        expected = other.predict([(question, text) for text in texts]).tolist()
        assert [found[row, number] for number in range(3)] == pytest.approx(expected, abs=1e-5)


def test_rankings_by_hand(tmp_path: Path) -> None:
    """The positives are at ranks 2 and 1; of equal scores the negative comes first."""
    task = RerankerTask()
    examples = task.load(tiny_retrieval.write_lines(tmp_path / "records.jsonl", RECORDS[:2]))
    assert [one["gold"] for one in passages_of(examples[0])] == [True, False, False]
    scores = {(0, 0): 1.0, (0, 1): 1.0, (0, 2): -1.0, (1, 0): 3.0, (1, 1): 1.0, (1, 2): 2.0}
    results = task.decode(scores, examples)
    assert [[number for number, _ in one] for one in results] == [[1, 0, 2], [0, 2, 1]]
    assert task.metrics(results, examples) == pytest.approx({"nDCG@10": (1 / math.log2(3) + 1) / 2, "MRR@10": 0.75})
    assert [one.text for one in task.answers(results, examples)] == [TEXTS[0][1], TEXTS[1][0]]
    lines = task.files(results, examples)["rankings.jsonl"]
    assert [one["gold"] for one in lines[0]["passages"]] == [False, True, False]
    part = task.decode({(1, 2): 1.0}, examples)  # Determined's test mode evaluates one batch
    assert task.metrics(part, examples) == {"nDCG@10": 0.0, "MRR@10": 0.0}


def test_a_validation_record_without_a_positive(encoder: str, tmp_path: Path) -> None:
    task, _ = task_of(encoder)
    lines = [RECORDS[0] | {"positive_ctxs": []}]
    examples = task.load(tiny_retrieval.write_lines(tmp_path / "records.jsonl", lines))
    with pytest.raises(DataError, match="validation record q0: must have a positive passage, got none"):
        task.prepare({"train": examples, "validation": examples})


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("data", {"loss": "lamda"}, "data.loss: must be one of binary_cross_entropy, softmax, lambda, margin_mse"),
        ("data", {"num_hard_negatives": 0}, "data.num_hard_negatives: must be >= 1"),
        ("data", {"loss": "softmax", "positive_weight": 2.0}, "data.positive_weight: is ignored with loss softmax"),
        ("hyperparameters", {"max_tokens_per_batch": 9}, "hyperparameters.max_tokens_per_batch: must be unset"),
        ("hyperparameters", {"model_mode": "base"}, "model_mode: must be sequence-classification or unset, got base"),
    ],
)
def test_bad_settings(
    section: str, change: dict[str, Any], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_retrieval.config(tmp_path, trial="Reranker")
    config[section] |= change
    assert cli.main(["validate", tiny_retrieval.write_config(tmp_path, config)]) == 2
    assert error in capsys.readouterr().err
