"""Batches of tensors in torch: in this process, in workers, resumed by torchdata, and on a device."""

import pickle
import threading
import time

import numpy as np
import pytest
from lakes import fill, pictures, plan, questions, recipe

from tarsia.builders.pixels import MEAN, STD
from tarsia.manifests.collate import CHATS, Chats, Decoder
from tarsia.manifests.stream import Stream
from tarsia.schemas.errors import Corrupt, UserError

torch = pytest.importorskip("torch", reason="pip install 'tarsia[train]'")
from torch.utils.data import DataLoader  # noqa: E402

from tarsia.manifests.dataset import CollatedDataset, ContextDataset, Prefetcher, normalised  # noqa: E402


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """23 contexts of text and small pictures."""
    folder = tmp_path_factory.mktemp("dataset")
    looks = ({"format": "llava"}, pictures(folder, [(60, 60), (64, 48)] * 4))
    filled = fill(folder, {"sums": questions(60, words=60), "looks": looks})
    plan(filled, recipe({"all": {"take": {"qa": "100%"}}}, tokens=600, tiles=1))
    return filled


def dataset(lake, **options):
    return CollatedDataset(lake.url, "small/all", rank=0, world=1, **options)


def numbers(batches):
    return [batch.contexts for batch in batches]


def test_tensors_are_the_arrays_without_a_copy(lake):
    stream = Stream(lake.url, "small/all", batch=4)
    arrays = list(Decoder(stream.manifest.context, CHATS)(stream))
    batches = list(dataset(lake, batch=4, threads=2))
    assert len(batches) == len(stream) == len(arrays)
    for batch, plain in zip(batches, arrays, strict=True):
        assert (batch.contexts, batch.keys, batch.state) == (plain.contexts, plain.keys, plain.state)
        for name, tensor in batch.arrays.items():
            assert isinstance(tensor, torch.Tensor)
            assert np.array_equal(tensor.numpy(), plain[name])
    owned = np.arange(3)
    assert arrays[0].map(torch.from_numpy)["ids"].numpy().base is not None
    assert torch.from_numpy(owned).data_ptr() == owned.ctypes.data


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork")])
def test_a_loader_yields_the_global_order_and_the_state_to_resume_from(lake, workers, method):
    data = pickle.loads(pickle.dumps(dataset(lake, batch=3)))  # as a worker that is spawned gets it
    loader = DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context=method)
    batches, plain = list(loader), list(dataset(lake, batch=3))
    assert numbers(batches) == numbers(plain)
    assert all(torch.equal(one["ids"], other["ids"]) for one, other in zip(batches, plain, strict=True))
    resumed = dataset(lake, batch=3)
    resumed.load_state_dict(batches[1].state)
    assert numbers(resumed) == numbers(batches)[2:]


def test_workers_that_stay_begin_again_where_they_began(lake):
    loader = DataLoader(
        dataset(lake, batch=3), batch_size=None, num_workers=2, persistent_workers=True, multiprocessing_context="fork"
    )
    assert numbers(loader) == numbers(loader) == numbers(dataset(lake, batch=3))


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")  # torchdata 0.11 with newer torch
@pytest.mark.parametrize("kind", [ContextDataset, CollatedDataset])
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_torchdata_resumes_where_it_stood(lake, kind, workers):
    module = pytest.importorskip("torchdata.stateful_dataloader")

    def loader():
        data = kind(lake.url, "small/all", batch=2, rank=0, world=1)
        return module.StatefulDataLoader(
            data, batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None
        )

    def seen(batch):
        return [getattr(one, "number", one) for one in batch.contexts]

    whole = [seen(batch) for batch in loader()]
    assert [number for batch in whole for number in batch] == list(range(sum(map(len, whole))))
    for stop in (1, 5, len(whole) - 1):
        first = loader()
        running = iter(first)
        assert [seen(next(running)) for _ in range(stop)] == whole[:stop]
        state = first.state_dict()
        second = loader()
        second.load_state_dict(state)
        assert [seen(batch) for batch in second] == whole[stop:]


def test_the_state_of_a_worker_is_refused_by_another_number_of_workers(lake):
    data = dataset(lake, batch=2)
    data.load_state_dict({**data.state_dict(), "workers": 4})
    with pytest.raises(UserError, match="one of 4 workers, here are 1; a batch's own state resumes on any number"):
        next(iter(data))


def test_the_state_of_a_dataset_is_that_of_the_batch_given_last_not_of_those_decoded_ahead(lake):
    data = dataset(lake, batch=2, threads=2, ahead=3)
    running = iter(data)
    for position in (2, 4):
        batch = next(running)
        assert data.state_dict() == batch.state == {**batch.state, "position": position}
    running.close()


def test_squares_are_normalised_as_internvit_wants_them():
    squares = torch.randint(0, 256, (2, 448, 448, 3), dtype=torch.uint8)
    seen = normalised(squares)
    assert seen.shape == (2, 3, 448, 448)
    assert seen.dtype == torch.float32
    expected = (squares.numpy() / 255 - MEAN) / STD
    assert np.abs(seen.numpy() - expected.transpose(0, 3, 1, 2)).max() < 1e-5
    assert normalised(squares, torch.bfloat16).dtype == torch.bfloat16


# --- prefetching ----------------------------------------------------------------------------------------------------


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tarsia-")]


def test_prefetched_batches_are_the_same_and_nothing_is_left_running(lake):
    plain = list(dataset(lake, batch=3))
    ahead = Prefetcher(dataset(lake, batch=3, threads=2), "cpu")
    batches = list(ahead)
    assert numbers(batches) == numbers(plain)
    assert [batch.state for batch in batches] == [batch.state for batch in plain]
    assert all(torch.equal(one["squares"], other["squares"]) for one, other in zip(batches, plain, strict=True))
    assert ahead.waited > 0
    assert readers() == []


def test_batches_are_made_ready_while_the_model_works(lake):
    made = []

    def slow():
        for batch in dataset(lake, batch=3):
            made.append(batch.contexts)
            yield batch

    running = iter(Prefetcher(slow(), "cpu", ahead=2))
    next(running)
    for _ in range(500):
        if len(made) >= 4:
            break
        time.sleep(0.01)
    assert len(made) == 4  # the one that is used, two ready, one that finds no place
    running.close()
    assert readers() == []


def slowly(batches, seconds):
    for batch in batches:
        time.sleep(seconds)
        yield batch


def test_waiting_is_the_time_without_a_batch_and_not_that_of_the_model(lake):
    batches = list(dataset(lake, batch=3))
    idle = Prefetcher(slowly(batches, 0.05), "cpu")
    assert len(list(idle)) == len(batches)
    assert idle.waited >= 0.04 * len(batches)  # it has begun to read before it is asked
    busy = Prefetcher(slowly(batches, 0.05), "cpu")
    began = time.perf_counter()
    for _ in busy:
        time.sleep(0.2)
    assert 0.04 <= busy.waited <= time.perf_counter() - began - 0.2 * len(batches)


def test_what_goes_wrong_while_reading_is_raised_where_batches_are_used(lake):
    def breaking():
        yield next(iter(dataset(lake)))
        raise Corrupt("this shard is broken")

    running = iter(Prefetcher(breaking(), "cpu"))
    next(running)
    with pytest.raises(Corrupt, match="this shard is broken"):
        next(running)
    assert readers() == []


def test_batches_move_to_a_device(lake):
    batch = next(iter(dataset(lake, form=Chats(length=640))))
    moved = batch.to("meta")
    assert {tensor.device.type for tensor in moved.arrays.values()} == {"meta"}
    assert moved["ids"].shape == (1, 640)
    assert (moved.contexts, moved.state) == (batch.contexts, batch.state)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_batches_are_pinned_and_copied_to_a_gpu(lake):
    plain = list(dataset(lake, batch=3))
    assert all(tensor.is_pinned() for tensor in plain[0].pin_memory().arrays.values())
    for one, other in zip(Prefetcher(dataset(lake, batch=3, threads=2), "cuda"), plain, strict=True):
        assert one["ids"].is_cuda
        assert all(torch.equal(tensor.cpu(), other[name]) for name, tensor in one.arrays.items())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_waits_only_while_it_has_nothing_to_do(lake):
    batches = list(dataset(lake, batch=3))
    idle = Prefetcher(slowly(batches, 0.1), "cuda")
    assert len(list(idle)) == len(batches)
    assert idle.waited == pytest.approx(0.1 * len(batches), rel=0.3)
    busy = Prefetcher(slowly(batches, 0.1), "cuda")
    for _ in busy:
        torch.cuda._sleep(1_000_000_000)  # cycles: about half a second, for which Python does not wait
    assert busy.waited < 0.3
