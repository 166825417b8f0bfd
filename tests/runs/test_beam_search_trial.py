"""QABeamSearchTrial: whole runs of tiny XLNets and XLMs, and what is refused before a model is loaded."""

import json
from pathlib import Path
from typing import Any

import forked
import pytest
import tiny
import tiny_beams
import torch
import transformers
from watching import watch

from model_hub_rqa import train
from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.cli import main
from model_hub_rqa.errors import CheckpointError
from model_hub_rqa.pipeline import load_reader
from model_hub_rqa.readers import BeamSearchReader, ExtractiveReader


def learn(folder: Path, kind: str, unanswerable: int) -> Path:
    """Trains on 20 questions until they are known by heart, and is validated on the same."""
    data = {"validation_file": str(folder / "train.json"), "start_n_top": 3, "end_n_top": 2, "max_answer_length": 8}
    settings = {"train": 20, "num_train_epochs": 50, "learning_rate": 5e-3, "eval_steps": 150, "save_steps": 150}
    config = tiny_beams.experiment(folder, kind, data=data, unanswerable=unanswerable, warmup_ratio=0.1, **settings)
    assert train.main([str(config), "--output-dir", str(folder / "run")]) == 0
    return folder


@pytest.fixture(scope="module", params=[("xlnet", 3), ("xlnet", 0), ("xlm", 3)], ids=["xlnet-v2", "xlnet-v1", "xlm-v2"])
def learnt(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind, unanswerable = request.param
    return learn(tmp_path_factory.mktemp(kind), kind, unanswerable)


def test_a_tiny_model_learns_by_heart(learnt: Path) -> None:
    """The loss falls to nearly nothing, and the answers are right."""
    losses = [report["loss"] for report in tiny.reports(learnt / "run", "training")]
    assert losses[0] > 2
    assert losses[-1] < 0.3
    last = tiny.reports(learnt / "run", "validation")[-1]
    assert last["exact_match" if "exact_match" in last else "exact"] > 80
    if "NoAns_exact" in last:
        assert min(last["HasAns_exact"], last["NoAns_exact"]) > 0


def test_a_run_writes_what_rqa_score_reads(learnt: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The three files; their scores are those of the last validation, to the last digit."""
    last = tiny.reports(learnt / "run", "validation")[-1]
    options = []
    if "exact" in last:
        odds = json.loads((learnt / "run/null_odds.json").read_text())
        predictions = json.loads((learnt / "run/predictions.json").read_text())
        assert {key for key, value in odds.items() if value > 0} == {
            key for key, text in predictions.items() if not text
        }
        options = ["--version-2"]
    assert main(["score", str(learnt / "run/predictions.json"), "--data", str(learnt / "train.json"), *options]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores.pop("language"), scores.pop("answer_rules")) == ("en", "SQuAD")
    assert scores
    assert all(last[name] == value for name, value in scores.items() if not name.startswith("best_"))
    for entries in json.loads((learnt / "run/nbest_predictions.json").read_text()).values():
        assert set(entries[0]) == {"text", "probability", "start_logit", "end_logit"}
        assert len(entries) <= 3 * 2 * 3 + 1  # starts, ends, windows


def test_a_checkpoint_is_read_by_rqa_predict(learnt: Path, tmp_path: Path) -> None:
    """The answers, the n-best lists and the null odds are those of the validation, by transformers' own class."""
    folder = pretrained_folder(learnt / "run")
    config = json.loads((folder / "config.json").read_text())
    (name,) = config["architectures"]
    model = getattr(transformers, name).from_pretrained(folder)
    assert (model.config.start_n_top, model.config.end_n_top) == (3, 2)
    output = tmp_path / "predictions.json"
    command = ["predict", "--checkpoint", str(learnt / "run"), "--data", str(learnt / "train.json")]
    assert main([*command, "--output", str(output), "--batch-size", "3"]) == 0
    for written in tmp_path.iterdir():
        ours, theirs = (json.loads((where / written.name).read_text()) for where in (tmp_path, learnt / "run"))
        assert ours.keys() == theirs.keys()
        if written.name == "predictions.json":
            assert ours == theirs
        else:
            assert_close(list(ours.values()), list(theirs.values()))
    assert len(list(tmp_path.iterdir())) == (3 if (learnt / "run/null_odds.json").exists() else 2)


def assert_close(ours: list[Any], theirs: list[Any]) -> None:
    """Numbers of the two are equal but for the rounding of other batches."""
    flat = [[one for row in part for one in (row if isinstance(row, list) else [row])] for part in (ours, theirs)]
    numbers = [
        [one[name] for one in part for name in ("probability", "start_logit")] if isinstance(part[0], dict) else part
        for part in flat
    ]
    assert numbers[0] == pytest.approx(numbers[1], abs=1e-3)


def test_the_reader_reads_passages_with_a_beam_of_its_own(learnt: Path) -> None:
    """Of two passages it answers from the one that it knows; a wider beam gives longer lists."""
    squad = json.loads((learnt / "train.json").read_text())["data"][0]["paragraphs"]
    paragraph = next(one for one in squad if one["qas"][0]["answers"])
    question, context = paragraph["qas"][0]["question"], paragraph["context"]
    reader = load_reader(learnt / "run", start_n_top=8, end_n_top=8)
    assert isinstance(reader, BeamSearchReader)
    assert reader.model.config.start_n_top == 8
    example = {"id": "1", "question": question, "context": context}
    narrow = BeamSearchReader.from_pretrained(learnt / "run").read([example])["1"]
    wide = reader.read([example])["1"]
    assert len(wide.n_best) > len(narrow.n_best)
    answer = reader.answer(question, context)
    assert answer.text == wide.prediction
    assert context[answer.start : answer.end] == answer.text or answer.start == -1
    with pytest.raises(CheckpointError, match="weights missing"):
        ExtractiveReader.from_pretrained(learnt / "run")


def test_a_checkpoint_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    """Stopped after half of its steps and gone on from there, a run ends with the same weights."""
    config = tiny_beams.experiment(tmp_path, train=16, max_steps=4, save_steps=2)
    assert train.main([str(config), "--output-dir", str(tmp_path / "whole")]) == 0
    half = tmp_path / "whole/checkpoints/checkpoint-2"
    assert train.main([str(config), "--output-dir", str(tmp_path / "rest"), "--resume", str(half)]) == 0
    assert tiny.same(tiny.weights(tmp_path / "whole", 4), tiny.weights(tmp_path / "rest", 4))


@pytest.mark.parametrize("kind", [*tiny_beams.KINDS, "QATrial on an XLNet"])
def test_metrics_do_not_depend_on_the_number_of_ranks(kind: str, tmp_path: Path) -> None:
    """Two ranks report and write what one does; weights that no forward pass reads hold nobody up."""
    settings = {"train": 8, "validation": 9, "unanswerable": 3, "max_steps": 1, "learning_rate": 1e-9}
    if kind in tiny_beams.KINDS:
        config = tiny_beams.experiment(tmp_path, kind, per_device_eval_batch_size=4, **settings)
    else:
        _, tokenizer = tiny_beams.build("xlnet")
        model_config = tiny_beams.build("xlnet")[0].config
        transformers.XLNetForQuestionAnsweringSimple(model_config).save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        config = tiny.experiment(tmp_path, per_device_eval_batch_size=4, **settings)
    found = []
    for count in (1, 2):
        run = tmp_path / f"run-{count}"
        codes = forked.run_ranks(count, [str(config), "--output-dir", str(run)], tmp_path / f"logs-{count}")
        assert codes == [0] * count, (tmp_path / f"logs-{count}/0.log").read_text()
        files = [(run / f"{name}.json").read_text() for name in ("predictions", "nbest_predictions", "null_odds")]
        found.append((tiny.reports(run, "validation"), files))
    assert found[0] == found[1]
    reader = load_reader(tmp_path / "run-2")
    assert type(reader) is (BeamSearchReader if kind in tiny_beams.KINDS else ExtractiveReader)


def test_half_precision_and_a_searched_beam(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 trains; a hyperparameter start_n_top is the task's, overrides the data section's, and is a known name."""
    data, watched = {"start_n_top": 9, "end_n_top": 2}, watch(monkeypatch)
    config = tiny_beams.experiment(tmp_path, data=data, train=16, max_steps=2, bf16=True, start_n_top=3)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    assert torch.bfloat16 in watched.dtypes
    assert "not a known name" not in caplog.text
    saved = json.loads((pretrained_folder(tmp_path / "run") / "config.json").read_text())
    assert (saved["start_n_top"], saved["end_n_top"]) == (3, 2)
    reader = load_reader(tmp_path / "run")
    assert reader.settings.start_n_top == 3  # type: ignore[union-attr]


def test_the_beams_sizes_are_the_models_where_none_are_given(tmp_path: Path) -> None:
    """config.start_n_top and end_n_top, 4 and 3 here; none of their weights is frozen but two biases and one unread."""
    config = tiny_beams.experiment(tmp_path, train=16, max_steps=1)
    assert train.main([str(config), "--output-dir", str(tmp_path / "run")]) == 0
    assert load_reader(tmp_path / "run").model.start_n_top == 4
    before, after = (
        transformers.XLNetForQuestionAnswering.from_pretrained(tmp_path / "model"),
        tiny.weights(tmp_path / "run", 1),
    )
    kept = {name for name, value in before.state_dict().items() if torch.equal(value, after[name])}
    assert kept == {"transformer.mask_emb", "start_logits.dense.bias", "end_logits.dense_1.bias"}


def errors(config: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert train.main([str(config), "--output-dir", str(config.parent / "run")]) == 2
    return capsys.readouterr().err


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("model_hub_rqa.models.build.build_model", refuse)


@pytest.mark.usefixtures("no_model")
def test_another_kind_of_head_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A BERT has no beam, and a mode for another head says what it must be; both before a model is loaded."""
    tiny.model_folder(tmp_path / "model")
    config = tiny_beams.experiment(tmp_path, model_mode="token-classification")
    said = errors(config, capsys)
    assert "pretrained_model_name_or_path: must name a model with a beam-search head (xlnet, xlm), got a bert" in said
    assert "model_mode: must be question-answering or unset, got token-classification" in said


@pytest.mark.usefixtures("no_model")
def test_a_model_of_ones_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rather than passed over for the head that this trial is there for."""
    config = tiny_beams.experiment(tmp_path, model={"_target_": "own_models.build_reader", "hidden_size": 8})
    assert "hyperparameters.model: must be unset" in errors(config, capsys)


@pytest.mark.usefixtures("no_model")
def test_sizes_out_of_range_are_named_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the data section, and of a search's hyperparameter."""
    config = tiny_beams.experiment(tmp_path, data={"start_n_top": 65, "end_n_top": 0})
    said = errors(config, capsys)
    assert "data.start_n_top: must be <= max_seq_length (64), got 65" in said
    assert "data.end_n_top: must be >= 1, got 0" in said


@pytest.mark.usefixtures("no_model")
def test_what_does_not_fit_the_model_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A beam of the config's that is wider than a window, and windows beyond XLM's positions."""
    overrides = {"start_n_top": 300}
    data = {"max_seq_length": 200}
    config = tiny_beams.experiment(tmp_path, "xlm", data=data, config_overrides=overrides)
    said = errors(config, capsys)
    assert "config_overrides: start_n_top must be <= max_seq_length (200), got 300" in said
    assert "data.max_seq_length: must be at most 128" in said
