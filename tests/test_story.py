"""The README, executed: its first screen is what really happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tarsia.builders.documents import read_recipe
from tarsia.manifests.stream import Stream
from tarsia.manifests.tensors import chat

ROOT = Path(__file__).parents[1]
TARSIA = Path(sys.executable).parent / "tarsia"


def session() -> list[str]:
    """The lines of the README's first console block."""
    block = re.search(r"```console\n\$ make demo\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    return block[1].splitlines()


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder in which the demo made its lake, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run([TARSIA, "demo", "lake"], cwd=folder, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


def test_the_first_screen_of_the_readme_is_what_the_demo_prints(demo):
    printed = demo[1].splitlines()
    at, skip = 0, False
    for line in session():
        if line == "…":  # rows left out on the screen
            skip = True
            continue
        where = printed.index(line, at) if skip and line in printed[at:] else at
        assert printed[where : where + 1] == [line], f"README says {line!r} here; the demo printed:\n{demo[1]}"
        at, skip = where + 1, False
    assert at == len(printed)


def test_every_path_to_look_at_is_there(demo):
    folder, printed = demo
    paths = re.findall(r"^  (lake/\S+) ", printed, re.MULTILINE)
    assert len(paths) == 4
    assert all(any((folder / path).iterdir()) for path in paths)


def test_every_context_of_the_story_becomes_arrays_of_the_length_that_was_planned(demo):
    pytest.importorskip("kaldi_native_fbank")
    seen = set()
    for stage in read_recipe("vita-1.5").stages:
        stream = Stream(str(demo[0] / "lake"), f"vita-1.5/{stage}")
        assert len(stream)
        for context in (batch.contexts[0] for batch in stream):
            arrays = chat(context, stream.manifest.context)
            assert len(arrays.ids) == len(arrays.labels) == context.tokens
            assert not arrays.broken
            seen |= {(stage, kind) for kind in arrays.spans[:, 0].tolist()}
    assert seen == {
        *((stage, kind) for stage in ("1.1", "1.2", "1.3") for kind in (0, 1)),
        ("2.1", 2), ("2.2", 0), ("2.2", 1), ("2.2", 2), ("3.1", 2), ("3.2", 2),
    }  # fmt: skip


def test_the_story_on_object_storage_is_the_same_to_the_digest(tmp_path, s3):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    printed = []
    for lake in ("the-lake", s3):
        words = [TARSIA, "demo", lake, "--quiet"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout.replace(lake, "LAKE"))
    assert printed[0] == printed[1]
    assert "state after it: {'manifest': " in printed[0]
