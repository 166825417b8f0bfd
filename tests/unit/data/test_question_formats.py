"""Questions in the public's formats: a small file in each layout gives the rows that were written by hand."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_fusion
from tiny_records import changed_everywhere

from model_hub_rqa.cli import main
from model_hub_rqa.data.corpus import Query, read_queries
from model_hub_rqa.data.formats.fid import read_fusion
from model_hub_rqa.data.formats.questions import QuestionFormat, all_formats, format_of, passages_of
from model_hub_rqa.errors import ConfigError, DataError
from model_hub_rqa.registry import FORMATS
from model_hub_rqa.runtime import experiments

CONTEXT = [["Ed Wood", ["Ed Wood is a film.", " It is long."]], ["Doc", ["Doc is a film."]]]
KILT = {
    "id": "6915606477668963399",
    "input": "who lives in the blue house?",
    "output": [
        {"answer": "Anna", "meta": {"score": 1}, "provenance": [{"wikipedia_id": "30", "title": "House"}]},
        {"answer": "Anna B.", "provenance": [{"wikipedia_id": "31", "title": "Anna", "text": "Anna lives there."}]},
        {"answer": "", "provenance": [{"wikipedia_id": "32", "title": "Blue", "start_paragraph_id": 1}]},
    ],
    "meta": {"left_context": "", "mention": ""},
}
FLASHRAG = {
    "id": "dev_0",
    "question": "Which film?",
    "golden_answers": ["Ed Wood"],
    "metadata": {
        "type": "comparison",
        "supporting_facts": {"title": ["Ed Wood", "Ed Wood"], "sent_id": [0, 1]},
        "context": {"title": ["Ed Wood", "Doc"], "sentences": [CONTEXT[0][1], CONTEXT[1][1]]},
    },
}
FLASHRAG_2WIKI = {
    **FLASHRAG,
    "metadata": {
        "supporting_facts": {"title": ["Doc"], "sent_id": [0]},
        "context": {"title": ["Ed Wood", "Doc"], "content": [["Ed Wood is a film.", "It is long."], CONTEXT[1][1]]},
    },
}
FLASHRAG_RETRIEVED = {
    **{name: FLASHRAG[name] for name in ("id", "question", "golden_answers")},
    "output": {"retrieval_result": [{"id": "7", "contents": '"Ed Wood"\nEd Wood is a film.'}], "pred": "x"},
}
HOTPOT = {
    "_id": "5a8b57f25542995d1e6f1371",
    "question": "Which film?",
    "answer": "Ed Wood",
    "supporting_facts": [["Ed Wood", 0]],
    "context": CONTEXT,
    "type": "comparison",
    "level": "hard",
}
TWO_WIKI = {
    **HOTPOT,
    "_id": "13f5ad2c088c11ebbd6fac1f6bf848b6",
    "context": [["Ed Wood", ["Ed Wood is a film.", "It is long."]], ["Doc", ["Doc is a film."]]],
    "evidences": [["Ed Wood", "director", "Tim Burton"]],
}
TWO_WIKI_HUB = {
    **TWO_WIKI,
    **{name: json.dumps(TWO_WIKI[name]) for name in ("context", "supporting_facts", "evidences")},
}
MUSIQUE = {
    "id": "2hop__482757_12019",
    "paragraphs": [
        {"idx": 0, "title": "Pentecost", "paragraph_text": "A church.", "is_supporting": False},
        {"idx": 1, "title": "Maria", "paragraph_text": "Maria was there.", "is_supporting": True},
    ],
    "question": "Who was there?",
    "question_decomposition": [{"id": 482757, "question": "q", "answer": "a", "paragraph_support_idx": 1}],
    "answer": "Maria",
    "answer_aliases": ["Mary"],
    "answerable": True,
}
TRIVIA_ANSWER = {"Aliases": ["Sunset Blvd", "Sunset Bulevard"], "NormalizedValue": "sunset boulevard", "Type": "x"}
TRIVIA = {
    "Answer": {**TRIVIA_ANSWER, "Value": "Sunset Boulevard", "NormalizedAliases": ["sunset blvd"]},
    "EntityPages": [{"DocSource": "TagMe", "Filename": "Andrew_Lloyd_Webber.txt", "Title": "Andrew Lloyd Webber"}],
    "Question": "Which musical?",
    "QuestionId": "tc_33",
    "QuestionSource": "http://www.triviacountry.com/",
    "SearchResults": [{"Description": "Sunset", "Filename": "35/995.txt", "Rank": 0, "Title": "T", "Url": "u"}],
}
TRIVIA_HUB = {
    "question": "Which musical?",
    "question_id": "tc_33",
    "question_source": "http://www.triviacountry.com/",
    "entity_pages": {
        "doc_source": ["TagMe", "TagMe"],
        "filename": ["a.txt", "b.txt"],
        "title": ["Andrew", "Sunset"],
        "wiki_context": ["Andrew wrote it.", ""],
    },
    "search_results": {
        "description": ["d"],
        "filename": ["f"],
        "rank": [0],
        "title": ["Shows"],
        "url": ["u"],
        "search_context": ["It is a musical."],
    },
    "answer": {"aliases": ["Sunset Blvd"], "value": "Sunset Boulevard", "type": "WikipediaEntity"},
}
PUBMED = {
    "QUESTION": "Do mitochondria play a role?",
    "CONTEXTS": ["Cell death is regulated.", "We studied leaves."],
    "LABELS": ["BACKGROUND", "RESULTS"],
    "MESHES": ["Mitochondria"],
    "YEAR": "2011",
    "reasoning_required_pred": "yes",
    "final_decision": "yes",
    "LONG_ANSWER": "They do.",
}
PUBMED_HUB = {
    "pubid": 21645374,
    "question": PUBMED["QUESTION"],
    "context": {"contexts": PUBMED["CONTEXTS"], "labels": PUBMED["LABELS"], "meshes": ["Mitochondria"]},
    "long_answer": "They do.",
    "final_decision": "yes",
}
DPR_CTX = {"title": "Big Stone Gap", "text": "A town.", "score": 1000, "title_score": 1, "passage_id": "18768923"}
DPR = {
    "dataset": "nq_dev_psgs_w100",
    "question": "big little lies season 2",
    "answers": ["seven"],
    "positive_ctxs": [DPR_CTX],
    "negative_ctxs": [{"title": "N", "text": "Far.", "score": 0, "title_score": 0, "psg_id": "1"}],
    "hard_negative_ctxs": [{"title": "H", "text": "Near.", "score": 14.7, "title_score": 0, "passage_id": "2"}],
}
NQ_OPEN = {"question": "where did they film?", "answer": ["Canada", "Ontario"]}

# title, text, id, score, whether gold
FILM = ("Ed Wood", "Ed Wood is a film. It is long.", "", None)
DOC = ("Doc", "Doc is a film.", "", None)
ABSTRACT = [
    ("BACKGROUND", "Cell death is regulated.", "", None, True),
    ("RESULTS", "We studied leaves.", "", None, True),
]
Case = tuple[str, str, Any, str, str, list[str], list[Any], list[Any]]
CASES: list[Case] = [
    (
        "kilt",
        "a.jsonl",
        [KILT],
        KILT["id"],
        KILT["input"],
        ["Anna", "Anna B."],
        [("Anna", "Anna lives there.", "31", None, True)],
        [],
    ),
    ("flashrag", "a.jsonl", [FLASHRAG], "dev_0", "Which film?", ["Ed Wood"], [(*FILM, True), (*DOC, False)], []),
    ("flashrag", "a.jsonl", [FLASHRAG_2WIKI], "dev_0", "Which film?", ["Ed Wood"], [(*FILM, False), (*DOC, True)], []),
    (
        "flashrag",
        "a.json",
        [FLASHRAG_RETRIEVED],
        "dev_0",
        "Which film?",
        ["Ed Wood"],
        [("Ed Wood", "Ed Wood is a film.", "7", None, False)],
        [],
    ),
    ("hotpotqa", "a.json", [HOTPOT], HOTPOT["_id"], "Which film?", ["Ed Wood"], [(*FILM, True), (*DOC, False)], []),
    (
        "2wikimultihopqa",
        "a.json",
        [TWO_WIKI],
        TWO_WIKI["_id"],
        "Which film?",
        ["Ed Wood"],
        [(*FILM, True), (*DOC, False)],
        [],
    ),
    (
        "2wikimultihopqa",
        "a.parquet",
        [TWO_WIKI_HUB],
        TWO_WIKI["_id"],
        "Which film?",
        ["Ed Wood"],
        [(*FILM, True), (*DOC, False)],
        [],
    ),
    (
        "musique",
        "a.jsonl",
        [MUSIQUE],
        MUSIQUE["id"],
        "Who was there?",
        ["Maria", "Mary"],
        [("Pentecost", "A church.", "0", None, False), ("Maria", "Maria was there.", "1", None, True)],
        [],
    ),
    (
        "triviaqa",
        "a.json",
        {"Data": [TRIVIA], "Domain": "Web", "Version": 1.0},
        "tc_33",
        "Which musical?",
        ["Sunset Boulevard", "Sunset Blvd", "Sunset Bulevard"],
        [],
        [],
    ),
    (
        "triviaqa",
        "a.parquet",
        [TRIVIA_HUB],
        "tc_33",
        "Which musical?",
        ["Sunset Boulevard", "Sunset Blvd"],
        [("Andrew", "Andrew wrote it.", "", None, False), ("Shows", "It is a musical.", "", None, False)],
        [],
    ),
    ("pubmedqa", "a.json", {"21645374": PUBMED}, "21645374", PUBMED["QUESTION"], ["yes"], ABSTRACT, []),
    ("pubmedqa", "a.parquet", [PUBMED_HUB], "21645374", PUBMED["QUESTION"], ["yes"], ABSTRACT, []),
    (
        "dpr",
        "a.json",
        [DPR],
        "1",
        DPR["question"],
        ["seven"],
        [("Big Stone Gap", "A town.", "18768923", 1000, True)],
        [("H", "Near.", "2", 14.7, False), ("N", "Far.", "1", 0, False)],
    ),
    ("nq-open", "a.jsonl", [NQ_OPEN], "1", "where did they film?", ["Canada", "Ontario"], [], []),
    (
        "dpr-qa",
        "nq-test.qa.csv",
        "what is \"it\"\t['Conrad', \"it's\"]\nwho\t['x']\n",
        "1",
        'what is "it"',
        ["Conrad", "it's"],
        [],
        [],
    ),
]


def write(path: Path, content: Any) -> Path:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in content), encoding="utf-8")
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return path


def plain(passages: list[dict[str, Any]]) -> list[Any]:
    return [tuple(passage[name] for name in ("title", "text", "id", "score", "gold")) for passage in passages]


@pytest.mark.parametrize(
    ("name", "file", "content", "id_", "question", "answers", "passages", "negatives"),
    CASES,
    ids=[f"{case[0]}-{case[1]}-{number}" for number, case in enumerate(CASES)],
)
def test_a_format(
    name: str,
    file: str,
    content: Any,
    id_: str,
    question: str,
    answers: list[str],
    passages: list[Any],
    negatives: list[Any],
    tmp_path: Path,
) -> None:
    """The first question of a file in the published layout, recognised and named; the same to retrieve for."""
    path = write(tmp_path / file, content)
    for form in (None, FORMATS.find(name)()):
        row = read_fusion(path, require_passages=bool(passages), form=form).rows[0]
        assert (row["id"], row["question"], row["answers"]) == (id_, question, answers)
        assert plain(row["passages"]) == passages
        assert plain(row["negatives"]) == negatives
        assert read_queries(path, form=form)[0] == Query(id_, question, tuple(answers))


def test_every_format_has_a_case_and_fits_its_own_alone() -> None:
    """A record is in one format: none of the others takes it for its own."""
    objects = [(name, content[0]) for name, _, content, *_ in CASES if isinstance(content, list)]
    objects += [("triviaqa", TRIVIA), ("pubmedqa", {"id": "2", **PUBMED})]
    for name, record in objects:
        fits = [type(form) for form in all_formats() if form.matches(record)]
        if record is TWO_WIKI_HUB:  # its context is a text, as SQuAD's
            assert fits.pop() is FORMATS.find("squad")
        assert fits == ([] if name == "nq-open" else [FORMATS.find(name)])
    elsewhere = {
        "fid",
        "localrqa",
        "squad",
        "beir",
        "queries-tsv",
        "sentence-transformers",
    }  # tested beside their users
    assert {name for name, *_ in CASES} | elsewhere == set(FORMATS.names())


def test_a_table_of_queries(tmp_path: Path) -> None:
    """MS MARCO's: ids and texts, quotes included; with a header it is an ordinary table."""
    path = write(tmp_path / "queries.tsv", '1048585\t"what" is it\n2\twho?\n')
    expected = [Query("1048585", '"what" is it'), Query("2", "who?")]
    assert read_queries(path) == expected
    assert read_queries(write(tmp_path / "h.tsv", "id\tquestion\n2\twho?\n")) == expected[1:]
    with pytest.raises(DataError, match=r"line 2: must have 2 fields \(id, question\), got 3"):
        read_queries(write(tmp_path / "q.tsv", "1\twho?\n2\twho?\tx\n"))
    with pytest.raises(DataError, match="answers must be given"):
        read_fusion(path, require_passages=False)


def test_quotes_of_dpr_tables(tmp_path: Path) -> None:
    """As csv writes what has quotes: DPR reads its tables with csv."""
    path = tmp_path / "trivia.qa.csv"
    rows = [["who?", str(["a"])], ['the "Bo" of it', str(['Bo "Bo" X', "it's"])]]
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    first, second = read_queries(path)
    assert (first.answers, second.question, second.answers) == (("a",), 'the "Bo" of it', ('Bo "Bo" X', "it's"))
    with pytest.raises(DataError, match="line 2: answers must be a list of Python, got 'x'"):
        read_queries(write(tmp_path / "b.qa.csv", "who?\t['a']\nwho?\tx\n"))


BAD: list[tuple[Any, str]] = [
    ({**KILT, "output": "Anna"}, "output must be a list of objects with answer, got 'Anna'"),
    ({**KILT, "input": " "}, "input must not be blank, got ' '"),
    ({**FLASHRAG, "metadata": {"context": {"title": ["a"], "sentences": []}}}, "as many titles as sentences, got 1"),
    ({**HOTPOT, "context": [["Ed Wood"]]}, "context 1: must be a title and a list of sentences"),
    ({**TWO_WIKI, "context": "x"}, "context must be text, or titles with their sentences, got 'x'"),
    ({**MUSIQUE, "paragraphs": [{"idx": 1}]}, "paragraphs 1: paragraph_text is missing"),
    ({**TRIVIA_HUB, "answer": {"aliases": "x"}}, "answers must be a list, got 'x'"),
    ({**TRIVIA_HUB, "entity_pages": {"title": [], "wiki_context": ["x"]}}, "entity_pages must have as many of title"),
    ({**PUBMED, "LABELS": ["x"]}, "contexts must be as many as labels, got 2 and 1"),
    ({**PUBMED, "CONTEXTS": ["x", 5]}, "contexts 2: text must be text, got 5"),
    ({**DPR, "positive_ctxs": []}, r"positive_ctxs must hold at least one passage, got \[\]"),
    ({**DPR, "hard_negative_ctxs": [{"title": "x"}]}, "hard_negative_ctxs 1: text is missing"),
]


@pytest.mark.parametrize(("record", "error"), BAD, ids=[error for _, error in BAD])
def test_bad_records(record: dict[str, Any], error: str, tmp_path: Path) -> None:
    """The record, its field and what it holds."""
    with pytest.raises(DataError, match=f"line 1\\)?: .*{error}"):
        read_fusion(write(tmp_path / "a.jsonl", [record]))


RECORDS = [content[0] for _, _, content, *_ in CASES if isinstance(content, list)] + [TRIVIA, {"id": "1", **PUBMED}]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: "-".join(list(record)[:3]))
def test_whatever_a_field_holds_is_read_or_refused(record: dict[str, Any], tmp_path: Path) -> None:
    """Any type in any place: rows, or errors with the file's name in each line; never another exception."""
    form, n_read = format_of(record), 0
    errors: list[str] = []
    for changed in changed_everywhere(record):
        path = write(tmp_path / "a.json", [changed])
        for read in (lambda path: read_fusion(path, form=form), read_queries):
            try:
                read(path)
                n_read += 1
            except DataError as error:
                errors += error.errors
    assert n_read > 0
    assert errors
    assert [line for line in errors if not line.startswith(f"{tmp_path}/a.json: ")] == []


def test_a_later_record_is_read_as_the_first(tmp_path: Path) -> None:
    """A record that misses the field of its format is an error of that format."""
    without = {name: value for name, value in DPR.items() if name != "positive_ctxs"}
    with pytest.raises(DataError, match="line 2: positive_ctxs is missing"):
        read_fusion(write(tmp_path / "a.jsonl", [DPR, without]))


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


# ---- commands and training ----


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
    documented = (Path(__file__).parents[3] / "docs/data.rst").read_text(encoding="utf-8")
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
        ({"format": "klit"}, "data.format: must be a registered format .*, got 'klit'"),
        ({"fields": {"answers": "a"}}, "data.fields: question: is required"),
        ({"fields": {"question": "q"}, "format": "kilt"}, "data.fields: is ignored beside format"),
    ],
)
def test_wrong_settings_of_formats(settings: dict[str, Any], error: str, tmp_path: Path) -> None:
    """They end a training before a model is loaded."""
    config = json.loads(tiny_fusion.experiment(tmp_path / "fid").read_text())
    config["data"] |= settings
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=error):
        experiments.validate(experiments.load_experiment(str(tmp_path / "config.yaml")))


# ---- fields ----

OWN = {
    "qid": 7,
    "q": "Who?",
    "answer": {"value": "Ann", "aliases": ["Ann", "Anna"]},
    "paragraphs": [
        {"title": "A", "paragraph_text": "Ann did.", "sources": [{"id": "x", "good": True}]},
        {"title": "B", "paragraph_text": "No.", "sources": [{"id": "y", "good": False}]},
    ],
    "sections": [{"docs": [{"text": "one", "title": "T", "id": 1}]}, {"docs": [{"text": "two"}, {"text": "three"}]}],
}
FIELDS = {"question": "q", "answers": "answer.aliases", "passages": "paragraphs[*].paragraph_text", "id": "qid"}


def fields(**paths: str) -> QuestionFormat:
    from model_hub_rqa.data.formats.fields import Fields

    return Fields(paths)


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (FIELDS, [("", "Ann did.", "", None, False), ("", "No.", "", None, False)]),
        (
            FIELDS
            | {"titles": "paragraphs[*].title", "passage_ids": "paragraphs[*].sources[0].id"}
            | {"gold": "paragraphs[*].sources[*].good"},
            [("A", "Ann did.", "x", None, True), ("B", "No.", "y", None, False)],
        ),
        (FIELDS | {"passages": "paragraphs[1].paragraph_text"}, [("", "No.", "", None, False)]),
        (
            FIELDS | {"passages": "sections[*].docs[*]"},
            [("T", "one", "1", None, False), ("", "two", "", None, False), ("", "three", "", None, False)],
        ),
    ],
)
def test_fields(paths: dict[str, str], expected: list[Any], tmp_path: Path) -> None:
    """Names, items and all items of lists."""
    (row,) = read_fusion(write(tmp_path / "a.json", [OWN]), form=fields(**paths)).rows
    assert (row["id"], row["question"], row["answers"]) == ("7", "Who?", ["Ann", "Anna"])
    assert plain(row["passages"]) == expected


@pytest.mark.parametrize(
    ("paths", "error"),
    [
        ({"question": "query"}, "fields.question: query is not in the record: the record has no query, got qid, q, an"),
        ({"answers": "answer.alias"}, "fields.answers: answer.alias is not in .*: answer has no alias, got value, ali"),
        ({"answers": "q.text"}, "q must be an object, got 'Who"),
        ({"passages": "paragraphs[*].text"}, r"paragraphs\[0\] has no text, got title, paragraph_text, sources"),
        ({"passages": "paragraphs[2].title"}, r"paragraphs has no item 2, got 2 items"),
        ({"passages": "answer[*]"}, "answer must be a list, got "),
        ({"id": "answer.id"}, "fields.id: answer.id is not in the record"),
        ({"gold": "paragraphs[*].title"}, "passages 1: gold must be true or false, got 'A'"),
        ({"titles": "paragraphs[0].title"}, "fields.passages must have as many of each"),
    ],
)
def test_fields_that_do_not_occur(paths: dict[str, str], error: str, tmp_path: Path) -> None:
    """The record's location, and the names that are there."""
    path = write(tmp_path / "a.jsonl", [OWN])
    with pytest.raises(DataError, match=f"a.jsonl: (record 7 \\()?line 1\\)?: .*{error}"):
        read_fusion(path, form=fields(**(FIELDS | paths)))


@pytest.mark.parametrize(
    ("paths", "error"),
    [
        ({"answers": "a"}, "fields.question: is required"),
        ({"question": "q", "answer": "a"}, "fields.answer: is not a part of a question .*did you mean"),
        ({"question": "q[x]"}, r"fields.question: must be a path as in .*, got 'q\[x\]'"),
        ({"question": "q..a"}, "fields.question: must be a path as in"),
        ({"question": ""}, "fields.question: must be a path as in"),
        ({"question": "q", "gold": "g"}, "fields.gold: needs fields.passages"),
    ],
)
def test_wrong_fields(paths: dict[str, str], error: str) -> None:
    """A part that there is not, and what is no path."""
    with pytest.raises(ConfigError, match=error):
        fields(**paths)


def test_fields_of_a_table(tmp_path: Path) -> None:
    """Columns of CSV; one that is not there is an error of the header."""
    path = write(tmp_path / "a.csv", "key,query,gold\n1,who?,Ann\n")
    (row,) = read_fusion(path, require_passages=False, form=fields(question="query", answers="gold", id="key")).rows
    assert (row["id"], row["question"], row["answers"]) == ("1", "who?", ["Ann"])
    with pytest.raises(DataError, match='the header misses the column "q"'):
        read_fusion(path, form=fields(question="q"))


def test_commands_take_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By their option, whose errors name it."""
    data = write(tmp_path / "a.jsonl", [OWN])
    predictions = write(tmp_path / "p.json", {"7": "anna"})
    command = ["score", str(predictions), "--data", str(data), "--fields"]
    assert main([*command, "question=q", "id=qid", "answers=answer.aliases"]) == 0
    assert json.loads(capsys.readouterr().out)["exact_match"] == 100
    for options, error in (
        (["q"], "--fields: must be PART=PATH, got 'q'"),
        (["answers=a"], "--fields.question: is required"),
        (["question=q", "--format", "kilt"], "--fields: is ignored beside format"),
    ):
        assert main([*command, *options]) == 2
        assert error in capsys.readouterr().err
