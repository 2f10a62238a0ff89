"""The stream for a long time: runs that change ranks and workers, of a repaired plan, over parts that are bad."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes import fill, plan, questions, recipe, rows

from tarsia.manifests.stream import Stream, manifest_digest, order_of

EPOCHS = 3
WORLDS, WORKERS = st.sampled_from([1, 2, 3, 8]), st.sampled_from([0, 1, 4])


@pytest.fixture(scope="module")
def repaired(tmp_path_factory):
    """A lake with a repaired plan of which three samples are spoilt; its parent, and the keys of the three."""
    folder, page = tmp_path_factory.mktemp("repaired"), recipe({"a": {"take": {"qa": "100%"}}}, tokens=260)
    parent = plan(fill(folder, {"qa": questions(200)}), page)[0]
    lake = fill(folder, {"qa": questions(220)[2:]})
    manifest = plan(lake, page, repair=True)[0]
    assert manifest.contexts > parent.contexts > 40
    spoilt = rows(lake, manifest)[10:200:90]
    for row in spoilt:
        with (folder / "lake" / manifest.shards[row["shard"]].path).open("r+b") as file:
            file.seek(row["offset"] + 600)
            file.write(b"\xee\xee")
    return lake, parent, {row["key"]: row["context"] for row in spoilt}


def handed(lake, batch, world, workers, state, stop):
    """What all workers of all ranks are handed from a state on, for so many global batches: the parts of each."""
    workers, ranks = max(1, workers), []
    for rank in range(world):
        stream = Stream(lake.url, "small/a", batch=batch, rank=rank, world=world, epochs=EPOCHS, bad=10**6)
        stream.load_state_dict(state)
        lanes = [stream.slices(worker, workers) for worker in range(workers)]
        ranks.append([next(lanes[turn % workers]) for turn in range(stop)])
    return list(zip(*ranks, strict=True))


@pytest.mark.soak
def test_runs_that_change_ranks_and_workers_see_the_same_batches_of_a_repaired_plan_with_bad_parts(repaired):
    lake, parent, spoilt = repaired
    order = order_of(Stream(lake.url, "small/a").manifest)
    every = [order.epoch(epoch).tolist() for epoch in range(EPOCHS)]
    cases = resumes = 0

    @settings(max_examples=600, deadline=None)
    @given(st.integers(1, 25), st.integers(0, EPOCHS - 1), st.data())
    def resumed(batch, epoch, data):
        nonlocal cases, resumes
        cases += 1
        position = data.draw(st.integers(0, parent.contexts), "of the parent, where it was saved")
        state = {"manifest": manifest_digest(parent)[:32], "batch": batch, "epoch": epoch, "position": position}
        left = [numbers[position if at == epoch else 0 :] for at, numbers in enumerate(every) if at >= epoch]
        due = [numbers[begin : begin + batch] for numbers in left for begin in range(0, len(numbers), batch)]
        while due:
            stop = data.draw(st.integers(1, len(due)), "batches before it is killed")
            seen = handed(lake, batch, data.draw(WORLDS), data.draw(WORKERS), state, stop)
            contexts = [[context for part in parts for context in part.contexts] for parts in seen]
            assert [[context.number for context in one] for one in contexts] == due[:stop]
            missing = {lost.key: context.number for one in contexts for context in one for lost in context.missing}
            assert missing == {key: at for key, at in spoilt.items() if any(at in one for one in due[:stop])}
            (state,) = {tuple(part.state.items()): part.state for part in seen[-1]}.values()
            due, resumes = due[stop:], resumes + 1

    resumed()
    assert cases >= 600
    assert resumes > 2 * cases
