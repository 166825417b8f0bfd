"""Commands and trainings read every format, one that is named and one of one's own."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_fusion
from question_files import CASES, DPR, KILT, MUSIQUE, plain, write

from model_hub_rqa.cli import main
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.questions import QuestionFormat, format_of, passages_of
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.registry import FORMATS
from model_hub_rqa.runtime import experiments


class Docs(QuestionFormat):
    """A format of one's own: one class, and no change elsewhere."""

    passages = ("docs",)

    def matches(self, record: Any) -> bool:
        return "docs" in record

    def read(self, record: Any) -> dict[str, Any]:
        return {**record, "passages": passages_of(record, "docs", text=("body",), gold=True)}


def test_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered, it is recognised."""
    record = {"id": "a", "question": "who?", "answers": ["x"], "docs": [{"title": "T", "body": "x did", "id": 3}]}
    path = write(tmp_path / "a.jsonl", [record])
    with pytest.raises(DataError, match="ctxs is missing"):
        read_fusion(path)
    FORMATS.names()
    monkeypatch.setitem(FORMATS._factories, "docs", Docs)
    assert type(format_of(record)) is Docs
    assert plain(read_fusion(path).rows[0]["passages"]) == [("T", "x did", "3", None, True)]


def test_commands_take_a_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`rqa retrieve` and `rqa score` read a named one, and refuse an unknown one by its option."""
    data = write(tmp_path / "kilt.jsonl", [KILT])
    predictions = write(tmp_path / "p.jsonl", [{"id": KILT["id"], "output": [{"answer": "Anna"}]}])
    for options in ([], ["--format", "kilt"], ["--fields", "question=input", "id=id", "answers=output[*].answer"]):
        code = main(["score", str(predictions), "--data", str(data), *options])
        if "--fields" in options:  # KILT's third output has no answer
            assert (code, "answer 3 must not be blank" in capsys.readouterr().err) == (2, True)
        else:
            assert code == 0
            assert json.loads(capsys.readouterr().out)["exact_match"] == 100
    assert main(["score", str(predictions), "--data", str(data), "--format", "klit"]) == 2
    assert "--format: must be a registered format" in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny reader and an index."""
    folder = tmp_path_factory.mktemp("world")
    tiny.model_folder(folder / "reader")
    write(folder / "c.jsonl", [{"id": "1", "text": "Ed Wood is a film about Anna."}, {"id": "2", "text": "who lives"}])
    command = ["index", "--corpus", str(folder / "c.jsonl"), "--retriever", "bm25", "--output", str(folder / "index")]
    assert main(command) == 0
    return folder


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case[0]}-{case[1]}" for case in CASES])
def test_evaluate_takes_every_format(
    number: int, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its passages, or, where it has none, from an index, which the error for it says."""
    _, file, content, id_, _, answers, passages, _ = CASES[number]
    data = write(tmp_path / file, content)
    command = ["evaluate", "--checkpoint", str(world / "reader"), "--data", str(data)]
    command += ["--output-dir", str(tmp_path / "out")]
    if not passages:
        assert main(command) == 2
        assert "--index: says where to find passages for questions without" in capsys.readouterr().err
        command += ["--index", str(world / "index")]
    assert main(command) == 0
    line = json.loads((tmp_path / "out/predictions.jsonl").read_text().splitlines()[0])
    assert (line["id"], line["references"]) == (id_, answers)


@pytest.mark.parametrize(
    ("content", "settings", "passages", "negatives"),
    [
        ([DPR], {}, 1, 2),
        ([DPR], {"format": "dpr"}, 1, 2),
        ([MUSIQUE], {"fields": {"question": "question", "answers": "answer", "passages": "paragraphs[*].title"}}, 2, 0),
    ],
)
def test_training_reads_formats_and_fields(
    content: Any, settings: dict[str, Any], passages: int, negatives: int, tmp_path: Path
) -> None:
    """`data.format` and `data.fields` of a Fusion-in-Decoder trial."""
    path = str(write(tmp_path / "a.json", content))
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())
    config["data"] |= {"train_file": path, "validation_file": path, **settings}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    checked = experiments.validate(experiments.load_experiment(str(tmp_path / "config.yaml")))
    (row,) = checked.examples["train"]
    assert (len(row["passages"]), len(row["negatives"])) == (passages, negatives)


def test_a_format_for_each_data_set(tmp_path: Path) -> None:
    """Of a list, each data set has its own `format` or `fields`; the others have the data section's."""
    path = {
        name: str(write(tmp_path / f"{name}.json", [record])) for name, record in (("musique", MUSIQUE), ("dpr", DPR))
    }
    mine = {"question": "question", "answers": "answer", "passages": "paragraphs[*].title"}
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())
    config["data"] |= {"train_file": path["dpr"], "format": "dpr"}
    config["data"]["validation"] = [
        {"name": "usual", "validation_file": path["dpr"]},
        {"name": "named", "validation_file": path["musique"], "format": "musique"},
        {"name": "mine", "validation_file": path["musique"], "fields": mine},
    ]
    del config["data"]["validation_file"]
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    checked = experiments.validate(experiments.load_experiment(str(tmp_path / "config.yaml")))
    texts = [[passage["text"] for passage in row["passages"]] for row in checked.examples["validation"]]
    titles = [paragraph["title"] for paragraph in MUSIQUE["paragraphs"]]
    assert texts == [["A town."], [paragraph["paragraph_text"] for paragraph in MUSIQUE["paragraphs"]], titles]


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ({"format": "klit"}, r"^data.validation\[0\].format: must be a registered format .*, got 'klit'"),
        ({"fields": {"answers": "a"}}, r"^data.validation\[0\].fields.question: is required"),
        ({"fields": {"question": "q"}, "format": "kilt"}, r"^data.validation\[0\].fields: is ignored beside format"),
        ({"format": "kilt", "handler": "QADataset", "validation_file": None}, "format: is ignored beside handler"),
    ],
)
def test_wrong_formats_of_a_data_set(entry: dict[str, Any], error: str, tmp_path: Path) -> None:
    """Named by where they stand in the list."""
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())
    file = config["data"].pop("validation_file")
    config["data"]["validation"] = [{"name": "a", "validation_file": file, **entry}]
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=error):
        experiments.validate(experiments.load_experiment(str(tmp_path / "config.yaml")))


def test_a_task_of_its_own_format_takes_none(tmp_path: Path) -> None:
    """An extractive task reads SQuAD's format alone."""
    config = json.loads(tiny.experiment(tmp_path / "qa").read_text())
    file = config["data"].pop("validation_file")
    config["data"]["validation"] = [{"name": "a", "validation_file": file, "format": "squad"}]
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(
        ConfigError, match=r"^data.validation\[0\].format: is ignored, since the task reads its own format$"
    ):
        experiments.validate(experiments.load_experiment(str(tmp_path / "config.yaml")))


PLUGIN = """
from model_hub_rqa.data.formats.questions import QuestionFormat, passages_of
from model_hub_rqa.registry import FORMATS


@FORMATS.register("my-format")
class MyFormat(QuestionFormat):
    passages = ("docs",)

    def matches(self, record):
        return "docs" in record

    def read(self, record):
        return {**record, "passages": passages_of(record, "docs", text=("body",), gold=True)}
"""


@pytest.mark.parametrize("settings", [{"plugins": ["own_format"]}, {"format": "own_format:MyFormat"}])
def test_a_format_in_a_module_of_ones_own(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/data.rst, registered by data.plugins or named by data.format."""
    lines = [f"    {line}".rstrip() for line in PLUGIN.strip().splitlines() if line]
    documented = (Path(__file__).parents[4] / "docs/data.rst").read_text(encoding="utf-8")
    assert [line for line in lines if line not in documented] == []
    FORMATS.names()
    monkeypatch.setattr(FORMATS, "_factories", dict(FORMATS._factories))
    monkeypatch.delitem(sys.modules, "own_format", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_format.py").write_text(PLUGIN)
    path = str(write(tmp_path / "a.jsonl", [{"id": "a", "question": "q", "answers": ["x"], "docs": [{"body": "x"}]}]))
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())
    config["data"] |= {"train_file": path, "validation_file": path, **settings}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    checked = experiments.validate(experiments.load_experiment("config.yaml"))
    assert [passage["text"] for passage in checked.examples["train"][0]["passages"]] == ["x"]
    sys.modules.pop("own_format")


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"format": "klit"}, "^data.format: must be a registered format .*, got 'klit'"),
        ({"fields": {"answers": "a"}}, "^data.fields.question: is required"),
        ({"fields": {"question": "q"}, "format": "kilt"}, "^data.fields: is ignored beside format"),
    ],
)
def test_wrong_settings_of_formats(settings: dict[str, Any], error: str, tmp_path: Path) -> None:
    """They end a training before a model is loaded."""
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())
    config["data"] |= settings
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=error):
        experiments.validate(experiments.load_experiment(str(tmp_path / "config.yaml")))
