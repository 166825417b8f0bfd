"""The reader of questions with passages: both forms, every error of a file at once, and real files."""

import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from model_hub_rqa.data.arrow_cache import cached_dataset
from model_hub_rqa.data.formats.fid import FUSION_FEATURES, fusion_reader, read_fusion
from model_hub_rqa.data.loading import default_load_dataset
from model_hub_rqa.errors import ConfigError, DataError

CTX = {"title": "T", "text": "text"}
FID = {"id": "q1", "question": "Who?", "answers": ["a"], "ctxs": [CTX]}
DOCUMENT = {"page_content": "text", "metadata": {"title": "T ", "source": "s", "seq_num": 4}}
DIALOGUE = {
    "question": "Who?",
    "chat_history": [],
    "gold_answer": "a",
    "gold_docs": [DOCUMENT],
    "hard_neg_docs": [DOCUMENT, DOCUMENT],
}


def write(path: Path, records: list[Any], text: str | None = None) -> str:
    if text is None:
        lines = ".jsonl" in path.name
        text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def without(record: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name not in names}


# ---- what is read ----


@pytest.mark.parametrize("name", ["f.json", "f.json.gz", "f.jsonl", "f.jsonl.gz"])
def test_every_ending(name: str, tmp_path: Path) -> None:
    """A list in .json, a record a line in .jsonl, each packed or not."""
    path = write(tmp_path / name, [FID, FID | {"id": 2}])
    assert [row["id"] for row in read_fusion(path).rows] == ["q1", "2"]


def test_a_list_under_data(tmp_path: Path) -> None:
    """The list may stand under "data", as in SQuAD's files."""
    path = write(tmp_path / "f.json", [], json.dumps({"version": 1, "data": [FID]}))
    assert len(read_fusion(path).rows) == 1


def test_fid_form(tmp_path: Path) -> None:
    """Passages keep their order, score and gold mark; a missing id is the record's number."""
    ctxs = [{"id": 7, "title": None, "text": "a", "score": 3}, {"id": "8", "text": "b"}, {"text": "c", "isgold": True}]
    record = without(FID, "id") | {"ctxs": ctxs, "gold_id": 8, "target": "a", "answers": ["a", "A"], "extra": 1}
    (row,) = read_fusion(write(tmp_path / "f.jsonl", [record])).rows
    assert row == {
        "id": "1",
        "question": "Who?",
        "chat_history": [],
        "target": "a",
        "answers": ["a", "A"],
        "passages": [
            {"id": "7", "title": "", "text": "a", "score": 3, "gold": False},
            {"id": "8", "title": "", "text": "b", "score": None, "gold": True},
            {"id": "", "title": "", "text": "c", "score": None, "gold": True},
        ],
        "negatives": [],
    }


def test_dialogue_form(tmp_path: Path) -> None:
    """Gold documents are the passages, the others negatives; turns are texts by turns, or say who speaks."""
    history = ["Hi", "Hello", {"role": "user", "text": "So"}, {"speaker": "Assistant", "content": "Yes"}]
    (row,) = read_fusion(write(tmp_path / "f.jsonl", [DIALOGUE | {"chat_history": history}])).rows
    assert [(turn["role"], turn["text"]) for turn in row["chat_history"]] == [
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "So"),
        ("assistant", "Yes"),
    ]
    assert (row["target"], row["answers"]) == ("a", ["a"])
    assert row["passages"] == [{"id": "s#4", "title": "T", "text": "text", "score": None, "gold": True}]
    assert [passage["gold"] for passage in row["negatives"]] == [False, False]


def test_what_asking_does_not_need(tmp_path: Path) -> None:
    """Answers may be missing for prediction, passages where they are retrieved."""
    bare = without(FID, "answers", "ctxs")
    path = write(tmp_path / "f.jsonl", [bare, bare | {"id": "q2", "ctxs": []}])
    rows = read_fusion(path, require_answers=False, require_passages=False).rows
    assert [(row["answers"], row["passages"]) for row in rows] == [([], [])] * 2


def test_rows_fit_their_arrow_types(tmp_path: Path) -> None:
    """Both forms go through the Arrow cache, empty lists and missing scores included."""
    for number, record in enumerate((FID, DIALOGUE, DIALOGUE | {"chat_history": ["Hi", "Hello"]})):
        path = write(tmp_path / f"{number}.jsonl", [record])
        found = cached_dataset(path, fusion_reader(), cache_dir=str(tmp_path / "cache"))
        (row,) = read_fusion(path).rows
        assert found[0] == row
        assert set(found.features) == set(FUSION_FEATURES)


# ---- errors ----


def ctxs(*changed: Any) -> dict[str, Any]:
    return {"ctxs": [CTX, *changed]}


@pytest.mark.parametrize(
    ("record", "errors"),
    [
        (without(FID, "question"), ["question is missing"]),
        (FID | {"question": " "}, ["question must not be blank, got ' '"]),
        (FID | {"id": ["q"]}, ["id must be text, got ['q']"]),
        (without(FID, "ctxs") | {"target": "a"}, ["ctxs is missing"]),
        (FID | {"ctxs": None}, ["ctxs must hold at least one passage, got None"]),
        (FID | {"ctxs": []}, ["ctxs must hold at least one passage, got []"]),
        (FID | {"ctxs": "text"}, ["ctxs must be a list, got 'text'"]),
        (FID | {"ctxs": [CTX] * 10_000}, ["ctxs must hold at most 1,000 passages, got 10,000"]),
        (FID | ctxs({"title": "T"}), ["ctxs 2: text is missing"]),
        (FID | ctxs({"text": ""}, "x"), ["ctxs 2: text must not be blank", "ctxs 3: must be an object with title and"]),
        (FID | ctxs(*[{"text": 1}] * 9), ["ctxs 4: text must be text, got 1; and 6 more"]),
        (FID | ctxs(CTX | {"score": "high"}), ["ctxs 2: score must be a number, got 'high'"]),
        (FID | ctxs(CTX | {"score": "nan"}), ["ctxs 2: score must be finite, got nan"]),
        (FID | ctxs(CTX | {"score": True}), ["ctxs 2: score must be a number, got True"]),
        (FID | ctxs(CTX | {"score": 10**400}), ["ctxs 2: score must be finite, got 1000000"]),
        (FID | ctxs(CTX | {"title": 1.5}), ["ctxs 2: title must be text, got 1.5"]),
        (FID | ctxs(CTX | {"text": "\ud800"}), ["ctxs 2: text must be Unicode text, got a lone surrogate"]),
        (FID | ctxs(CTX | {"isgold": "yes"}), ["ctxs 2: isgold must be true or false, got 'yes'"]),
        (without(FID, "answers"), ["target or answers must be given"]),
        (FID | {"answers": []}, ["target or answers must be given, got []"]),
        (FID | {"answers": "oil"}, ["answers must be a list, got 'oil': write ['oil']"]),
        (FID | {"answers": ["a", " ", 3]}, ["answer 2 must not be blank", "answer 3 must be text, got 3"]),
        (FID | {"target": 3}, ["target must be text, got 3"]),
        ("Who?", ["must be an object, got 'Who?'"]),
        (without(DIALOGUE, "gold_answer"), ["gold_answer or answers must be given"]),
        (without(DIALOGUE, "gold_docs"), ["gold_docs is missing"]),
        (DIALOGUE | {"gold_docs": []}, ["gold_docs must hold at least one document, got []"]),
        (DIALOGUE | {"gold_docs": [{"text": "x"}]}, ["gold_docs 1: page_content is missing"]),
        (DIALOGUE | {"gold_docs": [DOCUMENT | {"metadata": 1}]}, ["gold_docs 1: metadata must be an object, got 1"]),
        (DIALOGUE | {"hard_neg_docs": ["x"]}, ["hard_neg_docs 1: must be an object with page_content, got 'x'"]),
        (DIALOGUE | {"hard_neg_docs": [DOCUMENT] * 1001}, ["hard_neg_docs must hold at most 1,000 documents"]),
        (DIALOGUE | {"chat_history": ["Hi", ""]}, ["chat_history 2 must not be blank, got ''"]),
        (DIALOGUE | {"chat_history": [{"role": "user"}]}, ["chat_history 1 must be text, got None"]),
        (
            DIALOGUE | {"chat_history": [{"role": "cat", "text": "miau"}]},
            ["role must be user or assistant, got 'cat'"],
        ),
        (DIALOGUE | {"chat_history": "Hi"}, ["chat_history must be a list, got 'Hi': write ['Hi']"]),
    ],
)
def test_errors_of_a_record(record: Any, errors: list[str], tmp_path: Path) -> None:
    """The file, the record and its line, the rule and the value found; nothing else is wrong."""
    form = DIALOGUE if "gold_docs" in record or "gold_answer" in record else FID
    path = write(tmp_path / "f.jsonl", [form | {"id": "good"}, record])
    with pytest.raises(DataError, match="line 2") as error:
        read_fusion(path)
    (line,) = error.value.errors
    assert line.startswith(f"{path}: ")
    assert "line 2" in line
    for error in errors:
        assert error in line
    kept = read_fusion(path, on_bad_record="skip")
    assert ([row["id"] for row in kept.rows], kept.n_skipped, kept.skipped) == (["good"], 1, (line,))


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    """Broken lines, duplicate ids and bad records of one file are in one error, each on its line."""
    lines = [json.dumps(FID), json.dumps(FID), '{"id": "q3", "score": NaN}', json.dumps(FID | {"id": "q4", "ctxs": []})]
    path = write(tmp_path / "f.jsonl", [], "\n".join([*lines, json.dumps(FID)[:30]]))
    with pytest.raises(DataError, match="line 5") as error:
        read_fusion(path)
    cut, nan = sorted(line for line in error.value.errors if "not JSON" in line)[::-1]
    assert "line 5" in cut
    assert "the last line: the file may be cut short" in cut
    assert "line 3" in nan
    assert "NaN is not allowed" in nan
    assert [line for line in error.value.errors if "not JSON" not in line] == [
        f"{path}: record q1 (line 2): duplicate id, first at line 1",
        f"{path}: record q4 (line 4): ctxs must hold at least one passage, got []",
    ]
    kept = read_fusion(path, on_bad_record="skip")
    assert ([row["id"] for row in kept.rows], kept.n_skipped) == (["q1"], 4)


def test_a_score_beyond_a_float(tmp_path: Path) -> None:
    """1e999 is JSON, and is read as infinite."""
    text = json.dumps(FID | ctxs(CTX | {"score": 0.5})).replace("0.5", "1e999")
    with pytest.raises(DataError, match="ctxs 2: score must be finite, got inf"):
        read_fusion(write(tmp_path / "f.jsonl", [], text))


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("f.json", '{"question": "Who?"}', "must be a list of records, or .*got the keys .'question'"),
        ("f.json", "[]", "holds no record"),
        ("f.json", "[{}", "not JSON at line 1"),
        ("f.jsonl", "", "empty file"),
        ("f.txt", "id,question", "unknown file ending '.txt'"),
        ("f.csv", "id,question", "holds no record"),
        ("f.jsonl", '{"id": "1", "question": ""}', r"f.jsonl: record 1 \(line 1\): "),
    ],
)
def test_errors_of_a_file(name: str, text: str, error: str, tmp_path: Path) -> None:
    """A file of another structure, an empty one, a broken one."""
    with pytest.raises(DataError, match=error):
        read_fusion(write(tmp_path / name, [], text))
    with pytest.raises(DataError, match=error):
        read_fusion(write(tmp_path / name, [], text), on_bad_record="skip")


def test_wrong_calls(tmp_path: Path) -> None:
    """A missing file, and a policy that does not exist."""
    with pytest.raises(DataError, match="no such file"):
        read_fusion(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="on_bad_record"):
        read_fusion(tmp_path / "none.json", on_bad_record="ignore")


# ---- real files ----


@pytest.mark.parametrize(
    ("name", "rows", "passages", "gold", "negatives"),
    [
        ("fid/squad_fid_train.jsonl.gz", 2000, 20_000, 1748, 0),
        ("fid/squad_fid_dev.jsonl.gz", 1000, 10_000, 918, 0),
        ("nq/nq-open-oracle.jsonl.gz", 2655, 2655, 2655, 0),
        ("rqa/faire_eval.jsonl", 73, 73, 73, 146),
        ("rqa/faire_test.jsonl", 75, 75, 75, 150),
    ],
)
def test_real_files(name: str, rows: int, passages: int, gold: int, negatives: int, rqa_data: Path) -> None:
    """Every record of the real files is sound, and none of its passages is lost."""
    found = read_fusion(rqa_data / name)
    assert (len(found.rows), found.n_skipped) == (rows, 0)
    assert sum(len(row["passages"]) for row in found.rows) == passages
    assert sum(passage["gold"] for row in found.rows for passage in row["passages"]) == gold
    assert sum(len(row["negatives"]) for row in found.rows) == negatives


def test_a_bad_real_file(rqa_data: Path) -> None:
    """One of Faire's training questions is empty: it is named, and may be left out."""
    path = rqa_data / "rqa/faire_train.jsonl"
    with pytest.raises(DataError, match="line 495: question must not be blank") as error:
        read_fusion(path)
    assert error.value.errors == (f"{path}: line 495: question must not be blank, got ''",)
    assert len(read_fusion(path, on_bad_record="skip").rows) == 574


def test_parts_of_real_files_are_loaded(rqa_data: Path, tmp_path: Path) -> None:
    """The reader fits default_load_dataset: slices, limits and the cache."""
    data = {
        "train_file": f"{rqa_data}/fid/squad_fid_train.jsonl.gz[:50]",
        "validation_file": f"{rqa_data}/rqa/faire_eval.jsonl",
        "max_eval_samples": 10,
        "cache_dir": str(tmp_path),
    }
    splits = default_load_dataset(data, reader=fusion_reader())
    assert isinstance(splits["train"], datasets.Dataset)
    assert (len(splits["train"]), len(splits["validation"])) == (50, 10)
