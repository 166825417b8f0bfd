"""QADataset: questions and answers from anything that ``datasets.load_dataset`` loads, as a registered component."""

import errno
import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_hub_rqa.components import DATASETS, Loaded
from model_hub_rqa.config.fields import did_you_mean, show
from model_hub_rqa.config.generation import TEMPLATE_ARGS
from model_hub_rqa.data.arrow_cache import feature_types
from model_hub_rqa.data.ctxs_form import ctxs_row
from model_hub_rqa.data.fusion_records import FUSION_FEATURES
from model_hub_rqa.errors import ConfigError, DataError

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
    """Questions and answers, with the passages of a column ``ctxs`` where there is one (FiD's form).

    Args:
        hf_args: the keyword arguments of ``datasets.load_dataset``, as they are: ``{path: json, data_files: FILE}`` for
            a file of one's own. ``split`` may be left out where there is only one.
        question_key, answer_key: columns; an answer may be a text, or a list of texts that are all right.
        max_length: of prompt and answer in tokens, in place of ``data.max_length``.
        template_args: apply_chat_template, user_start_tag, user_end_tag, asst_tag, system_prompt, in place of the
            fields of the data section.
        predict_with_generate: in place of the data section's.
        on_bad_record: "error", or "skip" to leave out what has no question or no answer.

    Returns:
        Rows as `fusion_records.FUSION_FEATURES` describes them.

    Raises:
        ConfigError: the data cannot be loaded, or an argument breaks a rule.
        DataError: every faulty record.
    """
    import datasets

    settings = _settings(max_length, template_args, predict_with_generate)
    rows = _load(hf_args)
    columns = rows.column_names
    faults = [
        f"args.{name}: must be one of the columns {', '.join(columns)}, got {show(key)}{did_you_mean(key, columns)}"
        for name, key in (("question_key", question_key), ("answer_key", answer_key))
        if key not in columns
    ]
    if faults:
        raise ConfigError(faults)
    read: list[dict[str, Any]] = []
    bad: list[str] = []
    for number, record in enumerate(rows, 1):
        row, wrong = _row(record, number, question_key, answer_key)
        if wrong:
            bad.append(f"record {record.get('id') or number}: {'; '.join(wrong)}")
        else:
            read.append(row)
    if bad and on_bad_record != "skip":
        raise DataError(bad)
    if not read:
        raise DataError(["holds no record" if not bad else "no record remains", *bad])
    if bad:
        logger.warning("%d faulty records left out, the first is %s", len(bad), bad[0])
    features = datasets.Features(feature_types(FUSION_FEATURES))
    made = datasets.Dataset.from_list(read, features=features)
    # From the content, so that it is the same in every process, and Dataset.map finds its cache.
    made._fingerprint = hashlib.sha256(json.dumps(read).encode()).hexdigest()[:32]
    return Loaded(made, settings)


def _settings(max_length: Any, template_args: Any, predict_with_generate: Any) -> dict[str, Any]:
    given = {} if template_args is None else template_args
    if not isinstance(given, Mapping):
        raise ConfigError(f"args.template_args: must be a mapping, got {show(given)}")
    known = ", ".join(TEMPLATE_ARGS)
    faults = [
        f"args.template_args.{name}: must be one of {known}{did_you_mean(name, TEMPLATE_ARGS)}"
        for name in given
        if name not in TEMPLATE_ARGS
    ]
    if faults:
        raise ConfigError(faults)
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
            raise  # not the configuration's fault
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"args.hf_args: cannot be loaded: {type(error).__name__}: {reason}") from error
    if isinstance(found, datasets.DatasetDict):
        if len(found) != 1:
            raise ConfigError(f"args.hf_args.split: is required, one of {', '.join(map(str, found))}")
        (found,) = found.values()
    if not isinstance(found, datasets.Dataset):
        raise ConfigError("args.hf_args.streaming: must not be true: examples are drawn by their numbers")
    return found


def _row(
    record: Mapping[str, Any], number: int, question_key: str, answer_key: str
) -> tuple[dict[str, Any], list[str]]:
    """A row in FiD's form of a record, and its faults."""
    answers = record[answer_key]
    answers = [answers] if isinstance(answers, str) else answers
    given = {"question": record[question_key], "answers": answers}
    if record.get("ctxs") is not None:
        given["ctxs"] = record["ctxs"]
    faults: list[str] = []
    row = ctxs_row(given, faults, answers=True, passages=False)
    id_ = record.get("id")
    return {"id": str(number if id_ is None else id_), **row}, faults
