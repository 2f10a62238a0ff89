"""What readers ask of a raw record: its fields by name, its paths, its own id. Whatever is amiss is `Refused`."""

from collections.abc import Iterator
from typing import Any

from tarsia.builders.corpora import Fault, Raw
from tarsia.builders.reading.jsonfile import keyed, listed, records
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Refused


def read_json(source: Store, file: str, key: str = "id") -> Iterator[Raw | Fault]:
    """The raw records of a JSON array or JSON Lines, each with the id that stands under `key`."""
    for found in records(source, file):
        yield found if isinstance(found, Fault) else Raw(own_id(found.value, key), found.value, found.begin, found.end)


def read_keyed(source: Store, file: str) -> Iterator[Raw | Fault]:
    """The members of one JSON object as raw records, each with its key as its `id`."""
    for found in keyed(source, file):
        if isinstance(found, Fault):
            yield found
            continue
        key, value = found
        record = {**value.value, "id": key} if isinstance(value.value, dict) else value.value
        yield Raw(key or None, record, value.begin, value.end)


def read_listed(source: Store, file: str, *names: str, key: str = "id") -> Iterator[Raw | Fault]:
    """The elements of a list in one JSON object as raw records, each with the id that stands under `key`."""
    for found in listed(source, file, *names):
        yield found if isinstance(found, Fault) else Raw(own_id(found.value, key), found.value, found.begin, found.end)


def own_id(record: Any, key: str = "id") -> str | None:
    """The id that a record gives itself, if it gives one: a whole number or some text."""
    own = record.get(key) if isinstance(record, dict) else None
    return str(own) if isinstance(own, int) and not isinstance(own, bool) or isinstance(own, str) and own else None


def fields(record: Any) -> dict[str, Any]:
    """The record as an object."""
    if not isinstance(record, dict):
        raise Refused("record-shape", f"an object was due, not {_kind(record)}")
    return record


def text(record: dict[str, Any], *keys: str) -> str:
    """The text under the first of the keys that is there."""
    key = next((key for key in keys if key in record), keys[0])
    if not isinstance(record.get(key), str):
        raise Refused("record-shape", f"{key}: text was due, not {_kind(record.get(key))}")
    return str(record[key])


def first_of(record: dict[str, Any], keys: tuple[str, ...]) -> Any:
    """What stands under the first of the keys that says anything, or None."""
    return next((record[key] for key in keys if record.get(key) is not None), None)


def paths(record: dict[str, Any], *keys: str) -> tuple[str, ...]:
    """The path or list of paths under the first of the keys that says anything; none is no mistake."""
    key = next((key for key in keys if record.get(key)), None)
    if key is None:
        return ()
    given = record[key]
    if isinstance(given, str):
        return (clean(given),)
    if not isinstance(given, list) or not all(isinstance(path, str) and path for path in given):
        raise Refused("record-shape", f"{key}: a path or a list of paths was due")
    return tuple(clean(path) for path in given)


def clean(path: str) -> str:
    """A path as the corpus wrote it, with forward slashes and no `./` in front."""
    path = path.replace("\\", "/")
    while path.startswith("./"):
        path = path[2:].lstrip("/")
    return path


def _kind(value: Any) -> str:
    return "nothing" if value is None else type(value).__name__
