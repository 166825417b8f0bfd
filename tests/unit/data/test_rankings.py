"""Run files: how they are read, ordered as trec_eval orders them, and scored by ``rqa score``."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import ir_measures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_hub_rqa.cli import main
from model_hub_rqa.data.rankings import is_run, ranked, read_run, trec_id, trec_lines
from model_hub_rqa.errors import DataError
from model_hub_rqa.metrics.ranking import ranking_metrics

TREC = "q1 Q0 a 1 3.5 tag\nq1\tQ0\tb\t2\t1e0\ttag\n\n  q2 Q0 a 7 -2 tag  \r\n"
RUN = {"q1": {"a": 3.5, "b": 1.0}, "q2": {"a": -2.0}}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.trec", TREC),
        ("run", "\ufeff" + TREC),
        ("run.json", json.dumps(RUN)),
        ("run.txt", "\n" + json.dumps(RUN, indent=1)),
        ("run.trec.gz", TREC),
        ("run.json.gz", json.dumps(RUN)),
    ],
)
def test_both_forms_are_read(name: str, content: str, tmp_path: Path) -> None:
    """TREC's, with blanks or tabs, and JSON; by their beginning, whatever their name."""
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    assert read_run(str(path)) == RUN
    assert is_run(str(path))


SIX = "must have query, Q0, document, rank, score and tag, got"
FINITE = "must be a finite number, got"
OBJECT = "must be one JSON object of scores by document id by query id, got"
HINT = "(predictions of answers are scored with --data)"


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        ("q1 Q0 a 1 3.5\n", [f"line 1: {SIX} 'q1 Q0 a 1 3.5'"]),
        ("q1 Q0 a 1 3.5 my tag\n", [f"line 1: {SIX} 'q1 Q0 a 1 3.5 my tag'"]),
        ("q1,a,1\n", [f"line 1: {SIX} 'q1,a,1'"]),
        (
            "q1 Q0 a 1 high t\nq1 Q0 b 1 nan t\nq1 Q0 c 1 inf t\n",
            [f"line 1: score {FINITE} 'high'", f"line 2: score {FINITE} 'nan'", f"line 3: score {FINITE} 'inf'"],
        ),
        ("q1 Q0 a 1 1 t\nq2 Q0 a 1 1 t\nq1 Q0 a 2 1 t\n", ["line 3: document 'a' is ranked twice for query 'q1'"]),
        ("q1 Q0 \udcff 1 1 t\n", ["line 1: must be UTF-8, got byte 0xff at byte 7"]),
        ("\n", ["ranks no document"]),
        ("{}", ["ranks no document"]),
        ('{"q1": {"a": 1}, "q1": {"b": 1}}', ["an object has the key 'q1' twice"]),
        ('{"q1": {"a": 1, "a": 2}}', ["an object has the key 'a' twice"]),
        (
            '{"q1": {"a": "1", "b": true}, "q2": {"c": null}}',
            [
                f"query 'q1': the score of 'a' {FINITE} '1'",
                f"query 'q1': the score of 'b' {FINITE} True",
                f"query 'q2': the score of 'c' {FINITE} None",
            ],
        ),
        (f'{{"q1": {{"a": 1{"0" * 400}}}}}', [f"query 'q1': the score of 'a' {FINITE} 1000"]),
        ('{"q1": "x"}', [f"query 'q1': must be an object of scores by document id, got 'x' {HINT}"]),
        ('[{"id": "q1"}]', [f"{OBJECT} [{{'id': 'q1'}}] {HINT}"]),
        ('{"id": "a"}\n{"id": "b"}\n', [f"{OBJECT} an object a line {HINT}"]),
    ],
)
def test_errors_of_a_run(content: str, errors: list[str], tmp_path: Path) -> None:
    """All of them, each with its line."""
    path = tmp_path / "run"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=f"^{path}: ") as raised:
        read_run(str(path))
    assert len(raised.value.errors) == len(errors)
    for line, error in zip(raised.value.errors, errors, strict=True):
        assert line.startswith(f"{path}: {error}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("q1 Q0 a 1 3.5 t\n", True),
        ("q1 q0 a", False),
        ('{"q1": {"a": 1}}', True),
        ('{"q1": {}, "q2": {"a": 1}}', True),
        ('{"q1": "an answer"}', False),
        ('{"answer": {"q1": "x"}, "sp": {}}', False),  # HotpotQA's predictions
        ('[{"q1": {"a": 1}}]', False),
        ("", False),
    ],
)
def test_what_looks_like_a_run(content: str, expected: bool, tmp_path: Path) -> None:
    """Predictions of answers do not."""
    (tmp_path / "file").write_text(content)
    assert is_run(str(tmp_path / "file")) is expected
    assert not is_run(str(tmp_path / "missing"))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"a": 1, "b": 2}, "ba"),
        ({"a": 1, "b": 1, "c": 1}, "cba"),  # of equal scores the last id first
        ({"B": 1, "a": 1, "é": 1}, "éaB"),
        ({"a": 1.00000001, "b": 1.0}, "ba"),  # equal in 32 bits
        ({"a": 1.0000002, "b": 1.0}, "ab"),
        ({}, ""),
    ],
)
def test_the_order_of_trec_eval(scores: dict[str, float], expected: str) -> None:
    """By score in 32 bits, then by id."""
    assert "".join(ranked(scores)) == expected


IDS = st.sampled_from(["a", "B", "b10", "b9", "é", "\U0001f642", "\uffff"])
SCORES = st.sampled_from([1.0, 1.00000001, 1.0000002, 0.0, -0.0, -1.5])


@given(
    st.dictionaries(st.sampled_from("pq"), st.dictionaries(IDS, SCORES, min_size=1), min_size=2),
    st.dictionaries(st.sampled_from("pq"), st.dictionaries(IDS, st.integers(0, 2), min_size=1), min_size=2),
)
def test_parity_with_trec_eval(run: dict[str, dict[str, float]], qrels: dict[str, dict[str, int]]) -> None:
    """Measures of our order are those that trec_eval itself takes from the scores."""
    names = ["nDCG@3", "AP", "P@2", "RR", "Rprec"]
    theirs = {name: ir_measures.parse_measure(name) for name in names}
    expected = ir_measures.pytrec_eval.calc_aggregate(theirs.values(), qrels, run)
    ours = ranking_metrics({query: ranked(scores) for query, scores in run.items()}, qrels, names)
    assert ours == pytest.approx({name: expected[measure] for name, measure in theirs.items()})


@given(st.dictionaries(st.sampled_from(["a", "b c", "d\te", "f"]), SCORES, min_size=1))
def test_a_run_that_is_written_is_read_in_its_order(scores: dict[str, float]) -> None:
    """Blanks in ids and equal scores included."""
    order = sorted(scores, key=lambda document: -scores[document])
    lines = [line.split() for line in trec_lines("q 1", {document: scores[document] for document in order}, "tag")]
    assert {len(line) for line in lines} == {6}
    assert ranked({line[2]: float(line[4]) for line in lines}) == [trec_id(document) for document in order]


# ---- the command ----


@pytest.fixture
def qrels(tmp_path: Path) -> Path:
    path = tmp_path / "qrels.tsv"
    path.write_text("query-id\tcorpus-id\tscore\nq1\tb\t1\nq 2\ta d\t1\nq3\ta\t1\n")
    return path


def score(path: Path, content: str, *options: Any) -> int:
    path.write_text(content)
    return main(["score", str(path), *map(str, options)])


@pytest.mark.parametrize("form", ["trec", "json"])
def test_a_run_is_scored(form: str, qrels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Judged queries that the run lacks count as 0, queries without judgments do not; both are told."""
    trec = "q1 Q0 a 1 2 t\nq1 Q0 b 2 1 t\nq%202 Q0 a%20d 1 1 t\nq9 Q0 a 1 1 t\n"
    content = trec if form == "trec" else json.dumps({"q1": {"a": 2, "b": 1}, "q 2": {"a d": 1}, "q9": {"a": 1}})
    assert score(tmp_path / "run", content, "--qrels", qrels, "--measures", "RR@10 Success@1") == 0
    out, err = capsys.readouterr()
    counts = {"n_queries": 3, "n_missing_queries": 1, "n_unjudged_queries": 1}
    assert json.loads(out) == {"RR@10": pytest.approx((1 / 2 + 1) / 3), "Success@1": 1 / 3, **counts}
    assert "1 of 3 judged queries are not in the run: they count as 0" in err
    assert "1 of 3 queries of the run have no judgments: they do not count" in err
    assert "warning: RR@10 counts more than the 2 documents that the run ranks for a query at most" in err
    assert score(tmp_path / "run", content, "--qrels", qrels) == 0
    usual = json.loads(capsys.readouterr().out)
    assert list(usual)[:3] == ["nDCG@2", "Recall@2", "MRR@2"]
    assert usual["nDCG@2"] == pytest.approx((1 / math.log2(3) + 1) / 3)


def test_a_run_of_another_corpus_is_a_warning(qrels: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One of other queries is an error."""
    assert score(tmp_path / "run", "q1 Q0 x 1 2 t\n", "--qrels", qrels) == 0
    assert "warning: the run ranks no judged document, its ids may be of another corpus" in capsys.readouterr().err
    assert score(tmp_path / "run", "1 Q0 a 1 2 t\n", "--qrels", qrels) == 2
    error = f"{qrels}: no judged query is in {tmp_path}/run: judges 'q1' ..., it has '1' ..."
    assert error in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "options", "errors"),
    [
        ("q1 Q0 a 1 2 t\n", [], ["--qrels: must be given, RUN is a run of ranked documents"]),
        ('{"q1": {"a": 1}}', ["--data", "x.json"], ["--qrels: must be given, RUN is a run of ranked documents"]),
        ('{"q1": "a"}', ["--measures", "AP"], ["--measures: needs --qrels", "--data: say where the gold answers are"]),
        (
            "q1 Q0 a 1 2\n",
            ["--qrels", "QRELS", "--data", "x", "--version-2", "--language", "en", "--measures", "APP"],
            [
                "--data: is not allowed with --qrels, it is for answers",
                "--version-2: is not allowed with --qrels, it is for answers",
                "--language: is not allowed with --qrels, it is for answers",
                f"RUN: line 1: {SIX} 'q1 Q0 a 1 2'",
                "--measures: must be a measure of ir_measures such as nDCG@10, ",
            ],
        ),
        ('{"q1": "a"}', ["--qrels", "QRELS"], ["RUN: query 'q1': must be an object of scores by document id, got 'a'"]),
    ],
)
def test_answers_and_runs_are_not_mixed(
    content: str,
    options: list[str],
    errors: list[str],
    qrels: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each is refused with the other's options, all errors at once."""
    run = tmp_path / "run"
    assert score(run, content, *(str(qrels) if option == "QRELS" else option for option in options)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.replace(str(run), "RUN").splitlines()
    assert len(lines) == len(errors)
    assert all(error in line for line, error in zip(lines, errors, strict=True))
