"""The settings of an extractive reader that searches start and end together."""

from collections.abc import Iterator
from dataclasses import dataclass

from model_hub_rqa.config.fields import Problem, option
from model_hub_rqa.tasks.extractive.settings import ExtractiveKwargs


@dataclass(frozen=True, kw_only=True)
class BeamSearchKwargs(ExtractiveKwargs):
    """Windows over a context, and a beam search for the answers in them; both sizes play no part in training."""

    start_n_top: int | None = option(None, ge=1, help="starts to go on from; unset: the model config's, mostly 5")
    end_n_top: int | None = option(None, ge=1, help="ends for each start; unset: the model config's, mostly 5")

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
        for name in ("start_n_top", "end_n_top"):
            size = getattr(self, name)
            if size is not None and size > self.max_seq_length:
                text = f"must be <= max_seq_length ({self.max_seq_length}), got {size}"
                yield Problem((name, "max_seq_length"), text)
