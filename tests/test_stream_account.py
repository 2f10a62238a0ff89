"""Accounts: exact whatever the ranks and resumes, and an audit that finds what a run did not do."""

import json
import pickle
import subprocess
import sys
from functools import reduce
from itertools import islice, permutations
from operator import add
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lakes import rows

from tarsia.manifests.account import Account
from tarsia.manifests.runs import audit_runs
from tarsia.manifests.stream import Batch, Stream
from tarsia.schemas.errors import NotThere, StorageFault, UserError

TARSIA = Path(sys.executable).parent / "tarsia"


@pytest.fixture(scope="module")
def contexts(stage):
    """All contexts by number, so that hundreds of runs need not read them."""
    return [batch.contexts[0] for batch in Stream(stage.url, "small/all")]


def attempt(stage, contexts, state, account, *, world, batch, stop, epochs=2):
    """A run of all ranks from a state for `stop` batches: the state after it, and the sum of its accounts."""
    accounts = []
    for rank in range(world):
        stream = Stream(stage.url, "small/all", batch=batch, rank=rank, world=world, epochs=epochs)
        stream._read = lambda numbers: (contexts[number] for number in numbers)
        if state:
            stream.load_state_dict(state)
        accounts.append(Account(stream))
        if rank == 0 and account:
            accounts[0].load_state_dict(account)
        for one in islice(stream, stop):
            accounts[-1].add(one)
    return stream.state_dict(), reduce(add, accounts)


def logged(tmp_path, account, step=1, name="run.jsonl"):
    account.log(str(tmp_path / name), step)
    return str(tmp_path / name)


def test_an_account_is_what_the_manifest_promises(stage, tmp_path):
    stream = Stream(stage.url, "small/all", batch=4, epochs=2)
    account = Account(stream)
    for batch in stream:
        account.add(batch)
    promised = {}
    for row in rows(stage, stream.manifest):
        sums = promised.setdefault((row["corpus"], row["kind"], row["language"], row["modality"]), [0, 0, 0, 0])
        for which, value in enumerate((1, row["questions"], row["tokens"], round(row["seconds"] * 1e6))):
            sums[which] += 2 * value
    assert {tuple(group): list(row.values()) for group, row in account.figures().items()} == promised
    placed = {tuple(count.model_dump(mode="json", include={"corpus", "kind", "language", "modality"}).values()): count
              for count in stream.manifest.counts}  # fmt: skip
    for group, row in account.figures().items():
        assert row["samples"] == 2 * placed[group].placed
        assert row["tokens"] == 2 * placed[group].placed_tokens
        assert row["microseconds"] / 1e6 == pytest.approx(2 * placed[group].placed_seconds, abs=1e-4)
    assert sum(row["microseconds"] for row in account.figures().values()) > 0
    result = audit_runs(stage, [logged(tmp_path, account)])
    assert result.findings == ()
    assert result.runs[0].contexts == result.runs[0].promised == 2 * stream.manifest.contexts


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.lists(st.tuples(st.sampled_from([1, 2, 3, 8]), st.integers(0, 9)), max_size=4))
def test_a_run_resumed_on_other_ranks_adds_up_to_all_of_it(stage, contexts, tmp_path_factory, batch, attempts):
    state = account = None
    for world, stop in [*attempts, (2, None)]:
        state, total = attempt(stage, contexts, state, account, world=world, batch=batch, stop=stop)
        account = orjson.loads(orjson.dumps(total.state_dict()))
    assert total.contexts == 2 * len(contexts)
    result = audit_runs(stage, [logged(tmp_path_factory.mktemp("log"), total)])
    assert result.findings == ()


def test_accounts_add_up_in_any_order(stage, contexts):
    state, accounts = None, []
    for world, stop in [(3, 2), (2, 1), (1, 1)]:
        state, one = attempt(stage, contexts, state, None, world=world, batch=3, stop=stop)
        accounts.append(one)
    sums = {orjson.dumps(reduce(add, order).state_dict()) for order in permutations(accounts)}
    sums.add(orjson.dumps((accounts[0] + (accounts[1] + accounts[2])).state_dict()))
    sums.add(orjson.dumps(reduce(add, [pickle.loads(pickle.dumps(one)) for one in accounts]).state_dict()))
    assert len(sums) == 1


def test_ranks_that_log_apart_are_taken_together(stage, contexts, tmp_path):
    logs = []
    for rank in range(3):
        stream = Stream(stage.url, "small/all", batch=4, rank=rank, world=3)
        account = Account(stream)
        for step, batch in enumerate(stream):
            account.add(batch)
            account.log(str(tmp_path / f"{rank}.jsonl"), step)
        logs.append(str(tmp_path / f"{rank}.jsonl"))
    assert audit_runs(stage, logs).findings == ()
    without = audit_runs(stage, logs[:2]).findings
    assert len(without) == 1
    assert without[0].what == (
        "7 positions never handed out: 2 to 3 of epoch 0; 6 to 7 of epoch 0; 10 to 12 of epoch 0"
    )


def whole(stage, contexts, **options):
    return attempt(stage, contexts, None, None, world=2, batch=4, stop=None, **options)[1]


def test_an_unfinished_run_is_a_finding_unless_it_goes_on(stage, contexts, tmp_path):
    _, account = attempt(stage, contexts, None, None, world=2, batch=4, stop=2, epochs=1)
    log = logged(tmp_path, account)
    found = audit_runs(stage, [log]).findings
    assert [one.what for one in found] == [
        f"{len(contexts) - 8} positions never handed out: 8 to {len(contexts) - 1} of epoch 0"
    ]
    assert audit_runs(stage, [log], so_far=True).findings == ()


def test_what_was_trained_twice_or_left_out_is_named(stage, contexts, tmp_path):
    state, first = attempt(stage, contexts, None, None, world=2, batch=2, stop=3, epochs=1)
    _, rest = attempt(stage, contexts, {**state, "position": 4}, None, world=1, batch=2, stop=None, epochs=1)
    found = [one.what for one in audit_runs(stage, [logged(tmp_path, first + rest, name="twice")]).findings]
    assert found == ["2 positions handed out more than once: 4 to 5 of epoch 0"]
    _, rest = attempt(stage, contexts, {**state, "position": 8}, None, world=1, batch=2, stop=None, epochs=1)
    found = [one.what for one in audit_runs(stage, [logged(tmp_path, first + rest, name="gap")]).findings]
    assert found == ["2 positions never handed out: 6 to 7 of epoch 0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line["figures"][0].update(tokens=1), "tokens of looks, qa, en, image: recorded 1, found "),
        (lambda line: line["figures"][-1].update(corpus="nowhere"), "the manifest has none"),
        (lambda line: line.update(contexts=5), "contexts: recorded 5, found 26"),
        (lambda line: line.update(manifest="0" * 32), "manifest: recorded 0000"),
        (lambda line: line["covered"][0].update(epoch=7), "of epoch 7 do not exist"),
        (lambda line: line["covered"][0]["edges"].append([3, 1]), "handed out more than once"),
        (lambda line: line["missing"].append(LOST), "is not in slot 99 of context 0"),
    ],
)
def test_a_log_that_says_something_else_is_found_out(stage, contexts, tmp_path, change, said):
    line = json.loads(Path(logged(tmp_path, whole(stage, contexts))).read_bytes())
    change(line)
    (tmp_path / "run.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    assert any(said in one.what for one in audit_runs(stage, [str(tmp_path / "run.jsonl")]).findings)


LOST = {"epoch": 0, "context": 0, "slot": 99, "key": "f" * 32, "path": "corpora/x.tar", "offset": 0}


def test_what_was_skipped_was_promised_and_is_a_finding(stage, tmp_path):
    subprocess.run(["cp", "-r", stage.url, tmp_path / "lake"], check=True)
    row = rows(stage, Stream(stage.url, "small/all").manifest)[7]
    stream = Stream(str(tmp_path / "lake"), "small/all", bad=9)
    path = stream.manifest.shards[row["shard"]].path
    with (tmp_path / "lake" / path).open("r+b") as file:
        file.seek(row["offset"] + 520)
        file.write(b"\xff\xfe\xfd")
    account = Account(stream)
    for batch in stream:
        account.add(batch)
    found = audit_runs(stage, [logged(tmp_path, account)]).findings
    where = f"sample {row['key']} of context {row['context']} was missing in epoch 0: {path} at byte {row['offset']}"
    assert [one.what for one in found] == [where]
    assert 'tarsia_missing_samples_total{stage="small/all"} 1\n' in account.prometheus()


def test_the_command_says_it_and_exits_with_1(stage, contexts, tmp_path):
    log = logged(tmp_path, whole(stage, contexts), step=7)
    done = subprocess.run([TARSIA, "audit", stage.url, "--run", log], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "small/all: 26 of 26 contexts of 2 epochs by step 7" in done.stdout
    assert "all agree" in done.stdout
    _, account = attempt(stage, contexts, None, None, world=2, batch=4, stop=2, epochs=1)
    log = logged(tmp_path, account, name="half")
    done = subprocess.run([TARSIA, "audit", stage.url, "--run", log, "--json"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "never handed out" in json.loads(done.stdout)["findings"][0]["what"]
    done = subprocess.run([TARSIA, "audit", stage.url], capture_output=True, text=True)
    assert done.returncode == 2
    assert "either --recipe" in done.stderr


def test_a_log_is_read_to_its_last_whole_line(stage, contexts, tmp_path):
    log = logged(tmp_path, whole(stage, contexts))
    with open(log, "ab") as file:  # noqa: PTH123
        file.write(b'{"stage": "small/a')
    assert audit_runs(stage, [log]).findings == ()
    with open(log, "ab") as file:  # noqa: PTH123
        file.write(b'll"\n')
    with pytest.raises(UserError, match=r"run\.jsonl, line 2: not a line that Account\.log writes"):
        audit_runs(stage, [log])
    with pytest.raises(NotThere, match="cannot read the log"):
        audit_runs(stage, [str(tmp_path / "none")])
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(UserError, match="holds no line"):
        audit_runs(stage, [str(tmp_path / "empty")])


def test_an_account_of_something_else_is_refused_and_a_log_that_cannot_be_written_is_said(stage, contexts, tmp_path):
    account = whole(stage, contexts)
    for field in ("stage", "manifest"):
        with pytest.raises(UserError, match=f"this account is of {field} other"):
            account.load_state_dict({**account.state_dict(), field: "other"})
    with pytest.raises(StorageFault, match="cannot append to"):
        account.log(str(tmp_path / "no" / "such" / "folder"), 1)


def test_a_line_stays_small_however_long_the_run_and_wide_the_world(stage, contexts):
    stream = Stream(stage.url, "small/all", batch=64, world=64)
    stream.manifest = stream.manifest.model_copy(update={"contexts": 64_000})
    accounts = []
    for rank in range(64):
        accounts.append(Account(stream))
        accounts[-1]._reader = (64, 64, rank)
        for step in stream._steps((0, 0)):
            accounts[-1].add(Batch((), {}, step))
    assert len(orjson.dumps(reduce(add, accounts).state_dict())) < 700


def test_prometheus_reads_it(stage, contexts):
    account = whole(stage, contexts)
    text = account.prometheus()
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert names == [f"tarsia_{name}_total" for name in
                     ("samples", "questions", "tokens", "audio_seconds", "contexts", "missing_samples")]  # fmt: skip
    labels = 'stage="small/all",corpus="looks",kind="qa",language="en",modality="image"'
    assert f"tarsia_samples_total{{{labels}}} 16\n" in text
    assert text.endswith('tarsia_missing_samples_total{stage="small/all"} 0\n')
