"""Columns that are filled piece by piece are what joining the pieces gives; what is missing is noticed."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tarsia.builders.columns import Columns, many, plain, whole, words
from tarsia.builders.tables import packed
from tarsia.schemas.errors import Corrupt
from tarsia.schemas.identity import draw_of, key_of

KINDS = pa.schema(
    [
        ("key", pa.binary(16)),
        ("language", pa.dictionary(pa.int16(), pa.string())),
        ("length", pa.int64()),
        ("seconds", pa.float64()),
        ("read", pa.list_(pa.int32())),
        ("speakable", pa.list_(pa.bool_())),
    ]
)
STORED = KINDS.set(0, pa.field("key", pa.string())).set(1, pa.field("language", pa.dictionary(pa.int32(), pa.string())))
ROW = st.fixed_dictionaries(
    {
        "key": st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}") | st.just(""),
        "language": st.sampled_from(["zh", "en", "zh+en"]),
        "length": st.integers(0, 2**40),
        "seconds": st.floats(0, 60),
        "read": st.lists(st.integers(0, 99), max_size=3),
        "speakable": st.lists(st.booleans(), max_size=3),
    }
)


def stored(rows):
    return pa.Table.from_pylist(rows, STORED)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(ROW, max_size=4), max_size=4), st.integers(0, 3))
def test_columns_hold_what_the_pieces_say_one_after_the_other(pieces, cut):
    columns = Columns(KINDS, sum(map(len, pieces)))
    for rows in pieces:  # as it comes of one file, of two row groups, and as part of something longer
        inside = stored([*rows, *rows]).slice(len(rows))
        columns.add(pa.concat_tables([inside.slice(0, cut), inside.slice(cut)]))
    table = columns.table()
    said = [row for rows in pieces for row in rows]
    assert table.schema == KINDS
    for name in KINDS.names[1:]:
        assert table[name].to_pylist() == [row[name] for row in said]
    assert [key.hex() for key in table["key"].to_pylist()] == [row["key"] or "0" * 32 for row in said]
    assert all(column.num_chunks <= 1 for column in table.columns)


@pytest.mark.parametrize("listed", [1, 3])
def test_rows_that_are_more_or_fewer_than_listed_are_noticed(listed):
    row = {"key": "", "language": "en", "length": 1, "seconds": 0.0, "read": [1], "speakable": [True]}

    def read():
        columns = Columns(KINDS, listed)
        columns.add(stored([row, row]))
        return columns.table()

    with pytest.raises(Corrupt, match=f"shards have 2 rows.*, where {listed} are listed"):
        read()


def test_a_row_without_a_value_is_noticed():
    row = {"key": "", "language": "en", "length": None, "seconds": 0.0, "read": [1], "speakable": [True]}
    with pytest.raises(Corrupt, match="column 'length' has rows without a value"):
        Columns(KINDS, 1).add(stored([row]))


def test_the_first_half_of_a_key_is_its_draw():
    keys = [key_of("sums", str(number)) for number in range(5)]
    halves = words(packed(pa.array(keys), 16).slice(1))
    assert halves[:, 0].tolist() == [draw_of(key) for key in keys[1:]]
    assert halves[:, 1].tolist() == [int(key[16:], 16) for key in keys[1:]]


def test_a_value_many_times_is_in_memory_once():
    long = many(pa.array([7], pa.int32()), 1_000_003)
    assert (len(long), set(plain(whole(long)).tolist())) == (1_000_003, {7})
    assert len({chunk.buffers()[1].address for chunk in long.chunks}) == 1
    assert len(many(pa.nulls(1, pa.int32()), 0)) == 0


def test_a_column_in_one_piece_is_not_copied():
    values = pa.array(np.arange(10))
    assert whole(pa.chunked_array([values])).buffers()[1].address == values.buffers()[1].address
    assert whole(pa.chunked_array([values[:4], values[4:]])).equals(values)
