"""What a codec makes of speech: rows of ids beside the lake's sounds, written by whoever has the codec.

    codec/<codec>/<corpus>/<leaf>-<digest8>.parquet      one row a sample of kind tts (CODES), in key order

VITA-1.5's codec works at 24 kHz, 40 ids a second of 1,024, and a few more for the whole of an utterance. A row belongs
to a sound: the digest of a stored audio, or the name of a clip. Codes of a sound that the lake has no longer are not
found; so an edited record, or another voice, never meets old codes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.audio import resampled_length
from tarsia.builders.lake import Lake
from tarsia.builders.samples import RATE_TTS
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, put_table
from tarsia.schemas.corpus import CAP
from tarsia.schemas.errors import BadCodes, NotThere
from tarsia.schemas.identity import draw_of
from tarsia.schemas.lake import CodesState, Snapshot
from tarsia.schemas.sample import Kind
from tarsia.schemas.shard import CODES, Shard, leaves

IDS = 1024  # of VITA-1.5's codebook
STEP = 600  # samples at 24 kHz that one code stands for

Ids = npt.NDArray[np.uint16]


class Coded(NamedTuple):
    """The codes of one sample's speech."""

    key: str
    codes: Sequence[int] | Ids
    style: Sequence[int] | Ids  # of the whole utterance
    samples: int  # at 24 kHz
    sound: str  # digest of the stored audio, or name of the clip


def sounds_of(lake: Lake, corpus: str, leaf: str = "b") -> dict[str, dict[str, int]]:
    """For each sample of an interval the sounds that the lake has of it, with their samples at 24 kHz."""
    return _sounds(lake, lake.snapshot(), corpus, leaf)


def put_codes(lake: Lake, codec: str, corpus: str, coded: Iterable[Coded]) -> CodesState:
    """Adds the codes of samples of a corpus to what stands, the new ones first, and publishes it.

    Raises `BadCodes` where a row is no codes of a sound that the lake has.
    """
    sounds = sounds_of(lake, corpus)
    rows = {one.key: _row(one, sounds.get(one.key, {})) for one in coded}
    fresh = pa.Table.from_pylist(list(rows.values()), CODES)
    published = lake.publish(lambda newest: _with(lake, newest, codec, corpus, fresh))
    state = published.coded(codec, corpus)
    assert state is not None
    return state


def _with(lake: Lake, newest: Snapshot, codec: str, corpus: str, fresh: pa.Table) -> Snapshot:
    """The snapshot with what is new, but for samples that were taken down meanwhile."""
    standing = newest.coded(codec, corpus) or CodesState(codec=codec, corpus=corpus)
    state = newest.corpus(corpus)
    gone = get_table(lake.store, state.tombstones, ("key",))["key"] if state and state.tombstones else None
    fresh = fresh.filter(pc.invert(pc.is_in(fresh["key"], value_set=gone))) if gone else fresh
    laid = _laid(lake.store, standing, fresh, fresh["key"].combine_chunks())
    kept = [one for one in newest.codes if (one.codec, one.corpus) != (codec, corpus)]
    return newest.model_copy(update={"codes": tuple(sorted([*kept, laid], key=_name))})


def without(store: Store, standing: CodesState, keys: pa.Array) -> CodesState:
    """Codes without those of some samples; leaves that hold none of these keep their objects."""
    return _laid(store, standing, CODES.empty_table(), keys)


def _laid(store: Store, standing: CodesState, fresh: pa.Table, instead: pa.Array) -> CodesState:
    """What stands, less the rows of some keys, and what is new, as leaves; one leaf that changes is held at a time."""
    fresh, stays, changed = fresh.sort_by("key"), [fresh["key"]], set[str]()
    for shard in standing.shards:
        keys = get_table(store, shard.objects[0], ("key",))["key"]
        goes = pc.is_in(keys, value_set=instead)
        stays.append(keys.filter(pc.invert(goes)))
        changed |= {shard.leaf} if pc.any(goes).as_py() else set()
    every, new = sorted(key for part in stays for key in part.to_pylist()), fresh["key"].to_pylist()
    same = {shard.leaf: shard for shard in standing.shards if shard.leaf not in changed}
    shards = []
    for leaf in leaves(np.array([draw_of(key) for key in every], np.uint64), CAP):
        least, most = every[leaf.begin], every[leaf.end - 1]
        begin, end = bisect_left(new, least), bisect_right(new, most)
        if leaf.name in same and begin == end:
            shards.append(same[leaf.name])
            continue
        parts = [fresh.slice(begin, end - begin)]
        for shard in standing.shards:
            if shard.leaf.startswith(leaf.name) or leaf.name.startswith(shard.leaf):
                rows = get_table(store, shard.objects[0], verify=True).cast(CODES)
                mine = pc.and_(pc.greater_equal(rows["key"], least), pc.less_equal(rows["key"], most))
                parts.append(rows.filter(pc.and_not(mine, pc.is_in(rows["key"], value_set=instead))))
        rows = pa.concat_tables(parts).sort_by("key").combine_chunks()
        stored = put_table(store, f"codec/{standing.codec}/{standing.corpus}/{leaf.name}", rows)
        shards.append(Shard(leaf=leaf.name, samples=len(rows), questions=0, objects=(stored,)))
    return standing.model_copy(update={"shards": tuple(shards)})


def _name(state: CodesState) -> tuple[str, str]:
    return state.codec, state.corpus


def _row(one: Coded, sounds: Mapping[str, int]) -> dict[str, Any]:
    codes, where = np.asarray(one.codes), f"codes of sample {one.key}"
    if one.sound not in sounds:
        raise BadCodes(f"{where}: the lake has no such sound of it as {one.sound}")
    if one.samples != sounds[one.sound]:
        raise BadCodes(f"{where}: {one.samples} samples, its sound has {sounds[one.sound]} at 24 kHz")
    due = -(-one.samples // STEP)
    if codes.ndim != 1 or len(codes) != due:
        raise BadCodes(f"{where}: {codes.size} codes, {due} are due, one for every {STEP} samples")
    if codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= IDS:
        raise BadCodes(f"{where}: codes are whole numbers from 0 to {IDS - 1}")
    style = np.asarray(one.style, np.int64)
    if style.ndim != 1 or len(style) and (style.min() < 0 or style.max() > np.iinfo(np.uint16).max):
        raise BadCodes(f"{where}: style is a row of whole numbers from 0 to 65535")
    return {**one._asdict(), "codes": codes.tolist(), "style": style.tolist()}


def _sounds(lake: Lake, snapshot: Snapshot, corpus: str, leaf: str) -> dict[str, dict[str, int]]:
    state = snapshot.corpus(corpus)
    if state is None or state.corpus.kind is not Kind.TTS:
        raise BadCodes(f"{lake.url}: no corpus '{corpus}' of kind tts to have codes of")
    found: dict[str, dict[str, int]] = {}
    speech = [shard for one in snapshot.speech if one.corpus == corpus for shard in one.shards]
    for shards, column, name in (state.shards, "audios", "digest"), (speech, "clips", "clip"):
        for shard in shards:
            if not (shard.leaf.startswith(leaf) or leaf.startswith(shard.leaf)):
                continue
            table = get_table(lake.store, shard.index, ("key", column))
            for key, sounds in zip(table["key"].to_pylist(), table[column].to_pylist(), strict=True):
                mine = {one[name]: resampled_length(one["samples"], one["rate"], RATE_TTS) for one in sounds}
                found.setdefault(key, {}).update(mine)
    return found


def _read(lake: Lake, shard: Shard) -> Iterator[dict[str, Any]]:
    yield from get_table(lake.store, shard.objects[0], verify=True).cast(CODES).to_pylist()


class Codes:
    """The codes of a corpus, found by key: what `Pairs(codes=…)` takes. Leaves are read when they are needed."""

    def __init__(self, lake: str, codec: str) -> None:
        self._lake, self.codec = Lake(lake), codec
        self._snapshot = self._lake.snapshot()
        self._states = [state for state in self._snapshot.codes if state.codec == codec]
        if not self._states:
            known = ", ".join(sorted({state.codec for state in self._snapshot.codes})) or "none"
            raise NotThere(f"{lake}: no codes of '{codec}'; there are codes of: {known}")
        self._leaf: Callable[[str, Shard], dict[str, dict[str, Any]]] = lru_cache(maxsize=16)(self._load)

    def __getstate__(self) -> tuple[str, str]:
        return self._lake.url, self.codec

    def __setstate__(self, state: tuple[str, str]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def __call__(self, key: str, number: int) -> Ids:
        """The codes of a sample's speech (C,); `NotThere` if there are none of the sound that it has now."""
        row = self.row(key) if number == 0 else None
        if row is None:
            raise NotThere(f"{self._lake.url}: sample {key}, audio {number} has no codes of '{self.codec}'")
        return np.array(row["codes"], np.uint16)

    def row(self, key: str) -> dict[str, Any] | None:
        """All that is stored of a sample (a row of CODES), or None."""
        bits = f"b{draw_of(key):064b}"
        for state in self._states:
            for shard in state.shards:
                if bits.startswith(shard.leaf) and (row := self._leaf(state.corpus, shard).get(key)):
                    return row
        return None

    def _load(self, corpus: str, shard: Shard) -> dict[str, dict[str, Any]]:
        sounds = _sounds(self._lake, self._snapshot, corpus, shard.leaf)
        return {row["key"]: row for row in _read(self._lake, shard) if row["sound"] in sounds.get(row["key"], {})}
