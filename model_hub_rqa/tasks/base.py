"""Task: one kind of question answering, from a record of a file to the metrics of a validation.

A new task is one file: see ``multiple_choice.py``. `TaskTrial` trains any task and `Reader` asks any task, with one
`Task.predict`.
"""

import functools
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from model_hub_rqa.config import Kwargs
from model_hub_rqa.data.arrow_cache import FileLoader, cached_dataset, map_examples
from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.features import with_row_numbers
from model_hub_rqa.data.file_loaders import Records
from model_hub_rqa.data.files import iter_file
from model_hub_rqa.data.slices import parse_slice
from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.languages import choose_rules
from model_hub_rqa.metrics.text import AnswerRules
from model_hub_rqa.models import build
from model_hub_rqa.models.init_source import save_weights
from model_hub_rqa.models.limits import Limits
from model_hub_rqa.models.signature import filter_kwargs, forward_names
from model_hub_rqa.records import Answer, Question

LABELS = "labels"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Variant:
    """The settings of one data set of a split, and where the configuration has them."""

    split: str
    dataset: str
    settings: Any
    path: str = "data"


class Task:
    """From a record to metrics. Override what differs; N is the examples of a data set, B the features of a batch.

    ================  ==============================  ===========================================================
    member            takes                           gives
    ================  ==============================  ===========================================================
    `Settings`                                        a dataclass: read from ``data``, overridden by hyperparameters
    `parse`           a record of a file              an example: a dict of plain values, or ValueError
    `prepare`         {split: examples}               the same, with what is read beside them (retrieved passages)
    `encode`          an example                      a feature: lists of numbers
    `collate`         B features                      a batch: {name: tensor [B, ...]}
    `loss`            the model, a batch              a scalar tensor
    `predict`         the model, a batch              {example_index: prediction}, on every rank
    `decode`          N examples' predictions         a list of N results, on the first rank
    `metrics`         N results, N examples           {name: number}
    `files`           N results, N examples           {file name: content}
    `answers`         N results, N examples           a list of N `Answer`
    `references`      N examples                      a list of N lists of gold answers
    `to_read`         N results, N examples           rows of questions with passages, for the reader of `reader_folder`
    ================  ==============================  ===========================================================

    Attributes:
        name: as it is registered; ``package.module:Class`` names a task that is not.
        description: of its model, for messages.
        fixed_model: whether `auto_class` alone can build the model, so that no custom model or mode can be given.
        needs_passages: whether a question without passages is an error.
        reads_hub: whether examples may come from a data set of the hub.
        metric, smaller_is_better: what chooses the best checkpoint, where no configuration says it.
        higher_is_better: of each metric, whether a higher value is better; None for one that is neither. A property,
            where it depends on the settings.
        batch_size: features that a Reader reads at a time.
        settings: an instance of ``Settings``.
        config, tokenizer, limits: the model's; from `setup` on.
        seed: of every draw.
        language: of the gold answers: a code, or "auto".
        dataset: the name of the one that is scored; "" where there is one.
        padding_multiple: batches are padded to a multiple of so many tokens.
        label_smoothing: for a loss over generated tokens.
        overwrite_cache, cache_dir, on_bad_record: of the ``data`` section.
        wants_files: whether `files` may be called, so that `predict` keeps what only files show.
        notes: what ``rqa validate`` tells of the data, by name.
        wants_loss: whether the metrics have a loss, for which examples need their gold answers.
        variants: the settings by split and data set, of the data sets that bring settings of their own along.
        wants_scores: whether answers need a confidence, and passages a score.
    """

    name: ClassVar[str] = ""
    description: ClassVar[str] = "a model of this task"
    fixed_model: ClassVar[bool] = False
    needs_passages: ClassVar[bool] = False
    reads_hub: ClassVar[bool] = True
    Settings: ClassVar[type[Kwargs]] = Kwargs
    model_mode: ClassVar[str] = "base"
    default_bf16: ClassVar[bool] = False
    smooths_labels: ClassVar[bool] = False
    metric: ClassVar[str] = "eval_loss"
    smaller_is_better: ClassVar[bool] = False
    higher_is_better: Any = MappingProxyType({})
    batch_size: ClassVar[int] = 32

    def __init__(self, settings: Any = None) -> None:
        self.settings: Any = self.Settings() if settings is None else settings
        self.config: Any = None
        self.tokenizer: Any = None
        self.limits = Limits()
        self.seed = 42
        self.language = "auto"
        self.padding_multiple = 1
        self.label_smoothing = 0.0
        self.overwrite_cache = False
        self.cache_dir: str | None = None
        self.on_bad_record = "error"
        self.dataset = ""
        self.wants_files = True
        self.wants_scores = self.wants_loss = False
        self.variants: list[Variant] = []
        self.notes: dict[str, Any] = {}
        self._rules: dict[str, AnswerRules] = {}

    @classmethod
    def adapt_hyperparameters(cls, hparams: Mapping[str, Any], data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Hyperparameters with what the task's own settings say of them; raises ConfigError where they disagree."""
        return hparams

    def adapt_config(self, config: Any, tokenizer: Any) -> Any:
        """The config to build the model from, before its limits are known."""
        return config

    def setup(self, config: Any, tokenizer: Any, limits: Limits) -> None:
        """Takes what the model came with, before the model itself is built."""
        self.config, self.tokenizer, self.limits = config, tokenizer, limits

    def check(self) -> None:
        """Raises ConfigError for settings of a training that do not fit the config, the tokenizer or the limits."""

    def adapt_to_checkpoint(
        self, config: Any, tokenizer: Any, limits: Limits, folder: Path, given: Collection[str]
    ) -> None:
        """Fits the settings of a checkpoint that is read to its model, before `setup`.

        Args:
            folder: of the model, for messages; ``given``: the settings that the user gave in place of the trained ones.

        Raises:
            ConfigError: one of those does not fit.
        """

    # ---- data ----

    @classmethod
    def reads_file(cls, path: str) -> bool:
        """Whether `load` takes a file; if not, its questions are read in any format, for `examples_of`."""
        return True

    def parse(self, record: Mapping[str, Any], *, labelled: bool = True) -> Mapping[str, Any]:
        """An example of a file's record.

        Args:
            record: as it stands in the file.
            labelled: whether it must have its gold answer.

        Raises:
            ValueError: what is wrong with the record: the field, the rule and the value.
        """
        return record

    def file_loader(self, *, labelled: bool = True) -> FileLoader | None:
        """What reads and checks a file, ``loader(path, on_bad_record)``: by default `parse` sees each record."""
        return functools.partial(_load_records, self.parse, labelled)

    def load(self, path: str, *, labelled: bool = True, on_bad_record: str = "error") -> Any:
        """The examples of a file, or of a part of one (``dev.json[:100]``), as a datasets.Dataset.

        Raises:
            DataError: every error of the file, each with the record's location.
        """
        part = parse_slice(path)
        loader = self.file_loader(labelled=labelled)
        assert loader is not None, f"{type(self).__name__} has no file loader: it overrides load"
        examples = cached_dataset(part.path, loader, on_bad_record=on_bad_record)
        return examples.select(range(*part.bounds(len(examples))))

    def prepare(self, examples: Mapping[str, Any]) -> Mapping[str, Any]:
        """The examples that are encoded and scored, by split: "train" and "validation"."""
        return examples

    def check_examples(self, examples: Mapping[str, Any]) -> None:
        """Raises DataError with every error of what settings name beside the examples, and of the examples by split.

        It is called once a step of the data has failed, so that one run shows every error. A split may be missing.
        """

    @classmethod
    def takes_questions(cls) -> bool:
        """Whether an example is no more than a question with passages, so that ``rqa ask`` and a retriever can make
        one."""
        return cls.examples_of is not Task.examples_of

    def question_errors(self, questions: Sequence[Question]) -> dict[int, str]:
        """Why questions cannot be read, whatever their passages, by their index in ``questions``; {} for none."""
        return {}

    def examples_of(self, questions: Sequence[Question]) -> Any:
        """Questions with their passages as examples, a datasets.Dataset; for ``rqa ask``.

        Raises:
            DataError: this task needs more than a question and passages.
        """
        raise DataError(f"{self.name}: needs more than a question and passages: use rqa predict --data FILE")

    # ---- features and batches ----

    def encode(self, example: Mapping[str, Any]) -> Mapping[str, Any]:
        """A feature: plain lists of numbers. `features` adds ``length`` and ``example_index`` to it."""
        raise NotImplementedError(f"{type(self).__name__} must define encode")

    def features(self, examples: Any, *, training: bool) -> Any:
        """The features of a data set, as a datasets.Dataset, cached until data, settings or code change.

        An example may have several features, or none: their ``example_index`` is its row.
        """
        columns = examples.column_names
        return with_row_numbers(
            map_examples(examples, self.encode, overwrite_cache=self.overwrite_cache, remove_columns=columns)
        )

    def collate(self, features: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """A batch: tensors by name, each with a row a feature."""
        raise NotImplementedError(f"{type(self).__name__} must define collate")

    def training_batch(self, batch: dict[str, Any], epoch: int) -> dict[str, Any]:
        """The batch that is learned in an epoch, such as with one of several gold answers drawn for each question."""
        return batch

    # ---- the model ----

    def auto_class(self) -> Any:
        """What builds the model, with ``from_config`` and ``from_pretrained``."""
        return build.auto_class(self.model_mode)

    def build_model(self, model_mode: str | None, model_kwargs: Mapping[str, Any], pretrained: bool) -> Any:
        """The model to train.

        Args:
            model_mode: a key of `MODEL_MODES` that is used instead of the task's.
            model_kwargs: of ``from_pretrained``.
            pretrained: False starts from random weights.
        """
        mode = model_mode if model_mode is not None and not self.fixed_model else self.auto_class()
        return build.build_model(self.config, mode, model_kwargs, pretrained)

    def prepare_model(self, model: Any) -> None:
        """Changes a model that was just built, such as freezing a part of it."""

    def save_model(self, model: Any, folder: Path) -> None:
        """Writes a ``save_pretrained`` folder, from which the weights are loaded again."""
        save_weights(model, folder)

    @classmethod
    def reads(cls, config: Any) -> bool:
        """Whether a checkpoint that does not name its task is of this one, by its config."""
        return False

    def loss(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """The loss of a batch, a scalar: the mean over its examples."""
        return model(**self.inputs(model, batch)).loss

    def predict(self, model: Any, batch: Mapping[str, Any]) -> dict[Any, Any]:
        """{id: prediction} of a batch. An id is a number of ``batch["example_index"]``, or a tuple that begins with it
        where an example has several features. Small values: they travel from rank to rank."""
        raise NotImplementedError(f"{type(self).__name__} must define predict")

    def inputs(self, model: Any, batch: Mapping[str, Any], *, labels: bool = True) -> dict[str, Any]:
        """The columns of a batch that the model's forward takes."""
        columns = {name: value for name, value in batch.items() if labels or name != LABELS}
        return filter_kwargs(forward_names(model), columns)

    # ---- results ----

    def decode(self, predictions: Mapping[Any, Any], examples: Any) -> list[Any]:
        """One result an example, in their order; the ids of the predictions are rows of ``examples``."""
        return [predictions[row] for row in range(len(examples))]

    def metrics(self, results: Sequence[Any], examples: Any) -> dict[str, float]:
        """The metrics of a data set."""
        raise NotImplementedError(f"{type(self).__name__} must define metrics")

    def answer_rules(self, references: Iterable[Iterable[str]]) -> AnswerRules:
        """How answers are compared: by the rules of `language`, or of the script of the gold answers.

        Says in the log which rules they are, the first time for each data set.
        """
        if self.dataset not in self._rules:
            choice = choose_rules(self.language, [text for texts in references for text in texts])
            self._rules[self.dataset] = choice.rules
            prefix = f"{self.dataset}: " if self.dataset else ""
            logger.info("%s%s", prefix, choice.said)
            if choice.warning:
                logger.warning("%s%s", prefix, choice.warning)
        return self._rules[self.dataset]

    def answers(
        self, results: Sequence[Any], examples: Any, questions: Sequence[Question] | None = None
    ) -> list[Answer]:
        """An answer for each example: by default the results' texts.

        With ``questions``, of which `examples_of` made the examples, an answer for each question.
        """
        return [Answer(str(result)) for result in results]

    def references(self, examples: Any) -> list[list[str]]:
        """The gold answers of each example, for ``data.metrics``: by default its ``answers``, texts or SQuAD's."""
        return [list(row["text"] if isinstance(row, Mapping) else row) for row in examples["answers"]]

    @property
    def reader_folder(self) -> str | None:
        """The reader that each validation asks, as `Reader.from_pretrained` takes it; None for none."""
        return None

    def to_read(self, results: Sequence[Any], examples: Any) -> list[dict[str, Any]]:
        """What that reader is asked: rows as ``FUSION_FEATURES`` describes them, with the passages to be read.

        A result may be an empty list, where nothing was ranked yet.
        """
        return []

    def files(self, results: Sequence[Any], examples: Any) -> dict[str, Any]:
        """What a validation or ``rqa predict`` writes, by file name: an object as JSON, a list a line each (.jsonl)."""
        ids = examples["id"][:] if "id" in examples.column_names else map(str, range(len(examples)))
        texts = (answer.text for answer in self.answers(results, examples))
        return {"predictions.json": dict(zip(ids, texts, strict=True))}


def _load_records(parse: Any, labelled: bool, path: str, on_bad_record: str) -> Records:
    checks, rows = Checks(path, on_bad_record), []
    for location, record in iter_file(Path(path)):
        if not checks.is_object(location, record):
            continue
        errors: list[str] = []
        id_ = checks.identify(location, record, errors)
        try:
            row = {"id": id_, **parse(record, labelled=labelled)}
        except ValueError as error:
            errors.append(str(error))
        if checks.passed(location, id_, errors):
            rows.append(row)
    skipped = checks.finish(len(rows))
    return Records(rows, skipped, checks.n_bad)


def task_name(task: type[Task]) -> str:
    """What names a task in a configuration and in a checkpoint's reader.json."""
    return task.name or f"{task.__module__}:{task.__qualname__}"


def write_file(path: Path | None, content: Any) -> None:
    """Writes what `Task.files` gives: an object as JSON, a list as JSON lines; nothing where either is missing.

    Raises:
        DataError: the file cannot be written.
    """
    if path is None or not content:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            if isinstance(content, list):
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in content)
            else:
                json.dump(content, file, indent=1, ensure_ascii=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error
