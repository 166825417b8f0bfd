"""A retriever and a reader together: from a question to an answer."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model_hub_rqa.checkpoints import TASK, pretrained_folder
from model_hub_rqa.errors import CheckpointError, ConfigError
from model_hub_rqa.readers import Reader as TaskReader
from model_hub_rqa.records import Answer, Hit, Question
from model_hub_rqa.retrieval.base import Retriever
from model_hub_rqa.tasks.causal_lm.reader import GenerationReader
from model_hub_rqa.tasks.extractive.reader import ExtractiveReader
from model_hub_rqa.tasks.fid.reader import FusionReader
from model_hub_rqa.tasks.reading import Reader, read_settings_file

DEFAULT_TOP_K = 10

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Answered:
    """What became of a question: the answer, and what was found and read for it (no hits without a retriever)."""

    question: Question
    answer: Answer
    hits: tuple[Hit, ...] = ()


class RQAPipeline:
    """Retrieves passages for questions, and answers from them.

    Args:
        reader: answers; see `load_reader`.
        retriever: finds the passages; None to read those that the questions bring.
        top_k: passages retrieved for a question.

    Attributes:
        retrieval_seconds, reading_seconds: spent so far on all questions.
        n_questions: asked so far.

    Raises:
        ConfigError: top_k is below 1.
    """

    def __init__(self, reader: Reader, retriever: Retriever | None = None, *, top_k: int = DEFAULT_TOP_K) -> None:
        if top_k < 1:
            raise ConfigError(f"top_k: must be at least 1, got {top_k}")
        self.reader = reader
        self.retriever = retriever
        self.top_k = top_k
        self.retrieval_seconds = self.reading_seconds = 0.0
        self.n_questions = 0

    def ask(self, questions: Sequence[Question | str], *, scores: bool = False) -> list[Answered]:
        """Answers questions, all of them at once.

        Args:
            questions: texts, or records with the turns before and, without a retriever, the passages to read.
            scores: also say how sure each answer is and how much each passage counted.

        Raises:
            DataError: no passage was found, or brought, for a question.
        """
        asked = [Question(question) if isinstance(question, str) else question for question in questions]
        begun = time.perf_counter()
        found: list[list[Hit]] = [[] for _ in asked]
        if self.retriever is not None:
            found = self.retriever.search([question.text for question in asked], self.top_k)
            asked = [
                replace(question, passages=tuple(hit.passage for hit in hits))
                for question, hits in zip(asked, found, strict=True)
            ]
        retrieved = time.perf_counter()
        answers = self.reader.read_passages(asked, scores=scores)
        self.retrieval_seconds += retrieved - begun
        self.reading_seconds += time.perf_counter() - retrieved
        self.n_questions += len(asked)
        return [
            Answered(question, answer, tuple(hits))
            for question, answer, hits in zip(asked, answers, found, strict=True)
        ]


def load_reader(
    path: str | Path,
    *,
    batch_size: int | None = None,
    tell: Callable[[str], None] = logger.info,
    **settings: Any,
) -> ExtractiveReader | FusionReader | GenerationReader:
    """The reader of a run's folder, a checkpoint, or a ``save_pretrained`` folder, of the kind that it holds.

    Args:
        path: the folder, as `pretrained_folder` takes it: ``RUN@best``, ``RUN@last`` and ``RUN@STEP`` choose; a
            checkpoint is verified against its manifest first.
        tell: is told which checkpoint of a run was taken.
        batch_size: as the kind of reader has it; None for its default.
        settings: fields of ExtractiveKwargs, BeamSearchKwargs, FusionKwargs or GenerationKwargs to use in place of
            those of training.

    Raises:
        CheckpointError: no such folder, a damaged one, or one of another model.
        ConfigError: a setting breaks a rule, or is none of the kind's.
    """
    from transformers import AutoConfig

    from model_hub_rqa.tasks.beam_search.model import HEADS
    from model_hub_rqa.tasks.beam_search.reader import BeamSearchReader
    from model_hub_rqa.tasks.causal_lm.model import causal_lm_fault
    from model_hub_rqa.tasks.fid.model import fusion_error

    folder = pretrained_folder(Path(path), tell)
    size: dict[str, Any] = {} if batch_size is None else {"batch_size": batch_size}
    if TASK in read_settings_file(folder):
        return TaskReader.from_pretrained(folder, **size, **settings)  # type: ignore[return-value]
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # json and transformers raise several kinds
        raise CheckpointError(f"{folder}: has no config that can be read: {error}") from error
    names = getattr(config, "architectures", None) or ["a model without a name"]
    kind: type[ExtractiveReader] | type[FusionReader] | type[GenerationReader]
    if any(name in HEADS.values() for name in names):
        kind = BeamSearchReader
    elif any(name.endswith(("ForQuestionAnswering", "ForQuestionAnsweringSimple")) for name in names):
        kind = ExtractiveReader
    elif config.is_encoder_decoder:
        if refused := fusion_error(config):
            raise CheckpointError(f"{folder}: {refused}")
        kind = FusionReader
    elif any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names) and causal_lm_fault(config) is None:
        kind = GenerationReader
    else:
        raise CheckpointError(
            f"{folder}: must be a question-answering model, an encoder-decoder or a causal language model, found "
            + ", ".join(names)
        )
    return kind.from_pretrained(folder, **size, **settings)  # verified above
