"""On Ray: the same bytes, though a node dies in the middle, and as a submitted job that brings Tarsia as a wheel."""

import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from test_ingest import TARSIA, objects, run, sum_of, write_lines
from test_packaging import wheel  # noqa: F401 - a fixture

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

READER = '''
"""Alpaca, read slowly and in many small parts; says where it is understood."""

import time
from pathlib import Path

import ray
from tarsia.builders.corpora import alpaca
from tarsia.builders.reading.parts import json_parts

RECORD, FILES, PART = alpaca.RECORD, alpaca.FILES, 1000
read, split = alpaca.read, json_parts


def draft(record, at):
    if ray.is_initialized():
        Path({folder!r}, ray.get_runtime_context().get_node_id()).touch()
        time.sleep(0.02)
    return alpaca.draft(record, at)
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A corpus, the reader of it, and its lake as one process makes it."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "nodes").mkdir()
    (folder / "slow").mkdir()
    (folder / "slow/__init__.py").touch()
    (folder / "slow/reader.py").write_text(READER.format(folder=str(folder / "nodes")))
    write_lines(folder / "raw/a.jsonl", [sum_of(number) for number in range(200)])
    (folder / "catalog.yaml").write_text(
        "corpora: {sums: {format: slow.reader, kind: qa, language: en, licence: none, root: raw, cap: 8}}"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder))
        run(folder / "catalog.yaml", folder / "lake")
        yield folder


@pytest.fixture(scope="module")
def cluster(place):
    """A Ray whose workers find the reader."""
    yield from started(include_dashboard=False)


@pytest.fixture
def served_cluster(place, monkeypatch):
    """One that takes jobs."""
    pytest.importorskip("aiohttp", reason="jobs are submitted to Ray's dashboard: pip install 'ray[default]'")
    yield from started(include_dashboard=True, dashboard_host="127.0.0.1", dashboard_port=0)


def started(**head):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ray._private.ray_constants, "RAY_DASHBOARD_STARTUP_TIMEOUT_S", 200)  # a busy machine
        for left in (3, 2, 1):
            try:
                cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, **head})
                break
            except Exception as error:  # Ray gives a node thirty seconds to start, which a busy machine may not have
                if left == 1 or "timed out during startup" not in str(error):
                    raise
        yield cluster
        cluster.shutdown()


def test_a_node_that_dies_changes_nothing(place, cluster, tmp_path):
    node = cluster.add_node(num_cpus=2)
    words = [TARSIA, "ingest", place / "catalog.yaml", tmp_path / "lake", "--ray", cluster.address, "--quiet"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        while len(list((place / "nodes").iterdir())) < 2:  # both have understood records
            assert job.poll() is None, job.communicate()
            time.sleep(0.05)
        cluster.remove_node(node, allow_graceful=False)
        assert job.poll() is None, "it was over before the node died"
        _, said = job.communicate()
        assert job.returncode == 0, said
    assert objects(tmp_path / "lake") == objects(place / "lake")


@pytest.mark.soak
def test_a_submitted_job_runs_the_wheel_that_it_brings(place, served_cluster, wheel, tmp_path):  # noqa: F811
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    run_it = (
        "import tarsia.schemas.lake as found; print('from', found.__file__); "
        "from tarsia.pipelines.cli import main; main()"
    )
    submit = [Path(sys.executable).parent / "ray", "job", "submit", "--address", f"http://{served_cluster.webui_url}"]
    submit += ["--working-dir", tmp_path / "site", "--", sys.executable, "-c", run_it]
    done = subprocess.run(
        [*submit, "ingest", place / "catalog.yaml", tmp_path / "lake", "--ray", "auto", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (place_of_code,) = re.findall(r"^from (/.*)$", done.stdout, re.MULTILINE)
    assert "/working_dir_files/" in place_of_code
    assert objects(tmp_path / "lake") == objects(place / "lake")


def test_a_fault_on_ray_is_said_as_anywhere(place, cluster, tmp_path):
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "work").write_text("a file is in the way")
    words = [TARSIA, "ingest", place / "catalog.yaml", tmp_path / "lake", "--ray", cluster.address, "--quiet"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stderr.startswith("tarsia: cannot ")
    assert "'work/" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ray_that_is_not_there_is_said_at_once(place, tmp_path):
    words = [TARSIA, "ingest", place / "catalog.yaml", tmp_path / "lake", "--ray", "127.0.0.1:1"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stderr.startswith("tarsia: no Ray cluster at '127.0.0.1:1': ")
