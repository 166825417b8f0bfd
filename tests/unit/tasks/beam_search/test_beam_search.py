"""QABeamSearchTrial: what its head is given, what it finds, and whole runs of tiny XLNets and XLMs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pytest
import tiny
import tiny_beams
import torch
import transformers
from datasets import Dataset
from watching import watch

from model_hub_rqa import train
from model_hub_rqa.checkpoints import pretrained_folder
from model_hub_rqa.cli import main
from model_hub_rqa.errors import CheckpointError
from model_hub_rqa.pipeline import load_reader
from model_hub_rqa.readers import BeamSearchReader, ExtractiveReader
from model_hub_rqa.tasks.beam_search.decoding import beam_candidates
from model_hub_rqa.tasks.beam_search.model import beam_loss, prepare_head, search_beams, set_beam
from model_hub_rqa.tasks.beam_search.task import BeamSearchCollator
from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features
from model_hub_rqa.tasks.extractive.model import reads_question_first

KINDS = ("xlnet", "xlm")
both_kinds = pytest.mark.parametrize("kind", KINDS)


def rows(count: int, seed: int = 0) -> Dataset:
    """Questions about contexts of 1 to 40 words; every third has no answer."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        words = rng.choice(tiny.WORDS, int(rng.integers(1, 40))).tolist()
        place = int(rng.integers(0, len(words)))
        start = len(" ".join([*words[:place], ""]))
        answers = {"text": [words[place]], "answer_start": [start]}
        if number % 3 == 2:
            answers = {"text": [], "answer_start": []}
        found.append({"id": f"q{number}", "question": "What is it?", "context": " ".join(words), "answers": answers})
    return Dataset.from_list(found)


def parts(features: list[Any], size: int) -> Iterator[list[Any]]:
    return (features[low : low + size] for low in range(0, len(features), size))


def batches(kind: str, size: int, *, labels: bool, count: int = 30, seed: int = 0) -> tuple[Any, Any, list[Any]]:
    """A model, its tokenizer and batches of features."""
    model, tokenizer = tiny_beams.build(kind)
    first = reads_question_first(model.config)
    builder = FeatureBuilder(tokenizer, max_seq_length=48, doc_stride=8, labels=labels, question_first=first)
    builder.return_offsets = True
    features = list(build_features(rows(count, seed), builder))
    collator = BeamSearchCollator(tokenizer, model.config)
    return model, tokenizer, [collator(part) for part in parts(features, size)]


# ---- what the head is given ----


@both_kinds
@pytest.mark.parametrize("labels", [True, False])
def test_only_the_context_and_cls_may_be_an_answer(kind: str, labels: bool) -> None:
    """p_mask leaves out question, separators and padding, on whichever side that is."""
    _, tokenizer, found = batches(kind, 8, labels=labels)
    question = tokenizer("What is it?", add_special_tokens=False).input_ids
    seen: set[bool] = set()
    for batch in found:
        for row, ids in enumerate(batch["input_ids"].tolist()):
            allowed = [token for token, masked in zip(ids, batch["p_mask"][row].tolist(), strict=True) if not masked]
            left = [token for token, masked in zip(ids, batch["p_mask"][row].tolist(), strict=True) if masked]
            special = {tokenizer.pad_token_id, tokenizer.sep_token_id}
            assert [token for token in left if token not in special] == question
            assert allowed[-1 if kind == "xlnet" else 0] == tokenizer.cls_token_id
            assert not special & set(allowed)
            assert ids[batch["cls_index"][row]] == tokenizer.cls_token_id
            seen.add(tokenizer.pad_token_id in left)
        assert batch["p_mask"].dtype == torch.float32
        assert ("token_type_ids" in batch) == (kind == "xlnet")  # XLM would take them for words
    assert seen == {True, False}  # rows with padding, and without
    if kind == "xlnet":
        assert all((batch["cls_index"] == batch["length"] - 1).all() for batch in found)


@both_kinds
def test_a_window_without_the_answer_is_impossible(kind: str) -> None:
    """Its start and its end are the CLS token; other windows' are the answer's tokens."""
    _, tokenizer, found = batches(kind, 8, labels=True)
    data = rows(30)
    counts = {0.0: 0, 1.0: 0}
    for batch in found:
        for row, impossible in enumerate(batch["is_impossible"].tolist()):
            start, end = int(batch["start_positions"][row]), int(batch["end_positions"][row])
            counts[impossible] += 1
            if impossible:
                assert start == end == int(batch["cls_index"][row])
                continue
            answer = data[int(batch["example_index"][row])]["answers"]["text"][0]
            text = tokenizer.decode(batch["input_ids"][row, start : end + 1])
            assert text.replace(" ", "").replace("▁", "").lower() == answer.lower()
    assert min(counts.values()) > 5


@both_kinds
def test_the_loss_does_not_depend_on_padding(kind: str) -> None:
    """A batch's is the mean of its examples', each alone and without padding."""
    model, _, (batch, *_) = batches(kind, 8, labels=True)
    _, _, alone = batches(kind, 1, labels=True)
    model.eval()
    with torch.no_grad():
        whole = beam_loss(model, batch)
        single = [beam_loss(model, one) for one in alone[:8]]
    assert batch["attention_mask"].min() == 0
    assert whole.item() == pytest.approx(float(np.mean(single)), rel=1e-5)


@both_kinds
def test_a_beam_wider_than_the_text_pads_the_batch(kind: str) -> None:
    """A head cannot take more tokens than there are; the answers stay what they are."""
    model, tokenizer = tiny_beams.build(kind)
    builder = FeatureBuilder(tokenizer, max_seq_length=48, doc_stride=8, labels=False, question_first=kind == "xlm")
    features = list(build_features(rows(6), builder))[:1]
    length = int(features[0]["length"])
    found = []
    for size in (length, 48):
        set_beam(model, size, size)
        batch = BeamSearchCollator(tokenizer, model.config)(features)
        assert batch["input_ids"].shape[1] == size
        with torch.no_grad():
            (candidates,) = beam_candidates(*search_beams(model.eval(), batch), batch["offsets"].numpy())
        found.append((candidates.char_start.tolist(), candidates.char_end.tolist()))
    assert found[0] == found[1]
    assert len(found[0][0]) > 3


# ---- what it finds ----


def all_spans(model: Any, batch: dict[str, Any], row: int, longest: int) -> list[tuple[float, int, int]]:
    """Every span of a feature with its log-probability, from the head's parts, one start at a time."""
    head = getattr(model, "qa_outputs", model)
    names = ("input_ids", "attention_mask", "token_type_ids")
    states = model.transformer(**{name: batch[name][row : row + 1] for name in names if name in batch})[0]
    offsets = batch["offsets"][row].tolist()
    p_mask = batch["p_mask"][row : row + 1]
    start_probs = head.start_logits(states, p_mask=p_mask)[0].log_softmax(-1).tolist()
    spans = []
    for start, (char_start, _) in enumerate(offsets):
        if char_start < 0:
            continue
        ends = head.end_logits(states, start_positions=torch.tensor([start]), p_mask=p_mask)[0].log_softmax(-1)
        for end in range(start, min(len(offsets), start + longest)):
            if offsets[end][0] >= 0:
                spans.append((start_probs[start] + float(ends[end]), char_start, offsets[end][1]))
    return sorted(spans, key=lambda span: -span[0])


@both_kinds
def test_a_full_beam_of_the_model_is_a_search_over_all_spans(kind: str) -> None:
    """On 200 random features of each model: the same spans by the same log-probabilities, in the same order."""
    model, tokenizer = tiny_beams.build(kind)
    with torch.no_grad():
        for parameter in model.parameters():  # fresh weights find all spans alike
            parameter.mul_(2 if parameter.dim() > 1 else 1)
    builder = FeatureBuilder(tokenizer, max_seq_length=48, doc_stride=8, labels=False, question_first=kind == "xlm")
    features = list(build_features(rows(200), builder))[:200]
    assert len(features) == 200
    collator = BeamSearchCollator(tokenizer, model.config)
    model.eval()
    with torch.no_grad():
        for part in parts(features, 20):
            batch = collator(part)
            tokens = batch["input_ids"].shape[1]
            set_beam(model, tokens, tokens)
            sizes = {"n_best_size": 5, "max_answer_length": 6}
            found = beam_candidates(*search_beams(model, batch), batch["offsets"].numpy(), **sizes)
            for row, candidates in enumerate(found):
                expected = all_spans(model, batch, row, 6)[:5]
                scores = (candidates.start_logit + candidates.end_logit).tolist()
                assert scores == pytest.approx([score for score, _, _ in expected], abs=1e-4)
                (best, start, end), *others = expected
                if not others or best - others[0][0] > 1e-3:  # else rounding may choose
                    assert (candidates.char_start[0], candidates.char_end[0]) == (start, end)


# ---- whole runs ----


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


@pytest.mark.parametrize("kind", [*KINDS, "QATrial on an XLNet"])
def test_metrics_do_not_depend_on_the_number_of_ranks(kind: str, tmp_path: Path) -> None:
    """Two ranks report and write what one does; weights that no forward pass reads hold nobody up."""
    settings = {"train": 8, "validation": 9, "unanswerable": 3, "max_steps": 1, "learning_rate": 1e-9}
    if kind in KINDS:
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
    assert type(reader) is (BeamSearchReader if kind in KINDS else ExtractiveReader)


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


def test_evaluation_holds_no_memories() -> None:
    """XLNet would keep every layer's states of a batch for a next one that never reads them."""
    model, _, (batch, *_) = batches("xlnet", 4, labels=False)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "p_mask", "cls_index")}
    with torch.no_grad():
        assert model.eval()(**inputs).mems
        prepare_head(model)
        assert not model(**inputs).mems


# ---- errors ----


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
