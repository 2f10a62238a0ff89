"""`tarsia ingest --retry`: which of the records in quarantine would be refused again, and which have become good.

A record is refused for itself (its reader or a rule of ours was wrong), for its media (missing, cut off) or for the
file it stands in. It is understood again from the raw bytes that the quarantine kept; where those are not enough (media
that the file carries, bytes that were no record at all), its file is read once more. Nothing is written here: `ingest`
then builds the leaves of what became good. What stands elsewhere is good already, and left alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tarsia.builders.corpora import At, Fault, Raw, find
from tarsia.builders.lake import Lake
from tarsia.builders.media import in_memory
from tarsia.builders.records import found_in, understand
from tarsia.builders.samples import admit
from tarsia.builders.tables import get_table
from tarsia.pipelines.coming import Step
from tarsia.pipelines.pool import Pool, finish
from tarsia.pipelines.progress import Progress
from tarsia.pipelines.tasks import grouped
from tarsia.schemas.corpus import Corpus
from tarsia.schemas.errors import Refused
from tarsia.schemas.sample import Draft
from tarsia.schemas.shard import Stored

ELSEWHERE = ("duplicate", "near-duplicate", "excluded", "taken-down")  # good records that stand elsewhere, or must not
ROWS = 4096  # of the quarantine that one task tries again


@dataclass(frozen=True)
class Again(Step):
    """Tries some refused records of a corpus again: rows of its quarantine that stand in the same files."""

    quarantine: Stored
    files: tuple[str, ...]

    def run(self) -> Any:
        """The keys of those that would not be refused again."""
        rows = get_table(self.store, self.quarantine).to_pylist()
        mine = [row for row in rows if row["file"] in self.files and row["code"] not in ELSEWHERE]
        tried = [(row, self._alone(row)) for row in mine]
        good = [row["key"] for row, is_good in tried if is_good]
        for file in self.files:
            open_rows = [row for row, is_good in tried if is_good is None and row["file"] == file]
            good += self._in_file(file, open_rows) if open_rows else []
        return sorted(good)

    def _alone(self, row: dict[str, Any]) -> bool | None:
        """Whether a record is good by what the quarantine kept of it; None where that cannot be told."""
        try:
            raw = orjson.loads(row["raw"] or b"")
        except orjson.JSONDecodeError:
            return None
        try:
            draft = self._draft(raw, row)
        except Refused as error:
            return None if error.code == row["code"] == "reader-failed" else False
        if any(path.startswith("@") for path in (*draft.images, *draft.videos, *draft.audios)):
            return None
        return self._is_admitted(draft, row, {})

    def _in_file(self, file: str, rows: list[dict[str, Any]]) -> list[str]:
        """Of records whose file must be read again, those that are good; what is not found there has changed."""
        faults: Counter[tuple[Any, ...]] = Counter()
        raws: dict[tuple[int, int], list[Raw]] = {}
        spans = {(row["begin"], row["end"]) for row in rows}
        for found in found_in(find(self.corpus.format), self.source, file):
            if isinstance(found, Fault):
                faults[found.begin, found.end, found.code] += 1
            elif (found.begin, found.end) in spans:
                raws.setdefault((found.begin, found.end), []).append(found)
        good = []
        for row in rows:
            here = raws.get((row["begin"], row["end"]), ())
            raw = next((one for one in here if row["raw"] in (None, one.record)), None)
            if raw is None and faults[row["begin"], row["end"], row["code"]]:
                continue
            if raw is None or self._is_good(raw, row):
                good.append(row["key"])
        return good

    def _is_good(self, raw: Raw, row: dict[str, Any]) -> bool:
        try:
            return self._is_admitted(self._draft(orjson.loads(raw.record), row), row, raw.media)
        except Refused:
            return False

    def _draft(self, record: Any, row: dict[str, Any]) -> Draft:
        return understand(record, At(self.corpus, row["file"], row["key"]), find(self.corpus.format))

    def _is_admitted(self, draft: Draft, row: dict[str, Any], carried: Any) -> bool:
        try:
            admit(draft, self.corpus, row["key"], row["id"], in_memory(self.source, carried))
        except Refused:
            return False
        return True


def retry(
    refused: Sequence[tuple[Corpus, Stored | None]], lake: Lake, pool: Pool, *, quiet: bool
) -> dict[str, list[str]]:
    """The keys of refused records that have become good, by corpus; corpora without any are not named."""
    tasks = [task for corpus, stored in refused if stored for task in _tasks(corpus, stored, lake)]
    for folder in {task.record.rpartition("/")[0] for task in tasks}:  # of a run that was cut off
        for entry in list(lake.store.list(folder)):
            lake.store.delete(entry.path)
    good: dict[str, list[str]] = {}
    for task, keys in zip(tasks, finish(tasks, pool, Progress("retry", "files", quiet=quiet)), strict=True):
        if keys:
            good.setdefault(task.corpus.name, []).extend(keys)
    return good


def _tasks(corpus: Corpus, stored: Stored, lake: Lake) -> list[Again]:
    """Files in groups that have about `ROWS` refused records."""
    rows = get_table(lake.store, stored, ("file", "code"))
    counts = Counter(
        file
        for file, code in zip(rows["file"].to_pylist(), rows["code"].to_pylist(), strict=True)
        if code not in ELSEWHERE
    )
    folder = f"work/{corpus.name}/retry"
    return [
        Again(lake.url, corpus, f"{folder}/{number:05d}.json", stored, files)
        for number, files in enumerate(grouped(sorted(counts.items()), ROWS))
    ]
