"""The README, executed: its first screen is what really happens."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARSIA = Path(sys.executable).parent / "tarsia"


def session() -> list[str]:
    """The lines of the README's first console block."""
    block = re.search(r"```console\n\$ make demo\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    return block[1].splitlines()


def test_the_first_screen_of_the_readme_is_what_the_demo_prints(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run([TARSIA, "demo", "lake"], cwd=tmp_path, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    at, skip = 0, False
    for line in session():
        if line == "…":  # rows left out on the screen
            skip = True
            continue
        where = printed.index(line, at) if skip and line in printed[at:] else at
        assert printed[where : where + 1] == [line], f"README says {line!r} here; the demo printed:\n{done.stdout}"
        at, skip = where + 1, False
    assert at == len(printed)


def test_every_path_to_look_at_is_there(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    done = subprocess.run([TARSIA, "demo", "lake", "--quiet"], cwd=tmp_path, capture_output=True, text=True)
    paths = re.findall(r"^  (lake/\S+) ", done.stdout, re.MULTILINE)
    assert len(paths) == 4
    assert all(any((tmp_path / path).iterdir()) for path in paths)


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
