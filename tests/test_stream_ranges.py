"""Ranges and cache by themselves: what is asked together, how much is held, what several processes share."""

import errno
import fcntl
import multiprocessing
import os
import threading
from itertools import islice
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tarsia.builders.storage import open_store
from tarsia.manifests import cache as caches
from tarsia.manifests.cache import BLOCK, Cache
from tarsia.manifests.ranges import FIRST, GAP, LARGEST, TWICE, Ranges, Span, _hauls, join, threads_for
from tarsia.schemas.errors import NotThere, UserError
from tarsia.schemas.identity import digest
from tarsia.schemas.shard import Stored


class Far:
    """A store that is not a folder and remembers what it was asked; for the seam between ranges and storage."""

    url = "far://away"

    def __init__(self, objects):
        self.objects, self.asked, self.lock = objects, [], threading.Lock()

    def read_ranges(self, path, ranges):
        if path not in self.objects:
            raise NotThere(f"no {path!r}")
        with self.lock:
            self.asked += [(path, *one) for one in ranges]
        return [memoryview(self.objects[path])[offset : offset + length] for offset, length in ranges]


def content(size, seed=1):
    return b"".join(digest(f"{seed} {number}".encode()).encode() for number in range(size // 64 + 1))[:size]


def stored(path, data):
    return Stored(path=path, bytes=len(data), digest=digest(data))


# --- requests -------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 40 << 20), st.integers(1, 4 << 20)), max_size=30))
def test_joined_ranges_cover_all_that_is_wanted_and_at_most_as_much_besides(ranges):
    joined = join(ranges)
    assert sorted(which for one in joined for which in one.members) == list(range(len(ranges)))
    for one in joined:
        assert one.begin == min(ranges[which][0] for which in one.members)
        assert one.end == max(sum(ranges[which]) for which in one.members)
        assert one.end - one.begin <= LARGEST
    assert sum(one.end - one.begin for one in joined) <= 2 * sum(length for _, length in ranges)


def test_near_ranges_are_one_request_and_far_ones_are_not():
    big = 1 << 20
    assert join([(0, big), (big + GAP, big)]) == [(0, 2 * big + GAP, [0, 1])]
    assert join([(big + GAP, big), (0, big)]) == [(0, 2 * big + GAP, [1, 0])]
    assert join([(0, big), (big + GAP + 1, big)]) == [(0, big, [0]), (big + GAP + 1, 2 * big + GAP + 1, [1])]
    assert join([(0, 10), (40, 10)]) == [(0, 10, [0]), (40, 50, [1])]  # a gap of more than is wanted


@pytest.mark.parametrize("prefetch", [1, 1000, 100_000, 1 << 30])
def test_what_is_wanted_comes_in_order_and_no_more_is_held_than_allowed(prefetch, monkeypatch):
    monkeypatch.setattr("tarsia.manifests.ranges.GAP", -1)  # nothing is read besides what is wanted
    objects = {name: content(500_000, name) for name in "abc"}
    far = Far(objects)
    tars = {name: stored(name, data) for name, data in objects.items()}
    wanted = [
        (
            number,
            [Span(tars["abc"[(number + part) % 3]], number * 700 + part * 90_000, 300 + part) for part in range(4)],
        )
        for number in range(200)
    ]
    largest = sum(span.length for span in wanted[0][1])
    delivered = 0
    for number, parts in Ranges(far).ahead(iter(wanted), prefetch):
        assert number == wanted[number][0]
        assert [bytes(part) for part in parts] == [
            objects[span.stored.path][span.offset : span.offset + span.length] for span in wanted[number][1]
        ]
        held = sum(length for _, _, length in list(far.asked)) - delivered
        assert held <= max(prefetch // TWICE, largest)
        delivered += sum(map(len, parts))
    assert number == 199


def test_the_first_hauls_are_small_so_that_the_first_thing_wanted_does_not_wait_for_many():
    one, size = stored("a", b""), FIRST // 4
    wanted = [(number, [Span(one, number * 3 * GAP, size)]) for number in range(4 + 8 + 16 + 32 + 32 + 5)]
    assert [haul.bytes // size for haul in _hauls(iter(wanted), 8 * FIRST)] == [4, 8, 16, 32, 32, 5]
    assert [haul.bytes // size for haul in _hauls(iter(wanted[:9]), 2 * size)] == [2, 2, 2, 2, 1]


def test_no_more_answers_come_at_once_than_there_is_room_for():
    assert [threads_for(size << 20) for size in (0, 16, 64, 1024)] == [2, 2, 8, 16]


def test_a_fault_is_told_when_what_it_concerns_is_due_and_nothing_is_left_running():
    data = content(10_000)
    far, here, gone = Far({"a": data}), stored("a", data), stored("gone", data)
    wanted = [(number, [Span(here if number < 5 else gone, number * 10, 10)]) for number in range(9)]
    coming = Ranges(far).ahead(iter(wanted), 1)
    assert [number for number, _ in islice(coming, 5)] == [0, 1, 2, 3, 4]
    with pytest.raises(NotThere, match="no 'gone'"):
        next(coming)
    assert not [one for one in threading.enumerate() if one.name.startswith("tarsia-read")]


# --- the cache ------------------------------------------------------------------------------------------------------


def blocks(cache):
    return [path for path in Path(cache.folder, "blocks").rglob("*") if path.is_file()]


def total(cache):
    return sum(path.stat().st_size for path in blocks(cache))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(caches, "BLOCK", 1000)


def test_ranges_over_the_borders_of_blocks_are_whole_and_each_block_is_fetched_once(tmp_path):
    data = content(10_500)
    far, one = Far({"a": data}), stored("a", data)
    ranges = Ranges(far, Cache(str(tmp_path), 20_000))
    for offset, length in [(0, 1), (999, 2), (990, 3000), (10_400, 100), (0, 10_500), (5000, 1000), (10_400, 300)]:
        assert bytes(ranges.read(Span(one, offset, length))) == data[offset : offset + length]
    assert sorted(far.asked) == [("a", begin, min(1000, 10_500 - begin)) for begin in range(0, 10_500, 1000)]


def test_a_cache_never_holds_more_than_its_limit_and_keeps_what_was_read_last(tmp_path):
    objects = {name: content(5000, name) for name in "abcdefgh"}
    far, cache = Far(objects), Cache(str(tmp_path), 10_000)
    ranges, tars = Ranges(far, cache), {name: stored(name, data) for name, data in objects.items()}
    for name in "abcdefghabc":
        ranges.read(Span(tars["a"], 0, 10))
        assert bytes(ranges.read(Span(tars[name], 0, 5000))) == objects[name]
        assert 5000 <= total(cache) <= 10_000
    assert far.asked.count(("a", 0, 1000)) == 1


def test_blocks_of_one_object_are_fetched_beside_each_other(tmp_path):
    data, meeting = content(10_000), threading.Barrier(2, timeout=30)

    class Slow(Far):
        def read_ranges(self, path, ranges):
            meeting.wait()  # for another fetch that is under way
            return super().read_ranges(path, ranges)

    far, one = Slow({"a": data}), stored("a", data)
    wanted = [(number, [Span(one, offset, 900)]) for number, offset in enumerate((0, 5000, 100, 5050))]
    found = list(Ranges(far, Cache(str(tmp_path), 20_000)).ahead(iter(wanted), 1 << 20))
    assert [bytes(part) for _, (part,) in found] == [data[span.offset :][:900] for _, (span,) in wanted]
    assert sorted(far.asked) == [("a", 0, 1000), ("a", 5000, 1000)]


def _read_all(folder, objects, calls, order):
    caches.BLOCK = 1000
    far = Far(objects)
    ranges = Ranges(far, Cache(folder, 1 << 20))
    for name in order:
        assert bytes(ranges.read(Span(stored(name, objects[name]), 0, 5000))) == objects[name]
    calls.put(far.asked)


def test_processes_share_a_cache_and_fetch_each_block_once(tmp_path):
    objects = {name: content(5000, name) for name in "abcdefgh"}
    context = multiprocessing.get_context("fork")
    calls = context.Queue()
    processes = [
        context.Process(target=_read_all, args=(str(tmp_path), objects, calls, "abcdefgh"[turn:] + "abcdefgh"[:turn]))
        for turn in (0, 0, 3, 5)
    ]
    for one in processes:
        one.start()
    asked = [call for _ in processes for call in calls.get(timeout=60)]
    for one in processes:
        one.join()
        assert one.exitcode == 0
    assert len(asked) == len(set(asked)) == 40


def _fetch_and_die(folder, data):
    caches.BLOCK = 1000
    cache = Cache(folder, 1 << 20)

    def fetch(offset, length):
        Path(folder, "making", slot_of(cache, data)).write_bytes(data[:300])
        os._exit(9)

    cache.read(stored("a", data), [(0, 10)], fetch)


def slot_of(cache, data):
    name = cache._path(stored("a", data), 0).name
    return f"{xxhash.xxh3_64_intdigest(name.encode()) % caches.LOCKS:02d}"


def test_what_a_killed_process_left_is_neither_seen_nor_in_the_way(tmp_path):
    data = content(3000)
    child = multiprocessing.get_context("fork").Process(target=_fetch_and_die, args=(str(tmp_path), data))
    child.start()
    child.join()
    assert child.exitcode == 9
    cache = Cache(str(tmp_path), 10_000)
    assert bytes(Ranges(Far({"a": data}), cache).read(Span(stored("a", data), 0, 3000))) == data
    assert total(cache) == 3000
    assert list((tmp_path / "making").iterdir()) == []


def test_a_block_that_the_disk_spoilt_is_fetched_again(tmp_path):
    data = content(3000)
    far, one = Far({"a": data}), stored("a", data)
    cache = Cache(str(tmp_path), 10_000)
    ranges = Ranges(far, cache)
    ranges.read(Span(one, 0, 3000))
    paths = sorted(blocks(cache))
    with paths[0].open("r+b") as file:
        file.truncate(10)  # of another length: not looked at
    with paths[1].open("r+b") as file:
        file.write(b"wrong")  # of another content: whoever compares checksums asks again
    assert bytes(ranges.read(Span(one, 0, 1000))) == data[:1000]
    assert bytes(ranges.read(Span(one, 1000, 1000))) != data[1000:2000]
    assert bytes(ranges.again(Span(one, 1000, 1000))) == data[1000:2000]
    assert bytes(ranges.read(Span(one, 1000, 1000))) == data[1000:2000]


@pytest.mark.parametrize("refused", ["", "open", "pwrite"])
def test_blocks_are_what_the_object_holds_whether_or_not_the_disk_is_written_directly(tmp_path, monkeypatch, refused):
    monkeypatch.setattr(caches, "BLOCK", BLOCK)
    data, real = content(BLOCK + 1_234_567), {"open": os.open, "pwrite": os.pwrite}

    def refusing(*given):
        how = given[1] if refused == "open" else fcntl.fcntl(given[0], fcntl.F_GETFL)
        if how & caches._DIRECT:
            raise OSError(errno.EINVAL, "not on this file system")
        return real[refused](*given)

    if refused:
        monkeypatch.setattr(os, refused, refusing)
    cache, one = Cache(str(tmp_path), 2 * BLOCK), stored("a", data)
    far = Far({"a": data})
    ranges = Ranges(far, cache)
    assert bytes(ranges.read(Span(one, 0, len(data)))) == data
    assert sorted(path.read_bytes() for path in blocks(cache)) == sorted([data[:BLOCK], data[BLOCK:]])
    assert bytes(ranges.read(Span(one, BLOCK - 7, 1_000_000))) == data[BLOCK - 7 :][:1_000_000]
    assert len(far.asked) == 2


def test_a_full_disk_costs_the_cache_and_not_the_run(tmp_path, monkeypatch):
    data = content(3000)
    far, cache = Far({"a": data}), Cache(str(tmp_path), 10_000)
    monkeypatch.setattr(os, "pwrite", lambda file, part, offset: len(part) // 2)
    for _ in range(2):
        assert bytes(Ranges(far, cache).read(Span(stored("a", data), 500, 2000))) == data[500:2500]
    assert len(far.asked) == 6  # nothing was kept
    assert blocks(cache) == list((tmp_path / "making").iterdir()) == []


def test_a_reader_keeps_what_is_evicted_under_it(tmp_path):
    data = content(3000)
    cache, one = Cache(str(tmp_path), 10_000), stored("a", data)
    ranges = Ranges(Far({"a": data}), cache)
    ranges.read(Span(one, 0, 1000))
    with blocks(cache)[0].open("rb") as file:
        with cache._locked("used"):
            assert cache._evict(0) == 0
        assert file.read() == data[:1000]
    assert bytes(ranges.read(Span(one, 0, 1000))) == data[:1000]


def test_a_count_that_was_lost_is_counted_again(tmp_path):
    objects = {name: content(5000, name) for name in "abc"}
    cache = Cache(str(tmp_path), 10_000)
    ranges = Ranges(Far(objects), cache)
    ranges.read(Span(stored("a", objects["a"]), 0, 5000))
    (tmp_path / "used").unlink()
    for name in "bc":
        ranges.read(Span(stored(name, objects[name]), 0, 5000))
        assert total(cache) <= 10_000


def test_a_folder_that_cannot_be_a_cache_is_said_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="name a folder of a local disk"):
        Cache(str(tmp_path / "file"), BLOCK)
    with pytest.raises(UserError, match="holds no block"):
        Cache(str(tmp_path / "cache"), 999)


def test_a_local_folder_may_be_cached_too(tmp_path):
    data = content(3000)
    store = open_store(str(tmp_path / "far"))
    store.replace("a", data)
    ranges = Ranges(store, Cache(str(tmp_path / "near"), 10_000))
    assert bytes(ranges.read(Span(stored("a", data), 100, 2000))) == data[100:2100]
    store.delete("a")
    assert bytes(ranges.read(Span(stored("a", data), 100, 2000))) == data[100:2100]
