"""QADataset: questions and answers from anything that ``datasets.load_dataset`` loads, as a registered dataset."""

import errno
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from model_hub_rqa.config.fields import did_you_mean, show
from model_hub_rqa.data.arrow_cache import feature_types
from model_hub_rqa.data.checks import Checks
from model_hub_rqa.data.formats.answers import ANSWERS, TARGETS
from model_hub_rqa.data.formats.fid import FUSION_FEATURES
from model_hub_rqa.data.formats.questions import format_of, question_row
from model_hub_rqa.data.shards import FileCounts, count_file
from model_hub_rqa.errors import ConfigError
from model_hub_rqa.registry import DATASETS, Loaded
from model_hub_rqa.tasks.causal_lm.settings import TEMPLATE_ARGS

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)


@DATASETS.register("QADataset")
def qa_dataset(
    hf_args: Mapping[str, Any],
    question_key: str = "question",
    answer_key: str = "answer",
    max_length: int | None = None,
    template_args: Mapping[str, Any] | None = None,
    predict_with_generate: bool | None = None,
    on_bad_record: str = "error",
) -> Loaded:
    """Questions and answers, with passages where the records have any in a format of `formats.fid.read_fusion`:
    ``ctxs`` (FiD's), ``context`` (SQuAD's, HotpotQA's), ``paragraphs`` (MuSiQue's).

    Args:
        hf_args: the keyword arguments of ``datasets.load_dataset``, as they are: ``{path: json, data_files: FILE}`` for
            a file of one's own. ``split`` may be left out where there is only one.
        question_key, answer_key: columns; an answer may be a text, or a list of texts that are all right. Where no
            column is called answer, another name of `formats.answers` is taken.
        max_length: of prompt and answer in tokens, in place of ``data.max_length``.
        template_args: apply_chat_template, user_start_tag, user_end_tag, asst_tag, system_prompt, in place of the
            fields of the data section.
        predict_with_generate: in place of the data section's.
        on_bad_record: "error", or "skip" to leave out what has no question or no answer.

    Returns:
        Rows as `formats.fid.FUSION_FEATURES` describes them.

    Raises:
        ConfigError: the data cannot be loaded, or an argument breaks a rule.
        DataError: every bad record.
    """
    import datasets

    settings = _settings(max_length, template_args, predict_with_generate)
    rows = _load(hf_args)
    answer_key = _answer_column(rows.column_names, question_key, answer_key)
    read = _read(rows, question_key, answer_key, on_bad_record)
    made = datasets.Dataset.from_list(read, features=datasets.Features(feature_types(FUSION_FEATURES)))
    # From the content, so that it is the same in every process, and Dataset.map finds its cache.
    made._fingerprint = hashlib.sha256(json.dumps(read).encode()).hexdigest()[:32]
    return Loaded(made, settings)


def _answer_column(columns: list[str], question_key: str, answer_key: str) -> str:
    """The column of the answers; ConfigError where it, or that of the questions, is missing."""
    if answer_key not in columns and answer_key in ANSWERS:
        answer_key = next((name for name in ANSWERS if name in columns), answer_key)
    errors = [
        f"args.{name}: must be one of the columns {', '.join(columns)}, got {show(key)}{did_you_mean(key, columns)}"
        for name, key in (("question_key", question_key), ("answer_key", answer_key))
        if key not in columns
    ]
    if errors:
        raise ConfigError(errors)
    return answer_key


def _read(rows: Iterable[Any], question_key: str, answer_key: str, on_bad_record: str) -> list[dict[str, Any]]:
    """The rows as `formats.fid.FUSION_FEATURES` describes them."""
    checks = Checks("", on_bad_record)
    read: list[dict[str, Any]] = []
    for number, record in enumerate(rows, 1):
        location, wrong = ("record", number), list[str]()
        if checks.is_object(location, record):
            named = {**_without_other_answers(record, answer_key), "question": record[question_key]}
            id_ = checks.identify(location, named, wrong)
            question_format = format_of(named)
            row = question_row(named, question_format.read(named), question_format, wrong, answers=True, passages=False)
            if checks.passed(location, id_, wrong):
                read.append({"id": id_, **row})
    skipped = checks.finish(len(read))
    if skipped:
        logger.warning("%d bad records left out, the first is %s", checks.n_bad, skipped[0])
        count_file(FileCounts("QADataset", len(read), checks.n_bad))
    return read


def _settings(max_length: Any, template_args: Any, predict_with_generate: Any) -> dict[str, Any]:
    given = {} if template_args is None else template_args
    if not isinstance(given, Mapping):
        raise ConfigError(f"args.template_args: must be a mapping, got {show(given)}")
    known = ", ".join(TEMPLATE_ARGS)
    errors = [
        f"args.template_args.{name}: must be one of {known}{did_you_mean(name, TEMPLATE_ARGS)}"
        for name in given
        if name not in TEMPLATE_ARGS
    ]
    if errors:
        raise ConfigError(errors)
    own = {"max_length": max_length, "predict_with_generate": predict_with_generate}
    return {**given, **{name: value for name, value in own.items() if value is not None}}


def _load(hf_args: Any) -> "Dataset":
    import datasets

    if not isinstance(hf_args, Mapping) or not hf_args.get("path"):
        raise ConfigError(f"args.hf_args: must be a mapping with path, got {show(hf_args)}")
    try:
        found = datasets.load_dataset(**hf_args)
    except (OSError, ValueError, TypeError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # not the configuration's error
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"args.hf_args: cannot be loaded: {type(error).__name__}: {reason}") from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) != 1:
            raise ConfigError(f"args.hf_args.split: is required, one of {', '.join(map(str, found))}")
        (found,) = found.values()
    if not isinstance(found, datasets.Dataset):
        raise ConfigError("args.hf_args.streaming: must not be true: examples are drawn by their numbers")
    return found


def _without_other_answers(record: Mapping[str, Any], answer_key: str) -> dict[str, Any]:
    """A record whose only answers are those of its column ``answer_key``, and their aliases."""
    others = {*ANSWERS, *TARGETS} - ({"aliases", "answer_aliases"} if answer_key in ANSWERS else set())
    kept = {name: value for name, value in record.items() if value is not None and name not in others}
    answers = record[answer_key]
    return {**kept, "answer" if isinstance(answers, str) else "answers": answers}
