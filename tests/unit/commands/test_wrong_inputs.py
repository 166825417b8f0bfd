"""What the user can mend, over all commands: exit code 2, a line that names what was typed, before the work begins."""

import json
import re
import sys
from pathlib import Path

import pytest
import tiny
import tiny_fusion
import yaml

from model_hub_rqa.cli import main
from model_hub_rqa.errors import ConfigError, folder_error, renamed
from model_hub_rqa.libraries import require
from model_hub_rqa.pipeline import RQAPipeline
from model_hub_rqa.registry import RETRIEVERS
from model_hub_rqa.trials.task_trial import TaskTrial

CORPUS = [{"_id": "a", "text": "alpha beta", "title": "t"}, {"_id": "b", "text": "gamma", "title": "u"}]
QUESTION = {"id": "q1", "question": "alpha?", "answers": ["alpha"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration, a reader, a corpus and its index, and things that are wrong."""
    path = tmp_path_factory.mktemp("inputs")
    config = yaml.safe_dump(json.loads(tiny.experiment(path).read_text()))
    (path / "good.yaml").write_text(config)
    (path / "syntax.yaml").write_text("name: x\n  bad: [1,\n")
    (path / "tab.yaml").write_text("name:\tx\n")
    (path / "twice.yaml").write_text(config + "name: other\n")
    (path / "below.yaml").write_text(config.replace("  learning_rate: 0.001\n", "  learning_rate: 0.001\n" * 2))
    (path / "file").write_text("x")
    (path / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in CORPUS))
    (path / "questions.jsonl").write_text(json.dumps(QUESTION) + "\n")
    (path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\ta\t1\n")
    words = ["--corpus", str(path / "corpus.jsonl"), "--retriever", "bm25", "--output", str(path / "index")]
    assert main(["index", *words]) == 0
    return path


@pytest.fixture
def refused(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a command in the folder; it has to end with 2 before a model is loaded. Gives what it prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(TaskTrial, "build_model", lambda self: pytest.fail("a model was built"))
    for kind in ("AutoModelForQuestionAnswering", "AutoModelForSeq2SeqLM"):
        monkeypatch.setattr(f"transformers.{kind}.from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))

    def run(command: str) -> str:
        assert main(command.split()) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


PREDICT = "predict --checkpoint model --data validation.json --output"
INDEX = "index --corpus corpus.jsonl --output new --retriever"
EVALUATE = "evaluate --checkpoint model --data validation.json --output-dir new"
RATE = r'cannot be parsed: line \d+, column 3: found duplicate key "learning_rate"'
WRONG = [
    ("validate syntax.yaml", "syntax.yaml: cannot be parsed: line 2, column 6: mapping values are not allowed here"),
    ("validate tab.yaml", "tab.yaml: cannot be parsed: line 1, column 6: found character"),
    ("validate twice.yaml", r'twice.yaml: cannot be parsed: line \d+, column 1: found duplicate key "name"'),
    ("validate below.yaml", f"below.yaml: {RATE}"),
    ("train below.yaml", f"below.yaml: {RATE}"),
    ("train syntax.yaml --learning_rate 1", "syntax.yaml: cannot be parsed: line 2"),
    ("validate good.yaml --config name", "--config: must be KEY=VALUE, got name"),
    (
        "validate good.yaml --config hyperparameters.learning_rate.x=3",
        "--config hyperparameters.learning_rate.x=3: a part of the key",
    ),
    ("train good.yaml --output-dir file", "--output-dir: .*file is not a folder"),
    (
        "train good.yaml --config hyperparameters.output_dir=file/x",
        "^hyperparameters.output_dir: .*file is not a folder",
    ),
    ("train good.yaml --output-dir file/x", "--output-dir: .*file is not a folder"),
    ("train good.yaml --learning-rate -1", "^--learning-rate: must be >= 0, got -1"),
    ("train good.yaml --lr -1", "^--lr: is not an option"),
    ("train good.yaml --max_seq_length=5 --doc_stride=9", r"^--doc_stride: must be < max_seq_length \(5\), got 9"),
    ("train good.yaml --train_file nowhere.json", "^nowhere.json: no such file"),
    ("train --trial nope --seed 1", "^--trial: must be package.module:object, got 'nope'"),
    ("train --trial nope:Trial --seed 1", "^--trial: there is no module nope, got nope:Trial"),
    (
        "train --trial model_hub_rqa.trials.qa:QATrial --seed x",
        r"^--pretrained_model_name_or_path: is required .*\n--seed: must be a whole number, got 'x'\n--dataset_name:",
    ),
    (f"{PREDICT} file/x.json", "^--output: file is not a folder"),
    (f"{PREDICT} .", "^--output: must name a file, got the folder"),
    (f"{PREDICT} x.json --max-answer-length -2", "^--max-answer-length: must be >= 1, got -2"),
    (f"{PREDICT} x.json --num-beams 2", "^--num-beams: is not a setting of the reader in model"),
    ("evaluate --checkpoint model --data validation.json --output-dir file/x", "^--output-dir: .*file is not a folder"),
    (f"{EVALUATE} --max-answer-length 0", "^--max-answer-length: must be >= 1, got 0"),
    ("evaluate --checkpoint model --data questions.jsonl --output-dir new", "--index: says where to find passages"),
    ("ask q? --checkpoint model --index index --max-answer-length 0", "^--max-answer-length: must be >= 1, got 0"),
    ("export --checkpoint model --output file/x", "^--output: .*file is not a folder"),
    ("export --checkpoint model --output file", "^--output: file exists and is not an empty folder"),
    ("index --corpus corpus.jsonl --output file/x --retriever bm25", "^--output: .*file is not a folder"),
    (f"{INDEX} bm25 --k1 -3", "^--k1: must be a number from 0 on"),
    (f"{INDEX} dense", "^--embedding-model: must be given for a dense index"),
    (f"{INDEX} dense --embedding-model no/model", "^--embedding-model: 'no/model' is neither a folder"),
    (f"{INDEX} bm25 --passage-words 0", "^--passage-words: must be at least 1"),
    ("retrieve --index index --queries questions.jsonl --output file/x", "^--output: .*file is not a folder"),
]


@pytest.mark.parametrize(("command", "message"), WRONG)
def test_a_wrong_input_ends_with_2(command: str, message: str, refused) -> None:
    said = refused(command)
    assert re.search(message, said, re.MULTILINE), said


AT_ONCE = [
    (
        "index --corpus none.jsonl --output file --retriever bm25 --k1 -3 --pooling cls --batch-size 0 "
        "--chunk-by pages --chunk-size 0",
        [
            *("--pooling: is ignored", "--batch-size: is ignored", "--batch-size: must be at least 1, got 0"),
            *("--k1: must be", "--chunk-by: must be", "--chunk-size: must be", "--output: file exists"),
            "none.jsonl: no such file",
        ],
    ),
    (
        f"{INDEX.replace('new', 'file')} nope --chunk-size 0",
        ["--retriever: must be", "--chunk-size: needs chunk_by", "--output: file exists"],
    ),
    (f"{INDEX.replace('new', 'file')} hybrid", ["--retriever: hybrid is no index", "--output: file exists"]),
    (f"{INDEX} dense --embedding-model no/model --engine bm25s", ["--engine: is ignored", "--embedding-model: 'no/m"]),
    (
        "ask q? --checkpoint none --index ./index --embedding-model no/model --top-k 0",
        [
            "none: is neither",
            "--top-k: must be at least 1, got 0",
            "./index: is a bm25 index, which has no embedding model",
        ],
    ),
    (
        "retrieve --index index --queries questions.jsonl --output new --fields question qestion=q id=a[ id=b",
        [
            *("--fields: must be PART=PATH, got 'question'", "--fields: names id twice, 'a[' and 'b'"),
            *("--fields.qestion: is not a part", "--fields.id: must be a path"),
        ],
    ),
]


@pytest.mark.parametrize(("command", "messages"), AT_ONCE)
def test_all_wrong_inputs_show_at_once(command: str, messages: list[str], refused) -> None:
    """A line each."""
    lines = refused(command).splitlines()
    assert [message for message in messages if not any(line.startswith(message) for line in lines)] == [], lines
    assert len(lines) == len(messages), lines


SEARCH = "retrieve --index index --queries questions.jsonl --output new"
ASKED = "evaluate --checkpoint model --data questions.jsonl --index index --output-dir new"
MISSING = [
    (f"{INDEX} bm25", ["tantivy", "PyStemmer"]),
    (f"{INDEX} bm25 --language none --k1 1", ["bm25s"]),
    (f"{INDEX} bm25 --language thai --stopwords english", ["tantivy", "bm25s"]),
    (f"{INDEX} dense --embedding-model model", ["faiss-cpu", "sentence-transformers"]),
    (SEARCH, ["tantivy"]),
    (f"{SEARCH} --qrels qrels.tsv", ["ir_measures"]),
    (ASKED, ["sacrebleu", "ir_measures", "tantivy"]),
    ("ask q? --checkpoint model --index index", ["tantivy"]),
]
EXTRAS = dict.fromkeys(("bm25s", "faiss-cpu", "sentence-transformers", "ir_measures"), "retrieval")
EXTRAS |= {
    "sacrebleu": "evaluation",
    "PyStemmer": "retrieval",
    "tantivy": "retrieval",
    "sentencepiece": "sentencepiece",
}
MODULES = {"faiss-cpu": "faiss", "sentence-transformers": "sentence_transformers", "PyStemmer": "Stemmer"}


def take_away(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, MODULES.get(name, name), None)


@pytest.mark.parametrize(("command", "names"), MISSING)
def test_a_missing_library_is_named_before_work_starts(
    command: str, names: list[str], refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the extra that brings it; all that are missing at once."""
    take_away(monkeypatch, *names)
    monkeypatch.setattr("model_hub_rqa.data.corpus.CorpusReader.__iter__", lambda self: pytest.fail("it was read"))
    monkeypatch.setattr(RQAPipeline, "__init__", lambda *_: pytest.fail("a reader was loaded"))
    said = refused(command)
    for name in names:
        assert f"{name}: cannot be imported" in said
        assert f"pip install 'model-hub-rqa[{EXTRAS[name]}]'" in said


def test_a_trial_whose_module_fails(folder: Path, refused) -> None:
    """Its own lines are shown, and no others."""
    (folder / "broken_trial.py").write_text("import json\n\njson.loads('{')\n")
    said = refused("train --trial broken_trial:Trial --seed 1")
    assert said.startswith("--trial: broken_trial cannot be imported:\n")
    assert [line.split("/")[-1] for line in said.splitlines() if line.startswith("  File")] == [
        'broken_trial.py", line 3, in <module>'
    ]
    assert "json.decoder.JSONDecodeError" in said


@pytest.mark.parametrize(("retriever", "name"), [("dense", "faiss-cpu"), ("bm25", "tantivy"), ("bm25", "ir_measures")])
def test_training_with_a_search_asks_for_its_libraries_first(
    retriever: str, name: str, folder: Path, tmp_path: Path, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the data are read; without a search it needs none."""
    path = tiny_fusion.experiment(tmp_path, train=8, validation=3)
    take_away(monkeypatch, name)
    assert main(["validate", str(path)]) == 0
    monkeypatch.setattr("model_hub_rqa.tasks.passages.task.fusion_reader", lambda **_: pytest.fail("data were read"))
    search = f"data.index={folder / 'index'}" if retriever == "bm25" else "data.embedding_model=model"
    assert f"{name}: cannot be imported" in refused(f"validate {path} --config {search}")


def test_a_sentencepiece_tokenizer_asks_for_its_library(
    tmp_path: Path, folder: Path, refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers alone would advise to install tiktoken."""
    take_away(monkeypatch, "sentencepiece")
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    (tmp_path / "spiece.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02")
    names = f"hyperparameters.tokenizer_name={tmp_path}"
    assert "pip install 'model-hub-rqa[sentencepiece]'" in refused(f"validate good.yaml --config {names}")


def test_every_optional_library_has_an_extra() -> None:
    """The one that setup.py declares it in."""
    setup = (Path(__file__).parents[3] / "setup.py").read_text()
    for name, extra in EXTRAS.items():
        (declared,) = re.findall(rf'^        "{extra}": \[[^\]]*', setup, re.MULTILINE)
        assert f'"{name}' in declared
    for module in {module for name in RETRIEVERS.names() for module in RETRIEVERS.find(name).libraries}:
        assert require(module) is sys.modules[module]


def test_a_batch_beyond_the_training_set_warns(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """41 of 40 do, and so do batches that accumulate; 40 of 40 do not."""
    command = ["validate", str(folder / "good.yaml"), "--config", "data.max_seq_length=128"]
    size = "hyperparameters.global_batch_size"
    assert main([*command, "--config", f"{size}=40"]) == 0
    assert size not in caplog.text
    assert main([*command, "--config", f"{size}=41"]) == 0
    assert f"{size}: an optimizer step takes 41 examples, and there are 40 to train on" in caplog.text
    assert main([*command, "--config", f"{size}=8", "--config", "hyperparameters.gradient_accumulation_steps=6"]) == 0
    assert f"{size}: an optimizer step takes 48 examples (8 a batch)" in caplog.text


def test_fields_take_the_names_that_were_typed() -> None:
    """The longest name that fits, at the beginning of a line alone, and no part of a word."""
    error = ConfigError(["a.b: must be c", "a.b.c[0]: x", "a.bc: x", "in a.b: x"])
    assert renamed(error, {"a.b": "--b", "a": "A", "a.b.c": "--c"}).errors == (
        "--b: must be c",
        "--c[0]: x",
        "A.bc: x",
        "in a.b: x",
    )


def test_where_a_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert folder_error(tmp_path) is None
    assert folder_error(tmp_path / "a/b") is None
    assert folder_error(tmp_path / "file") == folder_error(tmp_path / "file/a/b") == f"{tmp_path}/file is not a folder"
