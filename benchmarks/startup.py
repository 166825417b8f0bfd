"""What a user waits for before anything happens."""

import functools
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import data
from benchmarks.timing import Row, interleaved


def startup(repeats: int) -> list[Row]:
    """Importing the package, ``rqa --help``, and ``rqa score`` of all of SQuAD dev; each in a process of its own."""
    folder = Path(tempfile.mkdtemp())
    questions = data.real_data() / "squad/dev-v1.1.json"
    content = json.loads(questions.read_text(encoding="utf-8"))
    predictions = folder / "predictions.json"
    first = {
        qa["id"]: qa["answers"][0]["text"]
        for article in content["data"]
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    }
    predictions.write_text(json.dumps(first), encoding="utf-8")
    rqa = [sys.executable, "-m", "model_hub_rqa.cli"]
    commands = {
        "import model_hub_rqa": ([sys.executable, "-c", "import model_hub_rqa"], 0.5),
        "rqa --help": ([*rqa, "--help"], 0.5),
        "rqa score of SQuAD dev": ([*rqa, "score", str(predictions), "--data", str(questions)], 3.0),
    }

    def run(name: str) -> None:
        subprocess.run(commands[name][0], check=True, capture_output=True, cwd=data.ROOT)

    times = interleaved({name: functools.partial(run, name) for name in commands}, repeats)
    rows = []
    for name, (_, limit) in commands.items():
        seconds = times[name].median
        rows.append(Row(f"{name}: the allowed seconds / ours", limit / seconds, f"{seconds:.2f} s", f"{limit} s", "1"))
    return rows
