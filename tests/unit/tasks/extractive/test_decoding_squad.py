"""Decoding on all of SQuAD dev: exactly the published answers, n-best lists and null scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from reference_spans import reference_decode
from transformers import AutoTokenizer, BertConfig, BertForQuestionAnswering

from model_hub_rqa.data.file_loaders import read_squad
from model_hub_rqa.tasks.extractive.decoding import decode_top
from model_hub_rqa.tasks.extractive.features import ExtractiveCollator, FeatureBuilder, build_features
from model_hub_rqa.tasks.extractive.spans import TopSpan, span_candidates, top_spans
from model_hub_rqa.tasks.extractive.task import Extractive, ExtractiveKwargs

SIZES: dict[str, Any] = {"n_best_size": 20, "max_answer_length": 30}


def features_of(path: Path, tokenizer: Any, *, labels: bool, limit: int | None = None) -> tuple[Dataset, Any]:
    rows = read_squad(path, version_2_with_negative="v2.0" in path.name).rows[:limit]
    examples = Dataset.from_list(rows)
    builder = FeatureBuilder(tokenizer, max_seq_length=384, doc_stride=128, labels=labels)
    return examples, build_features(examples, builder)


def batches_of(features: Any, tokenizer: Any, size: int) -> list[dict[str, torch.Tensor]]:
    collate = ExtractiveCollator(tokenizer)
    order = np.argsort(features["length"][:], kind="stable").tolist()
    return [collate([features[i] for i in order[first : first + size]]) for first in range(0, len(order), size)]


@pytest.fixture(scope="module")
def reader(minilm: str, rqa_data: Path) -> tuple[Any, Any]:
    """A tokenizer, and a small BERT that has learned from 2,000 questions: its logits are no noise."""
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    model = BertForQuestionAnswering(BertConfig(vocab_size=len(tokenizer), **shape))
    _, features = features_of(rqa_data / "squad/train-v1.1.json", tokenizer, labels=True, limit=2000)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    losses = []
    for batch in batches_of(features, tokenizer, 32):
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        loss = model(**inputs, start_positions=batch["start_positions"], end_positions=batch["end_positions"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item() / np.log(inputs["input_ids"].shape[1]))  # in units of knowing nothing
    assert np.mean(losses[-10:]) < 0.95
    return tokenizer, model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("logits", ["random", "trained"])
@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
def test_all_of_dev(version: str, logits: str, reader: tuple[Any, Any], rqa_data: Path) -> None:
    """Ours, in batches by length, against a loop over every pair of every question."""
    tokenizer, model = reader
    examples, features = features_of(rqa_data / f"squad/dev-{version}.json", tokenizer, labels=False)
    ids, contexts = examples["id"][:], examples["context"][:]
    rng = np.random.default_rng(0)
    found: dict[tuple[int, int], Any] = {}
    plain: dict[str, dict[int, Any]] = {key: {} for key in ids}
    tops, owners = [], []
    for batch in batches_of(features, tokenizer, 64):
        size = tuple(batch["input_ids"].shape)
        if logits == "random":
            start, end = rng.normal(size=(2, *size)).astype(np.float32)
        else:
            with torch.no_grad():
                inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
                output = model(**inputs)
            start, end = output.start_logits.numpy(), output.end_logits.numpy()
        padding = batch["attention_mask"].numpy() == 0
        start, end = np.where(padding, -np.inf, start), np.where(padding, -np.inf, end)
        places = {"offsets": batch["offsets"].numpy(), "cls_index": batch["cls_index"].numpy()}
        candidates = span_candidates(start, end, **places, **SIZES)
        tops.append(top_spans(start, end, **places, **SIZES))
        owners += batch["example_index"].tolist()
        for row, (example, number) in enumerate(
            zip(batch["example_index"].tolist(), batch["feature_index"].tolist(), strict=True)
        ):
            length = int(batch["attention_mask"][row].sum())
            found[example, number] = candidates[row]
            one = (start[row, :length], end[row, :length], places["offsets"][row, :length], places["cls_index"][row])
            plain[ids[example]][number] = one
    options: dict[str, Any] = {"version_2_with_negative": version == "v2.0", "null_score_diff_threshold": 0.0}
    task = Extractive(ExtractiveKwargs(**SIZES, **options))
    results = task.decode(found, {"context": contexts})
    for key, context, result in zip(ids, contexts, results, strict=True):
        windows = [plain[key][number] for number in sorted(plain[key])]
        starts, ends, offsets, cls = map(list, zip(*windows, strict=True))
        expected = reference_decode(context, starts, ends, offsets, cls, **SIZES, **options)
        assert result.prediction == expected["prediction"]
        assert result.n_best == expected["n_best"]
        assert result.score_diff == expected["score_diff"]
    if version == "v1.1":
        spans = TopSpan(*map(np.concatenate, zip(*tops, strict=True)))
        assert decode_top(contexts, np.array(owners), spans) == [result.prediction for result in results]
