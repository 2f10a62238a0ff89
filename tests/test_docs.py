"""Documentation is tested: the reference of the command line is generated, links lead somewhere, words are explained.

`python tests/test_docs.py` writes docs/cli.md anew.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tarsia.builders.corpora import At, find
from tarsia.builders.storage import open_store
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused

ROOT = Path(__file__).parents[1]
TARSIA = Path(sys.executable).parent / "tarsia"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
VERBS = ("ingest", "speak", "plan", "diff", "pack", "export", "stream", "audit", "inspect", "demo")


def help_of(*words: str) -> str:
    env = {**os.environ, "COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    done = subprocess.run([TARSIA, *words, "--help"], capture_output=True, text=True, check=True, env=env)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def reference() -> str:
    """docs/cli.md, from the commands' own help."""
    intro = (ROOT / "pipelines/cli.py").read_text().split('"""')[1].split("\n\n", 1)[1].strip()
    parts = ["# The command line", intro, f"```\n{help_of()}\n```"]
    for verb in VERBS:
        parts += [f"## tarsia {verb}", f"```\n{help_of(verb)}\n```"]
    return "\n\n".join(parts) + "\n"


def test_the_reference_of_the_command_line_is_what_the_commands_say():
    assert (ROOT / "docs/cli.md").read_text() == reference(), "run: python tests/test_docs.py"


def test_every_verb_is_in_the_readme():
    table = (ROOT / "README.md").read_text()
    assert [verb for verb in VERBS if f"`{verb} " not in table and verb != "demo"] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_that_are_there(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert dead == []


def test_every_noun_of_the_schemas_is_in_the_glossary():
    glossary = (ROOT / "docs/glossary.md").read_text()
    nouns = ("Catalog", "Corpus", "Sample", "Draw", "Shard", "Lake", "Snapshot", "Voice", "Clip", "Recipe", "Manifest")
    assert [noun for noun in nouns if f"**{noun}**" not in glossary] == []


def test_every_decision_says_why_and_what_else_was_tried():
    decisions = sorted((ROOT / "docs/decisions").glob("*.md"))
    assert len(decisions) >= 8
    for page in decisions:
        text = page.read_text()
        assert "## Why" in text, page.name
        assert "## What else" in text, page.name


def test_every_reason_of_a_refused_record_is_explained():
    sources = [*ROOT.glob("builders/*.py"), *ROOT.glob("builders/corpora/*.py"), *ROOT.glob("builders/reading/*.py")]
    # whose refusals are verdicts
    speech = {"clips.py", "desk.py", "endpoints.py", "evidence.py", "fleet.py", "hearing.py"}
    codes = {
        code
        for source in sources
        if source.name not in speech
        for code in re.findall(r'(?:Refused|Fault)\(\s*"([a-z-]+)"', source.read_text())
    }
    page = (ROOT / "docs/quarantine.md").read_text()
    assert len(codes) > 30
    assert sorted(code for code in codes if f"`{code}`" not in page) == []


def test_the_reader_of_the_documentation_reads(tmp_path, monkeypatch):
    module = re.search(r"```python\n(.*?)```", (ROOT / "docs/readers.md").read_text(), re.DOTALL)
    assert module
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "readers.py").write_text(module[1])
    (tmp_path / "a.jsonl").write_text('{"id": "1", "file": "a.jpg", "text": "a cat"}\n{"id": "2"}\n')
    monkeypatch.syspath_prepend(tmp_path)
    reader = find("mylab.readers")
    first, second = reader.read(open_store(str(tmp_path)), "a.jsonl")
    corpus = Corpus(name="ours", format="mylab.readers", kind="caption", language="en", licence="CC0", root=".")
    draft = reader.draft(first.record, At(corpus, "a.jsonl", "0" * 32))
    assert (first.id, draft.images, draft.turns[1].text) == ("1", ("a.jpg",), "a cat")
    with pytest.raises(Refused, match="no text"):
        reader.draft(second.record, At(corpus, "a.jsonl", "0" * 32))


if __name__ == "__main__":
    (ROOT / "docs/cli.md").write_text(reference())
