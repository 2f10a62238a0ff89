"""What is installed: the four folders as tarsia.*, from a wheel and in place; a core that needs no torch and no Ray."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "ray", "datasets", "webdataset", "numba", "espeakng_loader", "wetext", "hibari", "faster_whisper")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("schemas", "builders", "manifests", "pipelines"):  # a copy, so that no earlier build is picked up
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(build, check=True, capture_output=True)
    return next(folder.glob("tarsia-*.whl"))


def test_the_wheel_holds_every_module_and_page_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    folders = ("schemas", "builders", "manifests", "pipelines")
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    there = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not there:  # no git here: the folders as they lie
        found = (path for folder in folders for path in (ROOT / folder).rglob("*"))
        there = [str(path.relative_to(ROOT)) for path in found if path.suffix in (".py", ".yaml")]
    assert inside == {f"tarsia/{name}" for name in there}


def test_a_wheel_works_from_anywhere_without_the_heavy_packages(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    # a finder that refuses the heavy packages stands in for an environment that lacks them
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(tmp_path / 'site')!r})\n"
        f"sys.modules.update(dict.fromkeys({HEAVY!r}))\n"
        "import tarsia.schemas.lake, tarsia.builders.samples, tarsia.manifests.stream, tarsia.pipelines.demo\n"
        "from tarsia.builders.corpora import formats, find\n"
        "from tarsia.builders.documents import read_recipe, read_voices\n"
        "assert tarsia.schemas.lake.__file__.startswith(sys.path[0])\n"
        "assert [find(name).RECORD for name in formats()]\n"
        "print(read_recipe('vita-1.5').model, read_voices('espeak').name)\n"
    )
    done = subprocess.run([sys.executable, "-S", "-c", _with_site(code)], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.split() == ["vita-1.5", "espeak"], done.stderr


def _with_site(code: str) -> str:
    """The environment's packages on the path, but none of its editable installs (their hooks need `site`)."""
    import sysconfig

    return f"import sys; sys.path.append({sysconfig.get_path('purelib')!r})\n{code}"


def test_the_editable_install_is_this_repository():
    code = "import tarsia.schemas.lake as lake; print(lake.__file__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert Path(done.stdout.strip()) == ROOT / "schemas" / "lake.py"


def test_a_missing_extra_is_named_with_its_pip_line(tmp_path):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from tarsia.pipelines.cluster import Cluster\n"
        "from tarsia.schemas.errors import MissingExtra\n"
        "try:\n    Cluster('local')\n"
        "except MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "this needs the package 'ray': pip install 'tarsia[ray]'"
