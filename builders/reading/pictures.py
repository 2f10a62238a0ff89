"""Where the media of a label file lie, which such files say in their own way: from another folder, or by name alone.

Draft paths start at the corpus's media folder, but a file of labels is read without knowing it. So what is found while
reading is written from the root on, and `from_media` brings it below the media folder later; where it is not there,
the path as the label file has it counts, since then the catalog says where paths start.
"""

import re
import time
from pathlib import PurePosixPath
from posixpath import normpath
from weakref import WeakKeyDictionary

from tarsia.builders.corpora import At
from tarsia.builders.reading.fields import clean
from tarsia.builders.storage import Store
from tarsia.schemas.errors import Outside

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")

_MISSES = 8  # images of a folder that are looked for in vain before the folder is given up
_FRESH = 60  # seconds for which a list of images is good


class Paths:
    """The paths of one label file, from the root on; where the images of a folder are is found out once.

    A path may start at the label file's folder, at any folder above it, or in a place of another machine (a repository,
    `D:/dataset`), of which so much is left out that it leads to an image. Less is tried first, and near before far.
    """

    def __init__(self, source: Store, file: str) -> None:
        self._source = source
        folder = PurePosixPath(file).parent
        self._bases = list(dict.fromkeys(str(base) for base in (folder, *folder.parents)))
        self._known: dict[str, tuple[str, int]] = {}  # by folder as written: where it starts, and what is left out
        self._missed: dict[str, int] = {}

    def find(self, written: str) -> str:
        """The image that is written so, from the root on; as it is written where there is none."""
        parts = [part for part in clean(written).split("/") if part and not part.endswith(":")]
        folder = "/".join(parts[:-1])
        if not parts or self._missed.get(folder, 0) >= _MISSES:
            return clean(written)
        if folder in self._known:
            base, left_out = self._known[folder]
            return normpath(f"{base}/{'/'.join(parts[left_out:])}")
        for left_out in range(len(parts)):
            for base in self._bases:
                path = normpath(f"{base}/{'/'.join(parts[left_out:])}")
                if self._is_there(path):
                    self._known[folder] = (base, left_out)
                    return path
        self._missed[folder] = self._missed.get(folder, 0) + 1
        return clean(written)

    def _is_there(self, path: str) -> bool:
        try:
            return not path.startswith("..") and self._source.entry(path) is not None
        except Outside:
            return False


def from_media(found: str, written: str, at: At) -> str:
    """A path that was found from the root on, below the media folder; as it is written if it is not in there."""
    folder = at.corpus.media.strip("/")
    if not folder:
        return found
    return found.removeprefix(f"{folder}/") if found.startswith(f"{folder}/") else clean(written)


def named(source: Store, stem: str, file: str) -> tuple[str, ...]:
    """The images of that name, whatever they end in; of several those that the label file fits best.

    That is the one beside it, or the one whose folder shares most words with the label file's, as `ch4_test_images`
    does with `Challenge4_Test_Task1_GT`.
    """
    found = _images(source).get(stem, ())
    folder = PurePosixPath(file).parent
    beside = tuple(path for path in found if PurePosixPath(path).parent == folder)
    if beside or len(found) < 2:
        return beside or found
    shared = [len(_words(str(folder)) & _words(str(PurePosixPath(path).parent))) for path in found]
    return tuple(path for path, words in zip(found, shared, strict=True) if words == max(shared))


def _words(folder: str) -> set[str]:
    return set(re.findall(r"[a-z]+|\d+", folder.lower()))


_listed: WeakKeyDictionary[Store, tuple[float, dict[str, tuple[str, ...]]]] = WeakKeyDictionary()


def _images(source: Store) -> dict[str, tuple[str, ...]]:
    """All images below the root by their names without suffix, listed once a minute (some 200 bytes an image)."""
    when, images = _listed.get(source, (-_FRESH, {}))
    if time.monotonic() - when < _FRESH:
        return images
    images = {}
    for entry in source.list():
        path = PurePosixPath(entry.path)
        if path.suffix.lower() in SUFFIXES:
            images[path.stem] = (*images.get(path.stem, ()), entry.path)
    _listed[source] = (time.monotonic(), images)
    return images
