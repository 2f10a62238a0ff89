"""Clips and verdicts: sealed in time, the first that is written holds, repeated bytes hold for one text only."""

import time

import numpy as np
import pyarrow as pa
import pytest
from sovits_server import speech

from tarsia.builders.clips import Book, Decided, Order, Sealer, get_orders, names_of, put_orders, read_clips, seal
from tarsia.builders.storage import open_store
from tarsia.builders.voices import Wave
from tarsia.schemas.errors import Corrupt, Refused, StorageFault
from tarsia.schemas.voice import Pool, Voice, clip_name

ANNA = Voice(name="anna", engine="gptsovits", language="en")
ESPEAK = Voice(name="e", engine="espeak", language="en")


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path))


def order(text, voice=ANNA):
    return Order(clip_name(voice.name, text), voice, text)


def wave(text, seed=0):
    return Wave(speech(text, 1.0, 16_000, seed), 16_000)


def book_of(store):
    book = Book(store, "p")
    book.refresh()
    return book


def rows_of(store, *orders):
    return book_of(store).find(names_of(one.clip for one in orders)).tolist()


def test_the_first_verdict_written_holds(store):
    seal(store, "p", [Decided(order("one"), wave("one"), 1), Decided(order("two"), Refused("short", ""), 3)])
    seal(store, "p", [Decided(order("two"), wave("two"), 1), Decided(order("three"), wave("three"), 1)])
    book = book_of(store)
    assert book.find(names_of(order(text).clip for text in ("two", "three", "four", "one"))).tolist() == [1, 3, -1, 0]
    assert book.table["reason"].to_pylist() == [None, "short", None, None]


def test_a_book_reads_only_what_is_new(store):
    book = book_of(store)
    seal(store, "p", [Decided(order("one"), wave("one"), 1)])
    assert len(book.refresh()) == 1
    seal(store, "p", [Decided(order("two"), wave("two"), 1)])
    assert book.refresh()["spoken"].to_pylist() == ["two"]
    assert (len(book.refresh()), book.written, book.newest) == (0, 2, 2)
    assert Book(store, "p", after=1).refresh()["spoken"].to_pylist() == ["two"]


def test_names_that_share_their_first_half_are_told_apart(store):
    names = [f"{'ab' * 8}{number:016x}" for number in (7, 3, 5)] + [f"{'cd' * 8}{1:016x}"]
    seal(store, "p", [Decided(Order(name, ANNA, name), wave(name), 1) for name in names])
    asked = names_of([names[2], names[0], f"{'ab' * 8}{4:016x}", names[3], names[1]])
    assert book_of(store).find(asked).tolist() == [2, 0, -1, 3, 1]


def test_the_bytes_of_another_text_are_void_and_may_be_asked_for_again(store):
    same = wave("what a server says to everything")
    asked = order("one"), order("One!"), order("two")
    seal(store, "p", [Decided(asked[0], same, 1), Decided(asked[1], same, 1), Decided(asked[2], same, 1)])
    assert rows_of(store, *asked) == [0, 1, -1]
    seal(store, "p", [Decided(asked[2], wave("two"), 1)])
    assert rows_of(store, *asked) == [0, 1, 3]


def test_two_spellings_of_one_sound_are_no_fault_of_an_embedded_voice(store):
    same = wave("their")
    asked = order("their", ESPEAK), order("there", ESPEAK)
    seal(store, "p", [Decided(one, same, 1) for one in asked])
    assert rows_of(store, *asked) == [0, 1]


def test_a_segment_is_sealed_in_time_even_when_nothing_comes(store):
    with Sealer(store, "p", seconds=0.2) as sealer:
        sealer.add(Decided(order("one"), wave("one"), 1))
        until = time.monotonic() + 20
        while not list(store.list("verdicts")) and time.monotonic() < until:
            time.sleep(0.02)
        assert book_of(store).written == 1
        sealer.add(Decided(order("two"), wave("two"), 1))
    assert book_of(store).table["spoken"].to_pylist() == ["one", "two"]


def test_what_was_added_before_an_error_is_sealed(store):
    def stumble():
        with Sealer(store, "p") as sealer:
            sealer.add(Decided(order("one"), wave("one"), 1))
            raise KeyError

    with pytest.raises(KeyError):
        stumble()
    assert book_of(store).written == 1


def test_a_sealer_that_cannot_write_says_so(store, tmp_path):
    (tmp_path / "clips").write_text("a file where a folder is due")

    def work():
        with Sealer(store, "p", seconds=0.0) as sealer:
            for number in range(2000):
                sealer.add(Decided(order(str(number)), wave(str(number)), 1))

    with pytest.raises(StorageFault, match="cannot write 'clips/p/"):
        work()


def test_clips_come_in_the_order_asked_and_changed_bytes_are_noticed(store, tmp_path):
    texts = [str(number) for number in range(20)]
    seal(store, "p", [Decided(order(text), wave(text), 1) for text in texts[:12]])
    seal(store, "p", [Decided(order(text), wave(text), 1) for text in texts[12:]])
    table = book_of(store).table
    mixed = table.take(pa.array(np.random.default_rng(1).permutation(20)))
    for row, data in zip(mixed.to_pylist(), read_clips(store, mixed), strict=True):
        assert data == store.read_range(row["tar"], row["offset"], row["size"])
    row = table.slice(3, 1).to_pylist()[0]
    path = tmp_path / row["tar"]
    data = bytearray(path.read_bytes())
    data[row["offset"] + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=f"clip {row['clip']} is not the bytes that were sealed"):
        list(read_clips(store, table))


def test_orders_are_read_from_anywhere(store):
    pool = Pool(name="p", voices=(ANNA, ESPEAK))
    count = 2500
    voices = np.arange(count, dtype=np.int32) % 2
    clips = [clip_name("v", str(number)) for number in range(count)]
    table = pa.table({"clip": clips, "voice": voices, "spoken": [str(number) for number in range(count)]})
    script = put_orders(store, pool, table)
    for begin, end in ((0, count), (0, 1), (1023, 1025), (1024, 2048), (2400, 2500), (7, 7)):
        found = list(get_orders(store, script, begin, end))
        assert [one.clip for one in found] == clips[begin:end]
        assert all(one.voice == pool.voices[int(one.spoken) % 2] for one in found)
