"""Where the paths of a list start: beside the list, or at the root of the corpus. Lists rarely say."""

from pathlib import PurePosixPath

from tarsia.builders.reading.fields import clean
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Outside


class Near:
    """The paths of one list, from the root on. The first path that leads to a file decides for all after it."""

    def __init__(self, source: Store, file: str) -> None:
        folder = str(PurePosixPath(file).parent)
        self._source = source
        self._places = [""] if folder == "." else [f"{folder}/", ""]

    def path(self, written: str) -> str:
        """The path that was written, from the root on."""
        written = clean(written)
        if written.startswith("/"):
            return written  # of another machine: it leaves the corpus and is refused
        if len(self._places) > 1:
            self._places = [place for place in self._places if self._leads(f"{place}{written}")][:1] or self._places
        return f"{self._places[-1]}{written}"

    def _leads(self, path: str) -> bool:
        try:
            return self._source.entry(path) is not None
        except Outside:
            return False
