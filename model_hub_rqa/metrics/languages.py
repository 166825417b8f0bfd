"""Which rules compare answers of a language, and which language answers are in.

English answers are compared by SQuAD's rules (`metrics.text`). All others as MLQA's published evaluation compares them
(Lewis et al. 2020, arXiv:1910.07475): lowercased, without Unicode punctuation, without the articles of the language,
split at white space, and in Chinese into characters ("mixed segmentation": other scripts within stay whole). Other
languages that are written without spaces are split alike. Korean follows KorQuAD 1.0 (Lim et al. 2019,
arXiv:1909.07005): F1 counts characters.

CMRC 2018 (Cui et al. 2019, arXiv:1810.07366) segments Chinese in the same way, but its F1 takes the longest common run
of tokens where MLQA counts the common tokens. The two agree where an answer is too long or too short at its ends.

The standard library only, so that importing it costs nothing.
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

from model_hub_rqa.metrics.text import SQUAD_RULES, AnswerRules

LANGUAGES = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st "
    "su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
"""The codes of ISO 639-1."""

# Scripts by the first word of their characters' Unicode names, and the languages in them: auto takes the first. What
# stands nowhere is written in Latin letters, and so are those of _ALSO_LATIN.
_SCRIPTS = {
    "ARABIC": "ar fa ur ps sd ug ku ks pa kk ha ms",
    "ARMENIAN": "hy",
    "BENGALI": "bn as",
    "CYRILLIC": "ru uk bg be sr mk kk ky mn tg tt ba cv ce os ab av kv cu bs az uz tk ro ku",
    "DEVANAGARI": "hi mr ne sa ks sd bh pi",
    "ETHIOPIC": "am ti om",
    "GEORGIAN": "ka",
    "GREEK": "el",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HAN": "zh ja ko",
    "HANGUL": "ko",
    "HEBREW": "he yi",
    "KANNADA": "kn",
    "KHMER": "km",
    "LAO": "lo",
    "MALAYALAM": "ml",
    "MYANMAR": "my",
    "ORIYA": "or",
    "SINHALA": "si",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAANA": "dv",
    "THAI": "th",
    "TIBETAN": "bo dz",
}
_ALSO_LATIN = "az bs ha ku ms om ro sr tk tt uz vi"
_SAME_SCRIPT = {"CJK": "HAN", "HIRAGANA": "HAN", "KATAKANA": "HAN"}

_MLQA_ARTICLES = {
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "ar": "ال",  # the prefix, wherever it stands
}
_MLQA_HAN = re.compile("[\u4e00-\u9fa5]")
# Han, kana, Thai, Lao, Tibetan, Myanmar and Khmer have no spaces between words.
_UNSPACED_RANGES = (
    "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u3041-\u309f\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f\u0e00-\u109f\u1780-\u17ff"
)
_UNSPACED = re.compile(f"[{_UNSPACED_RANGES}]")
ONE_BY_ONE = re.compile(f"[{_UNSPACED_RANGES}\uac00-\ud7a3]")  # and Hangul
_UNSPACED_LANGUAGES = ("ja", "th", "lo", "km", "my", "bo", "dz")
_KORQUAD_SPACES = str.maketrans(dict.fromkeys("'\"《》<>〈〉()\u2018\u2019", " "))
_NOT_ARABIC = re.compile("[پچژگکیٹڈڑںےھہ]")  # letters that Persian and Urdu have, and Arabic has not
_KANA = re.compile("[\u3041-\u30ff]")


MIXED_RULES = replace(SQUAD_RULES, name="SQuAD (ROUGE by Unicode words)")
"""For references of several scripts, none of which most are in: Google's ROUGE would see no word of most of them."""


class Choice(NamedTuple):
    """The rules for some answers, and what to tell the user: which they are and why, and a warning or ""."""

    rules: AnswerRules
    said: str
    warning: str


def language_error(language: str) -> str:
    """The rule that ``language`` breaks, "" where it is "auto" or a code of ISO 639-1."""
    if language == "auto" or language in LANGUAGES.split():
        return ""
    return f"must be auto, or a code of ISO 639-1 such as en, zh or es, got {language!r}"


def choose_rules(language: str, references: Iterable[str]) -> Choice:
    """The rules for answers that are compared with ``references``.

    Args:
        language: a code of ISO 639-1; or "auto" for the script of more than half of the references: of Han characters
            Japanese where a tenth has kana and else Chinese, of Arabic letters Persian where a quarter has letters that
            Arabic lacks and else Arabic, of others the most widespread language. English where half are in Latin
            letters (whatever language they are in), and with a warning where no script has more than half.
        references: all gold answers of a file. The script of one is that of most of its letters; one without letters
            does not count.
    """
    found = [(script, text) for text in references if (script := script_of(text))]
    counts = Counter(script for script, _ in found)
    script, count = _most(counts)
    decides = 2 * count > len(found) or (script == "LATIN" and 2 * count == len(found))
    if language == "auto" and not decides:
        scripts = ", ".join(f"{count:,} {script.title()}" for script, count in counts.most_common())
        warning = f"the references are of mixed scripts ({scripts}): --language or data.language chooses"
        said = f"language of the answers: en (auto: mixed scripts); rules: {MIXED_RULES.name}"
        return Choice(MIXED_RULES, said, warning)
    shown = f"{count:,} of {len(found):,} references are in {script.title()} script" if found else "no letters"
    warning = ""
    if language == "auto":
        language = _language_of(script, [text for own, text in found if own == script])
        shown = f" (auto: {shown})"
    else:
        if found and script not in _scripts_of(language):
            warning = f"language {language} is not written in {script.title()} letters, but {shown}"
        shown = ""
    rules = rules_for(language)
    return Choice(rules, f"language of the answers: {language}{shown}; rules: {rules.name}", warning)


@cache
def rules_for(language: str) -> AnswerRules:
    """The rules of one language, a code of ISO 639-1."""
    if language == "en":
        return SQUAD_RULES
    if language == "ko":
        return AnswerRules("ko", "KorQuAD 1.0 (F1 by characters)", _normalize_korean, _characters)
    alone = _MLQA_HAN if language == "zh" else _UNSPACED if language in _UNSPACED_LANGUAGES else None
    articles = _MLQA_ARTICLES.get(language)
    parts = ["Unicode punctuation", f"articles of {language}" if articles else "no articles"]
    parts.append("mixed segmentation (characters)" if alone else "words")
    return AnswerRules(language, f"MLQA ({', '.join(parts)})", _mlqa_normalizer(articles, alone))


def unicode_words(text: str) -> list[str]:
    """ROUGE's tokens for languages other than English: lower-case runs of letters, marks and digits of any script.

    Characters of scripts without spaces, and those of Hangul, stand alone. Joiners within a word are left out.
    """
    return "".join(map(_spaced, text.lower())).split()


def script_of(text: str) -> str:
    """The script of most letters, by its Unicode name ("LATIN"; "HAN" for kana too); "" where there is no letter."""
    if text.isascii():
        return "LATIN" if any(map(str.isalpha, text)) else ""
    counts = Counter(filter(None, map(_script_of_letter, text)))
    return max(counts, key=lambda script: counts[script]) if counts else ""


def _mlqa_normalizer(articles: str | None, alone: re.Pattern[str] | None) -> Callable[[str], str]:
    pattern = re.compile(articles) if articles else None

    def normalize(text: str) -> str:
        text = "".join(map(_without_punctuation, text.lower()))
        if pattern is not None:
            text = pattern.sub(" ", text)
        if alone is not None:
            text = alone.sub(r" \g<0> ", text)
        return " ".join(text.split())

    return normalize


def _normalize_korean(text: str) -> str:
    text = text.translate(_KORQUAD_SPACES).lower()
    return " ".join("".join(char for char in text if char not in string.punctuation).split())


def _characters(normalized: str) -> list[str]:
    return list(normalized.replace(" ", ""))


@cache
def _without_punctuation(char: str) -> str:
    return "" if unicodedata.category(char).startswith("P") or char in string.punctuation else char


@cache
def _spaced(char: str) -> str:
    if ONE_BY_ONE.match(char):
        return f" {char} " if unicodedata.category(char)[0] in "LMN" else " "
    kind = unicodedata.category(char)
    return char if kind[0] in "LMN" else "" if kind == "Cf" else " "


@cache
def _script_of_letter(char: str) -> str:
    if not char.isalpha():
        return ""
    word = unicodedata.name(char, "").split(" ")[0]
    script = _SAME_SCRIPT.get(word, word)
    return script if script in _SCRIPTS or script == "LATIN" else ""


def _most(counts: Counter[str]) -> tuple[str, int]:
    """The most frequent script, Latin before another of as many, and how many have it."""
    return max(counts.items(), key=lambda pair: (pair[1], pair[0] == "LATIN"), default=("LATIN", 0))


def _language_of(script: str, texts: list[str]) -> str:
    if script == "LATIN":
        return "en"
    if script == "HAN" and sum(map(bool, map(_KANA.search, texts))) * 10 >= len(texts):
        return "ja"
    if script == "ARABIC" and sum(map(bool, map(_NOT_ARABIC.search, texts))) * 4 >= len(texts):
        return "fa"
    return _SCRIPTS[script].split()[0]


def _scripts_of(language: str) -> list[str]:
    scripts = [script for script, languages in _SCRIPTS.items() if language in languages.split()]
    return scripts if scripts and language not in _ALSO_LATIN.split() else [*scripts, "LATIN"]
