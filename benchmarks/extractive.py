"""Extractive reading: training, the forward pass of an evaluation, features, decoding."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, disable_caching, disable_progress_bars, enable_caching

from benchmarks import data, flops, run_qa
from benchmarks.ours import train_pass, trial_of, validation_batches
from benchmarks.timing import Row, faster, interleaved

BATCH_SIZE = 12


def examples_of(path: Path) -> Dataset:
    from model_hub_rqa.data.file_loaders import read_squad

    return Dataset.from_list(read_squad(path, version_2_with_negative=False).rows)


def trial(files: dict[str, str], folder: Path, **hparams: Any) -> Any:
    """A QATrial of MiniLM with run_qa's sizes, ready to train."""
    from model_hub_rqa.trials.qa import QATrial

    settings = {
        "global_batch_size": BATCH_SIZE,
        "pretrained_model_name_or_path": data.minilm(),
        "learning_rate": 3e-5,
        **hparams,
    }
    sizes: dict[str, Any] = {"max_seq_length": run_qa.MAX_SEQ_LENGTH, "doc_stride": run_qa.DOC_STRIDE}
    return trial_of(QATrial, {**files, **sizes, "cache_dir": str(folder / "cache")}, settings)


def model(seed: int = 0) -> Any:
    """MiniLM with a new head."""
    from transformers import AutoModelForQuestionAnswering

    torch.manual_seed(seed)
    return AutoModelForQuestionAnswering.from_pretrained(data.minilm(), dtype=torch.float32)


def training(repeats: int, *, questions: int = 120) -> list[Row]:
    """One pass over questions of SQuAD with MiniLM."""
    from transformers import AutoTokenizer

    folder = Path(tempfile.mkdtemp())
    path = data.squad("train", questions, folder)
    tokenizer = AutoTokenizer.from_pretrained(data.minilm())
    padded, free = (run_qa.train_features(examples_of(path), tokenizer, padding=how) for how in ("max_length", False))
    made = {
        "padded fp32": (padded, True, False),
        "dynamic fp32": (free, False, False),
        "dynamic bf16": (free, False, True),
    }
    trainers = {
        name: run_qa.trainer(model(), features, tokenizer, pad_to_max=fixed, bf16=bf16, batch_size=BATCH_SIZE)
        for name, (features, fixed, bf16) in made.items()
    }
    files = {"train_file": str(path), "validation_file": str(path)}
    with trial(files, folder, bf16=False) as fp32, trial(files, folder, bf16=True) as bf16:
        cases: dict[str, Callable[[], Any]] = {name: trainer.train for name, trainer in trainers.items()}
        cases |= {"ours fp32": lambda: train_pass(fp32), "ours bf16": lambda: train_pass(bf16)}
        times = interleaved(cases, repeats)
        work = flops.TRAINING * flops.encoder(fp32.config, fp32.datasets["train"]["length"][:].tolist())
    shutil.rmtree(folder)
    what = "extractive training, MiniLM, SQuAD, batch 12"
    shape = (BATCH_SIZE * 175, 384, 1536)
    return [
        faster(f"{what}: ours bf16 / Trainer padded to 384, fp32", times["ours bf16"], times["padded fp32"], "5 (8)"),
        faster(f"{what}: both fp32", times["ours fp32"], times["padded fp32"], "3 (3.6)"),
        faster(
            f"{what}: ours / Trainer with dynamic padding, fp32", times["ours fp32"], times["dynamic fp32"], "1.4 (1.6)"
        ),
        faster(
            f"{what}: ours / Trainer with dynamic padding, bf16", times["ours bf16"], times["dynamic bf16"], "1.4 (1.6)"
        ),
        flops.share(what, work, times["ours fp32"], torch.float32, shape),
        flops.share(what, work, times["ours bf16"], torch.bfloat16, shape),
    ]


def forward(repeats: int, *, questions: int = 480, batch_size: int = 32) -> list[Row]:
    """The forward pass of an evaluation: ours sorted by length, the peer's padded to 384."""
    from transformers import AutoTokenizer, default_data_collator

    from model_hub_rqa.tasks.extractive.model import span_logits

    folder = Path(tempfile.mkdtemp())
    path = data.squad("dev", questions, folder)
    tokenizer = AutoTokenizer.from_pretrained(data.minilm())
    features = run_qa.evaluation_features(examples_of(path), tokenizer)
    features = features.remove_columns(["example_id", "offset_mapping"])
    padded = [
        default_data_collator([features[i] for i in range(first, min(first + batch_size, len(features)))])
        for first in range(0, len(features), batch_size)
    ]
    peer = model().eval()

    def run_peer() -> None:
        with torch.no_grad():
            for batch in padded:
                peer(**batch)

    files = {"train_file": str(path), "validation_file": str(path)}
    with trial(files, folder, per_device_eval_batch_size=batch_size, bf16=True) as made:
        made.model.eval()
        batches = validation_batches(made)

        def run_ours(bf16: bool) -> None:
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                for batch in batches:
                    span_logits(made.model, batch)

        cases = {"padded": run_peer, "fp32": lambda: run_ours(False), "bf16": lambda: run_ours(True)}
        times = interleaved(cases, repeats)
    shutil.rmtree(folder)
    what = "evaluation forward, MiniLM, SQuAD dev"
    return [
        faster(f"{what}: ours bf16 / padded to 384, fp32", times["bf16"], times["padded"], "5 (6)"),
        faster(f"{what}: both fp32", times["fp32"], times["padded"], "2 (2.4)"),
    ]


def features(repeats: int, *, questions: int | None = None) -> list[Row]:
    """Features of SQuAD dev for an evaluation, through Dataset.map."""
    from transformers import AutoTokenizer

    from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features

    folder = Path(tempfile.mkdtemp())
    examples = examples_of(data.squad("dev", questions, folder))
    tokenizer = AutoTokenizer.from_pretrained(data.minilm())
    sizes: dict[str, Any] = {"max_seq_length": run_qa.MAX_SEQ_LENGTH, "doc_stride": run_qa.DOC_STRIDE}

    def run_ours() -> None:
        build_features(examples, FeatureBuilder(tokenizer, **sizes, labels=False))

    disable_caching()  # or all turns but the first would read what that one made
    times = interleaved({"peer": lambda: run_qa.evaluation_features(examples, tokenizer), "ours": run_ours}, repeats)
    enable_caching()
    shutil.rmtree(folder)
    return [faster("features of SQuAD dev / run_qa's through Dataset.map", times["ours"], times["peer"], "6 (10)")]


def decoding(repeats: int, *, questions: int | None = None) -> list[Row]:
    """Answers from random logits over SQuAD dev: n-best lists, and the top answer alone."""
    from transformers import AutoTokenizer

    from model_hub_rqa.tasks.extractive.decoding import decode_top
    from model_hub_rqa.tasks.extractive.features import ExtractiveCollator, FeatureBuilder, build_features
    from model_hub_rqa.tasks.extractive.spans import TopSpan, span_candidates, top_spans
    from model_hub_rqa.tasks.extractive.task import Extractive

    folder = Path(tempfile.mkdtemp())
    examples = examples_of(data.squad("dev", questions, folder))
    tokenizer = AutoTokenizer.from_pretrained(data.minilm())
    theirs = run_qa.evaluation_features(examples, tokenizer)
    builder = FeatureBuilder(
        tokenizer, max_seq_length=run_qa.MAX_SEQ_LENGTH, doc_stride=run_qa.DOC_STRIDE, labels=False
    )
    mine = build_features(examples, builder)
    collator = ExtractiveCollator(tokenizer)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, len(theirs), run_qa.MAX_SEQ_LENGTH)).astype(np.float32)
    logits[:, np.arange(run_qa.MAX_SEQ_LENGTH) >= np.array(mine["length"][:])[:, None]] = -np.inf  # padding
    batches = []
    for first in range(0, len(mine), 64):
        rows = [mine[i] for i in range(first, min(first + 64, len(mine)))]
        batch = {name: values.numpy() for name, values in collator(rows).items()}
        width = batch["offsets"].shape[1]
        batches.append((batch, *logits[:, first : first + len(rows), :width]))
    ids = examples["id"][:]
    contexts = examples["context"][:]

    def n_best() -> dict[str, str]:
        found: dict[tuple[int, int], Any] = {}
        for batch, starts, ends in batches:
            part = span_candidates(starts, ends, batch["offsets"], batch["cls_index"])
            for example, number, candidates in zip(
                batch["example_index"].tolist(), batch["feature_index"].tolist(), part, strict=True
            ):
                found[example, number] = candidates
        results = Extractive().decode(found, {"context": contexts})
        return {id_: result.prediction for id_, result in zip(ids, results, strict=True)}

    def top() -> dict[str, str]:
        parts = [top_spans(starts, ends, batch["offsets"], batch["cls_index"]) for batch, starts, ends in batches]
        owner = np.concatenate([batch["example_index"] for batch, *_ in batches])
        spans = TopSpan(*map(np.concatenate, zip(*parts, strict=True)))
        return dict(zip(ids, decode_top(contexts, owner, spans), strict=True))

    peer = run_qa.n_best_predictions(examples, theirs, *logits)
    expected = {key: best[0]["text"] for key, best in peer.items()}
    assert n_best() == expected
    assert top() == expected
    run_peer = lambda: run_qa.n_best_predictions(examples, theirs, *logits)  # noqa: E731
    times = interleaved({"peer": run_peer, "ours": n_best, "top": top}, repeats)
    shutil.rmtree(folder)
    return [
        faster("span decoding with n-best / run_qa's, SQuAD dev", times["ours"], times["peer"], "6 (15)"),
        faster("span decoding, top answer only / run_qa's, SQuAD dev", times["top"], times["peer"], "30 (60)"),
    ]


disable_progress_bars()
