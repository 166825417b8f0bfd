"""Texts into the words that BM25 counts, in any language.

1. The text is normalised: NFKC, case folding, without characters that are not seen (soft hyphens, zero-width joiners
   and non-joiners), as Unicode's NFKC_Casefold does it (annex 31); typographic apostrophes become "'".
2. Words are those of Unicode's annex 29: letters, combining marks and digits of any script. ``u.s``, ``o'clock`` and
   ``3.5`` are one word each, and so is a single letter. In two points it differs: a colon ends a word, as CLDR has it,
   and underscores and apostrophes join words, but do not begin or end one.
3. What is written without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese), and words of Hangul, which
   particles are joined to, become bigrams of characters, each with its marks: "東京都" gives "東京", "京都".
4. Stop words are left out, and words are cut to Snowball's stems where the language has them.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import Any

from model_hub_rqa.libraries import require
from model_hub_rqa.metrics.languages import LANGUAGES as ISO_CODES

VERSION = 2  # raise it whenever a text may give other words than before; the first was that of version 0.1

STEMMED = {
    **{"arabic": "ar", "armenian": "hy", "basque": "eu", "catalan": "ca", "czech": "cs", "danish": "da", "dutch": "nl"},
    **{"english": "en", "esperanto": "eo", "estonian": "et", "finnish": "fi", "french": "fr", "german": "de"},
    **{"greek": "el", "hindi": "hi", "hungarian": "hu", "indonesian": "id", "irish": "ga", "italian": "it"},
    **{"lithuanian": "lt", "nepali": "ne", "norwegian": "no", "persian": "fa", "polish": "pl", "portuguese": "pt"},
    **{"romanian": "ro", "russian": "ru", "serbian": "sr", "sesotho": "st", "spanish": "es", "swedish": "sv"},
    **{"tamil": "ta", "turkish": "tr", "yiddish": "yi", "porter": "-", "dutch_porter": "-"},
}
"""Snowball's algorithms, by the languages' names, with the codes of ISO 639-1."""

NOT_STEMMED = {
    **{"bengali": "bn", "bulgarian": "bg", "burmese": "my", "chinese": "zh", "croatian": "hr", "hebrew": "he"},
    **{"japanese": "ja", "khmer": "km", "korean": "ko", "lao": "lo", "malay": "ms", "marathi": "mr", "slovak": "sk"},
    **{"slovenian": "sl", "swahili": "sw", "telugu": "te", "thai": "th", "tibetan": "bo", "ukrainian": "uk"},
    **{"urdu": "ur", "vietnamese": "vi"},
}
"""Names of languages that have no stems; so may any other code of ISO 639-1."""

STOPPED = (
    *("chinese", "danish", "dutch", "english", "french", "german", "italian", "korean", "norwegian", "portuguese"),
    *("russian", "spanish", "swedish", "turkish"),
)
"""Languages that bm25s has stop words of."""

_LONGEST = 255  # characters, as in Lucene; tantivy passes over words of 65,530 bytes without a word
_REMEMBERED = 500_000  # different words whose stems are kept
_TRANSLATED = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u02bc\u05f3", "'"),  # typographic, Ukrainian's and Hebrew's apostrophes
        "\u05f4": '"',  # within Hebrew abbreviations
        **dict.fromkeys("\u2122\u2120\u200b", " "),  # TM and SM would join the word; a zero-width space separates
    }
)
_ASCII = re.compile(r"[a-z0-9]+(?:(?:(?<=[a-z])[.'](?=[a-z])|(?<=[0-9])[.,;'](?=[0-9])|_+(?=[a-z0-9]))[a-z0-9]+)*")


def language_name(language: str) -> str | None:
    """The language by its name, "" for one that has none here; None where it is not known.

    Args:
        language: a name ("hindi"), or a code of ISO 639-1 ("hi", or "hi-IN"); "" or "none" for none.
    """
    given = language.lower()
    if given in STEMMED or given in NOT_STEMMED or given == "":
        return given
    code = re.sub(r"[-_].*", "", given)
    code = {"nb": "no", "nn": "no"}.get(code, code)
    named = [name for name, other in (STEMMED | NOT_STEMMED).items() if other == code]
    return named[0] if named else "" if given == "none" or code in ISO_CODES.split() else None


def language_error(language: str) -> str | None:
    """The rule that ``language`` breaks, None where it is known."""
    if language_name(language) is not None:
        return None
    return f"must be none, a code of ISO 639-1 or one of {', '.join((*STEMMED, *NOT_STEMMED))}, got {language!r}"


def stopwords_error(language: str) -> str | None:
    """The rule that ``language`` breaks, None where it is "", "none" or has stop words."""
    if language in ("", "none") or language_name(language) in STOPPED:
        return None
    return f"must be none or one of {', '.join(STOPPED)}, got {language!r}"


class Words:
    """Splits texts into words, as this module's head says.

    Args:
        language: whose stems are taken, as :func:`language_name` takes it.
        stopwords: the language whose commonest words are left out; "" or "none" for none.

    Raises:
        ConfigError: PyStemmer or bm25s, which has the stop words, is needed and not installed.
    """

    def __init__(self, language: str = "english", stopwords: str = "") -> None:
        name = language_name(language)
        self._turkish = name == "turkish"
        self._stem = require("Stemmer").Stemmer(name).stemWord if name in STEMMED else str
        self._stop = frozenset(normalised(word, self._turkish) for word in _stop_words(language_name(stopwords)))
        self._known: dict[str, list[str]] = {}

    def __call__(self, text: str) -> list[str]:
        """The words of a text, in its order."""
        text = normalised(text, self._turkish)
        found = (_ASCII if text.isascii() else _unicode()["word"]).findall(text)
        words: list[str] = []
        for one in found:
            known = self._known.get(one)
            words += self._remember(one) if known is None else known
        return words

    def _remember(self, found: str) -> list[str]:
        words = list(self._cut(found))
        if len(found) <= _LONGEST:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[found] = words
        return words

    def _cut(self, found: str) -> Iterator[str]:
        """What is indexed of a word of the annex, or of all that stands together without spaces."""
        if found in self._stop:
            return
        if not found.isascii() and _unicode()["bigrams"].match(found):
            characters = _unicode()["character"].findall(found)
            yield from ["".join(pair) for pair in pairwise(characters)] or [found]
        else:
            yield (found if "." in found else self._stem(found))[:_LONGEST]  # stems of abbreviations are none: u.s, u.


def normalised(text: str, turkish: bool = False) -> str:
    """The text as words are sought in it, and the same text of this text."""
    if turkish:
        text = text.replace("\u0130", "i").replace("I", "\u0131")
    if text.isascii():
        return text.lower()
    text = unicodedata.normalize("NFKC", text.translate(_TRANSLATED)).casefold().replace("i\u0307", "i")
    return unicodedata.normalize("NFKC", _unicode()["unseen"].sub("", text))


@cache
def _unicode() -> dict[str, Any]:
    """Expressions over Unicode's properties; SA is the class of the scripts of South East Asia without spaces."""
    import regex

    unspaced = r"\p{Han}\p{Hiragana}\p{Katakana}ー〆\p{Line_Break=SA}"
    word = r"[[\p{L}\p{N}]--[" + unspaced + r"\p{Hangul}]][[\p{L}\p{N}\p{M}]--[" + unspaced + r"\p{Hangul}]]*"
    joined = "|".join(
        (
            r"(?<=\p{L}\p{M}*)['.\u00b7\u2027\u055f]\p{M}*(?=\p{L})",
            r"(?<=\p{Hebrew}\p{M}*)\"\p{M}*(?=\p{Hebrew})",
            r"(?<=\p{N}\p{M}*)['.,;\u066b\u066c]\p{M}*(?=\p{N})",  # the last two are Arabic's
            r"_[_\p{M}]*(?=[\p{L}\p{N}])",
        )
    )
    expressions = {
        "unseen": r"\p{Default_Ignorable_Code_Point}+",
        "bigrams": rf"[{unspaced}\p{{Hangul}}]",
        "character": r"\P{M}\p{M}*",
        "word": rf"[{unspaced}][{unspaced}\p{{M}}]*|\p{{Hangul}}[\p{{Hangul}}\p{{M}}]*|{word}(?:(?:{joined}){word})*",
    }
    return {name: regex.compile(expression, regex.V1) for name, expression in expressions.items()}


def _stop_words(language: str | None) -> tuple[str, ...]:
    if not language:
        return ()
    words: tuple[str, ...] = getattr(
        require("bm25s").stopwords, f"STOPWORDS_{'EN' if language == 'english' else language.upper()}"
    )
    return words
