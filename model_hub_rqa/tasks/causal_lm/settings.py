"""The settings of a reader that is one causal language model: what it reads, in which words, and how it answers."""

import string
from collections.abc import Iterator
from dataclasses import dataclass

from model_hub_rqa.config.fields import FieldError, option, show
from model_hub_rqa.tasks.passages.settings import PassageKwargs

TEMPLATE_ARGS = ("apply_chat_template", "user_start_tag", "user_end_tag", "asst_tag", "system_prompt")
"""The fields that say how a prompt is written; a data set of its own (QADataset) may give other values."""


@dataclass(frozen=True, kw_only=True)
class GenerationKwargs(PassageKwargs):
    """A prompt of passages and a question, and the answer that follows it.

    Without a chat template the prompt is ``user_start_tag``, the passages, the question, ``user_end_tag`` and
    ``asst_tag``; white space at its end becomes part of the answer's first token.
    """

    max_length: int = option(512, ge=8, help="tokens of prompt and answer together, the answer's end included")
    max_new_tokens: int = option(64, ge=1, help="tokens of the longest answer that is generated")
    predict_with_generate: bool = option(True, help="generate answers in a validation; false: eval_loss alone")
    apply_chat_template: bool = option(False, help="write the prompt as the tokenizer's chat template does")
    user_start_tag: str = option("Question: ", empty=True, help="before passages and question")
    user_end_tag: str = option("\n", empty=True, help="after the question")
    asst_tag: str = option("Answer: ", empty=True, help="before the answer")
    system_prompt: str | None = option(None, help="the chat's first message, from the system")
    passage_template: str = option(
        "{title}: {context}\n", help="a passage before the question, with {context} and perhaps {title}"
    )

    @property
    def generation_length(self) -> int:
        """Tokens of the longest answer that is generated."""
        return self.max_new_tokens

    def errors(self) -> Iterator[FieldError]:
        yield from super().errors()
        if self.system_prompt is not None and not self.apply_chat_template:
            yield FieldError(("system_prompt", "apply_chat_template"), "needs apply_chat_template: true beside it")
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.passage_template) if name is not None]
        except ValueError as error:
            yield FieldError(("passage_template",), f"must have its braces in pairs ({error})")
        else:
            if "context" not in names or set(names) - {"title", "context"}:
                text = "must be a text with {context} and perhaps {title}, and no other field"
                yield FieldError(("passage_template",), f"{text}, got {show(self.passage_template)}")
