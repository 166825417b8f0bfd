"""How answers are generated: by the settings alone, with draws that repeat, in training and in readers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_fusion
import torch
from fusion_models_for_tests import batch_of, build
from readers_for_tests import CORPUS, fusion_folder
from tiny_generation import causal_folder
from transformers import AutoModelForCausalLM, GenerationConfig

from model_hub_rqa import cli, train
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.pipeline import load_reader
from model_hub_rqa.records import Question
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.causal_lm.task import generate_answers
from model_hub_rqa.tasks.fid.model import fusion_generate
from model_hub_rqa.tasks.fid.settings import FusionKwargs

BROUGHT = {"do_sample": True, "num_beams": 3, "no_repeat_ngram_size": 1, "min_new_tokens": 7, "repetition_penalty": 9.0}


@pytest.mark.parametrize("kind", [FusionKwargs, GenerationKwargs])
@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"temperature": 0.5}, "temperature: needs do_sample: true beside it, got temperature 0.5 without"),
        ({"top_p": 0.9}, "top_p: needs do_sample: true beside it, got top_p 0.9 without"),
        ({"length_penalty": 2.0}, "length_penalty: needs num_beams of at least 2 beside it, got length_penalty 2.0"),
        ({"early_stopping": True}, "early_stopping: needs num_beams of at least 2 beside it, got early_stopping true"),
        (
            {"min_new_tokens": 9, "max_new_tokens": 8},
            r"min_new_tokens: must be at most the longest answer \(8\), got 9",
        ),
        ({"min_new_tokens": "9", "num_beams": None}, "min_new_tokens: must be a whole number, got '9'"),
        ({"do_sample": True, "temperature": 0.0}, "temperature: must be > 0, got 0.0"),
        ({"do_sample": True, "top_p": 1.5}, "top_p: must be > 0 and <= 1, got 1.5"),
    ],
)
def test_bad_settings(kind: Any, fields: dict[str, Any], error: str) -> None:
    """Nothing that was set is without an effect."""
    with pytest.raises(ConfigError, match=error):
        kind(**fields)


def written(kind: str, model: Any, seed: tuple[int, ...] = (0,), **settings: Any) -> torch.Tensor:
    """Tokens for two questions, without the decoder's start."""
    settings = {"max_new_tokens": 8, **settings}
    if kind == "fusion":
        return fusion_generate(model, batch_of(), seed=seed, **settings)[:, 1:]
    prompts = torch.tensor([[5, 6, 7], [8, 9, 5]])
    return generate_answers(model, prompts, torch.ones_like(prompts), end_ids=[2], padding=1, seed=seed, **settings)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    causal = AutoModelForCausalLM.from_pretrained(causal_folder(tmp_path_factory.mktemp("causal"))).eval()
    with torch.no_grad():
        for parameter in causal.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return {"fusion": build("t5"), "causal": causal}


def repeats(row: list[int]) -> bool:
    tokens = [token for token in row if token > 2]  # without ends and padding
    return len(set(tokens)) < len(tokens)


both = pytest.mark.parametrize("kind", ["fusion", "causal"])


@both
def test_what_a_checkpoint_brings_is_not_used_but_for_its_tokens(kind: str, models: dict[str, Any]) -> None:
    """Its search, its sampling and its lengths: greedy means greedy. Tokens that may not be written are not."""
    model = models[kind]
    own, greedy = model.generation_config, written(kind, model)
    try:
        model.generation_config = GenerationConfig(**{**own.to_diff_dict(), **BROUGHT})
        assert torch.equal(written(kind, model), greedy)
        assert model.generation_config.repetition_penalty == 9.0  # put back
        token = int(greedy[0, 0])
        model.generation_config = GenerationConfig(**{**own.to_diff_dict(), "suppress_tokens": [token]})
        assert token not in written(kind, model)
    finally:
        model.generation_config = own


@both
def test_every_setting_takes_effect(kind: str, models: dict[str, Any]) -> None:
    """Against the greedy answer, or the beams'."""
    model = models[kind]
    greedy = written(kind, model)
    assert any(repeats(row) for row in greedy.tolist())
    assert not any(repeats(row) for row in written(kind, model, no_repeat_ngram_size=1).tolist())
    assert written(kind, model, min_new_tokens=8).shape[1] == 8
    drawn = {"do_sample": True, "top_k": 0}
    draws = [written(kind, model, (seed,), min_new_tokens=8, **drawn).tolist() for seed in range(3)]
    assert draws[0] != draws[1] != draws[2]
    state = torch.get_rng_state()
    assert written(kind, model, (0,), min_new_tokens=8, **drawn).tolist() == draws[0]
    assert torch.equal(torch.get_rng_state(), state)
    for narrow in ({"temperature": 1e-4}, {"top_p": 1e-4}):
        assert torch.equal(written(kind, model, (1,), **drawn, **narrow), greedy)


def test_settings_become_arguments_of_generate() -> None:
    """Each under its name; what has to do with draws is named only where there are any."""
    given = {"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "no_repeat_ngram_size": 3}
    given |= {"min_new_tokens": 2, "max_new_tokens": 5, "do_sample": False}
    assert FusionKwargs(**given).generation == GenerationKwargs(**given).generation == given
    drawn = GenerationKwargs(do_sample=True, temperature=0.7, top_p=0.9).generation
    assert {name: drawn[name] for name in ("do_sample", "temperature", "top_p", "top_k")} == {
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
    }


def test_draws_of_a_validation_are_the_same_after_a_resume(tmp_path: Path) -> None:
    """Predictions and metrics, from the seed; another seed draws others."""
    settings = {"do_sample": True, "max_steps": 4, "save_steps": 2, "eval_steps": 2, "temperature": 2.0}
    config = tiny_fusion.experiment(tmp_path, train=8, validation=5, **settings)
    run, again = tmp_path / "run", tmp_path / "again"
    assert train.main([str(config), "--output-dir", str(run)]) == 0
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints/checkpoint-4")
    (again / "predictions.jsonl").unlink()
    assert train.main([str(config), "--output-dir", str(again), "--resume", "latest"]) == 0
    texts = [(folder / "predictions.jsonl").read_text(encoding="utf-8") for folder in (run, again)]
    assert texts[0] == texts[1]
    other = tmp_path / "other"
    assert (
        train.main(
            [
                str(config),
                "--output-dir",
                str(other),
                "--config",
                "hyperparameters.do_sample=false",
                "--config",
                "hyperparameters.temperature=1.0",
            ]
        )
        == 0
    )
    assert (other / "predictions.jsonl").read_text(encoding="utf-8") != texts[0]
    reader = load_reader(run)
    asked = [Question("Where?", tuple(CORPUS)), Question("Who?", tuple(CORPUS))]
    assert reader.settings.do_sample
    assert reader.read_passages(asked) == reader.read_passages(asked)


def test_options_of_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """predict, ask and evaluate take them in place of what training had; a wrong one is an error with exit code 2."""
    reader = fusion_folder(tmp_path / "reader", max_new_tokens=6, num_beams=2, length_penalty=2.0)
    data, corpus = tmp_path / "data.jsonl", tmp_path / "corpus.jsonl"
    ctxs = [{"id": one.id, "title": one.title, "text": one.text} for one in CORPUS]
    data.write_text(json.dumps({"id": "1", "question": "What?", "answers": ["oil"], "ctxs": ctxs}), encoding="utf-8")
    corpus.write_text("\n".join(json.dumps({**one, "_id": one["id"]}) for one in ctxs), encoding="utf-8")
    index = str(tmp_path / "index")
    assert cli.main(["index", "--corpus", str(corpus), "--retriever", "bm25", "--output", index]) == 0
    options = ["--checkpoint", str(reader), "--min-new-tokens", "5", "--do-sample", "--temperature", "0.5"]
    options += ["--num-beams", "1", "--length-penalty", "1", "--no-early-stopping", "--no-repeat-ngram-size", "2"]
    output = ["--data", str(data), "--output-dir", str(tmp_path / "out")]
    assert cli.main(["evaluate", *options, "--top-p", "0.9", *output]) == 0
    used = json.loads((tmp_path / "out/all_args.json").read_text(encoding="utf-8"))["reader_settings"]
    expected = {"do_sample": True, "temperature": 0.5, "top_p": 0.9, "num_beams": 1, "length_penalty": 1.0}
    expected |= {"min_new_tokens": 5, "max_new_tokens": 6, "no_repeat_ngram_size": 2, "early_stopping": False}
    assert {name: used[name] for name in expected} == expected
    capsys.readouterr()
    predict = ["predict", "--question", "oil price", "--context", "the oil price rose"]
    for command in (["ask", "--index", index, "oil price", "--json"], predict):
        answers = []
        for _ in range(2):
            assert cli.main([*command, *options]) == 0
            answers.append(json.loads(capsys.readouterr().out)["answer"])
        assert answers[0] == answers[1]
        assert cli.main([*command, "--checkpoint", str(reader), "--top-p", "0.5", "--max-new-tokens", "0"]) == 2
        said = capsys.readouterr().err
        assert "--max-new-tokens: must be >= 1, got 0" in said
        assert cli.main([*command, "--checkpoint", str(reader), "--top-p", "0.5"]) == 2
        assert "--top-p: needs do_sample: true beside it, got top_p 0.5 without" in capsys.readouterr().err
