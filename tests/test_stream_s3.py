"""The stream from a bucket, with what networks do to it, and what the cache and prefetch promise."""

import os
import shutil
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from lakes import rows
from proxy import Proxy

from tarsia.builders import storage
from tarsia.builders.lake import Lake
from tarsia.builders.storage import open_store
from tarsia.manifests.cache import Cache
from tarsia.manifests.stream import Stream
from tarsia.pipelines.pack import pack
from tarsia.pipelines.pool import open_pool
from tarsia.schemas.errors import Corrupt, StorageFault, UserError


@pytest.fixture(scope="module")
def local(stage, tmp_path_factory):
    """The stage once more, packed into several tars."""
    folder = tmp_path_factory.mktemp("packed")
    shutil.copytree(stage.url, folder / "lake")
    lake = Lake(str(folder / "lake"))
    with open_pool(1, patience=0) as pool:
        pack(lake, ["small/all"], pool, shard_bytes=200 << 10, quiet=True)
    return lake


@pytest.fixture(scope="module")
def bucket(local, s3_server):
    """All of it in a bucket."""
    url = "s3://tarsia/streams/lake"
    store = open_store(url)
    for entry in local.store.list():
        store.replace(entry.path, local.store.read(entry.path))
    return url


@pytest.fixture
def proxy(bucket, monkeypatch):
    """A proxy before the S3 server, through which every bucket is reached that is opened now."""
    with Proxy(urlsplit(os.environ["AWS_ENDPOINT_URL"]).port).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setattr(storage, "_SILENCE", timedelta(seconds=1))
        monkeypatch.setattr(storage, "_PATIENCE", timedelta(seconds=2))
        storage._bucket.cache_clear()
        yield proxy
        storage._bucket.cache_clear()


def whole(lake, **options):
    return list(Stream(lake, "small/all", **options))


@pytest.fixture(scope="module")
def expected(local):
    return whole(local.url, batch=3, epochs=2, packed=False)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("prefetch", [1, 100_000, 64 << 20])
@pytest.mark.parametrize("cached", [True, False])
def test_a_bucket_packed_or_not_cached_or_not_streams_what_the_folder_does(
    bucket, expected, tmp_path, packed, prefetch, cached
):
    cache = Cache(str(tmp_path), 64 << 20) if cached else None
    found = whole(bucket, batch=3, epochs=2, prefetch=prefetch, cache=cache, packed=packed)
    assert found == expected
    if cached:
        assert whole(bucket, batch=3, epochs=2, cache=cache, packed=packed) == expected


def test_packed_tars_are_read_where_they_are_of_this_manifest(local, expected, tmp_path):
    assert whole(local.url, batch=3, epochs=2) == expected
    stream = Stream(local.url, "small/all")
    shards = {span.stored.path.split("/")[0] for number in range(13) for span in stream._ask(number).spans}
    assert shards == {"stages"}
    shutil.copytree(local.url, tmp_path / "lake")
    listing = tmp_path / "lake/stages/small/all/packed.json"
    listing.write_bytes(listing.read_bytes().replace(stream._digest.encode(), b"0" * 64))
    stream = Stream(str(tmp_path / "lake"), "small/all", batch=3, epochs=2)
    shards = {span.stored.path.split("/")[0] for number in range(13) for span in stream._ask(number).spans}
    assert shards == {"corpora", "speech"}
    assert list(stream) == expected


# --- faults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["packed", "shards", "cached"])
@pytest.mark.parametrize("fault", ["reset", "busy", "cut", "stall", "slow"])
def test_what_a_network_does_for_a_moment_costs_time_and_nothing_else(
    proxy, bucket, expected, tmp_path, monkeypatch, fault, way
):
    monkeypatch.setattr(storage, "_PATIENCE", timedelta(seconds=10))  # three silences may meet the same request

    def stream(turn):
        cache = Cache(str(tmp_path / turn), 64 << 20) if way == "cached" else None
        return Stream(bucket, "small/all", batch=3, epochs=2, packed=way == "packed", cache=cache)

    begun = stream("first")
    found = [next(batches := iter(begun))]
    proxy.faults = [fault] * 3
    assert found + list(batches) == expected
    again = stream("again")
    proxy.faults = [fault, "reset", fault]
    assert list(again) == expected
    assert proxy.faults == []


@pytest.mark.parametrize("fault", ["reset", "busy", "cut"])
def test_what_a_network_does_for_good_is_one_clear_error(proxy, bucket, fault):
    stream = Stream(bucket, "small/all")
    next(batches := iter(Stream(bucket, "small/all", prefetch=1)))
    batches.close()
    proxy.always = fault
    gets = proxy.gets
    with pytest.raises(StorageFault, match=rf"cannot (read|open) '(stages|corpora)/.*' in {bucket}: "):
        list(stream)
    assert proxy.gets > gets + 2  # it was tried again


def test_an_object_that_was_cut_short_is_a_bad_part_by_name(bucket, local, tmp_path):
    store, url = open_store("s3://tarsia/cut/lake"), "s3://tarsia/cut/lake"
    row = next(row for row in rows(local, Stream(local.url, "small/all").manifest) if row["offset"])
    path = Stream(local.url, "small/all").manifest.shards[row["shard"]].path
    for entry in local.store.list():
        store.replace(entry.path, local.store.read(entry.path))
    for length in (row["offset"] + 100, row["offset"]):
        store.replace(path, local.store.read(path)[:length])
        said = f"{path}: sample {row['key']}, {row['length']} bytes from byte {row['offset']}, is not what was written"
        for cache in (None, Cache(str(tmp_path / f"{length}"), 64 << 20)):
            with pytest.raises(Corrupt, match=said):
                Stream(url, "small/all", packed=False, cache=cache).context(row["context"])


def test_a_process_forked_from_a_user_of_a_bucket_is_told_to_be_spawned(bucket):
    stream = Stream(bucket, "small/all")
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            list(stream)
        except UserError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as said:
        assert b"forked from one that had used a bucket" in said.read()
    os.waitpid(child, 0)


# --- a bad part -----------------------------------------------------------------------------------------------------


@pytest.fixture
def spoilt(local, tmp_path):
    """A copy of which two samples and the speech of a third are broken; the rows of the three."""
    shutil.copytree(local.url, tmp_path / "lake")
    manifest = Stream(local.url, "small/all").manifest
    every = rows(local, manifest)
    heard = next(row for row in every if row["spoken"] and row["context"] == 5)
    broken = [every[0], next(row for row in every if row["context"] == 2), heard]
    for row, prefix in zip(broken, ("", "", "speech_"), strict=True):
        with (tmp_path / "lake" / manifest.shards[row[f"{prefix}shard"]].path).open("r+b") as file:
            file.seek(row[f"{prefix}offset"] + 600)
            file.write(b"\xee\xee")
    return str(tmp_path / "lake"), broken


def test_bad_parts_are_skipped_by_name_and_shift_nothing(spoilt, local):
    url, broken = spoilt
    stream = Stream(url, "small/all", batch=3, bad=3, packed=False)
    whole, found = list(Stream(local.url, "small/all", batch=3)), list(stream)
    assert [batch.state for batch in found] == [batch.state for batch in whole]
    assert stream.missing == 3
    missing = {one.key: one for batch in found for context in batch.contexts for one in context.missing}
    for row, prefix in zip(broken, ("", "", "speech_"), strict=True):
        one = missing[row["key"]]
        path = stream.manifest.shards[row[f"{prefix}shard"]].path
        lying = (row["slot"], path, row[f"{prefix}offset"], row[f"{prefix}length"], row["tokens"])
        assert (one.slot, one.path, one.offset, one.length, one.tokens) == lying
        assert f"{path}: sample {row['key']}, {one.length} bytes from byte {one.offset}, is not what was" in one.why
    for mine, theirs in zip(found, whole, strict=True):
        for context, full in zip(mine.contexts, theirs.contexts, strict=True):
            assert context.number == full.number
            assert context.samples == tuple(one for one in full.samples if one.sample.key not in missing)
            assert context.tokens == full.tokens - sum(one.tokens for one in context.missing)


@pytest.mark.parametrize(("bad", "said"), [(0, "written$"), (2, "written; 3 samples missing, 2 allowed$")])
def test_more_bad_parts_than_allowed_are_an_error(spoilt, bad, said):
    with pytest.raises(Corrupt, match=said):
        list(Stream(spoilt[0], "small/all", bad=bad, packed=False))


def test_a_broken_packed_context_lacks_all_its_samples(local, tmp_path):
    shutil.copytree(local.url, tmp_path / "lake")
    stream = Stream(str(tmp_path / "lake"), "small/all", bad=99)
    span = stream._ask(4).spans[0]
    with (tmp_path / "lake" / span.stored.path).open("r+b") as file:
        file.seek(span.offset + span.length // 2)
        file.write(b"\xee\xee\xee")
    whole = stream.context(3)
    assert not whole.missing
    context = stream.context(4)
    assert (context.number, context.samples) == (4, ())
    assert context.tokens == stream.manifest.prompts[context.prompt]
    assert [one.slot for one in context.missing] == list(range(stream.missing))
    assert "context 4, " in context.missing[0].why
    assert len(list(stream)) == stream.manifest.contexts


@pytest.mark.parametrize("options", [{"epochs": 0}, {"prefetch": 0}, {"bad": -1}])
def test_impossible_options_are_refused(local, options):
    with pytest.raises(UserError, match="at least 1, 1 and 0"):
        Stream(local.url, "small/all", **options)
