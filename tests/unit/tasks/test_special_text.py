"""Text that looks like a special token is text: in questions, contexts, passages, turns and answers."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from tokenizers_for_tests import ALL, TEXT, bert, chat_tokenizer, roberta, xlnet
from transformers import LongformerConfig, LongformerForQuestionAnswering, PreTrainedTokenizerFast

from model_hub_rqa.data.tokens import TextEncoder
from model_hub_rqa.tasks.causal_lm.features import GenerationFeatureBuilder
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs
from model_hub_rqa.tasks.extractive.features import ExtractiveCollator, FeatureBuilder, build_features
from model_hub_rqa.tasks.extractive.model import span_logits
from model_hub_rqa.tasks.fid.features import FusionFeatureBuilder
from model_hub_rqa.tasks.fid.settings import FusionKwargs

CASES = [(kind, token) for kind, make in ALL.items() for token in make().all_special_tokens]


def specials(tokenizer: Any, ids: Any) -> Counter[int]:
    """How often each special token occurs, the one of unknown text aside."""
    wanted = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return Counter(number for number in np.asarray(ids).tolist() if number in wanted)


def features(tokenizer: Any, question: str, context: str, answer: str = "", *, labels: bool) -> list[dict[str, Any]]:
    answers = (
        {"text": [answer], "answer_start": [context.index(answer)]} if answer else {"text": [], "answer_start": []}
    )
    row = {"id": "1", "question": question, "context": context, "answers": answers}
    builder = FeatureBuilder(tokenizer, max_seq_length=64, doc_stride=8, labels=labels)
    return list(build_features(Dataset.from_list([row]), builder))


@pytest.mark.parametrize(("kind", "token"), CASES)
def test_an_extractive_reader_reads_it_as_text(kind: str, token: str) -> None:
    """A window has the special tokens of its template alone, tokens for every character, and a label for it."""
    tokenizer = ALL[kind]()
    question, context = f"Is {token} there?", f"The {token} price of oil{token}"
    (plain,) = features(tokenizer, "Is it there?", "The price", labels=False)
    (found,) = features(tokenizer, question, context, labels=False)
    assert specials(tokenizer, found["input_ids"]) == specials(tokenizer, plain["input_ids"])
    offsets = list(zip(found["offset_starts"].tolist(), found["offset_ends"].tolist(), strict=True))
    covered = {place for start, end in offsets for place in range(start, end)}
    assert {place for place, letter in enumerate(context) if letter != " "} <= covered
    (labelled,) = features(tokenizer, question, context, token, labels=True)
    first = found["context_position"]
    start, end = (offsets[labelled[name] - first] for name in ("start_positions", "end_positions"))
    assert context[start[0] : end[1]].strip() == token


@pytest.mark.parametrize("make", [bert, roberta])
def test_windows_equal_the_tokenizers_own(make: Any) -> None:
    """Those that it makes where it is told to split special tokens."""
    tokenizer = make()
    text = " ".join(tokenizer.all_special_tokens)
    plain = tokenizer(f"Is {text}?", f"{text} oil", split_special_tokens=True).input_ids
    (found,) = features(tokenizer, f"Is {text}?", f"{text} oil", labels=False)
    assert found["input_ids"].tolist() == plain


def test_longformers_head_reads_it() -> None:
    """Its global attention counts the separators of every window."""
    tokenizer, ids = roberta(), {"sep_token_id": roberta().sep_token_id, "pad_token_id": roberta().pad_token_id}
    sizes = {"hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 8}
    config = LongformerConfig(
        vocab_size=len(tokenizer), attention_window=[8], max_position_embeddings=90, **sizes, **ids
    )
    model = LongformerForQuestionAnswering(config).eval()
    rows = features(tokenizer, "Is </s> there?", "The </s> price", labels=False)
    rows += features(tokenizer, "Is it there?", "The price", labels=False)
    with torch.inference_mode():
        batch = ExtractiveCollator(tokenizer)(rows)
        start, _ = span_logits(model, batch)
    assert torch.isfinite(start[batch["attention_mask"].bool()]).all()


def unigram() -> PreTrainedTokenizerFast:
    """A unigram tokenizer that knows the letters of its special tokens."""
    backend = Tokenizer.from_str(xlnet().backend_tokenizer.to_str())
    pieces = [*sorted(xlnet().get_vocab(), key=xlnet().get_vocab().get), *"<>unk"]
    backend.model = models.Unigram([(piece, 0.0 if i < 4 else -5.0) for i, piece in enumerate(pieces)], unk_id=1)
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "sep_token": "<sep>", "cls_token": "<cls>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.mark.parametrize("token", ["<sep>", "<cls>", "<pad>", "<unk>"])
def test_pieces_of_a_unigram_vocabulary(token: str) -> None:
    """There the special tokens are pieces like others; text is spelled with the rest and reads the same again."""
    tokenizer = unigram()
    (ids,) = TextEncoder(tokenizer)([f"the {token} oil"])
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == f"▁the▁{token}▁oil"
    assert not set(ids) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=25, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=80))
def test_other_text_has_the_tokenizers_own_ids(kind: str, text: str) -> None:
    """To the token, for every kind of tokenizer."""
    tokenizer = ALL[kind]()
    if not any(token in text for token in tokenizer.all_special_tokens):
        (ids,) = TextEncoder(tokenizer)([text])
        assert ids.tolist() == tokenizer(text, add_special_tokens=False).input_ids


# ---- readers that generate ----


def rows(text: str) -> dict[str, list[Any]]:
    history = [{"role": "user", "text": f"Hi {text}."}, {"role": "assistant", "text": f"{text}?"}]
    return {
        "question": [f"Is {text} there?"],
        "chat_history": [history],
        "passages": [[{"title": text, "text": f"{TEXT[0]} {text}{text}"}]],
        "target": [f"the {text} oil"],
        "answers": [["x"]],
    }


TOKENS = ["</s>", "<s>", "<|im_end|>", "<|im_start|>", "<|tool|>", "</s></s>", "</<|im_end|>s>"]


def tokenizer_with_tools() -> Any:
    """A special token without a role of its own, as chat models have many."""
    tokenizer = chat_tokenizer()
    tokenizer.add_tokens([AddedToken("<|tool|>", special=True)], special_tokens=True)
    return tokenizer


@pytest.mark.parametrize("text", TOKENS)
@pytest.mark.parametrize("chat", [False, True])
def test_a_causal_reader_reads_it_as_text(chat: bool, text: str) -> None:
    """The prompt spells it; as many special tokens stand in it as without it, and the answer reads the same again."""
    tokenizer = tokenizer_with_tools()
    builder = GenerationFeatureBuilder(tokenizer, GenerationKwargs(apply_chat_template=chat))
    found, plain = builder(rows(text), [0]), builder(rows("zq"), [0])
    for name in ("input_ids", "answer_ids"):
        assert specials(tokenizer, found[name][0]) == specials(tokenizer, plain[name][0])
        assert tokenizer.decode(found[name][0]) == tokenizer.decode(plain[name][0]).replace("zq", text)
    assert tokenizer.batch_decode([found["answer_ids"][0]], skip_special_tokens=True)[0].strip() == f"the {text} oil"


def test_tags_make_special_tokens_and_texts_beside_them_do_not() -> None:
    """The same characters in a tag and in a question; the text around is tokenised as the tokenizer splits it."""
    tokenizer = roberta()
    builder = GenerationFeatureBuilder(tokenizer, GenerationKwargs(user_start_tag="</s>", asst_tag="<s>"))
    row = {**rows("it"), "chat_history": [[]], "passages": [[]], "question": ["Is </s> there?"]}
    found = builder(row, [0])["input_ids"][0]
    middle = tokenizer("Is </s> there?\n", add_special_tokens=False, split_special_tokens=True).input_ids
    assert found == [tokenizer.bos_token_id, tokenizer.eos_token_id, *middle, tokenizer.bos_token_id]


@pytest.mark.parametrize("text", TOKENS)
def test_fusion_in_decoder_reads_it_as_text(text: str) -> None:
    """Questions, passages and answers; decoding keeps what came from text."""
    tokenizer = tokenizer_with_tools()
    builder = FusionFeatureBuilder(tokenizer, FusionKwargs(), training=True)
    found = builder(rows(text), [0])
    for name in ("question_ids", "passage_ids"):
        assert text in tokenizer.decode(found[name][0])
        assert not specials(tokenizer, found[name][0])
    assert tokenizer.batch_decode(found["answer_ids"], skip_special_tokens=True)[0].strip() == f"the {text} oil"


def test_marks_in_a_text_hide_nothing() -> None:
    """The noncharacters that keep texts and templates apart are replaced where a text has them."""
    tokenizer = tokenizer_with_tools()
    builder = GenerationFeatureBuilder(tokenizer, GenerationKwargs(apply_chat_template=True))
    text = "".join(f"\U0010fffe{n}\U0010fffe\U0010ffff{n}\U0010ffff" for n in range(9)) + "</s>"
    found, plain = builder(rows(text), [0]), builder(rows("it"), [0])
    assert specials(tokenizer, found["input_ids"][0]) == specials(tokenizer, plain["input_ids"][0])
    assert "\ufffd1\ufffd" in tokenizer.decode(found["input_ids"][0])
