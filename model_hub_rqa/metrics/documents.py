"""Retrieved passages against gold documents and gold answers."""

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from model_hub_rqa.metrics.languages import ONE_BY_ONE
from model_hub_rqa.metrics.ranking import ranking_metrics
from model_hub_rqa.metrics.text import SQUAD_RULES, AnswerRules
from model_hub_rqa.records import Passage

HAS_ANSWER_AT = (1, 5, 20, 100)


def has_answer_metrics(ranks: Iterable[int | None], retrieved: int) -> dict[str, float]:
    """DPR's retrieval accuracy (Karpukhin et al. 2020, arXiv:2004.04906).

    Args:
        ranks: of each question, what :func:`answer_rank` returned. Questions with None are ignored.
        retrieved: how many passages were asked for; k is at most that.

    Returns:
        has_answer@k for k of HAS_ANSWER_AT: the share of the questions with an answer in one of their first k passages,
        0 to 1; and n_with_answers, how many questions that is of. Nothing where no question has an answer.

    >>> has_answer_metrics([1, 4, 0, None], 5)
    {'has_answer@1': 0.3333333333333333, 'has_answer@5': 0.6666666666666666, 'n_with_answers': 3}
    """
    known = [rank for rank in ranks if rank is not None]
    if not known:
        return {}
    cutoffs = dict.fromkeys(min(k, retrieved) for k in HAS_ANSWER_AT)
    found = {f"has_answer@{k}": sum(0 < rank <= k for rank in known) / len(known) for k in cutoffs}
    return {**found, "n_with_answers": len(known)}


def answer_rank(passages: Iterable[str], answers: Iterable[str]) -> int | None:
    """The rank of the first passage that has one of the answers, counted from 1; 0 where none has.

    A passage has an answer if the answer's words stand in it, one after the other, as in DPR's evaluation: words are
    runs of letters, digits and marks, each other visible character is a word too, case does not count, and both texts
    are decomposed (NFD). Here, characters of scripts without spaces, and those of Hangul, are words by themselves.

    Returns:
        None where no answer has a word, as that of a question which cannot be answered.
    """
    wanted = [words for answer in answers if (words := _words(answer)).strip()]
    if not wanted:
        return None
    texts = map(_words, passages)
    return next((rank for rank, text in enumerate(texts, 1) if any(words in text for words in wanted)), 0)


def _words(text: str) -> str:
    """The words of a text, a space before and behind each."""
    if not text.isascii():
        text = ONE_BY_ONE.sub(r" \g<0> ", unicodedata.normalize("NFC", text))
        text = unicodedata.normalize("NFD", text)
    return f" {' '.join(_word_pattern().findall(text))} ".lower()


@functools.cache
def _word_pattern() -> Any:
    import regex  # transformers has it; re knows neither marks nor what can be seen

    return regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


COVERED = 0.7  # a passage is the gold one where it has more than this share of its words: LocalRQA's "likely the same"


def document_metrics(
    retrieved: Sequence[Sequence[Passage]], gold: Sequence[Sequence[Passage]], *, rules: AnswerRules = SQUAD_RULES
) -> dict[str, float]:
    """How well retrieval got the gold documents.

    A passage is a gold document if both have the same id (a passage of a split document, ``ID#3``, has the document's).
    Ids are compared only where they are of one list: most passages with the id of a gold document of their question
    have its text too. Otherwise, and for gold documents without an id, a passage is a gold document if it has more
    than 70 % of its words (:data:`COVERED`); a document without a text, if it has its title. A fragment of a gold
    document is not enough.

    Args:
        retrieved: the passages of each question, the best first.
        gold: each question's gold documents. Questions without any are ignored.
        rules: how texts are normalised and split into words (`metrics.languages`).

    Returns:
        Fractions from 0 to 1. document_accuracy: the share of all retrieved passages that are gold;
        document_recall: the share of the questions whose gold documents are all among the retrieved passages;
        document_recall@1: the same for the first passage alone; ndcg: the mean over the questions, over all ranks, each
        gold document counting once; same_document_accuracy and same_document_recall: accuracy and recall by LocalRQA's
        strict rule (Yu et al. 2024, arXiv:2403.00982): the same text, of the same source, by its id where ids are of
        one list; contained_document_accuracy and contained_document_recall: the same by :func:`contained`;
        compared_by_id: the share of the gold documents that were compared by id. Nothing where no question has a gold
        document.

    Raises:
        ValueError: the two differ in length.
        ConfigError: ir_measures, which computes ndcg, is not installed.
    """
    judged = [pair for pair in zip(retrieved, gold, strict=True) if pair[1]]
    if not judged:
        return {}
    rules = replace(rules, normalize=functools.lru_cache(4096)(rules.normalize))  # each text is compared several times
    by_id = ids_agree(judged, rules)
    documents = [document for _, own in judged for document in own]

    def is_gold(passage: Passage, document: Passage) -> bool:
        if by_id and document.id:
            return same_id(passage, document)
        return covers(passage, document, rules)

    def is_same(passage: Passage, document: Passage) -> bool:
        if by_id and document.id and not same_id(passage, document):
            return False
        return passage.text == document.text if document.text.strip() else _title_alone(passage, document)

    matches = [_match(*pair, is_gold) for pair in judged]
    scores = {
        "document_accuracy": _accuracy(matches),
        "document_recall": _recall(matches),
        "document_recall@1": _recall([match[:1] for match in matches]),
        "ndcg": _ndcg(matches, [len(own) for _, own in judged]),
        "compared_by_id": sum(by_id and bool(document.id) for document in documents) / len(documents),
    }
    for name, rule in (("same", is_same), ("contained", functools.partial(_contained, rules=rules))):
        matches = [_match(*pair, rule) for pair in judged]
        scores |= {f"{name}_document_accuracy": _accuracy(matches), f"{name}_document_recall": _recall(matches)}
    return scores


def _contained(passage: Passage, document: Passage, rules: AnswerRules) -> bool:
    return contained(passage.text, document.text, rules) or _title_alone(passage, document)


def contained(passage: str, gold: str, rules: AnswerRules = SQUAD_RULES) -> bool:
    """Whether one of the texts, normalised as answers are, contains the other, word by word; empty ones never do."""
    first, second = (f" {rules.normalize(text)} " for text in (passage, gold))  # spaces: whole words only
    return bool(first.strip() and second.strip()) and (first in second or second in first)


def covers(passage: Passage, document: Passage, rules: AnswerRules) -> bool:
    """Whether a passage has more than 70 % of a document's words, or, where that has no text, its title."""
    return word_recall(passage.text, document.text, rules) > COVERED or _title_alone(passage, document)


def _title_alone(passage: Passage, document: Passage) -> bool:
    title = document.title.split()
    return bool(title) and not document.text.strip() and passage.title.split() == title


def word_recall(passage: str, gold: str, rules: AnswerRules = SQUAD_RULES) -> float:
    """The share of the gold document's words, each as often as it occurs, that the passage has: 0 to 1."""
    words, wanted = (Counter(rules.tokenize(text)) for text in (passage, gold))
    return (words & wanted).total() / wanted.total() if wanted else 0.0


Matches = list[list[bool]]  # of one question, [passages][gold documents]: whether the passage is the document


def _match(
    passages: Sequence[Passage], gold: Sequence[Passage], is_gold: Callable[[Passage, Passage], bool]
) -> Matches:
    return [[is_gold(passage, document) for document in gold] for passage in passages]


def same_id(passage: Passage, document: Passage) -> bool:
    return document.id in (passage.id, passage.id.rpartition("#")[0])


def ids_agree(judged: Iterable[tuple[Sequence[Passage], Sequence[Passage]]], rules: AnswerRules) -> bool:
    """Whether most passages that have the id of a gold document of their question have its text, or a part of it."""
    same = [
        covers(passage, document, rules) or covers(document, passage, rules)
        for passages, gold in judged
        for passage, document in itertools.product(passages, gold)
        if document.id and same_id(passage, document)
    ]
    return 2 * sum(same) > len(same)


def _accuracy(matches: Sequence[Matches]) -> float:
    passages = [any(passage) for match in matches for passage in match]
    return sum(passages) / len(passages) if passages else 0.0


def _recall(matches: Sequence[Matches]) -> float:
    found = [bool(match) and all(any(column) for column in zip(*match, strict=True)) for match in matches]
    return sum(found) / len(found)


def _ndcg(matches: Sequence[Matches], n_gold: Sequence[int]) -> float:
    measure = f"nDCG@{max(1, *map(len, matches))}"
    run = {str(number): _ranking(match) for number, match in enumerate(matches)}
    qrels = {str(number): {f"gold {i}": 1 for i in range(count)} for number, count in enumerate(n_gold)}
    return ranking_metrics(run, qrels, [measure])[measure]


def _ranking(match: Matches) -> list[str]:
    """A name for each passage: that of the first gold document which it is and no passage before it was."""
    taken: set[int] = set()
    names = []
    for rank, documents in enumerate(match):
        new = next((number for number, is_gold in enumerate(documents) if is_gold and number not in taken), None)
        names.append(f"other {rank}" if new is None else f"gold {new}")
        taken |= set() if new is None else {new}
    return names
