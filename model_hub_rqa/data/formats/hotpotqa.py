"""HotpotQA's format: passages are titles with their sentences (Yang et al. 2018, arXiv:1809.09600); and
2WikiMultiHopQA's (Ho et al. 2020, arXiv:2011.01060)."""

import contextlib
from collections.abc import Mapping
from typing import Any, ClassVar

from model_hub_rqa.data.checks import items_of
from model_hub_rqa.data.formats.questions import QuestionFormat, Record, Row, plain_record
from model_hub_rqa.data.text_files import Unreadable, loads, short
from model_hub_rqa.registry import FORMATS


@FORMATS.register("hotpotqa")
class HotpotQA(QuestionFormat):
    """context has pairs of a title and its sentences, or, as on the hub, a list of each; supporting_facts name the
    titles of gold passages."""

    passages = ("context",)
    between: ClassVar[str] = ""  # sentences: HotpotQA's begin with their blank
    sentences: ClassVar[tuple[str, ...]] = ("sentences",)

    def matches(self, record: Record) -> bool:
        context = record.get("context")
        named = isinstance(context, Mapping) and "contexts" in context  # PubMedQA's
        return context is not None and not isinstance(context, str) and not named and "evidences" not in record

    def read(self, record: Record) -> Row:
        return plain_record(record) if record.get("context") is None else {**record, "passages": self._passages(record)}

    def _passages(self, record: Record) -> list[Any]:
        errors: list[str] = []
        context, facts = record["context"], record.get("supporting_facts")
        if isinstance(context, Mapping):
            name = next((name for name in self.sentences if name in context), self.sentences[0])
            titles, sentences = (items_of(context, one, errors) for one in ("title", name))
            if len(titles) != len(sentences):
                errors.append(f"context must have as many titles as sentences, got {len(titles)} and {len(sentences)}")
            context = [list(pair) for pair in zip(titles, sentences, strict=False)]
        elif not isinstance(context, list):
            errors.append(f"context must be text, or titles with their sentences, got {short(context)}")
        listed = facts.get("title") if isinstance(facts, Mapping) else facts
        named = items_of({"supporting_facts": listed}, "supporting_facts", errors)
        named = [fact[0] if isinstance(fact, list) and fact else fact for fact in named]
        if not all(isinstance(title, str) for title in named):
            errors.append(f"supporting_facts must hold titles, got {short(named)}")
        if errors:
            return [Unreadable(error) for error in errors]
        return [self._passage(f"context {number}", pair, named) for number, pair in enumerate(context, 1)]

    def _passage(self, location: str, pair: Any, gold: list[str]) -> Any:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], list)):
            return Unreadable(f"{location}: must be a title and a list of sentences, got {short(pair)}")
        text = self.between.join(pair[1]) if all(isinstance(part, str) for part in pair[1]) else None
        names = {"text": "sentences", "gold": "gold"}
        return {"location": location, "names": names, "title": pair[0], "text": text, "gold": pair[0] in gold}


@FORMATS.register("2wikimultihopqa")
class TwoWiki(HotpotQA):
    """HotpotQA's with evidences, and no blanks between sentences. The Parquet files on the hub have lists as JSON."""

    between = " "
    sentences = ("sentences", "content")  # FlashRAG's name

    def matches(self, record: Record) -> bool:
        context = record.get("context")
        content = isinstance(context, dict) and "content" in context
        return context is not None and "question" in record and ("evidences" in record or content)

    def read(self, record: Record) -> Row:
        changed = dict(record)
        for name in ("context", "supporting_facts"):
            if isinstance(record.get(name), str):
                with contextlib.suppress(ValueError):  # then it is an error of the field
                    changed[name] = loads(record[name])
        return super().read(changed)
