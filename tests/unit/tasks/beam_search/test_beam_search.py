"""A beam-search head: what it is given, and what it finds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tiny
import tiny_beams
import torch
from datasets import Dataset

from model_hub_rqa.tasks.beam_search.decoding import beam_candidates
from model_hub_rqa.tasks.beam_search.model import beam_loss, prepare_head, search_beams, set_beam
from model_hub_rqa.tasks.beam_search.task import BeamSearchCollator
from model_hub_rqa.tasks.extractive.features import FeatureBuilder, build_features
from model_hub_rqa.tasks.extractive.model import reads_question_first

both_kinds = pytest.mark.parametrize("kind", tiny_beams.KINDS)


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


def test_evaluation_holds_no_memories() -> None:
    """XLNet would keep every layer's states of a batch for a next one that never reads them."""
    model, _, (batch, *_) = batches("xlnet", 4, labels=False)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "p_mask", "cls_index")}
    with torch.no_grad():
        assert model.eval()(**inputs).mems
        prepare_head(model)
        assert not model(**inputs).mems
