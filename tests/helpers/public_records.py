"""One question in each form that public files have it."""

import json
from pathlib import Path
from typing import Any

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
