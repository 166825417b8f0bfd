"""Scores that take a language's rules: generated answers, documents and SQuAD's."""

import math

import pytest

from model_hub_rqa.metrics.documents import document_metrics
from model_hub_rqa.metrics.generation import answer_metrics, bleu_tokenizer, generation_metrics, rouge_l
from model_hub_rqa.metrics.languages import choose_rules, rules_for, unicode_words
from model_hub_rqa.metrics.squad import squad_v1, squad_v2
from model_hub_rqa.records import Passage


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Красный мост, 1901", ["красный", "мост", "1901"]),
        ("लाल पुल।", ["लाल", "पुल"]),  # vowel signs belong to the word
        ("\u0645\u06cc\u200c\u062e\u0648", ["\u0645\u06cc\u062e\u0648"]),  # and so does what a joiner joins
        ("Müller's", ["müller", "s"]),
        ("東大寺のBTS", ["東", "大", "寺", "の", "bts"]),
        ("한강", ["한", "강"]),
        ("。、", []),
    ],
)
def test_unicode_words_by_hand(text: str, tokens: list[str]) -> None:
    """ROUGE's tokens of languages other than English."""
    assert unicode_words(text) == tokens


@pytest.mark.parametrize("answer", ["한강", "مادرید", "東大寺", "красный мост", "लाल पुल", "Ἀθῆναι", "תל אביב"])
def test_right_answers_score_100_in_every_script(answer: str) -> None:
    """All measures of an answer of four words or more, ROUGE and BLEU among them."""
    long = " ".join([answer] * 4)
    rules = choose_rules("auto", [long]).rules
    assert generation_metrics([answer], [[answer]], rules=rules) == dict.fromkeys(("exact_match", "f1", "rougeL"), 100)
    assert answer_metrics([long], [[long]], rules=rules) == pytest.approx(
        dict.fromkeys("exact_match f1 precision rouge1 rouge2 rougeL bleu bleu_effective".split(), 100)  # noqa: SIM905
    )
    assert rouge_l(answer, answer) == 0  # English ROUGE, which is Google's, sees no letter


def test_bleu_takes_the_languages_tokenizer() -> None:
    """Chinese by characters: 4 of 5 right in a row; with English tokens, which are sentences here, nothing is."""
    found = answer_metrics(["红星公司建"], [["红星公司修"]], rules=rules_for("zh"))
    assert found["bleu"] == pytest.approx(100 * math.prod([4 / 5, 3 / 4, 2 / 3, 1 / 2]) ** 0.25)
    assert answer_metrics(["红星公司建"], [["红星公司修"]])["bleu"] == 0
    assert [bleu_tokenizer(language) for language in ("en", "de", "ru", "zh", "th")] == [
        "13a",
        "13a",
        "13a",
        "zh",
        "char",
    ]
    assert bleu_tokenizer("ja") in ("ja-mecab", "char")
    assert bleu_tokenizer("ko") in ("ko-mecab", "char")


def test_documents_are_compared_by_the_same_words() -> None:
    """A passage with three of four characters of the gold document is it; by white space it is not."""

    def recall(passage: str, gold: str, language: str, name: str = "document_recall") -> float:
        return document_metrics([[Passage("", passage)]], [[Passage("", gold)]], rules=rules_for(language))[name]

    assert recall("红星公", "红星公司", "zh") == recall("星红公", "红星公司", "zh") == 1
    assert recall("星红公", "红星公司", "en") == 0
    assert recall("红星公", "红星公司。红", "zh") == 0  # three of five
    assert recall("红星公", "红星公司。红", "zh", "contained_document_recall") == 1


def test_squad_scores_take_rules() -> None:
    """v1.1 and v2.0, where what normalises to nothing is no answer."""
    predictions, references = {"a": "由红星公司", "b": "2009年。"}, {"a": ["红星公司"], "b": ["2009年"]}
    assert squad_v1(predictions, references) == {"exact_match": 0, "f1": 0}
    chinese = rules_for("zh")
    assert squad_v1(predictions, references, rules=chinese) == {"exact_match": 50, "f1": pytest.approx(100 * 17 / 18)}
    scores = squad_v2({**predictions, "c": ""}, {**references, "c": ["。"]}, rules=chinese)
    assert scores["NoAns_exact"] == 100
    assert scores["HasAns_f1"] == pytest.approx(100 * 17 / 18)
