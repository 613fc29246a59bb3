"""Write docs/licenses.md, the licences of all packages that an installation of mnist-exp brings.

    python docs/site/licenses.py

They are read from the metadata of the packages that are installed here or, failing that, from their licence files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PAGE = Path(__file__).resolve().parents[1] / "licenses.md"
_EXTRAS = ("", "export", "joblib", "submitit", "ray")
"""The extras that users install; those for development and GPUs are left out."""
_PHRASES = {
    "Permission is hereby granted, free of charge, to any person": "MIT",
    "Apache License, Version 2.0": "Apache-2.0",
}
_HEAD = """\
# Licences of the dependencies

`mnist-exp` itself is under the MIT licence. `pip install '.[export,joblib,submitit,ray]'` in a clone of the
repository installs these packages on Linux. Each licence is taken from the package's metadata or, if the metadata
do not state it, from the package's licence file. NVIDIA's libraries, which the extra `gpu` adds, and the tools of
the dependency group `dev` are not listed.
`python docs/site/licenses.py` writes this page.

| package | licence |
|---|---|
"""


def licenses_page() -> str:
    """Return the page with a row per package."""
    rows = {normalize(found.name): license_of(found) for found in dependencies("mnist-exp", _EXTRAS)}
    return _HEAD + "".join(f"| {name} | {rows[name]} |\n" for name in sorted(rows) if name != "mnist-exp")


def dependencies(package: str, extras: tuple[str, ...]) -> Iterator[Distribution]:
    """Yield a package and all installed packages that it depends on, directly or not."""
    seen: set[tuple[str, str]] = set()
    waiting = [(package, extra) for extra in extras]
    while waiting:
        name, extra = waiting.pop()
        if (normalize(name), extra) in seen:
            continue
        seen.add((normalize(name), extra))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # needed on another system
            continue
        yield found
        for requirement in map(Requirement, found.requires or ()):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                waiting += [(requirement.name, other) for other in ("", *requirement.extras)]


def license_of(found: Distribution) -> str:
    """Return the licence that a package's metadata or, failing that, its licence file states."""
    metadata = found.metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [
        value.rpartition(" :: ")[2]
        for value in metadata.get_all("Classifier") or ()
        if value.startswith("License ::") and not value.endswith("OSI Approved")
    ]
    text = (metadata.get("License") or "").strip()
    short = text if text and "\n" not in text and len(text) < 60 else ""
    return ", ".join(classifiers) or short or _recognize(found)


def _recognize(found: Distribution) -> str:
    """Return the licence whose text a package's licence file contains."""
    files = [file for file in found.files or () if file.name.upper().startswith("LICEN")]
    text = " ".join(files[0].read_text(encoding="utf-8").split()) if files else ""
    return next((name for phrase, name in _PHRASES.items() if phrase in text), "not stated")


def normalize(name: str) -> str:
    """Return a package's name as indexes normalize it."""
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    PAGE.write_text(licenses_page(), encoding="utf-8")
