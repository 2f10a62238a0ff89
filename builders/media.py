"""Where the media of a record lie: in files of their own below the root, or carried by the record (`@name`).

Tars, Parquet and hours-long recordings keep media inside the files that records are read from. Their readers say, with
each record, the bytes or the span of bytes; a draft names them with an @ in front. Bytes wait in one file a slice until
the shard is written, and are read from there one medium at a time, so that no task ever holds those of a whole leaf.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import pyarrow as pa

from tarsia.builders.corpora import Span
from tarsia.builders.storage import Entry, Store
from tarsia.schemas.errors import NotThere, Outside, Refused
from tarsia.schemas.identity import checksum

#: What a record carries: where it lies in the corpus or, with its XXH3-64, in the lake.
CARRIED = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("path", pa.string()),
            ("offset", pa.int64()),
            ("length", pa.int64()),
            ("checksum", pa.uint64()),
        ]
    )
)


def to_rows(carried: Mapping[str, bytes | Span], store: Callable[[bytes], Span]) -> list[dict[str, Any]]:
    """What a record carries, as a value of CARRIED. `store` keeps bytes and says where."""
    return [
        {"name": name, **(what if isinstance(what, Span) else store(what))._asdict(), "checksum": _checksum(what)}
        for name, what in sorted(carried.items())
    ]


def _checksum(what: bytes | Span) -> int | None:
    return None if isinstance(what, Span) else checksum(what)


class Media:
    """The media of one record, by the paths of its draft."""

    def __init__(
        self,
        source: Store,
        carried: Sequence[dict[str, Any]] | None,
        lake: Store | None = None,
        known: Mapping[str, Entry | None] = MappingProxyType({}),
    ) -> None:
        """`lake` holds what readers gave as bytes; `known` is what the source said before of some of its files."""
        self._source = source
        self._lake = lake or source
        self._known = known
        self._carried = {row["name"]: row for row in carried or ()}

    def load(self, path: str) -> bytes:
        """The bytes of one medium. `Refused` where there are none."""
        try:
            if not path.startswith("@"):
                return self._source.read(path)
            row = self._carried.get(path[1:])
            if row is None:
                raise Refused("media-missing", f"the record carries no '{path[1:]}'")
            store = self._source if row.get("checksum") is None else self._lake
            return store.read_range(row["path"], row["offset"], row["length"])
        except Outside as error:
            raise Refused("media-outside", str(error)) from error
        except NotThere as error:
            raise Refused("media-missing", f"no '{path}'") from error

    def version(self, path: str) -> str:
        """A token that changes when the medium does, without opening it; `missing` or `outside` where there is none."""
        row: Any = self._carried.get(path[1:]) if path.startswith("@") else {"path": path}
        if row is None:
            return "missing"
        if row.get("checksum") is not None:
            return str(row["checksum"])
        try:
            where = row["path"]
            entry = self._known[where] if where in self._known else self._source.entry(where)
        except Outside:
            return "outside"
        return f"{entry.version} {row.get('offset')} {row.get('length')}" if entry else "missing"


def in_memory(source: Store, carried: Mapping[str, bytes | Span]) -> Media:
    """The media of a record that is looked at alone."""
    kept = _Kept()

    def store(data: bytes) -> Span:
        name = str(len(kept))
        kept[name] = data
        return Span(name, 0, len(data))

    return Media(source, to_rows(carried, store), cast(Store, kept))


class _Kept(dict[str, bytes]):
    """Bytes by name, read as a store is."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self[path][offset : offset + length]
