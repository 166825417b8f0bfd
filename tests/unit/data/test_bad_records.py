"""Records that cannot be read: the error says how they can, and on_bad_record leaves them out everywhere alike."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_fusion
from public_records import COQA, FID, FLAT, HOTPOT, MUSIQUE, QUAC, write

from model_hub_rqa.cli import main
from model_hub_rqa.data.corpus import CorpusReader, read_queries
from model_hub_rqa.data.file_loaders import read_rows, read_squad
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.loading import default_load_dataset
from model_hub_rqa.data.predictions import read_questions
from model_hub_rqa.errors import DataError
from model_hub_rqa.runtime import experiments


@pytest.mark.parametrize("name", ["query-id", "uid", "example_id", "questionId", "ID", "guid", "idx"])
def test_an_unknown_id_is_not_dropped(name: str, tmp_path: Path) -> None:
    """The advice, followed word by word: the column is renamed to id."""
    record = {key: value for key, value in FID.items() if key != "id"}
    with pytest.raises(DataError, match=f"{name} looks like the id, .*: rename it to id$"):
        read_fusion(write(tmp_path / "a.jsonl", {**record, name: "x"}), on_bad_record="skip")
    assert read_fusion(write(tmp_path / "a.jsonl", {**record, "id": "x"})).rows[0]["id"] == "x"


def test_ids_of_other_things_are_left_alone(tmp_path: Path) -> None:
    """A document's id is not the question's."""
    record = {key: value for key, value in FID.items() if key != "id"}
    rows = read_fusion(write(tmp_path / "a.jsonl", {**record, "gold_id": "7", "doc_id": "d"})).rows
    assert (rows[0]["id"], rows[0]["passages"][0]["gold"]) == ("1", True)
    document = {"docid": "d1", "text": "oil"}
    with pytest.raises(DataError, match="docid looks like the id, which must be named _id, id: rename it to id"):
        list(CorpusReader(write(tmp_path / "c.jsonl", document)))


@pytest.mark.parametrize("name", ["correct_answer", "response", "possible_answers", "Answer", "short_answers"])
def test_unknown_answers_are_not_dropped(name: str, tmp_path: Path) -> None:
    """Neither where answers must be there, nor where they are handed on; the advice works."""
    for record in (FID, FLAT):
        others = {key: value for key, value in record.items() if key != "answers"}
        path = write(tmp_path / "a.jsonl", {**others, name: ["oil"]})
        for read in (read_fusion, read_queries):
            with pytest.raises(DataError, match=f"{name} looks like .*: rename it to answers, a list of texts"):
                read(path)
        if record is FLAT:
            with pytest.raises(DataError, match=rf"answers is missing \({name} looks like it: rename it to answers\)"):
                read_squad(path, version_2_with_negative=False)
        renamed = write(tmp_path / "b.jsonl", {**others, "answers": ["oil"]})
        assert read_fusion(renamed).rows[0]["answers"] == ["oil"]
        assert read_queries(renamed)[0].answers == ("oil",)


@pytest.mark.parametrize("kind", ["quac", "coqa", "hotpot", "musique", "turns"])
def test_an_extractive_trial_says_who_reads_them(kind: str, tmp_path: Path) -> None:
    """The advice, followed word by word: FiDTrial reads the file."""
    turns = {**FLAT, "chat_history": ["Hi?", "Hello."], "answers": {"text": ["oil"], "answer_start": [0]}}
    content = {"quac": QUAC, "coqa": COQA, "hotpot": [HOTPOT], "musique": [MUSIQUE], "turns": [turns]}[kind]
    path = write(tmp_path / "a.json", content)
    config = json.loads(tiny.experiment(tmp_path / "qa").read_text())
    config["data"] |= {"train_file": str(path), "validation_file": str(path)}
    with pytest.raises(DataError, match=r"entrypoint: model_hub_rqa\.trials\.fid:FiDTrial") as raised:
        validated(tmp_path, config)
    assert len(raised.value.errors) == 1
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())  # an encoder-decoder
    config["data"] |= {"train_file": str(path), "validation_file": str(path)}
    assert len(validated(tmp_path, config).examples["train"]) >= 1


def validated(folder: Path, config: dict[str, Any]) -> Any:
    (folder / "config.yaml").write_text(json.dumps(config))
    return experiments.validate(experiments.load_experiment(str(folder / "config.yaml")))


def test_advice_on_versions_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the configuration, and of the command line in its own words."""
    path = tiny.squad_file(tmp_path / "v2.json", 3, unanswerable=1)
    data = {"train_file": str(path), "validation_file": str(path), "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(DataError, match="set version_2_with_negative: true"):
        default_load_dataset(data)
    assert len(default_load_dataset({**data, "version_2_with_negative": True})["train"]) == 3
    (tmp_path / "p.json").write_text('{"q0": "", "q1": "", "q2": ""}')
    command = ["score", str(tmp_path / "p.json"), "--data", str(path)]
    assert main(command) == 2
    assert "set --version-2 (the first: " in capsys.readouterr().err
    assert main([*command, "--version-2"]) == 0


def test_advice_on_forms_works(tmp_path: Path) -> None:
    """A text in the place of a list, a folder of splits, and an object in the place of a list of records."""
    from datasets import Dataset, DatasetDict

    with pytest.raises(DataError, match=r"answers must be a list, got 'oil': write \['oil'\]"):
        read_fusion(write(tmp_path / "a.jsonl", {**FID, "answers": "oil"}))
    assert read_fusion(write(tmp_path / "a.jsonl", {**FID, "answers": ["oil"]})).rows
    row = {**FLAT, "answers": {"text": ["oil"], "answer_start": [0]}}
    DatasetDict({"train": Dataset.from_list([row])}).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(DataError, match=f"name one of its folders, {tmp_path}/splits/train"):
        read_squad(tmp_path / "splits", version_2_with_negative=False)
    assert read_squad(tmp_path / "splits/train", version_2_with_negative=False).rows
    with pytest.raises(DataError, match='must be a list of records, or an object with such a list under "data"'):
        read_fusion(write(tmp_path / "b.json", {"questions": [FID]}))
    assert read_fusion(write(tmp_path / "b.json", {"data": [FID]})).rows


BAD = ("broken", "duplicate", "blank", "encoding", "twice", "no object")


def read_any(kind: str, path: Path, policy: str) -> tuple[list[str], int]:
    """The ids that a loader keeps, and how many records it leaves out."""
    if kind == "corpus":
        reader = CorpusReader(path, on_bad_record=policy)
        return [document.id for document in reader], len(reader.skipped)
    if kind == "queries":
        queries = read_queries(path, on_bad_record=policy)
        return [query.id for query in queries], -1
    if kind == "rows":
        found = read_rows(path, columns=["question"], on_bad_record=policy)
    elif kind == "squad":
        found = read_squad(path, version_2_with_negative=False, on_bad_record=policy)
    else:
        found = read_questions(path, on_bad_record=policy)
    return [row["id"] for row in found.rows], found.n_skipped


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        *((bad, kind) for bad in BAD for kind in ("squad", "fusion", "queries", "corpus")),
        *((bad, "rows") for bad in BAD if bad not in ("duplicate", "blank")),  # their ids and texts nobody knows
    ],
)
def test_a_bad_record_is_skipped_and_counted_everywhere(kind: str, bad: str, tmp_path: Path) -> None:
    """A broken line, an id a second time, a blank question, a byte that is not UTF-8, a key twice, another type."""
    record = {"id": "a", "text": "oil"} if kind == "corpus" else {**(FLAT if kind == "squad" else FID), "id": "a"}
    if kind == "squad":
        record["answers"] = {"text": ["oil"], "answer_start": [0]}
    blank = "text" if kind == "corpus" else "question"
    good = json.dumps(record).encode()
    lines = {
        "broken": good[:-9],
        "duplicate": good,
        "blank": json.dumps({**record, "id": "b", blank: " "}).encode(),
        "encoding": good.replace(b"oil", b"\xff"),
        "twice": b'{"id": "b", ' + good[1:],
        "no object": b"[1]",
    }
    last = json.dumps({**record, "id": "c"}).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n".join([good, lines[bad], last]))
    with pytest.raises(DataError, match="line 2") as raised:
        read_any(kind, path, "error")
    assert len(raised.value.errors) == 1
    ids, n_skipped = read_any(kind, path, "skip")
    assert (ids, n_skipped) == (["a", "c"], -1 if kind == "queries" else 1)
