"""Texts to token ids, with special tokens taken from nowhere but the tokenizer's own template."""

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


class TextEncoder:
    """Token ids of texts, without special tokens: what looks like one in a text ("</s>") never becomes one.

    It is read as plain text, or left out by tokenizers of the Unigram kind, to which it is a word like any other. The
    encoder can be pickled, and its hash is the same in every process, so ``Dataset.map`` finds its cache again.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        fast = getattr(tokenizer, "is_fast", False)
        self._backend_json: str = tokenizer.backend_tokenizer.to_str() if fast else ""
        self._slow: Any = None if fast else tokenizer
        self._special = sorted(set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})

    def __call__(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One int32 array a text; a text that occurs several times is tokenised once."""
        distinct = list(dict.fromkeys(texts))
        if self._slow is not None:
            settings = {"add_special_tokens": False, "split_special_tokens": True}
            found = [self._slow(text, **settings).input_ids for text in distinct]
        else:
            encodings = _backend(self._backend_json).encode_batch_fast(distinct, add_special_tokens=False)
            found = [encoding.ids for encoding in encodings]
        arrays = {text: self._without_special(ids) for text, ids in zip(distinct, found, strict=True)}
        return [arrays[text] for text in texts]

    def _without_special(self, ids: list[int]) -> np.ndarray:
        array = np.array(ids, np.int32)
        special = np.isin(array, self._special)
        return array[~special] if special.any() else array


@functools.lru_cache(maxsize=2)
def _backend(json: str) -> "Tokenizer":
    from tokenizers import Tokenizer

    backend = Tokenizer.from_str(json)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # not to be taken for special tokens, that is
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
