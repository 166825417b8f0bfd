"""Files as the public has them: every form is read whole, and scored."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from public_records import COQA, FID, FLAT, HOTPOT, HOTPOT_HUB, MUSIQUE, QUAC, QUAC_CONTEXT, write
from tiny_records import changed_everywhere

from model_hub_rqa.cli import main
from model_hub_rqa.data.corpus import CorpusReader, read_queries
from model_hub_rqa.data.file_loaders import read_rows, read_squad
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.predictions import is_squad_format, question_of, read_questions
from model_hub_rqa.errors import DataError
from model_hub_rqa.records import Turn
from model_hub_rqa.registry import DATASETS


@pytest.mark.parametrize("content", ["list", "under data", "lines"])
@pytest.mark.parametrize("record", [FID, {**FLAT, "answers": {"text": ["oil"], "answer_start": [0]}}])
def test_a_json_file_holds_a_list_or_lines(record: dict[str, Any], content: str, tmp_path: Path) -> None:
    """A list, by itself or under "data", and one record a line under the name .json, for every loader."""
    records = [record, {**record, "id": "q2"}]
    root: Any = records if content == "list" else {"data": records}
    path = write(tmp_path / "a.json", *(records if content == "lines" else [root]))
    assert [row["id"] for row in read_questions(path).rows] == ["q1", "q2"]
    assert [query.id for query in read_queries(path)] == ["q1", "q2"]
    assert len(read_rows(path, columns=["question"]).rows) == 2
    assert is_squad_format(path) == ("context" in record)
    if "context" in record:
        assert [row["id"] for row in read_squad(path, version_2_with_negative=False).rows] == ["q1", "q2"]


def test_an_index_column_without_a_name_is_ignored(tmp_path: Path) -> None:
    """As pandas writes it, in CSV as in JSON lines."""
    for header in ("", "Unnamed: 0"):
        path = tmp_path / "a.csv"
        path.write_text(f"{header},id,question,context,answer_text,answer_start\n0,q1,What?,oil rose,oil,0\n")
        (row,) = read_squad(path, version_2_with_negative=False).rows
        assert row == {**FLAT, "title": "", "answers": {"text": ["oil"], "answer_start": [0]}}


@pytest.mark.parametrize("name", ["id", "_id", "qid", "question_id"])
@pytest.mark.parametrize("record", [FID, FLAT])
def test_names_of_ids(name: str, record: dict[str, Any], tmp_path: Path) -> None:
    """Each is read as the id, so that predictions can be joined."""
    path = write(tmp_path / "a.jsonl", {name: "x7", **{key: value for key, value in record.items() if key != "id"}})
    assert [row["id"] for row in read_questions(path).rows] == ["x7"]
    assert [query.id for query in read_queries(path)] == ["x7"]
    if record is FLAT:
        assert read_squad(path, version_2_with_negative=False).rows[0]["id"] == "x7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("answer", "target", "ground_truth", "gold_answer") for value in ("text", "list")),
        *((name, "list") for name in ("answers", "golden_answers", "aliases")),
    ],
)
def test_names_of_answers(name: str, value: str, tmp_path: Path) -> None:
    """One text, or a list; a plural holds a list."""
    given = "oil" if value == "text" else ["oil", "the oil"]
    for record in (FID, FLAT):
        changed = {**{key: old for key, old in record.items() if key != "answers"}, name: given}
        path = write(tmp_path / "a.jsonl", changed)
        (row,) = read_questions(path).rows
        assert row["answers"] == ([given] if value == "text" else given)
        if record is FLAT:  # texts without offsets: the only place in the context
            changed["context"] = "the oil rose" if value == "list" else "oil rose"
            given_texts = ["the oil"] if value == "list" else "oil"
            write(path, {**changed, name: given_texts})
            (flat,) = read_squad(path, version_2_with_negative=False).rows
            assert flat["answers"] == {"text": ["the oil" if value == "list" else "oil"], "answer_start": [0]}


def test_what_fid_and_dpr_write(tmp_path: Path) -> None:
    """Scores as text, question_id, turns beside ctxs, chat_history of "" and passages under contents."""
    ctxs = [{"id": 1, "title": "T", "contents": "oil rose", "score": "81.25"}, {"text": "b", "score": 3, "title": None}]
    history = {"question_id": "tc_33", "chat_history": ["Hi?", "Hello."], "ctxs": ctxs}
    bare = {key: value for key, value in FID.items() if key != "id"}
    path = write(tmp_path / "a.jsonl", {**bare, **history}, {**bare, "question_id": "tc_34", "chat_history": ""})
    first, second = read_fusion(path).rows
    assert first["id"] == "tc_33"
    assert [(passage["text"], passage["score"]) for passage in first["passages"]] == [("oil rose", 81.25), ("b", 3)]
    assert question_of(first).chat_history == (Turn("user", "Hi?"), Turn("assistant", "Hello."))
    assert second["chat_history"] == []
    assert [query.chat_history for query in read_queries(path)] == [question_of(first).chat_history, ()]


@pytest.mark.parametrize("name", ["id", "_id", "docid", "doc_id", "pid", "passage_id", "psg_id"])
@pytest.mark.parametrize("field", ["ctxs", "positive_ctxs"])
def test_names_of_passage_ids(name: str, field: str, tmp_path: Path) -> None:
    """Each is read, so that passages are compared by id; null is none."""
    passages = [{name: 7, "text": "oil rose"}, {name: None, "text": "oil fell"}]
    path = write(tmp_path / "a.jsonl", {"question": "What?", "answers": ["oil"], field: passages})
    assert [passage["id"] for passage in read_fusion(path).rows[0]["passages"]] == ["7", ""]


def test_contents_of_a_corpus(tmp_path: Path) -> None:
    """Pyserini's name for the text of a document."""
    path = write(tmp_path / "c.jsonl", {"id": "d1", "contents": "oil rose"})
    assert [(document.id, document.text) for document in CorpusReader(path)] == [("d1", "oil rose")]


@pytest.mark.parametrize("record", [HOTPOT, HOTPOT_HUB])
def test_hotpotqa(record: dict[str, Any], tmp_path: Path) -> None:
    """Sentences make passages; those of the supporting facts are gold."""
    (row,) = read_fusion(write(tmp_path / "a.json", [record])).rows
    assert (row["id"], row["answers"]) == ("5a7f", ["Rush"])
    assert [(passage["title"], passage["text"], passage["gold"]) for passage in row["passages"]] == [
        ("Counterparts", "A song of Rush. It is long.", True),
        ("Toto", "A band.", False),
    ]


def test_musique(tmp_path: Path) -> None:
    """Paragraphs are passages, aliases are answers, and a question may be unanswerable."""
    path = write(tmp_path / "a.jsonl", MUSIQUE, {**MUSIQUE, "id": "x", "answerable": False})
    first, second = read_fusion(path).rows
    assert first["answers"] == ["Stanley", "Stanley, ND"]
    assert [(passage["id"], passage["title"], passage["gold"]) for passage in first["passages"]] == [
        ("0", "Courthouse", True),
        ("1", "Toto", False),
    ]
    assert second["answers"] == [""]


def test_musique_is_not_trained_on_closed_book(tmp_path: Path) -> None:
    """QADataset reads the passages, the aliases and the id of what load_dataset loads."""
    path = write(tmp_path / "a.jsonl", MUSIQUE)
    hf_args = {"path": "json", "data_files": str(path), "split": "train", "cache_dir": str(tmp_path / "hf")}
    row = DATASETS.find("QADataset")(hf_args).examples[0]
    assert (row["id"], row["answers"]) == ("2hop__1_2", ["Stanley", "Stanley, ND"])
    assert [passage["gold"] for passage in row["passages"]] == [True, False]


def test_quac(tmp_path: Path) -> None:
    """Turns are chat_history; by the majority of the annotators a question has an answer or none."""
    first, second, third = read_fusion(write(tmp_path / "quac.json", QUAC)).rows
    assert [row["id"] for row in (first, second, third)] == ["C_1_q#0", "C_1_q#1", "C_1_q#2"]
    assert (first["answers"], second["answers"]) == (["Herc used the record.", "the record"], [""])
    assert question_of(third).chat_history == (
        *(Turn("user", "What was it?"), Turn("assistant", "Herc used the record.")),
        *(Turn("user", "When?"), Turn("assistant", "CANNOTANSWER")),
    )
    assert [passage["text"] for passage in third["passages"]] == [QUAC_CONTEXT]


def test_coqa(tmp_path: Path) -> None:
    """Every annotator's answer counts, turns are chat_history, "unknown" is no answer."""
    first, second = read_fusion(write(tmp_path / "coqa.json", COQA)).rows
    assert (first["id"], first["answers"]) == ("s1_1", ["Anna did", "Anna"])
    assert (second["id"], second["answers"]) == ("s1_2", [""])
    assert question_of(second).chat_history == (Turn("user", "Who?"), Turn("assistant", "Anna did"))
    assert [passage["text"] for passage in second["passages"]] == ["Anna sold a red car."]


def test_squad_v2_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unanswerable question scores by whether the reader says nothing."""
    data = tiny.squad_file(tmp_path / "v2.json", 4, unanswerable=4)
    model = tiny.model_folder(tmp_path / "model")
    settings: dict[str, Any] = {"max_seq_length": 64, "doc_stride": 16, "null_score_diff_threshold": -1e9}
    settings["version_2_with_negative"] = True
    (model / "reader.json").write_text(json.dumps(settings))
    command = ["evaluate", "--checkpoint", str(model), "--data", str(data), "--output-dir", str(tmp_path / "out")]
    assert main(command) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["exact_match"], scores["f1"], scores["n_questions"], scores["n_unanswerable"]) == (100, 100, 4, 4)
    (model / "reader.json").write_text(json.dumps({**settings, "version_2_with_negative": False}))
    assert main([*command[:-1], str(tmp_path / "other")]) == 0
    assert json.loads(capsys.readouterr().out)["f1"] == 0.0


def test_quac_is_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its word for "no answer" is right where there is none, and wrong elsewhere."""
    data = write(tmp_path / "quac.json", QUAC)
    predictions = {"C_1_q#0": "CANNOTANSWER", "C_1_q#1": "CANNOTANSWER", "C_1_q#2": "The dancers liked it best."}
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    assert main(["score", str(tmp_path / "p.json"), "--data", str(data)]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["exact_match"], scores["f1"]) == (pytest.approx(200 / 3), pytest.approx(200 / 3))


def test_retrieval_keeps_what_the_questions_bring(tmp_path: Path) -> None:
    """The file that `rqa retrieve` writes reads back with ids, turns and answers, and without those of a blank one."""
    corpus = write(tmp_path / "c.jsonl", {"id": "d1", "contents": "oil rose"}, {"id": "d2", "contents": "a band"})
    fid = {**FID, "id": "tc_33", "chat_history": ["Hi?", "Hello."], "ctxs": "never read"}
    unanswerable, blank = {**MUSIQUE, "id": "x", "answerable": False}, {**FID, "id": "b", "question": " "}
    queries = write(tmp_path / "q.jsonl", fid, HOTPOT, unanswerable, blank)
    index, out = str(tmp_path / "index"), str(tmp_path / "out")
    assert main(["index", "--corpus", str(corpus), "--retriever", "bm25", "--output", index]) == 0
    command = ["retrieve", "--index", index, "--queries", str(queries), "--output", out, "--top-k", "2"]
    assert main([*command, "--on-bad-record", "skip"]) == 0
    first, second, third = read_fusion(tmp_path / "out/ctxs.jsonl", require_passages=False).rows
    assert (first["id"], first["answers"]) == ("tc_33", ["oil"])
    assert question_of(first).chat_history == (Turn("user", "Hi?"), Turn("assistant", "Hello."))
    assert (second["id"], second["answers"], third["answers"]) == ("5a7f", ["Rush"], [""])


@pytest.mark.parametrize("record", [FID, FLAT, HOTPOT, HOTPOT_HUB, MUSIQUE, QUAC["data"][0], COQA["data"][0]])
def test_whatever_a_field_holds_is_read_or_refused(record: dict[str, Any], tmp_path: Path) -> None:
    """Any type in any place: rows, or errors with the file's name in each line; never another exception."""
    path = tmp_path / "a.json"
    n_read = n_refused = 0
    for changed in changed_everywhere(record):
        path.write_text(json.dumps([changed]))
        for read in (read_fusion, read_queries, read_v2, read_v1):
            try:
                read(path)
                n_read += 1
            except DataError as error:
                n_refused += 1
                wrong = [line for line in error.errors if not line.startswith(f"{path}: ")]
                if wrong:
                    pytest.fail(f"{changed}: {wrong}")
    assert n_read > 0
    assert n_refused > 0


def read_v1(path: Path) -> Any:
    return read_squad(path, version_2_with_negative=False)


def read_v2(path: Path) -> Any:
    return read_squad(path, version_2_with_negative=True, require_answers=False, require_offsets=False)
