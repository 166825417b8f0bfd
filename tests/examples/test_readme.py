"""README.rst, docs/ and the pages of the examples: short; links, options and files are there."""

import argparse
import json
import re
import shlex
from pathlib import Path

import pytest
import tiny

from model_hub_rqa import cli, train
from model_hub_rqa.config.flags import flags_of
from model_hub_rqa.data.corpus import CorpusReader
from model_hub_rqa.tasks.extractive.task import ExtractiveKwargs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.rst", ROOT / "CONTRIBUTING.rst", *sorted((ROOT / "docs").glob("*.rst"))]
PAGES += sorted((ROOT / "examples").glob("*/README.rst"))


def options_of(command: str) -> set[str]:
    """The options of ``rqa COMMAND``, and of its own commands; rqa train has every setting as a flag, too."""
    of_command = commands_of(cli.build_parser())[command]
    settings: set[str] = set()
    if command == "train":
        train.add_arguments(of_command)
        settings = {f"--{name}" for name in flags_of(ExtractiveKwargs)}
    parsers = [of_command, *commands_of(of_command).values()]
    return settings | {option for one in parsers for action in one._actions for option in action.option_strings}


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a parser."""
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len((ROOT / "README.rst").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"`[^`<]*<([^>`]+)>`_", page.read_text(encoding="utf-8"))
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_named_files_exist(page: Path) -> None:
    """Those of the project and those of the package, ``runtime/finite.py``."""
    names = re.findall(r"``([a-z_]+/[\w/]+\.py)``", page.read_text(encoding="utf-8"))
    assert [name for name in names if not any((root / name).exists() for root in (ROOT, ROOT / "model_hub_rqa"))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_options_exist(page: Path) -> None:
    """Of each command line that begins with rqa, and of each ``rqa ...`` within a sentence."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ +rqa (\w+)(.*)$", text, re.MULTILINE) + re.findall(r"``rqa (\w+)([^`]*)``", text)
    for command, words in lines:
        used = set(re.findall(r"(?<=\s)--[\w-]+", words.partition("  #")[0]))
        assert used <= options_of(command), command


def test_the_pages_are_indexed_and_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two commands as they stand in the README: the section that has the answer is among the first three."""
    tiny.model_folder(tmp_path / "runs/squad")
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    index, ask = re.findall(r"^    rqa ((?:index|ask) .*runs/docs.*)$", text, re.MULTILINE)
    assert cli.main(shlex.split(index)) == 0
    capsys.readouterr()
    assert cli.main(shlex.split(ask)) == 0
    assert "  Training > Stop and resume [training.rst#" in capsys.readouterr().out
    assert cli.main([*shlex.split(ask), "--json"]) == 0
    found = {(one["document"], one["heading"]): one for one in json.loads(capsys.readouterr().out)["passages"][:3]}
    first = found["training.rst", "Training > Stop and resume"]
    whole = next(one.text for one in CorpusReader("docs") if one.id == "training.rst")
    assert whole[first["start"] : first["end"]] == first["text"]
