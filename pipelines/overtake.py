"""What `speak` and `takedown` owe each other where both are under way: no text that was erased comes back.

Both look at what the other has written first. A takedown writes its tombstones, and then takes the texts out of all
orders that lie under `work/` (`quiet_down`); a job stores its orders, and then looks for tombstones that its snapshot
does not know (`is_overtaken`): whoever comes second sees the first. A task may have read its orders before, and seals
what it has; so the job erases the clips of hushed orders when its tasks have ended, and where the job was killed, the
next `speak` or `takedown` does (`sweep`). What a job has gathered into sidecars is refused when it publishes.
"""

from collections.abc import Collection, Iterable

from tarsia.builders.clips import hush, hushed
from tarsia.builders.lake import Lake
from tarsia.builders.storage import Store
from tarsia.builders.tables import get_table
from tarsia.builders.tombstones import read_tombstones
from tarsia.pipelines.erase import segments, silence
from tarsia.schemas.errors import UserError
from tarsia.schemas.lake import Snapshot


def quiet_down(store: Store, said: set[str], corpora: Iterable[str]) -> None:
    """Takes texts out of the orders of jobs under way, and away what they gather of some corpora for sidecars."""
    if said:
        hush(store, said)
    names = set(corpora)
    for entry in list(store.list("work/speech")):
        if entry.path.split("/")[4] in names:
            store.delete(entry.path)


def sweep(lake: Lake, script: str | None = None) -> None:
    """Erases the clips and verdicts of hushed orders that were made all the same: of one script, or of all that lie."""
    paths = [script] if script else [entry.path for entry in lake.store.list("work/speak")]
    if clips := hushed(lake.store, paths):
        for segment in segments(lake.store, set(), lake.snapshot(), clips):
            silence(lake.store, segment)


def is_overtaken(lake: Lake, snapshot: Snapshot, corpora: Collection[str]) -> bool:
    """Whether records of some corpora were taken down since a snapshot; `UserError` while that has not ended."""
    if not _behind(lake.store, snapshot, corpora):
        return False
    if name := _behind(lake.store, lake.snapshot(), corpora):
        raise UserError(
            f"{lake.url}: records of corpus '{name}' are being taken down; run this again when `tarsia takedown` has "
            "ended (if it was interrupted, run that again first): what was made is kept"
        )
    return True


def _behind(store: Store, snapshot: Snapshot, corpora: Iterable[str]) -> str | None:
    """The first of some corpora of which more was taken down than a snapshot knows, or None."""
    for name in corpora:
        state = snapshot.corpus(name)
        known = state.tombstones if state else None
        if len(read_tombstones(store, name)) > (len(get_table(store, known, ("key",))) if known else 0):
            return name
    return None
