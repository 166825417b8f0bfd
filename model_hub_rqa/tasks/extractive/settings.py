"""The settings of an extractive reader."""

from collections.abc import Iterator
from dataclasses import dataclass

from model_hub_rqa.config.fields import Problem, option
from model_hub_rqa.config.kwargs import Kwargs


@dataclass(frozen=True, kw_only=True)
class ExtractiveKwargs(Kwargs):
    """Windows over a context, and answers taken from them."""

    max_seq_length: int = option(384, ge=1, help="tokens of a window, question and special tokens included")
    doc_stride: int = option(128, ge=0, help="tokens that two neighbouring windows share")
    n_best_size: int = option(20, ge=1, help="candidates kept for a question")
    max_answer_length: int = option(30, ge=1, help="the longest answer in tokens")
    max_negative_windows: float | None = option(None, ge=0, help="windows without answers kept, as a share or a count")
    version_2_with_negative: bool = option(False, help="some questions have no answer, as in SQuAD 2.0")
    null_score_diff_threshold: float = option(0.0, help="say 'no answer' where its score leads by more than this")
    question_first: bool | None = option(None, help="question before context; unset: true, but for XLNet")

    def problems(self) -> Iterator[Problem]:
        if self.doc_stride >= self.max_seq_length:
            text = f"must be < max_seq_length ({self.max_seq_length}), got {self.doc_stride}"
            yield Problem(("doc_stride", "max_seq_length"), text)
        if (windows := self.max_negative_windows or 0.0) >= 1 and not windows.is_integer():
            yield Problem(("max_negative_windows",), f"must be a share below 1 or a whole number, got {windows}")
