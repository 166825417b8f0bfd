"""The evaluation of a pipeline from question to answer: what was found, what was said, and how long it took.

The measures are those of LocalRQA's evaluator (Yu et al. 2024, arXiv:2403.00982), each against all gold answers.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from model_hub_rqa.data.predictions import question_of
from model_hub_rqa.metrics.documents import answer_rank, document_metrics, has_answer_metrics
from model_hub_rqa.metrics.generation import answer_metrics, word_statistics
from model_hub_rqa.metrics.text import (
    SQUAD_RULES,
    AnswerRules,
    exact_match_score,
    f1_score,
    max_over_ground_truths,
    precision_score,
)
from model_hub_rqa.pipeline import Prediction, RQAPipeline
from model_hub_rqa.readers import QUESTIONS_AT_A_TIME
from model_hub_rqa.records import Passage

Row = Mapping[str, Any]  # as formats.fid.FUSION_FEATURES describes it
Write = Callable[[dict[str, Any]], None]
Score = Callable[[str, str], float]
Report = Callable[[str, int, int], None]  # (what is being done, questions done, questions in all)


def evaluate(
    pipeline: RQAPipeline,
    rows: Sequence[Row],
    *,
    batch_size: int = QUESTIONS_AT_A_TIME,
    rules: AnswerRules = SQUAD_RULES,
    write: Write = lambda line: None,
    report: Report = lambda what, done, total: None,
) -> dict[str, float]:
    """Asks every question, in batches, and scores the answers.

    Args:
        pipeline: what is evaluated. Its retriever finds the passages; without one, the questions' own are read.
        rows: questions with their gold answers and, for the retrieval's measures, gold passages.
        batch_size: questions asked at a time.
        rules: of the answers' language (`metrics.languages`).
        write: gets a line for each question: id, question, prediction, references, passages (id, title, text, score),
            exact_match and f1.
        report: is told of the progress.

    Returns:
        n_questions; n_unanswerable, where there are such questions, whose one right answer is ""; with a
        retriever, n_judged (questions with gold passages), those of `document_metrics` and `has_answer_metrics` (0 to
        1) and retrieval_latency; those of `answer_metrics` (percent); f1_passages and precision_passages, the best
        over the passages read, which tell how far answers keep to them (percent); answer_words_* and
        reference_words_mean of `word_statistics`; generation_latency and latency, as seconds a question, within
        batches. All are finite.

    Raises:
        ValueError: there is no question.
        DataError: without a retriever, a question brings no passage, and the reader needs one.
    """
    if not rows:
        raise ValueError("rows: needs at least one question, got none")
    exact, f1 = (partial(score, rules=rules) for score in (exact_match_score, f1_score))
    before = (pipeline.retrieval_seconds, pipeline.reading_seconds)
    predictions, retrieved, read = list[str](), list[list[Passage]](), list[list[str]]()
    for begin in range(0, len(rows), batch_size):
        batch = rows[begin : begin + batch_size]
        for row, answered in zip(batch, pipeline.ask([question_of(dict(row)) for row in batch]), strict=True):
            predictions.append(answered.answer.text)
            retrieved.append([hit.passage for hit in answered.hits])
            read.append([passage.text for passage in answered.question.passages[: pipeline.reader.n_context]])
            write(_line(row, answered, exact, f1))
        report("answering", len(predictions), len(rows))
    references, seconds = [row["answers"] for row in rows], pipeline.retrieval_seconds - before[0]
    retrieval = _retrieval_scores(pipeline, rows, retrieved, seconds, rules)
    latency = (pipeline.reading_seconds - before[1]) / len(rows)
    return {
        "n_questions": len(rows),
        **_count_unanswerable(references),
        **retrieval,
        **answer_metrics(predictions, references, rules=rules),
        **_passage_scores(predictions, read, rules),
        **{f"answer_words_{name}": value for name, value in word_statistics(predictions).items()},
        "reference_words_mean": word_statistics([answer for answers in references for answer in answers])["mean"],
        "generation_latency": latency,
        "latency": latency + retrieval.get("retrieval_latency", 0.0),
    }


def _count_unanswerable(references: Sequence[Sequence[str]]) -> dict[str, int]:
    count = sum(list(texts) == [""] for texts in references)
    return {"n_unanswerable": count} if count else {}


def _passage_scores(predictions: Sequence[str], read: Sequence[list[str]], rules: AnswerRules) -> dict[str, float]:
    """The best score of each answer against the passages read, the mean in percent."""
    means = {}
    for name, score in (("f1", partial(f1_score, rules=rules)), ("precision", partial(precision_score, rules=rules))):
        best = [
            max_over_ground_truths(score, prediction, texts) if texts else 0.0
            for prediction, texts in zip(predictions, read, strict=True)
        ]
        means[f"{name}_passages"] = 100 * sum(best) / len(best)
    return means


def _retrieval_scores(
    pipeline: RQAPipeline,
    rows: Sequence[Row],
    retrieved: Sequence[Sequence[Passage]],
    seconds: float,
    rules: AnswerRules,
) -> dict[str, float]:
    if pipeline.retriever is None:
        return {}
    gold = [[Passage(one["id"], one["text"], one["title"]) for one in row["passages"] if one["gold"]] for row in rows]
    ranks = (
        answer_rank((passage.text for passage in passages), row["answers"])
        for passages, row in zip(retrieved, rows, strict=True)
    )
    return {
        "n_judged": sum(map(bool, gold)),
        **document_metrics(retrieved, gold, rules=rules),
        **has_answer_metrics(ranks, pipeline.top_k),
        "retrieval_latency": seconds / len(rows),
    }


def _line(row: Row, answered: Prediction, exact: Score, f1: Score) -> dict[str, Any]:
    prediction, references = answered.answer.text, row["answers"]
    read = answered.question.passages  # none where a retriever found none, whatever the row brings
    scores = [hit.score for hit in answered.hits] or [passage["score"] for passage in row["passages"]][: len(read)]
    return {
        "id": row["id"],
        "question": row["question"],
        "prediction": prediction,
        "references": references,
        "exact_match": max_over_ground_truths(exact, prediction, references),
        "f1": max_over_ground_truths(f1, prediction, references),
        "passages": [
            {"id": passage.id, "title": passage.title, "text": passage.text, "score": score}
            for passage, score in zip(read, scores, strict=True)
        ],
    }
