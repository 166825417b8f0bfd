"""The words of texts: tokens of many languages by hand, Unicode's rules by another library, properties."""

import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from uniseg.wordbreak import words as uniseg_words

from model_hub_rqa.retrieval import words as module
from model_hub_rqa.retrieval.words import NOT_STEMMED, STEMMED, STOPPED, Words, language_name, normalised

# ruff: noqa: RUF001 - letters of other scripts are what is tested

# text, its words without stems
TOKENS = [
    ("The U.S. and the C language", "the u.s and the c language"),
    ("It's 5 o\u2019clock: don't 'quote'", "it's 5 o'clock don't quote"),
    ("3.5 of 1,000; C++, C#, .NET", "3.5 of 1,000 c c net"),
    ("fig.3 v2.0 snake_case __init__ a:b", "fig 3 v2.0 snake_case init a b"),
    (
        "Stra\u00dfe STRASSE \uff36\uff19 \ufb01n x\u00b2 caf\u00e9 cafe\u0301",
        "strasse strasse v9 fin x2 caf\u00e9 caf\u00e9",
    ),
    ("\u0130stanbul co\u00adoperate Apple\u2122 one\u200btwo", "istanbul cooperate apple one two"),
    ("मैं हिन्दी में लिखता हूँ। १२३", "मैं हिन्दी में लिखता हूँ १२३"),
    ("我在东京工作。你", "我在 在东 东京 京工 工作 你"),
    ("東京タワー、コーヒー２０２０年", "東京 京タ タワ ワー コー ーヒ ヒー 2020 年"),
    ("ภาษาไทย ก็", "ภา าษ ษา าไ ไท ทย ก็"),
    ("ສະບາຍດີ", "ສະ ະບ ບາ າຍ ຍດີ"),
    ("ខ្ញុំស្រឡាញ់", "ខ្ញុំ ញុំស្ ស្រ រឡា ឡាញ់"),
    ("မြန်မာစာ", "မြန် န်မာ မာစာ"),
    ("한국어를 배운다. 책 AI가 3.5인치", "한국 국어 어를 배운 운다 책 ai 가 3.5 인치"),
    ("مُحَمَّد رَسُولُ ١٢٫٥", "مُحَمَّد رَسُولُ ١٢٫٥"),
    ("می\u200cخواهم کتاب\u200cها", "میخواهم کتابها"),
    ("צה\u05f4ל ז'בוטינסקי", "צה\"ל ז'בוטינסקי"),
    ("п\u2019ять ΣΟΦΟΣ", "п'ять σοφοσ"),
    ("བོད་སྐད་", "བོད སྐད"),
    ("… — \u2019 () 🙂", ""),
]


@pytest.mark.parametrize(("text", "expected"), TOKENS)
def test_tokens_by_hand(text: str, expected: str) -> None:
    """Each script's words: marks are kept, scripts without spaces become bigrams, one letter is a word."""
    assert Words("none")(text) == unicodedata.normalize("NFKC", expected).split()


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("english", "sitting dogs' dog's U.S.", "sit dog dog u.s"),
        ("en", "sitting", "sit"),
        ("french", "l'homme l\u2019avion", "homm avion"),
        ("tr", "IRAK'ta İstanbul", "ırak istanbul"),
        ("hindi", "लड़कियाँ लड़की", "लड़क लड़क"),
        ("fa", "کتاب\u200cها کتابها کتاب", "کتاب کتاب کتاب"),
        ("arabic", "مُحَمَّد محمد", "محمد محمد"),
        ("greek", "λόγος ΛΌΓΟΣ", "λογ λογ"),
        ("", "sitting", "sitting"),
        ("ja", "sitting 東京都", "sitting 東京 京都"),
        ("zh-CN", "sitting", "sitting"),
    ],
)
def test_stems(language: str, text: str, expected: str) -> None:
    """Of the language, by its name or code; abbreviations have none."""
    assert Words(language)(text) == unicodedata.normalize("NFKC", expected).split()


def test_stop_words() -> None:
    """They are left out before stems are taken, whatever their case, and a language's own."""
    assert Words("english", "english")("The dogs AND cats") == ["dog", "cat"]
    assert Words("none", "de")("der Hund und the dog") == ["hund", "the", "dog"]
    assert Words("none", "korean")("그리고 책") == ["책"]
    assert Words("none")("그리고 책") == ["그리", "리고", "책"]
    assert Words("none", "none")("the") == ["the"]


def test_languages_have_what_their_tables_say() -> None:
    """The tables name Snowball's algorithms and bm25s' stop words, all of them; codes and names name the same."""
    import bm25s
    import Stemmer

    assert sorted(STEMMED) == sorted(Stemmer.algorithms())
    theirs = {
        name.removeprefix("STOPWORDS_").lower() for name in vars(bm25s.stopwords) if name.startswith("STOPWORDS_")
    }
    assert set(STOPPED) == theirs - {"en", "en_plus"} | {"english"}
    for name, code in (STEMMED | NOT_STEMMED).items():
        assert language_name(name) == name
        assert code == "-" or language_name(code) == name
    assert [language_name(name) for name in ("nb", "NONE", "", "zu", "pt_BR")] == [
        "norwegian",
        "",
        "",
        "",
        "portuguese",
    ]
    assert [language_name(name) for name in ("latin1", "xx", "-", "englisch")] == [None] * 4


ENDS = regex.compile(r"^[_'\p{M}]+|[_'][_\p{M}]*$")
ALPHABETS = "aBcéßñ жЩ αΣ अकि़ा ب مُ א 12٣ .'_,;·  \n-!"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from(ALPHABETS), max_size=30))
def test_words_are_those_of_another_implementation_of_annex_29(text: str) -> None:
    """uniseg's, without what has neither letter nor digit, and without underscores and apostrophes at their ends."""
    text = normalised(text)
    expected = [word for word in uniseg_words(text) if any(unicodedata.category(one)[0] in "LN" for one in word)]
    assert Words("none")(text) == [ENDS.sub("", word) for word in expected]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_no_text_loses_its_letters(text: str) -> None:
    """Every letter and digit of the normalised text stands in a word; words have nothing blank in them."""
    text = normalised(text)
    found = Words("none")(text)
    assert all(word and word == "".join(word.split()) and len(word) <= 255 for word in found)
    letters = [one for one in text if unicodedata.category(one)[0] in "LN"]
    assert set(letters) == {one for word in found for one in word if unicodedata.category(one)[0] in "LN"}
    assert normalised(text) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_ascii_has_no_rules_of_its_own(text: str) -> None:
    """The expression for ASCII finds what the one for all of Unicode finds."""
    assert Words("none")(text) == module._unicode()["word"].findall(text.lower())


def test_long_words_are_cut() -> None:
    """At 255 characters, in tantivy as in bm25s; nothing long is remembered."""
    words = Words("none")
    assert words("x" * 70_000) == ["x" * 255]
    assert len(words("東" * 1000)) == 999
    assert words._known == {}
