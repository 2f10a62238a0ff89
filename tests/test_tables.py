"""Tables are the same bytes every time, are checked when read, and have a digest of what they say."""

import io
from uuid import UUID

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarsia.builders.storage import open_store
from tarsia.builders.tables import (
    ROWS,
    get_table,
    get_tables,
    in_groups,
    put_table,
    put_tables,
    read_parquet,
    rows_digest,
    to_parquet,
)
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.shard import INDEX, TEXT

NAMES = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("draw", pa.uint64()),
        ("sure", pa.bool_()),
        ("raw", pa.binary()),
        ("corpus", NAMES),
        ("seconds", pa.float64()),
        ("parts", pa.list_(pa.struct([("name", NAMES), ("sizes", pa.list_(pa.int32()))]))),
    ]
)


def maybe(strategy):
    return st.none() | strategy


PART = st.fixed_dictionaries({"name": maybe(st.text(max_size=3)), "sizes": maybe(st.lists(maybe(st.integers(0, 9))))})
ROW = st.fixed_dictionaries(
    {
        "key": st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}"),
        "draw": maybe(st.integers(0, 2**64 - 1)),
        "sure": maybe(st.booleans()),
        "raw": maybe(st.binary(max_size=5)),
        "corpus": maybe(st.sampled_from(["a", "b", ""])),
        "seconds": maybe(st.floats(allow_nan=False)),
        "parts": maybe(st.lists(maybe(PART), max_size=3)),
    }
)


KEY = "0123456789abcdef" * 2


def test_keys_are_stored_as_uuids_and_come_back_as_hex_digits(tmp_path):
    store, rows = open_store(str(tmp_path)), pa.table({"key": pa.array([KEY, "f" * 32]), "n": [1, 2]})
    stored = put_table(store, "t", rows)
    assert put_tables(store, "t", [rows.slice(0, 1), rows.slice(1)], rows.schema) == stored
    assert get_table(store, stored) == next(in_groups(store, stored, ["key", "n"])) == rows
    raw = get_table(store, stored, raw=True)
    assert raw["key"].to_pylist() == [UUID(KEY), UUID("f" * 32)]
    assert rows_digest(raw) == rows_digest(rows)
    asked = f"select n from '{tmp_path / stored.path}' where key = '{KEY}'"  # what a person would type
    assert duckdb.sql(asked).fetchall() == [(1,)]


@pytest.mark.parametrize("wrong", ["", "a", "g" * 32, "A" * 32, None])
def test_what_is_no_key_is_not_stored_as_one(tmp_path, wrong):
    rows = pa.table({"key": pa.array([KEY, wrong], pa.string())})
    with pytest.raises(Corrupt, match="a key"):
        put_table(open_store(str(tmp_path)), "t", rows)


def table(rows):
    return pa.Table.from_pylist(rows, SCHEMA)


@settings(max_examples=40)
@given(st.lists(ROW, max_size=6), st.integers(0, 6))
def test_the_digest_of_rows_does_not_depend_on_how_they_are_stored(rows, cut):
    whole = table(rows)
    pieces = pa.concat_tables([table(rows[:cut]), table(rows[cut:])])
    sliced = table([*rows, *rows]).slice(len(rows))
    read = pq.read_table(io.BytesIO(to_parquet(whole)))
    assert {rows_digest(one) for one in (whole, pieces, sliced, read)} == {rows_digest(whole)}


@settings(max_examples=40)
@given(st.lists(ROW, max_size=4), st.lists(ROW, max_size=4))
def test_other_rows_have_another_digest(rows, others):
    assert (rows_digest(table(rows)) == rows_digest(table(others))) == (repr(rows) == repr(others))


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ([2**63 + 1, None], [2**63 + 2, None], pa.uint64()),
        ([None], [0], pa.int64()),
        ([None], [""], pa.string()),
        ([None], [False], pa.bool_()),
        ([["a"], []], [[], ["a"]], pa.list_(pa.string())),
        ([[]], [None], pa.list_(pa.string())),
        (["ab", "c"], ["a", "bc"], pa.string()),
    ],
)
def test_what_differs_a_little_differs(one, other, kind):
    first, second = (pa.table({"c": pa.array(values, kind)}) for values in (one, other))
    assert rows_digest(first) != rows_digest(second)


def test_the_name_of_a_column_counts():
    assert rows_digest(pa.table({"a": [1]})) != rows_digest(pa.table({"b": [1]}))


def test_the_digest_of_three_rows():
    rows = [
        {"key": "a", "draw": 2**64 - 1, "parts": [{"name": "x", "sizes": [1, None]}]},
        {"corpus": "b"},
        {"seconds": 0.5},
    ]
    assert rows_digest(table(rows)) == "2a7be050d9a23f7a7cf5d9d314e957a5f870cd09e2e90970f2030b6d8485574d"


@settings(max_examples=40)
@given(st.lists(ROW, max_size=4))
def test_the_same_rows_are_the_same_bytes(rows):
    assert to_parquet(table(rows)) == to_parquet(table(list(rows)))


def test_a_stored_table_is_checked_when_it_is_read(tmp_path):
    store = open_store(str(tmp_path))
    stored = put_table(store, "costs/c", pa.table({"key": [KEY, KEY], "tokens": [1, 2]}))
    assert stored.path == f"costs/c-{stored.digest[:8]}.parquet"
    assert get_table(store, stored, ["tokens"]).to_pydict() == {"tokens": [1, 2]}
    data = bytearray((tmp_path / stored.path).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / stored.path).write_bytes(data)
    with pytest.raises(Corrupt, match=f"{stored.path}: not the bytes that were written"):
        get_table(store, stored)


def test_a_large_table_is_read_in_part_and_checked_on_request(tmp_path):
    store = open_store(str(tmp_path))
    stored = put_table(store, "t", pa.table({"n": [n * 0x9E3779B97F4A7C15 % 2**63 for n in range(200_000)]}))
    assert stored.bytes > 1 << 20
    assert len(get_table(store, stored)) == len(get_table(store, stored, verify=True)) == 200_000
    with (tmp_path / stored.path).open("r+b") as file:
        file.seek(100)
        file.write(b"\0\0\0\0")
    with pytest.raises(Corrupt):
        get_table(store, stored, verify=True)


def test_many_tables_are_one_and_none_is_an_empty_one(tmp_path):
    store = open_store(str(tmp_path))
    stored = [
        put_table(store, "t", pa.table({"key": [key], "conversations": [[]]}).cast(TEXT)) for key in (KEY, "b" * 32)
    ]
    assert get_tables(store, stored, TEXT, ["key"]).to_pydict() == {"key": [KEY, "b" * 32]}
    empty = get_tables(store, [], INDEX, ["key", "draw"])
    assert (len(empty), empty.schema.names) == (0, ["key", "draw"])


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS])
def test_tables_stored_one_after_another_are_the_bytes_of_all_at_once(tmp_path, count):
    store, whole = open_store(str(tmp_path)), pa.table({"n": np.arange(count)})
    pieces = [whole.slice(begin, 50_000) for begin in range(0, count, 50_000)]
    assert put_tables(store, "t", pieces, whole.schema) == put_table(store, "t", whole)


def test_many_tables_become_one_that_says_how_long_it_is(tmp_path):
    store, schema = open_store(str(tmp_path)), pa.schema([("number", pa.int64()), ("raw", pa.binary())])
    parts = [pa.table([[3 * n, 3 * n + 1, 3 * n + 2], [b"x" * n] * 3], schema) for n in range(10)]
    stored = put_tables(store, "many", parts, schema, rows=10)
    assert store.entry(stored.path).size == stored.bytes
    assert get_table(store, stored, verify=True).equals(pa.concat_tables(parts))
    with store.open(stored.path) as file, pq.ParquetFile(file) as written:
        groups = [written.metadata.row_group(number).num_rows for number in range(written.num_row_groups)]
    assert groups == [10, 10, 10]


def test_what_is_hardly_ever_said_twice_has_no_dictionary():
    read = pq.read_metadata(io.BytesIO(to_parquet(INDEX.empty_table()))).schema
    rows = [
        {"key": f"{number:032x}", "corpus": "a", "images": [{"member": "0.jpg", "digest": str(number)}]}
        for number in range(9)
    ]
    group = pq.read_metadata(io.BytesIO(to_parquet(pa.Table.from_pylist(rows, INDEX)))).row_group(0)
    columns = [group.column(number) for number in range(len(read))]
    named = {column.path_in_schema for column in columns if "RLE_DICTIONARY" in column.encodings}
    assert {"corpus", "images.list.element.member", "members.list.element.name"} <= named
    assert not named & {"key", "draw", "record", "checksum", "images.list.element.digest"}


def test_another_byte_in_the_pages_of_a_table_is_found_and_none_in_its_end_trips_the_reader():
    said = [f"word {number % 7}" for number in range(1000)]
    table = pa.table({"number": list(range(1000)), "said": said})
    data = to_parquet(table)
    end, found = len(data) - 8 - int.from_bytes(data[-8:-4], "little"), 0
    for place in range(0, len(data), 7):
        other = bytearray(data)
        other[place] ^= 16
        try:
            read = read_parquet(io.BytesIO(other), "here")
        except Corrupt as error:
            found += str(error).startswith("here: cannot be read: ")
        else:
            assert place >= end or read.equals(table)
    assert found > end // 7 * 0.9
