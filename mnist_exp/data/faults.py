"""Collect the faults of a data set and report them together, counted by kind."""

from __future__ import annotations

from mnist_exp.errors import RequestError

_MOST_PLACES = 3  # listed for each kind


class Faults:
    """The faults of a data set. Each has a kind, such as `damaged images`, a place and a description."""

    def __init__(self) -> None:
        self.by_kind: dict[str, list[tuple[str, str]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.by_kind.values()))

    def add(self, kind: str, place: str, text: str) -> None:
        """Add a fault."""
        self.by_kind.setdefault(kind, []).append((place, text))

    def include(self, others: Faults) -> None:
        """Add the faults of another collection."""
        for kind, faults in others.by_kind.items():
            self.by_kind.setdefault(kind, []).extend(faults)

    @property
    def places(self) -> list[str]:
        """The places of all faults, by kind."""
        return [place for faults in self.by_kind.values() for place, _ in faults]

    def note(self, folder: str) -> str:
        """Return a note that files in a folder were left out, with a line per kind and paths inside the folder."""
        lines = []
        for kind, faults in self.by_kind.items():
            inside = [(place.removeprefix(f"{folder}/"), text) for place, text in faults]
            lines.append(_line(kind, inside))
        count = f"{len(self):,} file{'s' * (len(self) != 1)}"
        return "\n  ".join([f"{folder}: data.skip_bad left out {count}", *lines])

    def raise_any(self, subject: str, advice: str = "") -> None:
        """Raise `RequestError` if there are faults: with the text of a single one, else with a line per kind.

        Args:
            subject: The name of the data set, file or folder with the faults.
            advice: How to resolve all faults; appended to the first line of the message.
        """
        if len(self) == 1:
            [[(place, text)]] = self.by_kind.values()
            raise RequestError(f"{place}: {text}{advice}")
        if len(self):
            lines = [_line(kind, faults) for kind, faults in self.by_kind.items()]
            raise RequestError("\n  ".join([f"{subject}: {len(self):,} problems{advice}", *lines]))


def _line(kind: str, faults: list[tuple[str, str]]) -> str:
    (first, text), *others = faults
    also = [place for place, _ in others[: _MOST_PLACES - 1]] + ["…"] * (len(faults) > _MOST_PLACES)
    return f"{kind} ({len(faults):,}): {first}: {text}" + (f"; also {', '.join(also)}" if also else "")
