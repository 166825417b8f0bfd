"""Prompts, answers and passages of a Fusion-in-Decoder reader as tokens, and their batches."""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_records import row
from tokenizers import processors
from tokenizers_for_tests import TEXT, bert, roberta, t5
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from model_hub_rqa.data.tokens import TextEncoder, end_token_id, single_template, target_template
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.tasks.fid.features import (
    FusionCollator,
    FusionFeatureBuilder,
    build_fusion_features,
    draw_labels,
    pad_labels,
)
from model_hub_rqa.tasks.fid.settings import TEMPLATES, FusionKwargs, Prompt, split_template

TOKENIZERS = {"t5": t5, "bert": bert, "roberta": roberta}
every_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)


def built(tokenizer: Any, rows: list[dict[str, Any]], *, training: bool = False, start: int = 0, **fields: Any) -> Any:
    builder = FusionFeatureBuilder(tokenizer, FusionKwargs(**fields), decoder_start_token_id=start, training=training)
    columns = {name: [item[name] for item in rows] for name in rows[0]}
    found = builder(columns, list(range(len(rows))))
    return builder, [{name: np.asarray(values[i]) for name, values in found.items()} for i in range(len(rows))]


# ---- prompts ----


def test_the_papers_prompt() -> None:
    """question, title and context, each behind its label."""
    prompt = Prompt(FusionKwargs())
    halves = prompt.question_half("Who?"), prompt.passage_half("Oil", "It began\nin 1973. {question}")
    assert "".join(halves) == "question: Who? title: Oil context: It began\nin 1973. {question}"
    assert prompt.question_first
    assert not prompt.shows_dialogue


def test_the_chat_prompt() -> None:
    """The turns before the question, each behind who says it."""
    prompt = Prompt(FusionKwargs(prompt_template="chat", user_prefix="U:", assistant_prefix="A:"))
    history = [{"role": "user", "text": "Hi"}, {"role": "assistant", "text": "Hello"}]
    assert prompt.question_half("Who?", history) == "U: Hi A: Hello U: Who?"
    assert prompt.question_half("Who?") == "U: Who?"
    assert prompt.passage_half("", "text") == " title:  context: text"


def test_a_prompt_of_ones_own_may_begin_with_the_passage() -> None:
    """The halves stand in the template's order, and a label stays with what it labels."""
    prompt = Prompt(FusionKwargs(prompt_template="read {context} ({title}) and answer: {question} now"))
    assert not prompt.question_first
    assert prompt.passage_half("T", "C") + prompt.question_half("Q") == "read C (T) and answer: Q now"


@given(st.sampled_from([*TEMPLATES.values(), "{question}|{context}", "c {context} t {title}\nq: {question} end "]))
def test_the_halves_make_the_whole(template: str) -> None:
    """Cutting a template loses nothing but white space at its two ends."""
    prompt = Prompt(FusionKwargs(prompt_template=template))
    halves = [prompt.question_half("Q"), prompt.passage_half("T", "C")]
    whole = "".join(halves if prompt.question_first else halves[::-1])
    fields = {"question": "Q", "title": "T", "context": "C", "dialogue": "USER: Q"}
    assert whole == template.format(**fields).strip()


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{question}", r"must have \{context\}"),
        ("{context} {title}", r"and \{question\} or \{dialogue\}"),
        ("{question} {context} {question}", "must not mix"),
        ("{title} {question} {context}", "must not mix"),
        ("{question} {passage} {context}", "must be fid or chat, or a text with {question}, "),
        ("{question} {context:>9}", "must be fid or chat"),
        ("{question} {} {context}", "must be fid or chat"),
        ("{question {context}", "braces in pairs|must be fid or chat"),
        ("chatty", r"must have \{context\}"),
    ],
)
def test_bad_templates(template: str, error: str) -> None:
    """What is wrong with a template is said in its field's name."""
    with pytest.raises(ConfigError, match=f"FusionKwargs.prompt_template: .*{error}"):
        FusionKwargs(prompt_template=template)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"embedding_model": 3}, "embedding_model: must be text .*, got 3"),
        ({"n_context": 0}, "n_context: must be >= 1, got 0"),
        ({"max_decoder_seq_length": 1}, "max_decoder_seq_length: must be >= 4, got 1"),
        ({"num_beams": "4"}, "num_beams: must be a whole number, got '4': write 4 without quotes"),
    ],
)
def test_bad_settings(fields: dict[str, Any], error: str) -> None:
    """A setting that breaks its rule is named."""
    with pytest.raises(ConfigError, match=error):
        FusionKwargs(**fields)


def test_an_empty_embedding_model_means_no_retrieval() -> None:
    """The empty text, which other fields refuse, is the default here; the longest answer has a default too."""
    assert FusionKwargs(embedding_model="").embedding_model == ""
    assert FusionKwargs(max_decoder_seq_length=9).generation_length == 9
    assert FusionKwargs(max_decoder_seq_length=9, max_new_tokens=4).generation_length == 4
    assert split_template("fid") == split_template(TEMPLATES["fid"])


# ---- tokens ----


@every_tokenizer
@pytest.mark.parametrize("template", ["fid", "chat", "read {context} then: {question}"])
def test_the_halves_tokens_are_the_wholes(name: str, template: str) -> None:
    """A prompt tokenised half by half has the tokens of the whole text, with the tokenizer's own special tokens."""
    tokenizer, prompt = TOKENIZERS[name](), Prompt(FusionKwargs(prompt_template=template))
    rows = [row(question, tuple(TEXT)) for question in TEXT]
    builder, features = built(tokenizer, rows, prompt_template=template)
    batch = FusionCollator(builder)(features)
    prompts = iter(batch["passage_ids"].split(batch["passage_lengths"].tolist()))
    for question in TEXT:
        for text in TEXT:
            halves = [prompt.question_half(question), prompt.passage_half("T", text)]
            whole = "".join(halves if prompt.question_first else halves[::-1])
            assert next(prompts).tolist() == tokenizer(whole).input_ids


@every_tokenizer
@given(st.lists(st.sampled_from(["oil ", "</s>", "[SEP]", "<sep>", "<pad>", "[CLS]", " é"]), max_size=6))
@settings(max_examples=30, deadline=None)
def test_an_answer_ends_in_exactly_one_end(name: str, parts: list[str]) -> None:
    """Whatever is written in it, even the end's own spelling, is plain text."""
    tokenizer = TOKENIZERS[name]()
    rows = [row(answers=["x" + "".join(parts)])]
    _, (feature,) = built(tokenizer, rows, start=2, max_decoder_seq_length=16)
    ids, end = feature["answer_ids"].tolist(), end_token_id(tokenizer)
    assert ids.count(end) == 1
    assert ids[-1] == end
    assert len(ids) <= 16
    text = ids[1:-1] if name == "roberta" else ids[:-1]  # BART's <s> is learned
    assert not set(text) & set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}


def mbart() -> PreTrainedTokenizerFast:
    """As mBART's: text </s> language."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=roberta().backend_tokenizer, eos_token="</s>", bos_token="<s>")
    ids = [("</s>", 2), ("<unk>", 3)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <unk>", special_tokens=ids
    )
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "start", "single", "target"),
    [
        (t5, 0, ([], ["<sep>"]), ([], ["<sep>"])),
        (bert, 2, (["[CLS]"], ["[SEP]"]), ([], ["[SEP]"])),  # the decoder starts from [CLS] already
        (roberta, 2, (["<s>"], ["</s>"]), (["<s>"], ["</s>"])),  # BART's decoder starts from </s>, then learns <s>
        (mbart, 2, ([], ["</s>", "<unk>"]), ([], ["</s>"])),
    ],
)
def test_special_tokens(tokenizer: Any, start: int, single: Any, target: Any) -> None:
    """A prompt gets what the tokenizer puts round one text; an answer ends once, and starts once."""
    tokenizer = tokenizer()

    def tokens(found: Any) -> Any:
        return tuple(tokenizer.convert_ids_to_tokens(ids) for ids in found)

    assert tokens(single_template(tokenizer)) == single
    assert tokens(target_template(tokenizer, start)) == target


def test_spelled_special_tokens_stay_text() -> None:
    """What only looks like a special token is kept, piece by piece."""
    (ids,) = TextEncoder(roberta())(["a</s>b"])
    assert len(ids) > 3
    assert roberta().decode(ids, skip_special_tokens=True) == "a</s>b"


def test_tokenizers_without_a_backend() -> None:
    """ByT5 works on bytes in Python; an end that is spelled in a text stays text there as well."""
    tokenizer = ByT5Tokenizer()
    found = TextEncoder(tokenizer)(["ab", "</s>", "ab"])
    assert [ids.tolist() for ids in found] == [[100, 101], [63, 50, 118, 65], [100, 101]]
    assert single_template(tokenizer) == ([], [1])


# ---- features ----


@every_tokenizer
@pytest.mark.parametrize("limit", [8, 12, 24])
def test_no_prompt_is_longer_than_asked(name: str, limit: int) -> None:
    """A long question keeps to its half, and the passage fills what remains."""
    rows = [row(" ".join(TEXT), (" ".join(TEXT), "oil")), row("oil", (" ".join(TEXT),))]
    builder, features = built(
        TOKENIZERS[name](), rows, max_encoder_seq_length=limit, prompt_template="{question} {context}"
    )
    special = len(builder.prefix) + len(builder.suffix)
    assert len(features[0]["question_ids"]) == (limit - special) // 2
    lengths = FusionCollator(builder)(features)["passage_lengths"].tolist()
    assert lengths[0] == lengths[2] == limit
    assert lengths[1] <= limit
    assert [feature["length"] for feature in features] == [sum(lengths[:2]), lengths[2]]


def test_the_oldest_turns_go_first(caplog: pytest.LogCaptureFixture) -> None:
    """A dialogue too long loses turns from its beginning; the question itself is cut only at last, with a warning."""
    history = [{"role": "user", "text": "oil " * 9}, {"role": "assistant", "text": "price " * 4}]
    settings: dict[str, Any] = {"prompt_template": "chat", "user_prefix": "who", "assistant_prefix": "it"}
    asked, answered = "who" + " oil" * 9, "it" + " price" * 4
    words = {60: f"{asked} {answered} who oil", 20: f"{answered} who oil", 14: "who oil"}
    for limit, expected in words.items():
        _, (feature,) = built(bert(), [row("oil", chat_history=history)], max_encoder_seq_length=limit, **settings)
        assert bert().decode(feature["question_ids"]) == expected
    assert not caplog.records
    built(bert(), [row("oil " * 30)], max_encoder_seq_length=20)
    assert "1 questions longer than 9 tokens (half of max_encoder_seq_length) were cut" in caplog.text


def test_which_answers_are_learned() -> None:
    """Training: the target alone, or every answer once; otherwise one of them, for the loss."""
    rows = [row(target="oil", answers=["a", "b"]), row(answers=["a", "b", "a"]), row(answers=[])]
    _, training = built(t5(), rows, training=True)
    assert [len(feature["answer_lengths"]) for feature in training] == [1, 2, 0]
    _, evaluation = built(t5(), rows)
    assert [len(feature["answer_lengths"]) for feature in evaluation] == [1, 1, 0]


def test_batches_hold_no_padding_but_the_answers() -> None:
    """Prompts stand one after another; the answers' padding is -100, to a multiple where asked."""
    rows = [row("Who?", ("the oil price", "an embargo")), row("What?", ("oil",), answers=["oil", "the oil price rose"])]
    builder, features = built(t5(), rows, training=True)
    batch = FusionCollator(builder, pad_to_multiple_of=8)(features)
    assert batch["passage_counts"].tolist() == [2, 1]
    assert batch["answer_counts"].tolist() == [1, 2]
    assert batch["example_index"].tolist() == [0, 1]
    assert len(batch["passage_ids"]) == sum(batch["passage_lengths"]) == sum(int(f["length"]) for f in features)
    assert batch["answer_ids"].shape[0] == 3
    assert batch["answer_ids"].shape[1] % 8 == 0
    end = t5().eos_token_id
    for answer in batch["answer_ids"].tolist():
        real = answer[: answer.index(end) + 1]
        assert -100 not in real
        assert set(answer[len(real) :]) <= {-100}
    assert pad_labels([]).shape == (0, 0)


def test_features_are_cached_and_not_padded(tmp_path: Any) -> None:
    """The same settings find their features again; rows keep their own lengths and int32 columns."""
    examples = Dataset.from_list([row("Who?", (TEXT[0],)), row("Who?", tuple(TEXT))])
    examples.save_to_disk(tmp_path / "saved")
    examples = Dataset.load_from_disk(tmp_path / "saved")

    def features(**fields: Any) -> Any:
        return build_fusion_features(examples, FusionFeatureBuilder(t5(), FusionKwargs(**fields)))

    first, again, other = features(), features(), features(max_encoder_seq_length=16)
    assert first._fingerprint == again._fingerprint != other._fingerprint
    assert [len(lengths) for lengths in first["passage_lengths"][:]] == [1, 4]
    assert str(first.features["passage_ids"].feature.dtype) == "int32"
    assert Hasher.hash(FusionFeatureBuilder(t5(), FusionKwargs())) == Hasher.hash(
        FusionFeatureBuilder(t5(), FusionKwargs())
    )


def test_turns_that_the_prompt_leaves_out_are_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    """FiD's prompt has no dialogue: where there is one, a warning says how to show it."""
    examples = Dataset.from_list([row(chat_history=[{"role": "user", "text": "Hi"}])])
    with caplog.at_level(logging.WARNING):
        build_fusion_features(examples, FusionFeatureBuilder(t5(), FusionKwargs(prompt_template="chat")))
        assert "leaves out" not in caplog.text
        build_fusion_features(examples, FusionFeatureBuilder(t5(), FusionKwargs()))
    assert "set data.prompt_template: chat" in caplog.text


# ---- the answer of an epoch ----


def draws(examples: list[int], counts: list[int], *, epoch: int, seed: int = 7) -> list[int]:
    answers = torch.arange(sum(counts))[:, None]
    batch = {"answer_ids": answers, "answer_counts": torch.tensor(counts), "example_index": torch.tensor(examples)}
    first = np.cumsum([0, *counts[:-1]])
    return (draw_labels(batch, seed=seed, epoch=epoch)[:, 0].numpy() - first).tolist()


def test_one_answer_is_drawn_an_epoch() -> None:
    """Every answer has its turn, each about as often, and another seed draws others."""
    found = np.array([draws(list(range(50)), [3] * 50, epoch=epoch) for epoch in range(40)])
    assert (np.bincount(found.ravel(), minlength=3) > 550).all()  # of 2,000: a third is 667
    assert all(len(set(column)) == 3 for column in found.T)
    assert draws(list(range(50)), [3] * 50, epoch=0) == found[0].tolist()
    assert draws(list(range(50)), [3] * 50, epoch=0, seed=8) != found[0].tolist()


def test_a_draw_depends_on_the_example_alone() -> None:
    """However a batch is divided among ranks, an example has the same answer in an epoch."""
    together = draws([4, 9, 2, 7], [2, 5, 1, 3], epoch=1)
    assert draws([7, 2], [3, 1], epoch=1) + draws([9, 4], [5, 2], epoch=1) == [together[i] for i in (3, 2, 1, 0)]
