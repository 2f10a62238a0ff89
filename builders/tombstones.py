"""Tombstones: which records were taken down, and which media no corpus may hold again.

    tombstones/corpora/<corpus>/rows-<digest8>.parquet     what was taken down of a corpus (TOMBSTONES)
    tombstones/media/rows-<digest8>.parquet                digests that are forbidden everywhere (FORBIDDEN)

Every object holds all that was taken down until then, and all objects of a folder count: what was once written is never
taken back, a lake that is built anew beside copied tombstones honours them, and an older object does no harm.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table, put_table, read_parquet
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.sample import Sample
from tarsia.schemas.shard import FORBIDDEN, TOMBSTONES, Stored, lies_in

_ALL = "tombstones"
_MEDIA = f"{_ALL}/media"


def read_tombstones(store: Store, corpus: str) -> pa.Table:
    """What was taken down of a corpus, in the order of keys."""
    return _read(store, _folder(corpus), TOMBSTONES, "key")


def tombstone_within(store: Store, gone: Stored | None, leaf: str) -> list[dict[str, Any]]:
    """The tombstones of samples whose draws lie in a leaf, in the order of keys."""
    rows = get_table(store, gone).to_pylist() if gone else []
    return [row for row in rows if row["sample"] and lies_in(row["draw"], leaf)]


def put_tombstones(store: Store, corpus: str, rows: pa.Table) -> Stored | None:
    """Stores all that was taken down of a corpus; nothing where nothing was."""
    return put_table(store, f"{_folder(corpus)}/rows", rows) if len(rows) else None


def read_forbidden(store: Store) -> set[str]:
    """The digests of media and contents that no corpus may hold."""
    return set(_read(store, _MEDIA, FORBIDDEN, "digest")["digest"].to_pylist())


def put_forbidden(store: Store, digests: Iterable[str]) -> None:
    """Stores all digests that are forbidden."""
    put_table(store, f"{_MEDIA}/rows", pa.table([pa.array(sorted(digests), pa.string())], FORBIDDEN))


def state_of(store: Store, corpora: Iterable[str]) -> list[str]:
    """What must not change while corpora are built: the names of all objects that they must honour."""
    folders = {*map(_folder, corpora), _MEDIA}
    return [entry.path for entry in store.list(_ALL) if entry.path.rpartition("/")[0] in folders]


def all_of(store: Store, corpus: str, known: Stored | None, honoured: Iterable[str]) -> Stored | None:
    """One object with all that was taken down of a corpus: the `known` one unless others are `honoured`."""
    mine = [path for path in honoured if path.rpartition("/")[0] == _folder(corpus)]
    if not mine or known and mine == [known.path]:
        return known if mine else None
    return put_tombstones(store, corpus, read_tombstones(store, corpus))


def _folder(corpus: str) -> str:
    return f"{_ALL}/corpora/{corpus}"


def _read(store: Store, folder: str, schema: pa.Schema, name: str) -> pa.Table:
    """All rows of a folder, those of one key once, in its order."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in store.list(folder):
        with store.open(entry.path) as file:
            for row in read_parquet(file, f"{store.url}/{entry.path}").to_pylist():
                rows.setdefault(row[name], row)
    return pa.Table.from_pylist([rows[key] for key in sorted(rows)], schema)


def shown_by(sample: Sample) -> set[str]:
    """The digests of all media that are stored of a sample."""
    frames = (frame.digest for video in sample.videos for frame in video.frames)
    originals = (video.original.digest for video in sample.videos if video.original)
    return {*(one.digest for one in sample.images), *(one.digest for one in sample.audios), *frames, *originals}


def tombstone(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row of TOMBSTONES for a row of INDEX."""
    kept = {name: row[name] for name in ("key", "draw", "language", "modality", "questions")}
    return {**kept, "sample": True, "audios": _lengths(row["audios"])}


def _lengths(audios: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{name: audio[name] for name in ("samples", "rate")} for audio in audios]


def standing_for(row: Mapping[str, Any], corpus: Corpus) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows of INDEX and TEXT that stand where a sample stood; `row` is its tombstone."""
    index = {name: row[name] for name in ("key", "draw", "language", "modality", "questions", "audios")}
    index |= {"corpus": corpus.name, "kind": corpus.kind.value, "images": [], "videos": [], "members": []}
    index |= dict.fromkeys(("id", "record", "said", "content"), "")
    index |= dict.fromkeys(("offset", "length", "checksum"), 0)
    return index, {"key": row["key"], "conversations": [{"from": "human", "value": ""}] * row["questions"]}
