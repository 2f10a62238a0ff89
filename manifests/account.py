"""Account: what a run was really handed, in whole numbers, to be held against the manifest at any step.

    account = Account(stream)
    for step, batch in enumerate(stream):
        account.add(batch)
        if step % 100 == 0:
            account.log("run.jsonl", step)       # one line of JSON: everything so far

Samples, questions, tokens and microseconds of audio are summed by corpus, kind, language and modality. What was covered
is kept as edges: +1 where global batches begin, -1 where they end; equal ones cancel, so a run without a gap is two
edges however long it is. All of it are sums of whole numbers: accounts of several ranks, or of a run before and after
its resume, merge exactly and in any order. A line holds the whole account, so the last line of a log says all.

Where the plan was repaired between two parts of a run, a line holds an account under each manifest: contexts of the one
are not those of the other.

The account belongs into the checkpoint, beside the state of the stream. With several ranks: gather, add up, log and
save in one place, and let one rank of the resumed run go on with the sum while the others begin at nothing.
"""

import os
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Protocol

import orjson

from tarsia.manifests.places import Group
from tarsia.manifests.stream import Handed, Stream
from tarsia.schemas.errors import StorageFault, UserError

FIGURES = ("samples", "questions", "tokens", "microseconds")
_HELP = {
    "samples": "Samples handed to the trainer",
    "questions": "Human turns of these samples",
    "tokens": "Tokens of these samples, system prompts not counted",
    "audio_seconds": "Audio in these samples, at 16 kHz",
}


class Account:
    """What one rank was handed of a stage, or several together. May be pickled."""

    def __init__(self, stream: Stream) -> None:
        self.stage, self.epochs = f"{stream.manifest.model}/{stream.manifest.name}", stream.epochs
        self.manifest = stream.state_dict()["manifest"]
        repaired = stream.manifest.repaired
        self._parents = {digest[: len(self.manifest)] for digest in (repaired.parents if repaired else ())}
        self._reader = (stream.batch, stream.world, stream.rank)
        self._clear()

    def _clear(self) -> None:
        self.contexts = 0
        self._figures: dict[Group, list[int]] = {}
        self._edges: dict[tuple[int, int, int, int], Counter[int]] = {}  # by epoch, batch, world, rank
        self._missing: list[tuple[int, int, int, str, str, int]] = []
        self._before: dict[str, Account] = {}  # by manifest: what was handed out before it was repaired

    def add(self, batch: "_Batch") -> None:
        """Notes a batch that the trainer was handed, of contexts or of tensors."""
        handed = batch.handed
        step = handed.step
        _move(self._edges.setdefault((step.epoch, *self._reader), Counter()), ((step.begin, 1), (step.end, -1)))
        self.contexts += handed.contexts
        for group, figures in handed.figures.items():
            self._count(group, figures)
        for context, lost in handed.missing:
            self._missing.append((step.epoch, context, lost.slot, lost.key, lost.path, lost.offset))

    def __add__(self, other: "Account") -> "Account":
        """Both together; in any order, the sum is the same."""
        both = Account.__new__(Account)
        both.__dict__.update(self.__dict__)
        both._clear()
        both._take(self.state_dict())
        both._take(other.state_dict())
        return both

    def figures(self) -> dict[Group, dict[str, int]]:
        """The sums so far, by corpus, kind, language and modality."""
        sums: dict[Group, Counter[str]] = {}
        for one in (self, *self._before.values()):
            for group, row in one._figures.items():
                sums.setdefault(group, Counter()).update(dict(zip(FIGURES, row, strict=True)))
        return {group: {name: row[name] for name in FIGURES} for group, row in sorted(sums.items())}

    def state_dict(self) -> dict[str, Any]:
        """The whole account as JSON-like values, to be kept in a checkpoint."""
        before = [one.state_dict() for _, one in sorted(self._before.items())]
        own = [{**group._asdict(), **dict(zip(FIGURES, row, strict=True))}
               for group, row in sorted(self._figures.items())]  # fmt: skip
        ordered = sorted((*key[:3], sorted(edges.items()), key[3]) for key, edges in self._edges.items() if edges)
        return {
            "stage": self.stage,
            "manifest": self.manifest,
            "epochs": self.epochs,
            "contexts": self.contexts,
            "covered": [
                {"epoch": epoch, "batch": batch, "world": world, "ranks": [one[4] for one in same],
                 "edges": [list(edge) for edge in edges]}
                for (epoch, batch, world, edges), same in groupby(ordered, key=lambda one: one[:4])
            ],
            "figures": own,
            "missing": [dict(zip(_MISSING, one, strict=True)) for one in sorted(self._missing)],
            **({"before": before} if before else {}),
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with an account that was kept, under this manifest or one that it repaired. Refuses any other."""
        self._clear()
        self._take(state)

    def log(self, path: str, step: int) -> None:
        """Appends the account to a file, as one line of JSON, in one write."""
        line = orjson.dumps({"step": step, **self.state_dict()}, option=orjson.OPT_APPEND_NEWLINE)
        try:
            file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.write(file, line)
            finally:
                os.close(file)
        except OSError as error:
            raise StorageFault(f"cannot append to '{path}': {error.strerror}") from error

    def prometheus(self) -> str:
        """The account in the text format of Prometheus."""
        rows = [
            ({"stage": self.stage, **group._asdict()}, [*row[:3], row[3] / 1e6])
            for group, row in ((group, [*sums.values()]) for group, sums in self.figures().items())
        ]
        lines, every = [], (self, *self._before.values())
        for which, (name, text) in enumerate(_HELP.items()):
            lines += [f"# HELP tarsia_{name}_total {text}", f"# TYPE tarsia_{name}_total counter"]
            lines += [f"tarsia_{name}_total{_labels(labels)} {figures[which]}" for labels, figures in rows]
        for name, text, figure in (
            ("contexts", "Contexts handed to the trainer", sum(one.contexts for one in every)),
            ("missing_samples", "Samples that could not be read", sum(len(one._missing) for one in every)),
        ):
            lines += [f"# HELP tarsia_{name}_total {text}", f"# TYPE tarsia_{name}_total counter"]
            lines.append(f"tarsia_{name}_total{_labels({'stage': self.stage})} {figure}")
        return "\n".join(lines) + "\n"

    def _take(self, state: dict[str, Any]) -> None:
        for earlier in state.get("before", ()):
            self._take(earlier)
        if state["stage"] == self.stage and state["manifest"] in self._parents:
            self._under(state["manifest"])._take({**state, "before": ()})
            return
        for field in ("stage", "manifest"):
            if state[field] != getattr(self, field):
                raise UserError(f"this account is of {field} {state[field]}, not {getattr(self, field)}")
        self.epochs = max(self.epochs, state["epochs"])
        self.contexts += state["contexts"]
        for part in state["covered"]:
            for rank in part["ranks"]:
                key = (part["epoch"], part["batch"], part["world"], rank)
                _move(self._edges.setdefault(key, Counter()), part["edges"])
        for row in state["figures"]:
            self._count(Group(*(row[name] for name in Group._fields)), [row[name] for name in FIGURES])
        self._missing += [tuple(one[name] for name in _MISSING) for one in state["missing"]]

    def _under(self, manifest: str) -> "Account":
        """The account of what was handed out under a manifest that was repaired since."""
        if manifest not in self._before:
            earlier = Account.__new__(Account)
            earlier.__dict__.update(self.__dict__, manifest=manifest, _parents=set(), epochs=0)
            earlier._clear()
            self._before[manifest] = earlier
        return self._before[manifest]

    def _count(self, group: Group, figures: Sequence[int]) -> None:
        sums = self._figures.setdefault(group, [0, 0, 0, 0])
        for which, figure in enumerate(figures):
            sums[which] += figure


class _Batch(Protocol):
    @property
    def handed(self) -> Handed: ...


_MISSING = ("epoch", "context", "slot", "key", "path", "offset")


def _move(edges: Counter[int], moves: Any) -> None:
    """Adds edges; those that come to nothing are gone."""
    for position, by in moves:
        edges[position] += by
        if not edges[position]:
            del edges[position]


def _labels(labels: dict[str, str]) -> str:
    quoted = (
        name + '="' + value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
        for name, value in labels.items()
    )
    return "{" + ",".join(quoted) + "}"
