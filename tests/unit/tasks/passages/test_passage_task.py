"""What the tasks that generate answers from passages share, on results that are made by hand."""

import zlib
from typing import Any

import pytest
from datasets import Dataset
from tokenizers_for_tests import bert
from transformers import BertConfig

from model_hub_rqa.data import tokens
from model_hub_rqa.models.limits import Limits
from model_hub_rqa.records import Passage, Question
from model_hub_rqa.tasks.causal_lm.task import CausalLM
from model_hub_rqa.tasks.fid.task import FusionInDecoder
from model_hub_rqa.tasks.passages.task import Generated, PassageTask

both_tasks = pytest.mark.parametrize("kind", [FusionInDecoder, CausalLM])
PASSAGE = {"id": "p", "title": "t", "text": "the Oil crisis", "score": 1.5, "gold": True}
EXAMPLES = Dataset.from_list(
    [
        {"id": "a", "question": "what?", "answers": ["oil"], "passages": [PASSAGE]},
        {"id": "b", "question": "who?", "answers": ["members"], "passages": [PASSAGE]},
    ]
)


@both_tasks
def test_what_draws_depend_on(kind: type[PassageTask]) -> None:
    """In a validation the seed and the examples' numbers; asked, the questions alone, wherever they stand."""
    task: Any = kind()
    task.seed, task.wants_loss = 7, True
    assert task.sampling_seed([1, 0]) == (7, 1, 0)
    task.wants_loss = False
    task.note_questions(EXAMPLES)
    assert task.sampling_seed([1]) == (zlib.crc32(b"who?"),)
    task.note_questions(EXAMPLES.select([1]))
    assert task.sampling_seed([0]) == (zlib.crc32(b"who?"),)


@both_tasks
def test_answers_are_spelt_as_the_passages_have_them(kind: type[PassageTask]) -> None:
    """An uncased vocabulary has "oil"; what was not generated stays so, and is neither scored nor written."""
    task: Any = kind()
    task.tokenizer = bert()
    oil = task.tokenizer("oil", add_special_tokens=False).input_ids
    results = task.decode({0: Generated(oil), 1: Generated(None)}, EXAMPLES)
    assert [result.answer for result in results] == ["Oil", None]
    assert task.answer_metrics(results, EXAMPLES)["exact_match"] == 100
    assert task.answer_metrics([Generated(None)] * 2, EXAMPLES) == {}
    (line,) = task.files(results, EXAMPLES)["predictions.jsonl"]
    passage = {name: value for name, value in PASSAGE.items() if name != "gold"}
    assert line == {
        "id": "a",
        "question": "what?",
        "prediction": "Oil",
        "references": ["oil"],
        "passages": [passage],
    }


@both_tasks
def test_scores_of_passages_that_were_not_read(kind: type[PassageTask]) -> None:
    """They are 0; where no scores were asked for, there are none."""
    passages = tuple(Passage(str(number), "text") for number in range(3))
    results = [Generated("x", confidence=0.5, passage_scores=(0.25, 0.75)), Generated("y")]
    first, second = kind().answers(results, EXAMPLES, [Question("what?", passages), Question("who?", passages)])
    assert (first.text, first.score, first.passage_scores) == ("x", 0.5, (0.25, 0.75, 0.0))
    assert (second.text, second.score, second.passage_scores) == ("y", None, None)


@both_tasks
def test_the_loss_is_a_mean_over_tokens(kind: type[PassageTask]) -> None:
    """And not over answers: (6 + 1) / (3 + 1), where the mean of the means is 1.5."""
    assert kind().mean_loss([Generated("x", 6.0, 3), Generated("y", 1.0, 1)]) == 1.75


@both_tasks
def test_metrics_of_a_retriever_are_known_where_there_is_one(kind: type[PassageTask]) -> None:
    """So that the searcher may choose by them."""
    assert "ndcg" not in kind().higher_is_better
    assert kind(kind.Settings(index="folder")).higher_is_better["ndcg"] is True


def test_batches_do_not_take_the_tokenizer_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """That takes as long as reading several batches: what collates and what decodes is made once."""
    task, taken, take = FusionInDecoder(), list[Any](), tokens.text_backend_json
    monkeypatch.setattr(tokens, "text_backend_json", lambda tokenizer: taken.append(tokenizer) or take(tokenizer))
    task.setup(BertConfig(decoder_start_token_id=2), bert(), Limits())
    examples = task.examples_of([Question("who?", (Passage("p", "oil"),))])
    features = list(task.features(examples, training=False))
    counts = []
    for _ in range(2):
        task.collate(features)
        task.decode({0: Generated([5])}, examples)
        counts.append(len(taken))
    assert counts[1] == counts[0] > 0
