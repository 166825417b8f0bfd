"""Every kind of model with a question-answering head: the same answers whatever stands beside a question."""

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from qa_models import CANNOT, KINDS, POSITIONS, tiny_config
from tokenizers_for_tests import TEXT, bert, roberta, xlnet
from transformers import AutoModelForQuestionAnswering
from transformers.models.auto.modeling_auto import MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES

from model_hub_rqa.models.limits import UNLIMITED, model_limits, read_limits
from model_hub_rqa.readers import ExtractiveReader
from model_hub_rqa.tasks.extractive.features import ExtractiveCollator, FeatureBuilder, build_features
from model_hub_rqa.tasks.extractive.model import (
    is_causal,
    longest_window,
    reads_question_first,
    span_logits,
    span_loss,
)
from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs

EVERYDAY = ("bert", "gpt2", "ibert", "led", "llama", "opt", "roberta", "xlnet")

TABLES = {"position_embeddings", "embed_positions", "wpe"}

every_kind = pytest.mark.parametrize(
    "kind", [kind if kind in EVERYDAY else pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS]
)


def tokenizer_for(kind: str, padding_side: str = "right") -> Any:
    """One whose padding side is set; Longformer's head wants three separators."""
    tokenizer = copy.deepcopy({"xlnet": xlnet, "longformer": roberta}.get(kind, bert)())
    tokenizer.padding_side = padding_side
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    if kind in {"longformer", "mra", "jina_embeddings_v3", "xlm-roberta-xl"}:  # know one token type
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def build(kind: str, tokenizer: Any) -> Any:
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(tiny_config(kind, tokenizer), dtype="float32")
    with torch.no_grad():
        for parameter in model.parameters():  # fresh weights find all spans alike
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def example(number: int, words: int, question: str = "Who proclaimed an oil embargo in October?") -> dict[str, Any]:
    context = " ".join((" ".join(TEXT).split() * 9)[number : number + words])
    answer = context.split()[words // 2]
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"id": str(number), "title": "", "question": question, "context": context, "answers": answers}


EXAMPLES = [example(number, words) for number, words in enumerate((2, 30, 5, 11, 3, 17, 8, 1, 22))]


def batch_of(model: Any, tokenizer: Any, examples: list[dict[str, Any]], length: int, *, labels: bool) -> Any:
    first = reads_question_first(model.config)
    builder = FeatureBuilder(tokenizer, max_seq_length=length, doc_stride=0, labels=labels, question_first=first)
    return ExtractiveCollator(tokenizer)(list(build_features(Dataset.from_list(examples), builder)))


def answers(model: Any, tokenizer: Any, size: int) -> dict[str, Any]:
    reader = ExtractiveReader(model, tokenizer, ExtractiveKwargs(max_seq_length=72, doc_stride=8), batch_size=size)
    found = reader.read(EXAMPLES)
    return {key: (decoded.prediction, decoded.n_best[0]["start_logit"]) for key, decoded in found.items()}


def test_every_kind_is_tested_or_has_its_reason() -> None:
    """A kind that a new version of transformers brings joins one of the two lists."""
    assert {*KINDS, *CANNOT} == set(MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES)


@every_kind
def test_an_answer_depends_on_its_own_text_alone(kind: str) -> None:
    """After two steps of training: batches of 1 and of 8, a tokenizer that pads right or left, the same answers."""
    model = build(kind, tokenizer_for(kind))
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(2):
        batch = batch_of(model.train(), tokenizer_for(kind), EXAMPLES, 72, labels=True)
        loss = span_loss(*span_logits(model, batch), batch["start_positions"], batch["end_positions"])
        assert torch.isfinite(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any(not torch.equal(before[name], value) for name, value in model.named_parameters())
    found = {
        (side, size): answers(model, tokenizer_for(kind, side), size) for side in ("right", "left") for size in (1, 8)
    }
    alone = found["right", 1]
    assert len({text for text, _ in alone.values()}) > 3
    for others in found.values():
        assert {key: text for key, (text, _) in others.items()} == {key: text for key, (text, _) in alone.items()}
        scores = [score for _, score in others.values()]
        assert scores == pytest.approx([score for _, score in alone.values()], abs=1e-4)


def runs(model: Any, tokenizer: Any, length: int) -> bool:
    """Whether a forward pass over so many tokens succeeds."""
    (batch,) = [batch_of(model.eval(), tokenizer, [example(0, 200)], length, labels=False)]
    batch = {name: values[:1] for name, values in batch.items()}
    assert batch["input_ids"].shape == (1, length)
    assert batch["attention_mask"].all()
    try:
        with torch.inference_mode():
            return bool(torch.isfinite(span_logits(model, batch)[0]).all())
    except (IndexError, RuntimeError):
        return False


@every_kind
def test_the_longest_input_runs_and_one_token_more_is_refused(kind: str) -> None:
    """What is known before the weights is what the model has: a table's end, else what its config states."""
    tokenizer = tokenizer_for(kind)
    tokenizer.model_max_length = 2 * POSITIONS
    model = build(kind, tokenizer)
    limits = read_limits(model.config, "question-answering")
    assert limits == model_limits(model)
    limit = longest_window(limits, tokenizer)
    assert limit == (2 * POSITIONS if limits.tokens == UNLIMITED else limits.tokens)
    assert runs(model, tokenizer, limit)
    has_table = any(
        name.rpartition(".")[2] in TABLES and getattr(module, "weight", None) is not None
        for name, module in model.named_modules()
    )
    if has_table:
        assert not runs(model, tokenizer, limit + 1), "the limit is not the table's"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "bert"])
def test_three_questions_give_three_logits(kind: str, side: str) -> None:
    """With causal attention as well, whose context tokens see the question only where that stands first."""
    tokenizer = tokenizer_for(kind, side)
    model = build(kind, tokenizer).eval()
    questions = ("Who?", "When was an embargo?", "What is the name of the river?")
    examples = [example(0, 12, question) for question in questions]
    batch = batch_of(model, tokenizer, examples, 72, labels=False)
    with torch.inference_mode():
        logits, _ = span_logits(model, batch)
    of_context = [logits[row][batch["offsets"][row, :, 0] >= 0] for row in range(3)]
    assert len({len(row) for row in of_context}) == 1
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(of_context[one], of_context[other], atol=1e-3)


@pytest.mark.parametrize(
    ("kind", "settings", "first", "causal"),
    [
        ("bert", {}, True, False),
        ("llama", {}, True, True),
        ("gpt2", {}, True, True),
        ("bart", {}, True, False),
        ("xlnet", {}, False, False),
        ("xlnet", {"attn_type": "uni"}, True, True),
    ],
)
def test_which_stands_first(kind: str, settings: dict[str, str], first: bool, causal: bool) -> None:
    """The question, but for XLNet, which was pretrained the other way round; a model of one's own has no config."""
    config = tiny_config(kind, tokenizer_for(kind))
    for name, value in settings.items():
        setattr(config, name, value)
    assert reads_question_first(config) is first
    assert is_causal(config) is causal
    assert reads_question_first(None)
    assert not is_causal(None)
