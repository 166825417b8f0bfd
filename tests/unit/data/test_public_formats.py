"""Files as the public has them: every format is read whole, and what cannot be read says how it can."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_fusion
from tiny_records import changed_everywhere

from model_hub_rqa.cli import main
from model_hub_rqa.data.corpus import CorpusReader, read_queries
from model_hub_rqa.data.file_loaders import read_rows, read_squad
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.loading import default_load_dataset
from model_hub_rqa.data.predictions import is_squad_form, question_of, read_questions
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.records import Turn
from model_hub_rqa.registry import DATASETS
from model_hub_rqa.runtime import experiments

CTXS = [{"id": "7", "title": "T", "text": "oil rose"}]
FID: dict[str, Any] = {"id": "q1", "question": "What?", "answers": ["oil"], "ctxs": CTXS}
FLAT: dict[str, Any] = {"id": "q1", "question": "What?", "context": "oil rose", "answers": ["oil"]}
HOTPOT: dict[str, Any] = {
    "_id": "5a7f",
    "question": "Which band?",
    "answer": "Rush",
    "supporting_facts": [["Counterparts", 0]],
    "context": [["Counterparts", ["A song of Rush.", " It is long."]], ["Toto", ["A band."]]],
}
HOTPOT_HUB: dict[str, Any] = {
    **HOTPOT,
    "supporting_facts": {"title": ["Counterparts"], "sent_id": [0]},
    "context": {"title": ["Counterparts", "Toto"], "sentences": [["A song of Rush.", " It is long."], ["A band."]]},
}
MUSIQUE: dict[str, Any] = {
    "id": "2hop__1_2",
    "question": "What is the seat?",
    "answer": "Stanley",
    "answer_aliases": ["Stanley, ND"],
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Courthouse", "paragraph_text": "It is in Stanley.", "is_supporting": True},
        {"idx": 1, "title": "Toto", "paragraph_text": "A band.", "is_supporting": False},
    ],
}
QUAC_CONTEXT = "Herc used the record. The dancers liked it best."


def quac_question(number: int, question: str, *answers: str) -> dict[str, Any]:
    found = [{"text": text, "answer_start": 0} for text in answers]
    own = {"followup": "y", "yesno": "x", "orig_answer": found[0], "answers": found}
    return {"id": f"C_1_q#{number}", "question": question, **own}


QUAC = {
    "data": [
        {
            "title": "The break",
            "paragraphs": [
                {
                    "id": "C_1",
                    "context": f"{QUAC_CONTEXT} CANNOTANSWER",
                    "qas": [
                        quac_question(0, "What was it?", "Herc used the record.", "CANNOTANSWER", "the record"),
                        quac_question(1, "When?", "CANNOTANSWER", "CANNOTANSWER", "best"),
                        quac_question(2, "Did people like it?", "The dancers liked it best."),
                    ],
                }
            ],
        }
    ]
}
COQA = {
    "version": "1.0",
    "data": [
        {
            "id": "s1",
            "story": "Anna sold a red car.",
            "questions": [{"input_text": "Who?", "turn_id": 1}, {"input_text": "When?", "turn_id": 2}],
            "answers": [
                {"span_start": 0, "span_end": 4, "span_text": "Anna", "input_text": "Anna did", "turn_id": 1},
                {"span_start": -1, "span_end": -1, "span_text": "unknown", "input_text": "unknown", "turn_id": 2},
            ],
            "additional_answers": {
                "0": [
                    {"span_start": 0, "span_end": 4, "input_text": "Anna", "turn_id": 1},
                    {"span_start": -1, "span_end": -1, "input_text": "unknown", "turn_id": 2},
                ]
            },
        }
    ],
}


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# ---- forms of files ----


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
    assert is_squad_form(path) == ("context" in record)
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


@pytest.mark.parametrize("value", ["text", "list"])
@pytest.mark.parametrize(
    "name", ["answer", "answers", "golden_answers", "target", "ground_truth", "aliases", "gold_answer"]
)
def test_names_of_answers(name: str, value: str, tmp_path: Path) -> None:
    """One text, or a list; a plural holds a list."""
    if value == "text" and name in ("answers", "golden_answers", "aliases"):
        return
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


def test_contents_of_a_corpus(tmp_path: Path) -> None:
    """Pyserini's name for the text of a document."""
    path = write(tmp_path / "c.jsonl", {"id": "d1", "contents": "oil rose"})
    assert [(document.id, document.text) for document in CorpusReader(path)] == [("d1", "oil rose")]


# ---- formats of several passages and of turns ----


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


# ---- several files ----


def test_lists_and_patterns_of_files(tmp_path: Path) -> None:
    """In the order of their names; a slice of a pattern counts over all of its files."""
    for shard in range(3):
        records = [{**FLAT, "id": f"{shard}-{number}"} for number in range(2)]
        write(tmp_path / f"part-{shard}.jsonl", *records)

    def ids(files: Any) -> list[str]:
        data = {"train_file": files, "validation_file": str(tmp_path / "part-0.jsonl"), "cache_dir": str(tmp_path)}
        found: list[str] = default_load_dataset(data)["train"]["id"][:]
        return found

    pattern = str(tmp_path / "part-*.jsonl")
    every = ["0-0", "0-1", "1-0", "1-1", "2-0", "2-1"]
    assert ids(pattern) == every
    assert ids(f"{pattern}[1:4]") == every[1:4]
    assert ids([str(tmp_path / "part-2.jsonl"), f"{tmp_path}/part-0.jsonl[:1]"]) == ["2-0", "2-1", "0-0"]
    assert ids([f"{tmp_path}/part-1.jsonl[:1]", f"{tmp_path}/part-1.jsonl[1:]"]) == ["1-0", "1-1"]
    with pytest.raises(DataError, match=r"no-\*\.jsonl: no file matches"):
        ids(str(tmp_path / "no-*.jsonl"))
    with pytest.raises(ConfigError, match=r"data\.train_file\[1\]: must be the name of a file, got 3"):
        ids([pattern, 3])


def test_ids_over_several_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An id that two files have is an error, or left out; records without ids are numbered through."""
    one, two = write(tmp_path / "1.jsonl", FLAT), write(tmp_path / "2.jsonl", FLAT, {**FLAT, "id": "q2"})
    data = {"train_file": [str(one), str(two)], "validation_file": str(one), "cache_dir": str(tmp_path)}
    with pytest.raises(DataError, match=r"2\.jsonl: record 'q1': duplicate id, first in .*1\.jsonl"):
        default_load_dataset(data)
    assert default_load_dataset({**data, "on_bad_record": "skip"})["train"]["id"][:] == ["q1", "q2"]
    assert "1 records left out whose id an earlier file has" in caplog.text
    bare = {key: value for key, value in FID.items() if key != "id"}
    write(one, bare), write(two, bare, bare)
    loaded = default_load_dataset(data, reader=lambda path, policy: read_fusion(path, on_bad_record=policy))
    assert loaded["train"]["id"][:] == ["1", "2", "3"]


# ---- what is refused says how it is read ----


@pytest.mark.parametrize("name", ["query_id", "uid", "example_id", "questionId", "ID", "guid", "idx"])
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


# ---- one behaviour of on_bad_record ----


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


@pytest.mark.parametrize("kind", ["squad", "fusion", "queries", "corpus", "rows"])
@pytest.mark.parametrize("bad", ["broken", "duplicate", "blank", "encoding", "twice", "no object"])
def test_a_bad_record_is_skipped_and_counted_everywhere(kind: str, bad: str, tmp_path: Path) -> None:
    """A broken line, an id a second time, a blank question, a byte that is not UTF-8, a key twice, another type."""
    record = {"id": "a", "text": "oil"} if kind == "corpus" else {**(FLAT if kind == "squad" else FID), "id": "a"}
    if kind == "squad":
        record["answers"] = {"text": ["oil"], "answer_start": [0]}
    blank = "text" if kind == "corpus" else "question"
    if kind == "rows" and bad in ("duplicate", "blank"):
        return  # rows of one's own have neither ids nor texts that the loader knows
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
