"""GenerationTrial from a configuration to predictions, on a tiny GPT-2."""

import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_fusion import records, write_lines
from tiny_generation import causal_folder, changed, experiment, predictions
from tokenizers_for_tests import chat_tokenizer, roberta
from transformers import AutoModelForCausalLM
from watching import watch

from model_hub_rqa import train
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.runtime import experiments


def run(config: Path, output: Path, *arguments: str) -> list[dict[str, Any]]:
    """Trains in this process and returns the reports of validations."""
    assert train.main([str(config), "--output-dir", str(output), *arguments]) == 0
    return tiny.reports(output, "validation")


def trial_of(config: Path) -> Any:
    return experiments.validate(experiments.load_experiment(str(config)))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A configuration, and its run, in which the model learnt eight questions by heart."""
    folder = tmp_path_factory.mktemp("learned")
    config = experiment(
        folder, train=8, validation=8, max_steps=150, learning_rate=1e-2, eval_steps=150, save_steps=150
    )
    run(config, folder / "run")
    return config, folder / "run"


def test_learns_and_writes_predictions(learned: tuple[Path, Path]) -> None:
    """Prompts of different lengths, written in one batch, all have their answers; the file says what was read."""
    _, output = learned
    (report,) = tiny.reports(output, "validation")
    assert report["exact_match"] == report["f1"] == 100
    assert 0 < report["eval_loss"] < 0.2
    expected = records(8)
    for line, record in zip(predictions(output), expected, strict=True):
        assert set(line) == {"id", "question", "prediction", "references", "passages"}
        assert (line["id"], line["question"]) == (record["id"], record["question"])
        assert line["prediction"] == record["answers"][0]
        assert [(p["title"], p["text"]) for p in line["passages"]] == [
            (ctx["title"], ctx["text"]) for ctx in record["ctxs"][:2]
        ]


def test_the_checkpoint_alone_agrees(learned: tuple[Path, Path]) -> None:
    """The plain folder, by transformers alone and one example at a time: the same answers, the same loss."""
    config, output = learned
    model: Any = AutoModelForCausalLM.from_pretrained(output / "checkpoints/checkpoint-150/pretrained").eval()
    trial = trial_of(config)
    total, tokens = 0.0, 0
    for feature, line in zip(trial.datasets["validation"], predictions(output), strict=True):
        prompt = torch.tensor([feature["input_ids"].tolist()])
        written = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=roberta().pad_token_id)
        text = roberta().decode(written[0, prompt.shape[1] :], skip_special_tokens=True)
        assert text.strip() == line["prediction"]
        answer = torch.tensor([feature["answer_ids"].tolist()])
        whole = torch.cat([prompt, answer], dim=1)
        labels = whole.clone()
        labels[:, : prompt.shape[1]] = -100
        with torch.no_grad():
            total += model(input_ids=whole, labels=labels).loss.item() * answer.shape[1]
        tokens += answer.shape[1]
    (report,) = tiny.reports(output, "validation")
    assert report["eval_loss"] == pytest.approx(total / tokens, abs=1e-5)


def test_the_loss_is_the_mean_over_examples_of_answers_alone(tmp_path: Path) -> None:
    """A training step's loss is that of transformers, example by example, whatever stands in the prompt's labels."""
    config = experiment(tmp_path, train=8, max_steps=1)
    run(config, tmp_path / "run")
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    losses = []
    for feature in trial_of(config).datasets["train"]:
        ids = torch.tensor([[*feature["input_ids"], *feature["answer_ids"]]])
        labels = ids.clone()
        labels[:, : len(feature["input_ids"])] = -100
        with torch.no_grad():
            losses.append(model(input_ids=ids, labels=labels).loss.item())
    (report,) = tiny.reports(tmp_path / "run", "training")
    assert report["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize(
    ("hyperparameters", "seen"),
    [
        ({}, {"layer_calls": 2, "steps": 2, "batches": 2, "dtypes": {torch.float32}, "num_beams": [1]}),
        ({"gradient_checkpointing": True}, {"layer_calls": 4}),
        ({"bf16": True}, {"dtypes": {torch.bfloat16}}),
        ({"gradient_accumulation_steps": 2}, {"steps": 2, "batches": 4}),
        ({"num_beams": 3}, {"num_beams": [3]}),
        ({"max_tokens_per_batch": 400}, {"steps": 2}),
    ],
    ids=lambda values: next(iter(values), "default"),
)
def test_settings_of_training(
    hyperparameters: dict[str, Any], seen: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes effect, with every metric finite."""
    watched = watch(monkeypatch)
    config = experiment(tmp_path, train=16, validation=3, max_steps=2, **{"bf16": False, **hyperparameters})
    *_, report = run(config, tmp_path / "run")
    assert {name: getattr(watched, name) for name in seen} == seen
    assert watched.trial.model.is_gradient_checkpointing == ("gradient_checkpointing" in hyperparameters)
    assert {"exact_match", "f1", "rougeL", "eval_loss"} <= set(report)
    assert all(torch.tensor(report[name]).isfinite() for name in ("exact_match", "f1", "rougeL", "eval_loss"))


def test_without_generation_only_the_loss(tmp_path: Path) -> None:
    """predict_with_generate: false writes no answers, and nothing to a file."""
    config = experiment(tmp_path, max_steps=1)
    changed(config, data={"predict_with_generate": False}, searcher={"metric": "eval_loss", "smaller_is_better": True})
    (report,) = run(config, tmp_path / "run")
    assert "eval_loss" in report
    assert not {"exact_match", "f1"} & set(report)
    assert not (tmp_path / "run/predictions.jsonl").exists()


def test_a_chat_is_trained(tmp_path: Path) -> None:
    """The tokenizer's chat template, turns of a dialogue included; answers end where a turn does."""
    tokenizer = chat_tokenizer()
    causal_folder(tmp_path / "model", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path / "model")
    config = experiment(tmp_path, train=8, validation=8, max_steps=150, learning_rate=1e-2, eval_steps=150)
    changed(config, data={"apply_chat_template": True, "n_context": 1})
    (report,) = run(config, tmp_path / "run")
    assert report["exact_match"] == 100  # so the end of a turn was learnt, and stopped each answer


def test_retrieved_passages(tmp_path: Path) -> None:
    """An index of the corpus: validation reads what it finds, and is scored as retrieval too."""
    from model_hub_rqa.retrieval.bm25 import BM25Settings
    from model_hub_rqa.retrieval.index_folder import build_index

    words = ["price", "river", "embargo", "barrel"]
    corpus = [{"_id": str(i), "title": word, "text": f"it is the {word} of oil"} for i, word in enumerate(words)]
    write_lines(tmp_path / "corpus.jsonl", corpus)
    build_index(tmp_path / "corpus.jsonl", tmp_path / "index", BM25Settings())
    rows = [
        {"id": word, "question": f"what {word} of oil?", "answers": [word], "ctxs": [{**ctx, "isgold": True}]}
        for word, ctx in zip(words, ({"title": one["title"], "text": one["text"]} for one in corpus), strict=True)
    ]
    config = experiment(tmp_path, max_steps=1)
    data = write_lines(tmp_path / "data.jsonl", rows)
    changed(
        config, data={"train_file": data, "validation_file": data, "index": str(tmp_path / "index"), "n_context": 2}
    )
    (report,) = run(config, tmp_path / "run")
    assert [len(line["passages"]) for line in predictions(tmp_path / "run")] == [2] * 4
    assert [line["passages"][0]["title"] for line in predictions(tmp_path / "run")] == words
    assert report["document_recall"] == report["document_recall@1"] == 1


@pytest.mark.parametrize(
    ("section", "change", "errors"),
    [
        ("data", {"max_length": 158}, ["data.max_length: must be at most 160 with max_new_tokens (6)"]),
        ("data", {"apply_chat_template": True}, ["data.apply_chat_template: must be false for this tokenizer"]),
        ("data", {"num_beams": 0, "max_length": 1}, ["data.max_length: must be >= 8", "data.num_beams: must be >= 1"]),
        (
            "hyperparameters",
            {"objective": "NPOO", "learning_rate": -1},
            ["hyperparameters.learning_rate: must be >= 0", "hyperparameters.objective: must be a registered"],
        ),
        ("hyperparameters", {"objective": "NPO"}, ["NPO needs data.train to name the sets forget and retain"]),
    ],
)
def test_bad_settings(section: str, change: dict[str, Any], errors: list[str], tmp_path: Path) -> None:
    """What is wrong is said in its name, all of it, before a model is built."""
    config = changed(experiment(tmp_path), **{section: change})
    with pytest.raises(ConfigError, match=re.escape(errors[0])) as caught:
        trial_of(config)
    assert len(caught.value.errors) == len(errors)
    for line, error in zip(sorted(caught.value.errors), sorted(errors), strict=True):
        assert error in line


def test_models_that_are_none(tmp_path: Path) -> None:
    """An encoder, and an encoder-decoder, are told apart from a causal language model."""
    tiny.seq2seq_folder(tmp_path / "t5")
    tiny.model_folder(tmp_path / "bert")
    config = experiment(tmp_path)
    for name, error in (("t5", r"got a t5 \(FiDTrial takes encoder-decoders\)"), ("bert", "got a bert$")):
        changed(config, hyperparameters={"pretrained_model_name_or_path": str(tmp_path / name)})
        with pytest.raises(ConfigError, match=f"(?m)must name a causal language model, {error}"):
            trial_of(config)


def test_examples_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are errors of the data, with exit code 2, or left out where the data section says so."""
    rows = [*records(8), {"id": "long", "question": "what " * 100, "answers": ["oil"], "ctxs": []}]
    rows[-1]["ctxs"] = rows[0]["ctxs"]
    config = changed(experiment(tmp_path), data={"train_file": write_lines(tmp_path / "long.jsonl", rows)})
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 2
    assert "data.train: record long: question and answer must fit into max_length" in capsys.readouterr().err
    changed(config, data={"on_bad_record": "skip"})
    assert len(trial_of(config).datasets["train"]) == 8
    with pytest.raises(DataError, match="record long: question and answer must fit into max_length"):
        trial_of(changed(config, data={"on_bad_record": "error"}))
