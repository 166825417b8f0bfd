"""Chat templates that refuse a record, or leave its question out: an error that names the record, or a record less."""

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_generation import causal_folder, changed, experiment
from tokenizers_for_tests import CHATML, chat_tokenizer

from model_hub_rqa import cli
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.readers import GenerationReader
from model_hub_rqa.records import Passage, Question, Turn
from model_hub_rqa.tasks.causal_lm.features import ChatPrompt
from model_hub_rqa.tasks.causal_lm.settings import GenerationKwargs

# As Mistral's and Gemma's do.
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
ALTERNATING = (
    NO_SYSTEM
    + "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    + "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    + CHATML
)
FORGETFUL = CHATML.replace("{{ message['content'] }}", "{{ message['content'][:12] }}")
USER, ASSISTANT = {"role": "user", "text": "Hi."}, {"role": "assistant", "text": "Yes?"}
DOCUMENT = {"page_content": "Paris is in France.", "metadata": {"title": "Paris"}}
HISTORIES: dict[str, list[Any]] = {"good": [USER, ASSISTANT], "twice": [USER, USER], "last": [USER], "none": []}
REFUSED = "the chat template refuses the roles {}, user: roles must alternate"


def dialogue(id_: str) -> dict[str, Any]:
    return {
        "id": id_,
        "question": f"Where is {id_}?",
        "gold_answer": "France",
        "gold_docs": [DOCUMENT],
        "chat_history": HISTORIES[id_],
    }


def write_lines(path: Path, ids: list[str]) -> str:
    path.write_text("".join(json.dumps(dialogue(id_)) + "\n" for id_ in ids), encoding="utf-8")
    return str(path)


def chat_folder(folder: Path, template: str = ALTERNATING) -> Path:
    tokenizer = chat_tokenizer(template)
    causal_folder(folder, vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    settings = {"apply_chat_template": True, "max_length": 128, "max_new_tokens": 2}
    (folder / "reader.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_folder(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def config(tmp_path: Path, reader: Path) -> Path:
    train = write_lines(tmp_path / "t.jsonl", ["good", "twice", "none"])
    validation = write_lines(tmp_path / "v.jsonl", ["last", "good"])
    files = {"train_file": train, "validation_file": validation, "apply_chat_template": True}
    path = experiment(tmp_path, pretrained_model_name_or_path=str(reader))
    return changed(path, data=files)


def test_validate_names_every_record_of_both_splits(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line a record, exit code 2, and no traceback."""
    assert cli.main(["validate", str(config)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"data.train: record twice: {REFUSED.format('user, user')}",
        f"data.validation: record last: {REFUSED.format('user')}",
    ]


def test_skip_leaves_them_out_and_counts(
    config: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The others are trained on."""
    assert cli.main(["validate", str(config), "--config", "data.on_bad_record=skip"]) == 0
    assert json.loads(capsys.readouterr().out)["valid"] is True
    told = [record.message for record in caplog.records if "left out" in record.message]
    assert [line.partition(", ")[0] for line in told] == ["1 examples left out"] * 2


def test_a_template_that_shows_nothing_of_the_question() -> None:
    """Passages stand before the question, and this template shows the first characters alone."""
    prompt = ChatPrompt(chat_tokenizer(FORGETFUL), GenerationKwargs(apply_chat_template=True))
    assert "Where?" in prompt.text("Where?", [], "")
    with pytest.raises(DataError, match=r"^the chat template shows nothing of the question$"):
        prompt.text("Where?", [], "Paris: Paris is in France.\n")
    with pytest.raises(DataError, match=r"^the chat template shows nothing of the question$"):
        prompt.text("Paris", [], "Paris: Paris is in France.\n")  # the same words in a passage are not the question
    silent = CHATML.replace("{{ message['content'] }}", "{{ message['content'] if message['role'] != 'user' }}")
    with pytest.raises(ConfigError, match=r"^data\.apply_chat_template: the chat template shows nothing of the quest"):
        ChatPrompt(chat_tokenizer(silent), GenerationKwargs(apply_chat_template=True))


def test_a_system_prompt_that_the_template_refuses() -> None:
    """It is the setting that is wrong, not the records."""
    settings = GenerationKwargs(apply_chat_template=True, system_prompt="Be short.")
    with pytest.raises(ConfigError, match=r"^data\.system_prompt: .*refuses the roles system, user.*: System role not"):
        ChatPrompt(chat_tokenizer(ALTERNATING), settings)


def test_a_reader_names_all_that_it_refuses(reader: Path) -> None:
    """By their ids, or else by their words; the others are answered when they are asked without them."""
    loaded = GenerationReader.from_pretrained(reader)
    passages = (Passage("1", "Paris is in France."),)
    bad = [
        Question("And Rome?", passages, (Turn("user", "Hi."),), id="q7"),
        Question("Why?", passages, (Turn("assistant", "Yes?"),)),
        Question("Where " * 150, passages),
    ]
    good = Question("Where?", passages, (Turn("user", "Hi."), Turn("assistant", "Yes?")))
    with pytest.raises(DataError, match=r"^record q7: the chat template refuses") as caught:
        loaded.read_passages([bad[0], good, *bad[1:]])
    assert caught.value.errors[:2] == (
        f"record q7: {REFUSED.format('user')}",
        f"question 'Why?': {REFUSED.format('assistant')}",
    )
    assert "must fit into max_length (128 tokens)" in caught.value.errors[2]
    assert len(loaded.read_passages([good])) == 1


def test_evaluate_and_predict_and_ask(reader: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and a line a record; evaluate leaves them out where it is told to."""
    data = write_lines(tmp_path / "data.jsonl", ["good", "twice", "none", "last"])
    refused = [f"record twice: {REFUSED.format('user, user')}", f"record last: {REFUSED.format('user')}"]
    command = ["--checkpoint", str(reader), "--data", data]
    assert cli.main(["predict", *command, "--output", str(tmp_path / "answers.json")]) == 2
    assert capsys.readouterr().err.splitlines() == refused
    evaluation = ["evaluate", *command, "--batch-size", "1", "--output-dir"]
    assert cli.main([*evaluation, str(tmp_path / "e1")]) == 2
    assert capsys.readouterr().err.splitlines() == refused
    assert cli.main([*evaluation, str(tmp_path / "e2"), "--on-bad-record", "skip"]) == 0
    captured = capsys.readouterr()
    told = [line for line in captured.err.splitlines() if "left out" in line]
    assert told == [f"left out: {line}" for line in refused]
    scores = json.loads(captured.out)
    assert (scores["n_questions"], scores["n_skipped"]) == (2, 2)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(json.dumps({"_id": "1", "title": "Paris", "text": "Paris is in France."}), encoding="utf-8")
    index = str(tmp_path / "index")
    assert cli.main(["index", "--corpus", str(corpus), "--retriever", "bm25", "--output", index]) == 0
    capsys.readouterr()
    asked = ["--checkpoint", str(reader), "--index", index, "--turn", "Yes?", "Where is Paris?"]
    assert cli.main(["ask", *asked]) == 2
    assert capsys.readouterr().err.splitlines() == [f"question 'Where is Paris?': {REFUSED.format('assistant')}"]
