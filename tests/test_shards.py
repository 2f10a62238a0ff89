"""Tars that any program reads, the same bytes every time, and exact ranges of everything in them."""

import io
import subprocess
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tarsia.builders.shards import Member, TarWriter, header, members, publish
from tarsia.builders.storage import open_store
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import checksum, digest

KEY = "0123456789abcdef0123456789abcdef"
SAMPLES = [
    ("a" * 32, [("json", b"{}"), ("0.jpg", b"j" * 1000), ("1.png", b"")]),
    ("b" * 32, [("0.flac", b"f" * 512), ("json", '{"说":"是"}'.encode())]),
]


def written(samples):
    file = io.BytesIO()
    tar = TarWriter(file)
    ranges = [tar.add(key, parts) for key, parts in samples]
    whole = tar.close()
    assert tar.bytes == len(file.getvalue())
    assert whole == digest(file.getvalue())
    return file.getvalue(), ranges


def by_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT)


@given(st.from_regex(r"[0-9a-f]{32}\.[0-9a-zA-Z_.-]{1,67}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_a_header_is_tarfiles_ustar_header_byte_for_byte(name, size):
    assert header(name, size) == by_tarfile(name, size)


def test_the_longest_name_and_the_largest_size_fit():
    assert header("n" * 100, 8**11 - 1) == by_tarfile("n" * 100, 8**11 - 1)


@pytest.mark.parametrize(("name", "size"), [("n" * 101, 0), ("é" * 51, 0), ("n", 8**11)])
def test_what_ustar_cannot_say_is_an_error_and_no_other_format(name, size):
    with pytest.raises(ValueError, match="ustar holds names of 100 bytes and sizes of 8 GiB"):
        header(name, size)


def test_tarfile_reads_what_was_written():
    data, _ = written(SAMPLES)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
        contents = {info.name: tar.extractfile(info).read() for info in infos}
    assert list(contents) == [
        "a" * 32 + ".0.jpg",
        "a" * 32 + ".1.png",
        "a" * 32 + ".json",
        "b" * 32 + ".0.flac",
        "b" * 32 + ".json",
    ]
    assert contents["a" * 32 + ".0.jpg"] == b"j" * 1000
    assert contents["b" * 32 + ".json"] == '{"说":"是"}'.encode()
    assert {(info.mode, info.uid, info.gid, info.mtime, info.uname) for info in infos} == {(0o644, 0, 0, 0, "")}


def test_gnu_tar_reads_what_was_written(tmp_path):
    (tmp_path / "s.tar").write_bytes(written(SAMPLES)[0])
    listed = subprocess.run(["tar", "tf", "s.tar"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert listed.stdout.split() == [f"{key}.{name}" for key, parts in SAMPLES for name in sorted(dict(parts))]
    assert listed.stderr == ""
    subprocess.run(["tar", "xf", "s.tar"], cwd=tmp_path, check=True)
    assert (tmp_path / f"{'a' * 32}.0.jpg").read_bytes() == b"j" * 1000


def test_ranges_are_the_samples_and_members_are_the_contents():
    data, ranges = written(SAMPLES)
    for (key, parts), where in zip(SAMPLES, ranges, strict=True):
        cut = data[where.offset : where.offset + where.length]
        assert checksum(cut) == where.checksum
        assert list(members(cut, key).items()) == sorted(parts)
        assert [member.name for member in where.members] == sorted(dict(parts))
        for member in where.members:
            content = data[member.offset : member.offset + member.size]
            assert content == dict(parts)[member.name]
            assert member == Member(member.name, member.offset, len(content), checksum(content))
    assert [(where.offset, where.length) for where in ranges] == [(0, 3072), (3072, 2048)]
    assert len(data) == 5120 + 1024


def test_a_range_is_a_tar_of_its_own():
    data, ranges = written(SAMPLES)
    cut = data[ranges[1].offset :][: ranges[1].length]
    with tarfile.open(fileobj=io.BytesIO(cut)) as tar:
        assert tar.getnames() == ["b" * 32 + ".0.flac", "b" * 32 + ".json"]


def test_members_of_another_sample_are_not_taken_for_ones_own():
    data, ranges = written(SAMPLES)
    with pytest.raises(Corrupt, match=f"some shard: expected sample {'a' * 32}, found '{'b' * 32}.0.flac'"):
        members(data[: ranges[0].length + 600], "a" * 32, "some shard")


def test_the_order_of_members_does_not_matter():
    turned = [(key, parts[::-1]) for key, parts in SAMPLES]
    assert written(turned) == written(SAMPLES)


@given(st.dictionaries(st.from_regex(r"[0-9a-z]{1,8}", fullmatch=True), st.binary(max_size=1100), min_size=1))
def test_whatever_goes_in_comes_out(parts):
    data, (where,) = written([(KEY, list(parts.items()))])
    assert members(data[where.offset :][: where.length], KEY) == parts
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {name: tar.extractfile(name).read() for name in tar.getnames()} == {
            f"{KEY}.{name}": content for name, content in parts.items()
        }


def test_a_published_shard_is_named_by_its_content_and_its_tables(tmp_path):
    import pyarrow as pa

    store = open_store(str(tmp_path))

    def put(samples, rows):
        with store.spool() as file:
            tar = TarWriter(file)
            for key, parts in samples:
                tar.add(key, parts)
            tables = [(".parquet", pa.table({"id": rows}))]
            return publish(store, "corpora/c/b0", file, tar.close(), tar.bytes, tables)

    first, again = put(SAMPLES, ["a", "b"]), put(SAMPLES, ["a", "b"])
    assert first == again
    assert {stored.path.split(".")[0] for stored in first} == {"corpora/c/b0-" + first[0].path[13:21]}
    for stored in first:
        data = (tmp_path / stored.path).read_bytes()
        assert (stored.bytes, stored.digest) == (len(data), digest(data))
    other_tar, other_table = put(SAMPLES[:1], ["a", "b"]), put(SAMPLES, ["a", "c"])
    assert len({objects[0].path for objects in (first, other_tar, other_table)}) == 3
