"""The stream: one global order, whatever the ranks, workers and interruptions; bytes checked as they are read."""

import pickle
import subprocess
import sys
import tracemalloc
from itertools import islice, pairwise
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes import rows

from tarsia.builders.storage import open_store
from tarsia.builders.tables import get_table
from tarsia.manifests import places
from tarsia.manifests.context import Record, record
from tarsia.manifests.order import Order
from tarsia.manifests.places import Group, Place, Rows
from tarsia.manifests.stream import Stream, Streamed, load_manifest, manifest_digest
from tarsia.schemas.errors import Corrupt, NotThere, UserError
from tarsia.schemas.identity import digest
from tarsia.schemas.lake import FORMAT
from tarsia.schemas.shard import Stored

GOLDEN = ["5e669daf90a5a0c8", "0696aecf54470ef0"]


@pytest.fixture
def lake(stage):
    return stage


def numbers(batches):
    return [[context.number for context in batch.contexts] for batch in batches]


def read(lake, **options):
    return Stream(lake.url, "small/all", **options)


@pytest.fixture(scope="module")
def order(stage):
    """A stream of 61 contexts and three epochs that knows its numbers and reads nothing: for the order alone."""
    stream = read(stage, epochs=3)
    stream.manifest = stream.manifest.model_copy(update={"contexts": 61})
    stream._order = Order(manifest_digest(stream.manifest), 61, window=8)
    stream._read = iter
    stream.every = [[stream._order.context(epoch, position) for position in range(61)] for epoch in range(3)]
    return stream


def batches_of(order, batch, world, workers, state=None):
    """What all ranks and all their loader workers are handed, put together batch by batch; and the states."""
    merged = {}
    for rank in range(world):
        order.batch, order.rank, order.world = batch, rank, world
        order.load_state_dict(state or {**order.state_dict(), "epoch": 0, "position": 0})
        lanes = [order.slices(worker, max(1, workers)) for worker in range(max(1, workers))]
        turns = range(10**6)
        for turn in turns:
            one = next(lanes[turn % len(lanes)], None)
            if one is None:
                break
            merged.setdefault(turn, []).append(one)
    return [
        ([number for one in merged[turn] for number in one.contexts], [one.state for one in merged[turn]])
        for turn in sorted(merged)
    ]


WORLDS, WORKERS = st.sampled_from([1, 2, 3, 8]), st.sampled_from([0, 1, 4])


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 25), WORLDS, WORKERS, WORLDS, WORKERS, st.data())
def test_any_ranks_and_workers_see_the_same_global_batches_resumed_anywhere(
    order, batch, world, workers, next_world, next_workers, data
):
    every = [numbers[begin : begin + batch] for numbers in order.every for begin in range(0, 61, batch)]
    seen = batches_of(order, batch, world, workers)
    assert [part for part, _ in seen] == every
    stop = data.draw(st.integers(0, len(every) - 1))
    states = seen[stop][1]
    assert all(state == states[0] for state in states)
    resumed = batches_of(order, batch, next_world, next_workers, states[0])
    assert [part for part, _ in resumed] == every[stop + 1 :]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 400), st.integers(1, 64), st.integers(1, 9), st.text("0123456789abcdef", min_size=64, max_size=64)
)
def test_every_epoch_holds_every_context_once_in_an_order_of_its_own(contexts, window, epoch, name):
    order = Order(name, contexts, window=window)
    numbers = [order.context(epoch, position) for position in range(contexts)]
    assert sorted(numbers) == list(range(contexts))
    assert numbers == order.epoch(epoch).tolist()
    assert [order.context(0, position) for position in range(contexts)] == list(range(contexts))
    if contexts > 100:
        assert len({tuple(numbers), tuple(range(contexts)), tuple(order.epoch(epoch + 1).tolist())}) == 3
    for begin in range(0, contexts, window):  # neighbours in the manifest, over its end at most once
        near = sorted(numbers[begin : begin + window])
        holes = [low for low, high in pairwise(near) if high > low + 1]
        assert not holes or (len(holes) == 1 and {0, contexts - 1} <= set(near))


def test_the_order_of_an_epoch_is_an_api():
    """Golden: a change here is an ORDER change and needs a line in the changelog."""
    found = [
        digest(Order("0123456789abcdef" * 4, 10_000).epoch(epoch).astype("<i8").tobytes())[:16] for epoch in (1, 2)
    ]
    assert found == GOLDEN


def test_slices_may_be_uneven_and_the_last_batch_short(lake):
    contexts = load_manifest(lake.url, "small/all").contexts
    parts = [numbers(read(lake, batch=7, rank=rank, world=3)) for rank in range(3)]
    assert [len(part[0]) for part in parts] == [2, 2, 3]
    assert sum(len(part[-1]) for part in parts) == contexts % 7 != 0
    together = [[number for part in slices for number in part] for slices in zip(*parts, strict=True)]
    assert together == numbers(read(lake, batch=7))
    assert len(read(lake, batch=7)) == len(parts[0])


def test_a_context_is_its_samples_in_their_order_with_what_is_heard(lake):
    stream = read(lake)
    placed = rows(lake, stream.manifest)
    contexts = [batch.contexts[0] for batch in stream]
    assert [(one.number, slot, part.sample.key) for one in contexts for slot, part in enumerate(one.samples)] == [
        (row["context"], row["slot"], row["key"]) for row in placed
    ]
    assert [sorted(part.heard) for one in contexts for part in one.samples] == [row["spoken"] for row in placed]
    assert sum(len(row["spoken"]) for row in placed) > 30
    for context in contexts:
        assert context.tokens == sum(part.tokens for part in context.samples) + stream.manifest.prompts[context.prompt]
        for part in context.samples:
            assert all(data.startswith(b"fLaC") for data in part.heard.values())
            assert [image.member for image in part.sample.images] == list(part.media)


def test_a_state_is_a_few_bytes_and_goes_on_where_it_stood(lake):
    stream = read(lake, batch=4, rank=1, world=2)
    whole = numbers(read(lake, batch=4, rank=1, world=2))
    first = list(islice(stream, 3))
    assert stream.state_dict() == first[-1].state
    assert len(orjson.dumps(first[-1].state)) < 200
    again = read(lake, batch=4, rank=1, world=2)
    again.load_state_dict(orjson.loads(orjson.dumps(first[-1].state)))
    assert numbers(again) == whole[3:]


def test_the_state_after_the_last_batch_leaves_nothing(lake):
    *_, last = read(lake, batch=7)
    stream = read(lake, batch=7)
    stream.load_state_dict(last.state)
    assert list(stream) == []


def test_a_stream_is_iterated_again_from_where_its_loaded_state_says(lake):
    stream = read(lake, batch=5)
    assert numbers(stream) == numbers(stream)
    stream.load_state_dict({**stream.state_dict(), "epoch": 0, "position": 5})
    assert numbers(stream)[0] == numbers(stream)[0] == [5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"manifest": "0" * 32}, "saved with manifest 0000"),
        ({"batch": 8}, "saved with batch 8, the stream has 4"),
        ({"position": -1}, "position is -1"),
        ({"position": 10**9}, "position is 1000000000"),
        ({"position": None}, "position is None"),
        ({"position": "7"}, "position is 7"),
        ({"epoch": 2}, "epoch is 2; the stream has 1"),
        ({"epoch": None}, "epoch is None"),
    ],
)
def test_a_state_of_something_else_is_refused(lake, change, said):
    stream = read(lake, batch=4)
    with pytest.raises(UserError, match=said):
        stream.load_state_dict({**stream.state_dict(), **change})


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"rank": 2, "world": 2}, {"rank": -1}])
def test_an_impossible_rank_or_batch_is_refused(lake, wrong):
    with pytest.raises(UserError, match="batch is at least 1, rank at least 0 and below world"):
        read(lake, **wrong)


def test_a_context_that_is_not_there_is_said_so(lake):
    with pytest.raises(NotThere, match="none is 1000"):
        read(lake).context(1000)
    with pytest.raises(NotThere, match=r"stage 'small/2' is not planned; planned: small/all"):
        Stream(lake.url, "small/2")


def copy_of(lake, folder):
    subprocess.run(["cp", "-r", lake.url, folder / "lake"], check=True)
    return Stream(str(folder / "lake"), "small/all")


@pytest.mark.parametrize("prefix", ["", "speech_"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_broken_range_is_named_by_shard_key_and_offset(lake, tmp_path, prefix, cut):
    stream = copy_of(lake, tmp_path)
    row = next(row for row in rows(lake, stream.manifest) if row["spoken"])
    path = stream.manifest.shards[row[f"{prefix}shard"]].path
    begin, length = row[f"{prefix}offset"], row[f"{prefix}length"]
    with (tmp_path / "lake" / path).open("r+b") as file:
        if cut:
            file.truncate(begin + length - 600)
        else:
            file.seek(begin + length // 2)
            file.write(b"\xee")
    with pytest.raises(Corrupt, match=f"{path}: sample {row['key']}, {length} bytes from byte {begin}, is not what"):
        stream.context(row["context"])


def test_a_manifest_that_is_no_manifest_is_corrupt(lake, tmp_path):
    copy_of(lake, tmp_path)
    path = tmp_path / "lake/stages/small/all/manifest.json"
    whole = path.read_bytes()
    for broken in (
        whole[:100],
        whole.replace(b'"seed":1', b'"seed":"one"'),
        whole.replace(b'"format":%d' % FORMAT, b'"format":99'),
    ):
        path.write_bytes(broken)
        with pytest.raises(Corrupt, match=r"stages/small/all/manifest\.json"):
            Stream(str(tmp_path / "lake"), "small/all")


def test_a_table_with_a_changed_byte_is_corrupt(lake, tmp_path):
    stream = copy_of(lake, tmp_path)
    path = tmp_path / "lake" / stream.manifest.tables["samples"].path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"samples-\w+\.parquet: not the bytes that were written"):
        stream.context(0)


def test_a_stream_may_be_pickled_on_its_way(lake):
    stream = read(lake, batch=3)
    first = next(iter(stream))
    copied = pickle.loads(pickle.dumps(stream))
    assert copied.state_dict() == first.state
    assert len(pickle.dumps(stream)) < 50_000
    assert next(iter(copied)) == first


def test_a_record_is_made_when_it_is_asked_for_and_travels_with_its_sample(lake):
    one, twin = (read(lake).context(0).samples[0] for _ in range(2))
    assert pickle.loads(pickle.dumps(one)) == twin
    assert one.sample is one.sample
    assert one._replace(slot=7).sample == twin.sample
    place = Place(b"k", Group("a", "qa", "en", "text"), 1, 1, 0, (), 0, 0, 0, 0, 0, 0, 0, 0)
    broken = Streamed(Record(record, {"key": "k"}), place, 0, {}, {}, {})
    with pytest.raises(Corrupt, match="sample k: its JSON is not a sample's: "):
        broken.sample  # noqa: B018


def test_open_files_are_few(lake, monkeypatch):
    monkeypatch.setattr("tarsia.manifests.ranges.OPEN", 2)
    stream = read(lake)
    whole = list(stream)
    assert len(stream._ranges._files) == 2
    monkeypatch.undo()
    assert whole == list(read(lake))


def test_rows_are_read_from_the_row_groups_that_hold_them(lake, tmp_path, monkeypatch):
    """Groups of 10 rows, read forwards, backwards and over their borders; two of them are kept."""
    whole = get_table(lake.store, load_manifest(lake.url, "small/all").tables["samples"])
    pq.write_table(whole, tmp_path / "rows.parquet", row_group_size=10)
    monkeypatch.setattr(Rows, "SMALL", 0)
    stored = Stored(path="rows.parquet", bytes=(tmp_path / "rows.parquet").stat().st_size, digest="")
    table = Rows(open_store(str(tmp_path)), stored, places._COLUMNS, places.places)
    expected = [
        (row["key"].encode(), (row["corpus"], row["kind"], row["language"], row["modality"]), row["questions"],
         row["tokens"], round(row["seconds"] * 1e6), tuple(row["spoken"]),
         *[row[name] or 0 for name in places.Place._fields[6:]])
        for row in whole.to_pylist()
    ]  # fmt: skip
    for first, count in [*((row, 1) for row in range(83)), *((row, 3) for row in range(80, -1, -1)), (0, 83), (40, 0)]:
        assert table.rows(first, count) == expected[first : first + count]
    assert len(table._groups) == 2
    for first, count in [(83, 1), (80, 4), (-1, 1)]:
        with pytest.raises(Corrupt, match=r"rows\.parquet has no row"):
            table.rows(first, count)


def test_a_table_is_opened_once_for_each_group_of_rows(lake, tmp_path, monkeypatch):
    """Each opening of a bucket's object is several requests, one after the other, before a resumed run goes on."""
    whole = get_table(lake.store, load_manifest(lake.url, "small/all").tables["samples"])
    pq.write_table(whole, tmp_path / "rows.parquet", row_group_size=10)
    monkeypatch.setattr(Rows, "SMALL", 0)
    store, opened = open_store(str(tmp_path)), []
    monkeypatch.setattr(store, "open", lambda path, real=store.open: opened.append(path) or real(path))
    table = Rows(store, Stored(path="rows.parquet", bytes=1, digest=""), places._COLUMNS, places.places)
    for row, times in [(35, 1), (36, 1), (39, 1), (40, 2), (35, 2)]:
        table.rows(row, 1)
        assert len(opened) == times


def test_ten_epochs_hold_no_more_memory_than_two(lake):
    held, stream = [], read(lake, batch=4, epochs=10)
    tracemalloc.start()
    try:
        for batch in stream:
            if batch.state["position"] == 0:
                held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[9] - held[1] < 20_000  # bytes: a batch is larger


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted where /proc lists them")
def test_reading_from_a_folder_starts_no_thread_that_an_early_end_could_trip_over(lake):
    code = (
        "import os; from tarsia.manifests.stream import Stream; before = len(os.listdir('/proc/self/task'));"
        f"next(iter(Stream({lake.url!r}, 'small/all'))); print(len(os.listdir('/proc/self/task')) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_importing_and_starting_the_stream_is_light(lake):
    code = (
        "import os, sys; from tarsia.manifests.stream import Stream; spent = os.times();"
        f"next(iter(Stream({lake.url!r}, 'small/all')));"
        "print(spent.user + spent.system, sorted({'torch', 'ray', 'pandas', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    spent, heavy = done.stdout.split(maxsplit=1)
    assert heavy.strip() == "[]"
    assert float(spent) < 1


# --- in a torch DataLoader ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (1, "spawn")])
def test_a_torch_loader_yields_the_global_order_and_the_state_to_resume_from(lake, workers, method):
    data = pytest.importorskip("torch.utils.data")
    from tarsia.manifests.dataset import ContextDataset

    dataset = ContextDataset(lake.url, "small/all", batch=3, rank=0, world=1)
    dataset.stream.context(0)  # what is open here must not disturb the workers
    loader = data.DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)
    batches = list(loader)
    assert batches == list(read(lake, batch=3))
    resumed = ContextDataset(lake.url, "small/all", batch=3)
    resumed.load_state_dict(batches[1].state)
    assert list(data.DataLoader(resumed, batch_size=None)) == batches[2:]


def test_the_state_of_a_dataset_in_this_process_is_that_of_its_stream(lake):
    pytest.importorskip("torch")
    from tarsia.manifests.dataset import ContextDataset

    dataset = ContextDataset(lake.url, "small/all", batch=2)
    first = next(iter(dataset))
    assert dataset.state_dict() == first.state == {**dataset.state_dict(), "position": 2}


def test_nothing_stays_open(lake):
    opened = Path("/proc/self/fd")
    if not opened.is_dir():
        pytest.skip("this system does not list open files")
    before = len(list(opened.iterdir()))
    for _ in range(3):
        list(read(lake))
    assert len(list(opened.iterdir())) <= before
