"""Generation: by the settings that are given, and its tokens as text, spelled as the passages that were read."""

import contextlib
import functools
import re
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from model_hub_rqa.data.tokens import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN_SETTINGS = (
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "bad_words_ids",
    "suppress_tokens",
    "begin_suppress_tokens",
)
"""What is used of a checkpoint's generation_config.json: where an answer begins and ends, and what it may not hold."""

# Where no passage has the answer: what English writes without the white space that WordPiece puts around punctuation.
_TIGHT = (
    (re.compile(r"(?<=\d) ?([.,:/]) (?=\d)"), r"\1"),  # 3.5, 1,000, 10:30
    (re.compile(r"(?<=\b[^\W\d_]) ?\. (?=[^\W\d_]\b)"), "."),  # u.s.
    (re.compile("[ ]([.,;:!?%)\\]}\u201d\u2019])"), r"\1"),
    (re.compile("([(\\[{\u201c$£€#])[ ]"), r"\1"),
    (re.compile("(?<=\\w)[ ]?([-\u2013/'\u2019])[ ](?=\\w)"), r"\1"),
    (re.compile(r'" ([^"]*?) "'), r'"\1"'),
)


def generate(model: Any, inputs: Mapping[str, Any], *, seed: Sequence[int] = (0,), **settings: Any) -> torch.Tensor:
    """``model.generate`` without the search and sampling settings that a checkpoint brings along.

    Args:
        model: a model of transformers that generates.
        inputs: what is generated from.
        seed: with ``do_sample``, what the draws depend on: the same numbers and inputs give the same tokens, and the
            generators of torch are left as they were.
        settings: of transformers' GenerationConfig; what is left out has its default: greedy, nothing forbidden.
    """
    own = model.generation_config
    kept = {name: value for name in TOKEN_SETTINGS if (value := getattr(own, name, None)) is not None}
    # generate() fills in what is not given from the model's own config
    model.generation_config = type(own)(**kept)
    try:
        with _seeded(seed, model.device) if settings.get("do_sample") else contextlib.nullcontext():
            tokens: torch.Tensor = model.generate(**inputs, **settings)
    finally:
        model.generation_config = own
    return tokens


@contextlib.contextmanager
def _seeded(seed: Sequence[int], device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng(list(seed)).integers(2**63)))
        yield


class AnswerDecoder:
    """The text of generated token ids: as a passage spells it, where one has it, and as the tokenizer decodes it else.

    Encoding loses what a tokenizer normalises: WordPiece drops white space around punctuation ("$3.5 billion" decodes
    to "$ 3. 5 billion"), uncased vocabularies drop case and accents ("Ögedei" becomes "ogedei"), SentencePiece's
    compatibility forms replace characters ("²" becomes "2"), and unknown words become one token. SQuAD's exact match
    forgives case and punctuation, but neither white space nor accents nor unknown words, so an answer that was learned
    from the passages could not be scored as equal to them. Here the tokens are looked up in the passages, whose
    characters are normalised one by one, and the passage's own text is the answer.

    Tokenizers that lose nothing (byte-level ones) are decoded as they are.

    Args:
        tokenizer: the reader's.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer = tokenizer
        backend: Any = tokenizer.backend_tokenizer if getattr(tokenizer, "is_fast", False) else None
        self._normalizer = None if backend is None else backend.normalizer
        word_piece = backend is not None and type(backend.model).__name__ == "WordPiece"
        self._inner: str | None = backend.model.continuing_subword_prefix if word_piece else None
        self._exact = self._inner is None and self._normalizer is None
        self._encode = TextEncoder(tokenizer)
        added = tokenizer.added_tokens_decoder.items()
        special = {number for number, token in added if token.special} | set(tokenizer.all_special_ids)
        self._special = special - {tokenizer.unk_token_id}
        self._normalized = functools.cache(self._normalize)

    def __call__(self, ids: Iterable[int], passages: Sequence[str]) -> str:
        """The text of an answer.

        Args:
            ids: generated tokens; special ones are left out.
            passages: the texts that the answer may be taken from, the likeliest first.

        Returns:
            The text in ``passages`` whose tokens these are, the commonest spelling where there are several and the
            first of those that are equally common; else the tokens' own text. Its white space is single spaces, but for
            tokenizers that lose nothing; there is none around it.
        """
        kept = [number for number in map(int, ids) if number not in self._special]
        unknown = self.tokenizer.unk_token_id in kept
        plain = self._decode([number for number in kept if number != self.tokenizer.unk_token_id])
        if not kept or (not unknown and (self._exact or (self._inner is None and _holds(passages, plain)))):
            return plain
        pattern = self._word_piece_pattern(kept) if self._inner is not None else self._pattern(kept)
        if not pattern:
            return plain
        sources = [self._fold(passage) for passage in passages]
        for expression in (rf"(?<!\w)(?:{pattern})(?!\w)", pattern):  # whole words before parts of them
            found = re.compile(f"(?=({expression}))" if unknown else f"({expression})")  # from every position, or once
            spellings = Counter(source.original(match) for source in sources for match in found.finditer(source.text))
            if unknown:  # an unknown token stands for any text: only the tokens of that text tell whether it is meant
                spellings = Counter({text: n for text, n in spellings.items() if self._tokens(text) == kept})
            if spellings:
                return spellings.most_common(1)[0][0]
        return plain

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._encode([text])[0].tolist()
        return ids

    def _decode(self, ids: Sequence[int]) -> str:
        if self._inner is None:
            return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).strip()
        joined = "".join(self._spaced(self.tokenizer.convert_ids_to_tokens(list(ids)))).strip()
        for expression, replacement in _TIGHT:
            joined = expression.sub(replacement, joined)
        return joined

    def _spaced(self, tokens: Iterable[str]) -> Iterator[str]:
        for token in tokens:
            yield token.removeprefix(self._inner or "") if self._continues(token) else f" {token}"

    def _continues(self, token: str) -> bool:
        return bool(self._inner) and token.startswith(str(self._inner)) and token != self._inner

    # ---- looking a text up ----

    def _word_piece_pattern(self, ids: Sequence[int]) -> str:
        """White space is free where the tokenizer splits without it: beside all but letters and digits."""
        pattern, before = "", ""
        for number, token in zip(ids, self.tokenizer.convert_ids_to_tokens(list(ids)), strict=True):
            known = number != self.tokenizer.unk_token_id
            inner = known and self._continues(token)
            text = token.removeprefix(self._inner or "") if inner else token
            if before and not inner:
                within_words = known and not self._stands_alone(before) and not self._stands_alone(text[0])
                pattern += r"\s+" if within_words else r"\s*"
            pattern += re.escape(text) if known else r"\S+?"
            before = text[-1] if known else " "
        return pattern

    def _stands_alone(self, character: str) -> bool:
        if not character.isalnum():
            return True
        normalized = character if self._normalizer is None else self._normalizer.normalize_str(character)
        return normalized != normalized.strip()  # Chinese characters are set apart

    def _pattern(self, ids: Sequence[int]) -> str:
        text = str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).strip()
        unknown = self.tokenizer.unk_token
        parts = text.split(unknown) if unknown else [text]
        folded = (r"\s+".join(map(re.escape, self._fold(part).text.split(" "))) for part in parts)
        return r"\S+?".join(folded)

    def _fold(self, text: str) -> "_Folded":
        """What the tokenizer makes of a text's characters, each with the marks that combine with it."""
        inner = (
            position for position, character in enumerate(text) if position and not unicodedata.combining(character)
        )
        bounds = [0, *inner, len(text)] if text else [0]
        pieces = [self._normalized(text[begin:end]) for begin, end in pairwise(bounds)]
        return _Folded(text, "".join(pieces), bounds, list(accumulate(map(len, pieces))))

    def _normalize(self, characters: str) -> str:
        if characters.isspace() or self._normalizer is None:
            return characters
        normalized: str = self._normalizer.normalize_str(characters)
        return normalized.replace("▁", " ").strip()  # some normalizers put SentencePiece's mark of a word's begin


class _Folded(NamedTuple):
    """A text as it was folded; where its parts begin and end in the text itself, and where they end in the folded."""

    whole: str
    text: str
    bounds: list[int]
    stops: list[int]

    def original(self, match: "re.Match[str]") -> str:
        """What was folded to a match's first group, with single spaces."""
        first, last = bisect_right(self.stops, match.start(1)), bisect_right(self.stops, match.end(1) - 1)
        return " ".join(self.whole[self.bounds[first] : self.bounds[last + 1]].split())


def answer_sources(question: str, passages: Iterable[Mapping[str, str]]) -> list[str]:
    """What an answer may be taken from: the passages' texts, their titles, and the question."""
    read = list(passages)
    return [*(passage["text"] for passage in read), *(passage["title"] for passage in read), question]


def _holds(passages: Iterable[str], text: str) -> bool:
    return any(text in passage for passage in passages)


def answer_losses(
    logits: torch.Tensor, labels: torch.Tensor, *, label_smoothing: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropies of each answer.

    Args:
        logits: [B, L, V].
        labels: [B, L], -100 on padding.
        label_smoothing: the share of the probability that is spread over all V tokens (Szegedy et al. 2016,
            arXiv:1512.00567).

    Returns:
        The sum over its tokens (float32) and how many these are, [B] each.
    """
    losses = torch.nn.functional.cross_entropy(
        logits.float().transpose(1, 2),
        labels,
        ignore_index=-100,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return losses.sum(dim=1), (labels != -100).sum(dim=1)
