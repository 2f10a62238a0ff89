"""Where the media of a record lie: in files of their own below the root, or carried by the record (`@name`).

Tars, Parquet and hours-long recordings keep media inside the files that records are read from. Their readers say, with
each record, the bytes or the span of bytes; a draft names them with an @ in front.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tarsia.builders.corpora import Span
from tarsia.builders.storage import Store
from tarsia.schemas.errors import NotThere, Outside, Refused
from tarsia.schemas.identity import checksum

#: What a record carries: bytes, or where they lie.
CARRIED = pa.list_(
    pa.struct(
        [
            ("name", pa.string()),
            ("data", pa.large_binary()),
            ("path", pa.string()),
            ("offset", pa.int64()),
            ("length", pa.int64()),
        ]
    )
)
_NOTHING = dict.fromkeys(field.name for field in CARRIED.value_type)


def to_rows(carried: Mapping[str, bytes | Span]) -> list[dict[str, Any]]:
    """What a record carries, as a value of CARRIED."""
    return [
        {**_NOTHING, "name": name, **(what._asdict() if isinstance(what, Span) else {"data": what})}
        for name, what in sorted(carried.items())
    ]


class Media:
    """The media of one record, by the paths of its draft."""

    def __init__(self, source: Store, carried: Sequence[dict[str, Any]] | None) -> None:
        self._source = source
        self._carried = {row["name"]: row for row in carried or ()}

    def load(self, path: str) -> bytes:
        """The bytes of one medium. `Refused` where there are none."""
        try:
            if not path.startswith("@"):
                return self._source.read(path)
            row = self._carried.get(path[1:])
            if row is None:
                raise Refused("media-missing", f"the record carries no '{path[1:]}'")
            if row["data"] is not None:
                return bytes(row["data"])
            return self._source.read_range(row["path"], row["offset"], row["length"])
        except Outside as error:
            raise Refused("media-outside", str(error)) from error
        except NotThere as error:
            raise Refused("media-missing", f"no '{path}'") from error

    def version(self, path: str) -> str:
        """A token that changes when the medium does, without opening it; `missing` or `outside` where there is none."""
        row: Any = self._carried.get(path[1:]) if path.startswith("@") else {"path": path, "data": None}
        if row is None:
            return "missing"
        if row["data"] is not None:
            return str(checksum(row["data"]))
        try:
            entry = self._source.entry(row["path"])
        except Outside:
            return "outside"
        return f"{entry.version} {row.get('offset')} {row.get('length')}" if entry else "missing"
