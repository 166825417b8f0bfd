"""The SQuAD metrics as ``evaluate.Metric`` classes, with the columns of the hub's ``squad`` and ``squad_v2``.

They carry their own code, so nothing is looked up on a hub: ``SquadMetric().compute(predictions=..., references=...)``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import evaluate

from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.languages import rules_for
from model_hub_rqa.metrics.squad import references_from_rows, squad_v1, squad_v2

_CITATION = "Rajpurkar et al. 2016, arXiv:1606.05250; Rajpurkar et al. 2018, arXiv:1806.03822"
_ANSWERS = {"text": datasets.List(datasets.Value("string")), "answer_start": datasets.List(datasets.Value("int32"))}
_REFERENCES = {"id": datasets.Value("string"), "answers": _ANSWERS}


class SquadMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """SQuAD v1.1: ``exact_match`` and ``f1`` in percent.

    Predictions are ``{"id", "prediction_text"}`` and references ``{"id", "answers": {"text", "answer_start"}}``; a
    question that comes twice counts once. ``compute`` also takes ``language``, that of the answers ("en").

    Args:
        config_name: as ``evaluate.Metric`` has it.
        keep_in_memory: by default yes in one process. Then nothing is written to the cache folder, and no instance
            waits for the lock of another; with ``num_process`` above 1 the processes meet in files instead.
        **kwargs: as ``evaluate.Metric`` has them (``experiment_id``, ``cache_dir``, ``num_process``, ...).

    Example:
        >>> SquadMetric().compute(
        ...     predictions=[{"id": "q1", "prediction_text": "the Seine"}],
        ...     references=[{"id": "q1", "answers": {"text": ["Seine"], "answer_start": [7]}}],
        ... )
        {'exact_match': 100.0, 'f1': 100.0}
    """

    def __init__(self, config_name: str | None = None, keep_in_memory: bool | None = None, **kwargs: Any) -> None:
        if keep_in_memory is None:
            keep_in_memory = kwargs.get("num_process", 1) == 1
        super().__init__(config_name, keep_in_memory, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        predictions = {"id": datasets.Value("string"), "prediction_text": datasets.Value("string")}
        return _info("SQuAD v1.1: exact match and F1, as the official evaluator has them.", predictions)

    def _compute(
        self,
        *,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
        language: str = "en",
    ) -> dict[str, float]:
        answers = {row["id"]: row["prediction_text"] for row in predictions}
        return squad_v1(answers, references_from_rows(references), rules=rules_for(language))


class SquadV2Metric(SquadMetric):
    """SQuAD v2.0: the official evaluator's names; see ``metrics.squad.squad_v2``.

    Predictions are ``{"id", "prediction_text"}`` and optionally ``"no_answer_probability"``: in all of them (then
    ``best_exact`` and ``best_f1`` are there too) or in none. ``compute`` also takes ``no_answer_threshold`` and
    ``language``.
    """

    def add_batch(
        self,
        *,
        predictions: Sequence[Mapping[str, Any]] | None = None,
        references: Sequence[Mapping[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add a batch of predictions and references; a prediction may lack ``no_answer_probability``."""
        # A table has the same columns in every row, so an absent probability becomes an empty one.
        rows = None if predictions is None else [{"no_answer_probability": None, **row} for row in predictions]
        super().add_batch(predictions=rows, references=references, **kwargs)

    def add(
        self,
        *,
        prediction: Mapping[str, Any] | None = None,
        reference: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add one prediction and reference; the prediction may lack ``no_answer_probability``."""
        row = None if prediction is None else {"no_answer_probability": None, **prediction}
        super().add(prediction=row, reference=reference, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        predictions = {
            "id": datasets.Value("string"),
            "prediction_text": datasets.Value("string"),
            "no_answer_probability": datasets.Value("float64"),
        }
        return _info("SQuAD v2.0: exact match and F1, as the official evaluator has them.", predictions)

    def _compute(
        self,
        *,
        predictions: Sequence[Mapping[str, Any]],
        references: Sequence[Mapping[str, Any]],
        no_answer_threshold: float = 1.0,
        language: str = "en",
    ) -> dict[str, float | int]:
        answers = {row["id"]: row["prediction_text"] for row in predictions}
        probabilities = {row["id"]: row["no_answer_probability"] for row in predictions}
        without = [key for key, value in probabilities.items() if value is None]
        if without and len(without) < len(probabilities):
            raise DataError(f"predictions: {key}: no_answer_probability is in others but not here" for key in without)
        given = None if without else probabilities
        rules = rules_for(language)
        return squad_v2(answers, references_from_rows(references), given, no_answer_threshold, rules=rules)


def _info(description: str, predictions: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation=_CITATION,
        inputs_description="\n\nThe columns are those of the hub's metric of the same name.\n",
        features=datasets.Features({"predictions": predictions, "references": _REFERENCES}),
        reference_urls=["https://rajpurkar.github.io/SQuAD-explorer/"],
    )
