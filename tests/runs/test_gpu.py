"""What a GPU computes, against the CPU: `make gpu-check` runs these tests where there is one.

Each body runs on the CPU as well, so that it is known to work before a GPU sees it.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forked
import numpy as np
import pytest
import tiny
import tiny_fusion
import tiny_generation
import torch
from datasets import Dataset
from fusion_models_for_tests import FAMILIES, batch_of, build
from transformers import AutoModelForCausalLM, BertConfig, BertForQuestionAnswering

from model_hub_rqa.records import Passage
from model_hub_rqa.retrieval.dense import DenseRetriever, DenseSettings
from model_hub_rqa.runtime import determined_controller, determined_fixes
from model_hub_rqa.tasks.causal_lm.features import left_padded_prompts
from model_hub_rqa.tasks.causal_lm.task import generate_answers
from model_hub_rqa.tasks.fid.model import fusion_generate
from model_hub_rqa.trials.task_trial import TaskTrial

GPU = pytest.param("cuda", marks=pytest.mark.gpu)
KINDS: dict[str, Callable[..., Path]] = {
    "QATrial": tiny.experiment,
    "FiDTrial": tiny_fusion.experiment,
    "GenerationTrial": tiny_generation.experiment,
}
# How far the losses of two steps may be from those of the CPU in float32, as a share of them: some bits more than a
# rounding of the format (2**-11, 2**-9 and 2**-11 at most), for sums over a few layers; 1e-4 for float32 itself.
TOLERANCES = {"fp32": 1e-4, "tf32": 4e-3, "bf16": 3e-2, "fp16": 4e-3}


def _on_cpu() -> None:
    assert not torch.cuda.is_available()


def _on_gpu() -> None:
    assert torch.cuda.is_available()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)


def _on_gpu_in_tf32() -> None:
    _on_gpu()
    torch.set_float32_matmul_precision("high")


def train_on(device: str, config: Path, output: Path, *options: str, precision: str = "fp32") -> None:
    """``rqa train`` in a process that sees the GPU, or does not."""
    hook = _on_cpu if device == "cpu" else _on_gpu_in_tf32 if precision == "tf32" else _on_gpu
    environment = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})
    log = output.with_suffix(".log")
    process = forked.start([str(config), "--output-dir", str(output), *options], log, hook=hook, **environment)
    assert forked.finish(process, 300) == 0, log.read_text()


def experiment(kind: str, folder: Path, precision: str = "fp32", **changes: Any) -> Path:
    modes = {"bf16": precision == "bf16", **({"fp16": True} if precision == "fp16" else {})}
    return KINDS[kind](folder, train=20, validation=3, **{"num_train_epochs": 1, **modes, **changes})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[float]]:
    """The losses of two steps on the CPU in float32, by the kind of trial."""
    known: dict[str, list[float]] = {}

    def losses(kind: str) -> list[float]:
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind)
            train_on("cpu", experiment(kind, folder, max_steps=2), folder / "run")
            known[kind] = [report["loss"] for report in tiny.reports(folder / "run", "training")]
        return known[kind]

    return losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16"),
        *(pytest.param("cuda", precision, marks=pytest.mark.gpu) for precision in ("fp32", "tf32", "bf16", "fp16")),
    ],
)
def test_two_steps_of_training(
    kind: str, device: str, precision: str, reference: Callable[[str], list[float]], tmp_path: Path
) -> None:
    """The losses are the CPU's in float32, to the rounding of the precision, which took effect."""
    train_on(device, experiment(kind, tmp_path, precision, max_steps=2), tmp_path / "run", precision=precision)
    losses = [report["loss"] for report in tiny.reports(tmp_path / "run", "training")]
    expected = reference(kind)
    assert len(losses) == len(expected) == 2
    assert losses == pytest.approx(expected, rel=TOLERANCES[precision])
    if precision in ("bf16", "fp16"):
        assert losses != pytest.approx(expected, rel=1e-7)
    assert tiny.reports(tmp_path / "run", "validation")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_resumed_run_is_the_whole_one_to_the_bit(kind: str, precision: str, device: str, tmp_path: Path) -> None:
    """With dropout, whose numbers the device draws."""
    if kind == "QATrial":
        tiny.model_folder(tmp_path / "model", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    dropout = {} if kind == "QATrial" else {"dropout": 0.1}
    config = experiment(kind, tmp_path, precision, max_steps=4, save_steps=2, **dropout)
    train_on(device, config, tmp_path / "run")
    whole = tiny.weights(tmp_path / "run", 4)
    shutil.rmtree(tmp_path / "run/checkpoints/checkpoint-4")
    train_on(device, config, tmp_path / "run", "--resume", "latest")
    assert tiny.equal(tiny.weights(tmp_path / "run", 4), whole)
    assert not tiny.equal(tiny.weights(tmp_path / "run", 2), whole)


@pytest.mark.parametrize(("backend", "device"), [("gloo", "cpu"), pytest.param("nccl", "cuda", marks=pytest.mark.gpu)])
def test_one_rank_of_ddp_trains_as_the_model_alone(backend: str, device: str, tmp_path: Path) -> None:
    """Gradients of a step of two micro-batches, and the ranks' word on a stop."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    alone = BertForQuestionAnswering(BertConfig(vocab_size=50, **shape, **rates)).to(device)
    ids = torch.arange(5, 23, device=device).view(2, 9)

    def gradients(model: torch.nn.Module) -> list[torch.Tensor]:
        alone.zero_grad()
        for micro_batch, stepping in ((ids, False), (ids + 1, True)):
            context: Any = None
            with determined_fixes.without_sync(context, model, stepping):
                model(input_ids=micro_batch).start_logits.square().mean().backward()
        return [one.grad.clone() for one in alone.parameters() if one.grad is not None]

    expected = gradients(alone)
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(alone, find_unused_parameters=True)
        found = gradients(wrapped)
        two: Any = SimpleNamespace(device=torch.device(device), distributed=SimpleNamespace(size=2))
        two.set_stop_requested = lambda wanted: None
        assert [determined_controller._any_rank_stops(two, wanted) for wanted in (False, True)] == [False, True]
    finally:
        torch.distributed.destroy_process_group()
    assert len(found) == len(expected) > 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_loaders_pin_for_a_gpu(device: str, workers: int) -> None:
    """Every batch, made in the main process or by workers, and it reaches the device whole."""
    trial: Any = SimpleNamespace(
        datasets={"train": Dataset.from_dict({"x": list(range(6))})},
        trainer=SimpleNamespace(dataloader_num_workers=workers),
        context=SimpleNamespace(device=torch.device(device)),
        seed=0,
    )
    loader = TaskTrial._loader(trial, "train", [[0, 1], [2, 3], [4, 5]], _collate).get_data_loader()
    batches = list(loader)
    assert [batch["x"].is_pinned() for batch in batches] == [device == "cuda"] * 3
    moved = [batch["x"].to(device, non_blocking=True) for batch in batches]
    assert [one.tolist() for one in moved] == [[0, 1], [2, 3], [4, 5]]


def _collate(rows: list[dict[str, int]]) -> dict[str, torch.Tensor]:
    return {"x": torch.tensor([row["x"] for row in rows])}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", sorted(FAMILIES))
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_fused_passages_generate_the_same(device: str, kind: str, beams: int) -> None:
    """In float64, so that rounding decides nothing; on the CPU, passages encoded one by one stand in for a device."""
    batch = batch_of()
    expected = fusion_generate(build(kind), batch, num_beams=beams, max_new_tokens=8)
    moved = {name: values.to(device) for name, values in batch.items()}
    chunk = 1 if device == "cpu" else 32
    model = build(kind, chunk).to(device)
    found = fusion_generate(model, moved, encoder_chunk_size=chunk, num_beams=beams, max_new_tokens=8)
    assert found.device.type == device
    assert found.tolist() == expected.tolist()


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_causal_model_generates_the_same(device: str, beams: int, tmp_path: Path) -> None:
    """In float64; each prompt alone on the CPU, and all of them padded in a batch on the device."""
    model = AutoModelForCausalLM.from_pretrained(tiny_generation.causal_folder(tmp_path)).double().eval()
    settings: dict[str, Any] = {"end_ids": [2], "padding": 1, "num_beams": beams, "max_new_tokens": 6}
    rng = np.random.default_rng(0)
    rows = [torch.from_numpy(rng.integers(5, 200, length)) for length in (9, 4, 7)]
    alone = [generate_answers(model, row[None], torch.ones_like(row[None]), **settings)[0].tolist() for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    prompts, mask = left_padded_prompts(padded.to(device), torch.tensor([9, 4, 7], device=device), 1)
    found = generate_answers(model.to(device), prompts, mask, **settings)
    assert found.device.type == device
    assert [row[: len(one)] for row, one in zip(found.tolist(), alone, strict=True)] == alone


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_dense_vectors_and_ranks_are_the_same(device: str, minilm: str) -> None:
    """Vectors to 1e-4 of their length of 1, whatever the batches, and the same best passages."""
    rng = np.random.default_rng(0)
    words = np.array(["oil", "gas", "king", "river", "mill", "red", "blue", "war", "law", "tax", "sea", "wind"])
    texts = [" ".join(rng.choice(words, rng.integers(3, 12))) for _ in range(12)]
    passages = [Passage(id=str(i), title="", text=text) for i, text in enumerate(texts)]
    settings = DenseSettings(minilm)
    expected = DenseRetriever.build(passages, settings, batch_size=1)
    expected.encoder._model.to("cpu")
    vectors = expected.encoder.passages(texts, batch_size=1)
    found = DenseRetriever.build(passages, settings, batch_size=5)
    found.encoder._model.to(device)
    assert found.encoder._model.device.type == device
    np.testing.assert_allclose(found.encoder.passages(texts, batch_size=5), vectors, atol=1e-4)
    np.testing.assert_allclose(found.embeddings, vectors, atol=1e-4)
    queries = ["a king at sea", "oil and gas"]
    best = [[hits[0].passage.id for hits in one.search(queries, 3)] for one in (found, expected)]
    assert best[0] == best[1]


def test_a_test_of_the_gpu_is_skipped_only_without_one(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are collected everywhere; RQA_REQUIRE_GPU=1, as in `make gpu-check`, makes the lack of one an error."""
    conftest: Any = pytestconfig.pluginmanager.get_plugin(str(Path(__file__).parents[1] / "conftest.py"))
    marked: Any = SimpleNamespace(get_closest_marker=lambda name: name if name == "gpu" else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RQA_REQUIRE_GPU", raising=False)
    with pytest.raises(pytest.skip.Exception, match="needs a CUDA GPU"):
        conftest.pytest_runtest_setup(marked)
    monkeypatch.setenv("RQA_REQUIRE_GPU", "1")
    with pytest.raises(pytest.fail.Exception, match="torch sees no CUDA GPU"):
        conftest.pytest_runtest_setup(marked)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    conftest.pytest_runtest_setup(marked)
