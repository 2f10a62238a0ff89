"""Which records a list of takedown means: by id, key, digest of a medium or content, or the raw file they came from."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, get_tables
from tarsia.builders.tombstones import read_forbidden, read_tombstones
from tarsia.builders.wanted import Wanted
from tarsia.pipelines.erase import names_one_of
from tarsia.schemas.identity import COMPOSED, key_of
from tarsia.schemas.lake import CorpusState, Snapshot
from tarsia.schemas.shard import ORIGINS


class Found(NamedTuple):
    """Keys that stand, by corpus; digests that are forbidden from now on; lines known before, and never known."""

    keys: dict[str, set[str]]
    digests: set[str]
    known: int
    unknown: tuple[str, ...]


def find(store: Store, snapshot: Snapshot, wanted: Sequence[Wanted], files: Sequence[str], only: str | None) -> Found:
    """What is meant, and also what an interrupted takedown has buried but not erased."""
    keys: dict[str, set[str]] = {}
    met, before = set[Wanted](), set[Wanted]()
    forbidden = read_forbidden(store)
    digits = {one.digits for one in wanted if one.digits}
    shown = set[str]()
    for state in snapshot.corpora:
        name = state.corpus.name
        gone = set(read_tombstones(store, name)["key"].to_pylist())
        origins = get_tables(store, state.origins, ORIGINS, ("key", "id", "file"))
        mine = [one for one in wanted if one.corpus in (None, name)] if only in (None, name) else []
        ids = {one.id: key_of(name, one.id) for one in mine if one.corpus}
        asked = {*digits, *ids.values()} if mine else set[str]()
        named = pc.is_in(origins["key"], value_set=pa.array(sorted(asked | gone), pa.string()))
        standing = set(origins["key"].filter(named).to_pylist())
        meant = standing & asked
        composed = _composed(origins, ids, name)
        meant |= {key for keys_ in composed.values() for key in keys_}
        if files and only in (None, name):
            came = pc.is_in(origins["file"].cast(pa.string()), value_set=pa.array(files, pa.string()))
            meant |= set(origins.filter(came)["key"].to_pylist())
        if only in (None, name):
            showing, seen = _showing(store, state, digits | forbidden)
            meant |= showing
            shown |= seen & digits
        meant |= gone & standing
        keys[name] = meant
        for one in mine:
            key = one.digits or ids[one.id]
            if key in meant or one.id in composed or ids.get(one.id) in meant:
                met.add(one)
            elif key in gone or ids.get(one.id) in gone:
                before.add(one)
    for one in wanted:
        if one.digits in shown:
            met.add(one)
        elif one.digits in forbidden:
            before.add(one)
    if shown:
        for state in snapshot.corpora:
            keys[state.corpus.name] |= _equal_to(store, state, set().union(*keys.values()))
    _follow(store, snapshot, keys)
    unknown = tuple(str(one) for one in wanted if one not in met and one not in before)
    return Found(keys, shown, len(before - met), unknown)


def _follow(store: Store, snapshot: Snapshot, keys: dict[str, set[str]]) -> None:
    """Adds what was made of the answers of some samples: its record bears the key of the sample as its id."""
    makers = [state for state in snapshot.corpora if state.corpus.of]
    for _ in makers:  # noise may be made of noise
        for state in makers:
            name = state.corpus.name
            made = pa.array(
                sorted(key_of(name, key) for source in state.corpus.of for key in keys.get(source, ())), pa.string()
            )
            for part in state.origins if len(made) else ():
                standing = get_table(store, part, ("key",))["key"]
                keys[name] |= set(standing.filter(pc.is_in(standing, value_set=made)).to_pylist())


def _composed(origins: pa.Table, ids: dict[str, str], corpus: str) -> dict[str, set[str]]:
    """Of ids that several records have: the keys of all of them."""
    if not ids:
        return {}
    every = origins["id"]
    bare = pc.replace_substring_regex(every, COMPOSED, "")
    names = pa.array(sorted(ids), pa.string())
    rows = origins.filter(pc.or_(pc.is_in(bare, value_set=names), pc.is_in(every, value_set=names)))
    found: dict[str, set[str]] = {}
    plain = pc.replace_substring_regex(rows["id"], COMPOSED, "").to_pylist()
    for key, own, base in zip(rows["key"].to_pylist(), rows["id"].to_pylist(), plain, strict=True):
        if key != key_of(corpus, own):  # else the id is the record's own, whatever it looks like
            found.setdefault(own if own in ids else base, set()).add(key)
    return found


def _showing(store: Store, state: CorpusState, digests: Collection[str]) -> tuple[set[str], set[str]]:
    """The keys of samples that show or are one of some digests, and which digests these were."""
    keys, seen = set[str](), set[str]()
    if not digests:
        return keys, seen
    values = pa.array(sorted(digests), pa.string())
    for shard in state.shards:
        index = get_table(store, shard.index, ("key", "content", "images", "audios", "videos")).combine_chunks()
        for rows, named in _digests(index):
            hit = pc.fill_null(pc.is_in(named, value_set=values), False)
            seen |= set(named.filter(hit).to_pylist())
            keys |= set(index["key"].take(pa.array(rows).filter(hit)).to_pylist())
    return keys, seen


def _digests(index: pa.Table) -> Iterator[tuple[Any, pa.Array]]:
    """Digests of an index, each with the row it belongs to."""
    content, images, audios, videos = (
        index[name].combine_chunks() for name in ("content", "images", "audios", "videos")
    )
    yield np.arange(len(index)), content
    for lists in (images, audios):
        yield pc.list_parent_indices(lists).to_numpy(), pc.struct_field(lists.flatten(), "digest")
    owners, each = pc.list_parent_indices(videos).to_numpy(), videos.flatten()
    frames = pc.struct_field(each, "frames")
    yield owners[pc.list_parent_indices(frames).to_numpy()], pc.struct_field(frames.flatten(), "digest")
    yield owners, pc.struct_field(each, ["original", "digest"])


def _equal_to(store: Store, state: CorpusState, keys: set[str]) -> set[str]:
    """The keys of records in quarantine that were refused since they equal one of some samples."""
    if state.quarantine is None:
        return set()
    rows = get_table(store, state.quarantine, ("key", "message"))
    named = names_one_of(rows["message"], pa.array(sorted(keys), pa.string()))
    return set(rows.filter(named)["key"].to_pylist())
