"""A record in each published layout of questions, and the rows that it stands for, written by hand."""

import json
from pathlib import Path
from typing import Any

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
