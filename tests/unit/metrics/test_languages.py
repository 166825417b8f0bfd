"""Answers of every language: rules by hand, MLQA's and KorQuAD's rules written out plainly, and what auto chooses."""

import re
import string
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.config import DatasetKwargs
from model_hub_rqa.config.datasets import parse_datasets
from model_hub_rqa.metrics.languages import LANGUAGES, choose_rules, rules_for, script_of
from model_hub_rqa.metrics.text import SQUAD_RULES, exact_match_score, f1_score, normalize_answer

LETTERS = (
    "aeltd E. -,\u00bf\u201c\u3002\uff0c\u3001 \u3000\u4e2d\u56fd\u7684\ud55c\uac15\u300a'\"<(\u2019$+"
    "\u0627\u0644\u0939\u093f\u06f1\u0e44\u0e17\u0e22\u306e\u30fc"
)

TEXTS = st.one_of(st.text(st.sampled_from(LETTERS), max_size=12), st.text(max_size=12))


@pytest.mark.parametrize(
    ("language", "text", "normalized"),
    [
        ("en", "The \u201cSeine\u201d, a river.", "\u201cseine\u201d river"),  # SQuAD's: ASCII punctuation alone
        ("es", "\u00bfEl r\u00edo de la Plata?", "r\u00edo de plata"),
        ("de", "\u201eDer Hund\u201c des Hauses", "hund hauses"),
        ("vi", "C\u00e1i c\u1ea7u c\u1ee7a H\u00e0 N\u1ed9i", "c\u1ea7u h\u00e0 n\u1ed9i"),
        ("ar", "\u0627\u0644\u0642\u0627\u0647\u0631\u0629\u060c", "\u0642\u0627\u0647\u0631\u0629"),
        ("hi", "\u0932\u093e\u0932 \u092a\u0941\u0932\u0964", "\u0932\u093e\u0932 \u092a\u0941\u0932"),
        ("fr", "\u00ab La Seine \u00bb", "la seine"),  # MLQA has no articles of it
        ("ru", "\u00ab\u041a\u0440\u0430\u0441\u043d\u044b\u0439 \u043c\u043e\u0441\u0442\u00bb", "красный мост"),
        ("zh", "\u7531NBA\u51652009\u5e74\u3002", "由 nba 入 2009 年"),
        ("ja", "\u6771\u5927\u5bfa\u306e\u30d3\u30eb 2\u3064", "東 大 寺 の ビ ル 2 つ"),
        ("th", "\u0e44\u0e17\u0e22 BTS", "ไ ท ย bts"),
        ("ko", "\u300a\ud55c\uac15\u300b(\uc11c\uc6b8), \uac15", "한강 서울 강"),
    ],
)
def test_normalized_answers_by_hand(language: str, text: str, normalized: str) -> None:
    """Lower case, punctuation, articles, segmentation, white space: as the language has them."""
    assert rules_for(language).normalize(text) == normalized


@pytest.mark.parametrize(
    ("language", "prediction", "truth", "expected"),
    [
        ("zh", "由红星公司", "红星公司", 2 * 4 / 9),
        ("zh", "2009年。", "2009年", 1.0),
        ("zh", "2009", "2009年", 2 * 1 / 3),  # a number is one token
        ("zh", "星红", "红星", 1.0),  # MLQA counts common tokens; CMRC's longest run would give 1/2
        ("ja", "東大寺", "東大寺の", 2 * 3 / 7),
        ("th", "ไทย", "ไท", 2 * 2 / 5),
        ("ko", "한강은", "한강", 2 * 2 / 5),
        ("ko", "푸른 한강", "한강", 2 * 2 / 6),
        ("ru", "красный мост", "мост", 2 * 1 / 3),
        ("es", "el puente", "puente", 1.0),
        ("en", "el puente", "puente", 2 / 3),
    ],
)
def test_f1_by_hand(language: str, prediction: str, truth: str, expected: float) -> None:
    """Twice the common tokens over the tokens of both."""
    assert f1_score(prediction, truth, rules=rules_for(language)) == pytest.approx(expected)


PUNCTUATION = {char for char in map(chr, range(0x10FFFF)) if unicodedata.category(char)[0] == "P"}

PUNCTUATION |= set(string.punctuation)

ARTICLES = {
    "es": {"un", "una", "unos", "unas", "el", "la", "los", "las"},
    "vi": {"của", "là", "cái", "chiếc", "những"},
    "de": set("ein eine einen einem eines einer der die das den dem des".split()),  # noqa: SIM905 - it reads better
}


def mlqa_tokens(text: str, language: str) -> list[str]:
    """The rules of MLQA's paper and evaluation, step by step: what is left of an answer."""
    kept = "".join(char for char in text.lower() if char not in PUNCTUATION)
    if language == "ar":
        kept = kept.replace("\u0627\u0644", " ")
    if language in ARTICLES:
        kept = "".join(" " if run in ARTICLES[language] else run for run in re.split(r"(\W)", kept))
    tokens: list[str] = []
    for word in kept.split():
        run = ""
        for char in word:
            if language == "zh" and 0x4E00 <= ord(char) <= 0x9FA5:
                tokens += [*([run] if run else []), char]
                run = ""
            else:
                run += char
        tokens += [run] if run else []
    return tokens


@given(TEXTS, TEXTS, st.sampled_from(["es", "hi", "vi", "de", "ar", "zh"]))
def test_scores_are_mlqas(prediction: str, truth: str, language: str) -> None:
    """F1 and exact match of any two texts equal those of MLQA's rules written out."""
    one, other = mlqa_tokens(prediction, language), mlqa_tokens(truth, language)
    common = (Counter(one) & Counter(other)).total()
    rules = rules_for(language)
    assert exact_match_score(prediction, truth, rules=rules) == float(one == other)
    assert f1_score(prediction, truth, rules=rules) == pytest.approx(
        2 * common / (len(one) + len(other)) if common else 0.0
    )


@given(TEXTS, TEXTS)
def test_korean_scores_are_korquads(prediction: str, truth: str) -> None:
    """Quotes and brackets part words, other ASCII punctuation goes; F1 counts the characters that are left."""

    def words(text: str) -> list[str]:
        parted = re.sub("[\"'<>()\u300a\u300b\u3008\u3009\u2018\u2019]", " ", text).lower()
        return re.sub("[" + re.escape(string.punctuation) + "]", "", parted).split()

    one, other = "".join(words(prediction)), "".join(words(truth))
    common = (Counter(one) & Counter(other)).total()
    rules = rules_for("ko")
    assert exact_match_score(prediction, truth, rules=rules) == float(words(prediction) == words(truth))
    expected = 2 * common / (len(one) + len(other)) if common else 0.0
    assert f1_score(prediction, truth, rules=rules) == pytest.approx(expected)


@given(TEXTS)
def test_english_is_squads(text: str) -> None:
    """English has the very function of SQuAD, and auto takes it for whatever is in Latin letters or has none."""
    assert rules_for("en") is SQUAD_RULES
    assert SQUAD_RULES.normalize(text) == normalize_answer(text)
    if text.isascii():
        assert choose_rules("auto", [text]).rules is SQUAD_RULES


@given(TEXTS, st.sampled_from(["es", "ru", "zh", "ja", "ko", "th", "ar"]))
def test_an_answer_matches_itself(text: str, language: str) -> None:
    """Exact match 1, and F1 1 where anything is left of it; normalising twice is normalising once but for articles."""
    rules = rules_for(language)
    assert exact_match_score(text, text, rules=rules) == 1
    assert f1_score(text, text, rules=rules) == float(bool(rules.tokenize(text)))
    if language in ("ru", "zh", "ja", "th"):
        normalized = rules.normalize(text)
        assert rules.normalize(normalized) == normalized


@pytest.mark.parametrize(
    ("references", "language"),
    [
        (["Paris", "die Seine", "El Niño"], "en"),
        (["1901", "", "3.5 %"], "en"),  # no letters
        ([], "en"),
        (["红星公司", "2009年", "NBA"], "zh"),
        (["東大寺", "京都", "ビル", "奈良"], "ja"),
        (["한강", "서울"], "ko"),
        (["мост", "Нева"], "ru"),
        (["लाल पुल"], "hi"),
        (["ไทย"], "th"),
        (["القاهرة", "نهر النيل"], "ar"),
        (["مادرید", "تهران", "پل"], "fa"),
        (["\u03b1-Tubulin", "\u03b2"], "en"),  # as many in Latin letters
        (["Paris", "мост", "Волга", "Нева", "한강"], "ru"),
    ],
)
def test_auto_looks_at_the_script(references: list[str], language: str) -> None:
    """The script of most references decides; half in Latin letters are enough for English."""
    choice = choose_rules("auto", references)
    assert choice.rules.language == language
    assert f"language of the answers: {language} (auto: " in choice.said
    assert not choice.warning


@pytest.mark.parametrize(
    ("references", "shown"),
    [
        (["한강", "مادرید", "東大寺", "мост", "पुल"], "1 Hangul, 1 Arabic, 1 Han, 1 Cyrillic, 1 Devanagari"),
        (["Paris", "мост", "한강", "Нева"], "2 Cyrillic, 1 Latin, 1 Hangul"),  # half is no majority
        (["мост", "한강"], "1 Cyrillic, 1 Hangul"),
    ],
)
def test_auto_takes_no_minority(references: list[str], shown: str) -> None:
    """Where no script has more than half of the references, English compares them, and a warning says so."""
    choice = choose_rules("auto", references)
    assert (choice.rules.language, choice.rules.normalize) == ("en", SQUAD_RULES.normalize)
    assert choice.warning == f"the references are of mixed scripts ({shown}): --language or data.language chooses"
    assert choice.said.endswith("rules: SQuAD (ROUGE by Unicode words)")
    assert not choose_rules("ko", ["한강", *references]).warning.startswith("the references")


@pytest.mark.parametrize(
    ("language", "references", "warning"),
    [
        (
            "zh",
            ["Paris", "Seine", "红"],
            "language zh is not written in Latin letters, but 2 of 3 references are in Latin",
        ),
        (
            "en",
            ["мост"],
            "language en is not written in Cyrillic letters, but 1 of 1 references are in Cyrillic script",
        ),
        ("es", ["El río"], ""),
        ("ja", ["東大寺"], ""),
        ("sr", ["most", "река", "Дунав"], ""),
        ("uz", ["ko\u02bbprik"], ""),
        ("zh", ["1901"], ""),
    ],
)
def test_a_language_that_does_not_fit_is_warned_of(language: str, references: list[str], warning: str) -> None:
    """The rules are those asked for; the warning names both scripts."""
    choice = choose_rules(language, references)
    assert choice.rules is rules_for(language)
    assert choice.warning.startswith(warning)
    assert bool(choice.warning) == bool(warning)


def test_every_language_has_rules_and_a_script() -> None:
    """All 184 codes; what auto may take is among them."""
    codes = LANGUAGES.split()
    assert len(codes) == len(set(codes))
    for code in codes:
        rules = rules_for(code)
        assert rules.language == code
        assert rules.normalize("B\u3002") == ("b\u3002" if code in ("en", "ko") else "b")
    assert script_of("アメリカ") == script_of("日本") == "HAN"


def test_a_set_has_its_own_language() -> None:
    """Named sets take the data section's language where they have none."""
    sets = [{"name": "a", "validation_file": "a.json", "language": "es"}, {"name": "b", "validation_file": "b.json"}]
    found = parse_datasets(DatasetKwargs(train_file="t.json", validation=sets, language="de"))["validation"]
    assert [one.language for one in found] == ["es", "de"]
