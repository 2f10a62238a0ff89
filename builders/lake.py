"""The lake as one opens it: its newest snapshot, and the one way to publish the next."""

import re
from collections.abc import Callable

import orjson
from pydantic import ValidationError

from tarsia.builders.storage import Store, open_store
from tarsia.schemas.errors import Corrupt, Exists, NotThere
from tarsia.schemas.identity import canonical
from tarsia.schemas.lake import FORMAT, Snapshot, snapshot_path

_NUMBERED = re.compile(r"snapshots/(\d{8})\.json")


class Lake:
    """A folder or bucket that holds snapshots."""

    def __init__(self, url: str) -> None:
        self.store: Store = open_store(url)
        self.url = self.store.url  # whole, since workers may stand in another folder

    def numbers(self) -> list[int]:
        """The published snapshots, oldest first."""
        found = (_NUMBERED.fullmatch(entry.path) for entry in self.store.list("snapshots"))
        return sorted(int(match[1]) for match in found if match)

    def snapshot(self, number: int | None = None) -> Snapshot:
        """One snapshot, the newest if not said which; `NotThere` when nothing was ever ingested."""
        if number is None:
            known = self.numbers()
            if not known:
                raise NotThere(f"{self.url} holds no snapshot; fill it with: tarsia ingest CATALOG {self.url}")
            number = known[-1]
        data = self.store.read(snapshot_path(number))
        try:
            fields = orjson.loads(data)
            if fields.get("format") != FORMAT:
                raise Corrupt(
                    f"{self.url}: snapshot {number} has format {fields.get('format')}, not {FORMAT}: "
                    "ingest into an empty place, or use the Tarsia that wrote it"
                )
            return Snapshot.model_validate(fields)
        except (ValidationError, orjson.JSONDecodeError) as error:
            raise Corrupt(f"{self.url}: snapshot {number} cannot be read: {error}") from error

    def publish(self, change: Callable[[Snapshot], Snapshot]) -> Snapshot:
        """Publishes `change(newest)` as the next snapshot; when somebody was faster, on top of theirs.

        A change that changes nothing publishes nothing.
        """
        while True:
            known = self.numbers()
            newest = self.snapshot(known[-1]) if known else Snapshot(number=0)
            changed = change(newest)
            if changed == newest:
                return newest
            changed = changed.model_copy(update={"number": newest.number + 1})
            try:
                self.store.create(snapshot_path(changed.number), canonical(changed.model_dump(mode="json")))
            except Exists:
                continue
            return changed
