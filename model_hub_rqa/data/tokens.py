"""Texts to token ids, with special tokens taken from nowhere but the tokenizer's own template."""

import functools
import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerBase

# Noncharacters, which the Unicode Standard (section 23.7) keeps out of texts that are interchanged.
_TEXT_MARK, _TOKEN_MARK = "\U0010fffe", "\U0010ffff"
_REPLACEMENT = "\ufffd"


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[int, "AddedToken"]:
    """All special tokens by their ids: those with a role of their own (sep_token) and the others (<|im_start|>)."""
    from tokenizers import AddedToken

    found = {number: token for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    for number, text in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True):
        found.setdefault(number, AddedToken(text, special=True, normalized=False))
    return found


def text_backend_json(tokenizer: "PreTrainedTokenizerBase") -> str:
    """The backend of a fast tokenizer for `text_backend`: without truncation and padding, and with the special tokens
    taken from the pieces that text is spelled with (Unigram and word vocabularies list them there)."""
    backend: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    backend["truncation"] = backend["padding"] = None
    model = backend["model"]
    kind, unknown = model.get("type"), model.get("unk_token")
    if kind in ("Unigram", "WordPiece", "WordLevel"):
        special = {token.content for token in special_tokens(tokenizer).values()} - {unknown}
        if kind == "Unigram":
            vocabulary = {piece for piece, _ in model["vocab"]}
            model["vocab"] = [[_TOKEN_MARK + text if text in special else text, odds] for text, odds in model["vocab"]]
        else:
            vocabulary = set(model["vocab"])
            model["vocab"] = {_TOKEN_MARK + t if t in special else t: number for t, number in model["vocab"].items()}
        hidden = special & vocabulary
        backend["added_tokens"] = [token for token in backend["added_tokens"] if token["content"] not in hidden]
    return json.dumps(backend, ensure_ascii=False)


@functools.lru_cache(maxsize=2)  # making it anew takes as long as tokenising hundreds of contexts
def text_backend(backend_json: str) -> "Tokenizer":
    """A backend to which special tokens are text like any other; its template still puts them round texts."""
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(backend_json)
    backend.encode_special_tokens = True  # not to be taken for special tokens, that is
    return backend


class TextEncoder:
    """Token ids of texts, without special tokens: what looks like one in a text ("</s>") is read as plain text.

    The encoder can be pickled, and its hash is the same in every process, so ``Dataset.map`` finds its cache again.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        fast = getattr(tokenizer, "is_fast", False)
        self._backend_json = text_backend_json(tokenizer) if fast else ""
        self._slow: Any = None if fast else tokenizer
        self._special = sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One int32 array a text; a text that occurs several times is tokenised once."""
        distinct = list(dict.fromkeys(texts))
        if self._slow is not None:
            settings = {"add_special_tokens": False, "split_special_tokens": True}
            found = [self._slow(text, **settings).input_ids for text in distinct]
        else:
            encodings = text_backend(self._backend_json).encode_batch_fast(distinct, add_special_tokens=False)
            found = [encoding.ids for encoding in encodings]
        arrays = {text: self._without_special(ids) for text, ids in zip(distinct, found, strict=True)}
        return [arrays[text] for text in texts]

    def _without_special(self, ids: list[int]) -> np.ndarray:
        array = np.array(ids, np.int32)
        special = np.isin(array, self._special)
        return array[~special] if special.any() else array


class PromptEncoder:
    """Token ids of prompts in which special tokens come from a template alone, and never from the texts in it.

    `hide` marks what looks like a special token in a text before the template is filled in; in the tokens of the
    prompt it is text again. A prompt without such marks has the tokenizer's own ids.

    Args:
        tokenizer: a fast one.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        from tokenizers import AddedToken

        self._tokenizer = tokenizer
        special = special_tokens(tokenizer)
        self._special = {token.content: number for number, token in special.items()}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._hidden = re.compile(f"{_TEXT_MARK}(\\d+){_TEXT_MARK}")
        # Each special token of the template is replaced by one that `text_backend` does not take for text.
        self._stand_ins = [
            AddedToken(
                f"{_TOKEN_MARK}{number}{_TOKEN_MARK}", lstrip=token.lstrip, rstrip=token.rstrip, normalized=False
            )
            for number, token in special.items()
        ]

    def hide(self, text: str) -> str:
        """The text with a mark for each special token in it."""
        for mark in (_TEXT_MARK, _TOKEN_MARK):
            text = text.replace(mark, _REPLACEMENT)
        return self._pattern.sub(lambda found: f"{_TEXT_MARK}{self._special[found[0]]}{_TEXT_MARK}", text)

    def __call__(self, prompt: str) -> list[int]:
        """The ids of a prompt, without special tokens around it."""
        if _TEXT_MARK not in prompt:
            ids: list[int] = self._tokenizer(prompt, add_special_tokens=False, verbose=False).input_ids
            return ids
        texts = {number: text for text, number in self._special.items()}
        marked = self._pattern.sub(lambda found: f"{_TOKEN_MARK}{self._special[found[0]]}{_TOKEN_MARK}", prompt)
        text = self._hidden.sub(lambda found: texts[int(found[1])], marked)
        backend = self._backend
        own = {backend.token_to_id(token.content): int(token.content[1:-1]) for token in self._stand_ins}
        return [own.get(number, number) for number in backend.encode(text, add_special_tokens=False).ids]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_backend"}  # for an unchanging hash

    @functools.cached_property
    def _backend(self) -> "Tokenizer":
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(text_backend_json(self._tokenizer))
        backend.encode_special_tokens = True
        backend.add_tokens(self._stand_ins)
        return backend


def single_template(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """The special tokens that the tokenizer puts before and after a single text."""
    return _around(tokenizer("a", add_special_tokens=False).input_ids, tokenizer("a").input_ids)


def target_template(tokenizer: "PreTrainedTokenizerBase", decoder_start_token_id: int) -> tuple[list[int], list[int]]:
    """The special tokens before and after an answer to learn.

    Before: what the tokenizer puts there (BART's <s>), save the token that the decoder starts from. After: the end of
    the text, once, and nothing that would follow it (mBART's language).
    """
    before, _ = _around(tokenizer("a", add_special_tokens=False).input_ids, tokenizer(text_target="a").input_ids)
    if before and before[0] == decoder_start_token_id:
        before = before[1:]
    end = end_token_id(tokenizer)
    return before, [] if end is None else [end]


def end_token_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends a text: EOS, or SEP for tokenizers of the BERT kind; None where there is neither."""
    found = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    return None if found is None else int(found)


def _around(plain: list[int], whole: list[int]) -> tuple[list[int], list[int]]:
    begin = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return whole[:begin], whole[begin + len(plain) :]


def padded_width(longest: int, multiple: int, limit: int | None) -> int:
    """The width of a batch: a multiple of ``multiple``, but no more than ``limit`` where the longest row leaves room.

    >>> padded_width(26, 8, None), padded_width(26, 8, 30)
    (32, 30)
    """
    width = -(-longest // multiple) * multiple
    return width if limit is None else max(longest, min(width, limit))
