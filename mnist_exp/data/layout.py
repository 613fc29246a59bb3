"""Find a data set's files in its folder: under the names in the config, or under those that archives use.

A file is also found if Windows or an unpacking program changed its name (`train (1).csv`, a folder with the file
in it, `train-images.idx3-ubyte`), and under EMNIST's and Kaggle's names. A file found under a name other than the
config's is reported. If several files match, an error asks the user to choose.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data.dataset import Tell
from mnist_exp.data.folder import is_clutter
from mnist_exp.data.pictures import ENDINGS
from mnist_exp.errors import RequestError

_MOST_NAMES = 6  # listed in a message
_COPY = r"( ?\(\d+\)| - copy)?"
# Names of files that are accepted as well as those in the config, by source and part, in lower case.
_NEAR: Mapping[str, Mapping[str, str]] = {
    "csv": {"train": rf"(.*[-_. ])?train(ing)?{_COPY}\.csv(\.csv|\.txt)?",
        "test": rf"(.*[-_. ])?test(ing)?{_COPY}\.csv(\.csv|\.txt)?"},
    "npz": {"archive": r".*\.npz"},
    "idx": {
        f"{part}_{what}": rf"(.*[-_])?({names})[-_. ]{what}[-_. ]?idx\d[-_. ]ubyte{_COPY}(\.gz)?"
        for part, names in (("train", "train"), ("test", "t10k|test"))
        for what in ("images", "labels")
    },
}  # fmt: skip
_DEFAULTS = {
    "csv": {"train": "train.csv", "test": "test.csv"},
    "npz": {"archive": "data.npz"},
    "idx": {
        "train_images": "train-images-idx3-ubyte", "train_labels": "train-labels-idx1-ubyte",
        "test_images": "t10k-images-idx3-ubyte", "test_labels": "t10k-labels-idx1-ubyte",
    },
    "folder": {"train": "train", "test": "test"},
}  # fmt: skip
_KINDS = {"csv": r".*\.csv.*", "npz": r".*\.npz", "idx": r".*ubyte.*|.*idx\d.*"}
_TRAINING, _TESTING, _VALIDATION = (
    ("train", "training"),
    ("test", "testing"),
    ("val", "valid", "validation", "dev"),
)


def find_files(data: DataConfig, folder: Path, tell: Tell, needs_train: bool = True) -> dict[str, Path]:
    """Return the path of each part of a CSV, NPZ or IDX data set; a test set that does not exist is left out.

    Args:
        data: The config.
        folder: The data set's folder.
        tell: Prints a note.
        needs_train: Whether a training set is required if there is a test set.

    Raises:
        RequestError: A file is missing, or several files match.
    """
    there = _files_in(folder)
    paths: dict[str, Path] = {}
    missing, renamed = [], []
    for part, spec in data.parts.items():
        exact = _find_exact(folder / spec.name, data)
        path = exact or _find_renamed(data, part, folder, there)
        if path is None:
            missing.append(part)
            continue
        paths[part] = path
        if exact is None:
            renamed.append(str(path.relative_to(folder)))
    if renamed:
        tell(f"{folder}: files found under other names: {', '.join(renamed)}")
    if not needs_train and paths and _tests_in(data.parts) == list(paths):
        absent = " or ".join(data.parts[part].name for part in missing)
        tell(f"{folder}: there is no {absent}; the data set has no training set")
    elif missing:
        _explain_missing(data, folder, paths, missing, [name for name, _ in there], tell)
    return paths


def _tests_in(parts: Iterable[str]) -> list[str]:
    """Return the names of the parts that belong to the test set."""
    return [part for part in parts if part.startswith("test")]


def _find_exact(path: Path, data: DataConfig) -> Path | None:
    """Return the path or, for IDX, that with .gz if it is a file."""
    paths = (path, path.with_name(f"{path.name}.gz")) if data.source == "idx" else (path,)
    return next(filter(os.path.isfile, paths), None)


def _find_renamed(data: DataConfig, part: str, folder: Path, there: list[tuple[str, Path]]) -> Path | None:
    """Return the file that holds a part under another name, or None. Raises `RequestError` if several match."""
    wanted = data.parts[part].name
    if wanted != _DEFAULTS[data.source][part]:
        return None  # the user chose this name
    near = [path for name, path in there if re.fullmatch(_NEAR[data.source][part], name.lower())]
    if len(near) > 1:
        shown = ", ".join(str(path.relative_to(folder)) for path in near[:_MOST_NAMES])
        raise RequestError(
            f"data.dir={folder}: there is no file {wanted}, but there are {shown}; choose one, "
            f"for example with data.files.{part}={_quoted(str(near[0].relative_to(folder)))}"
        )
    return near[0] if near else None


def find_image_folders(data: DataConfig, folder: Path, tell: Tell, needs_train: bool = True) -> dict[str, Path]:
    """Return the folder of each part of a data set of image folders, without a test set if there is none.

    A folder that holds the class folders themselves is the training set; the test set if none is required for
    training.

    Raises:
        RequestError: A folder is missing.
    """
    names = {part: spec.name for part, spec in data.parts.items()}
    if names["train"] != "train" or "train" in _folders_in(folder):
        return _parts_in(folder, names, tell, needs_train)
    outer, folder = folder, _enter_only_folders(folder, tell)
    inside = _folders_in(folder)
    lower = {name.lower() for name in inside}
    if not lower.isdisjoint(_TRAINING if needs_train else _TRAINING + _TESTING):
        return _parts_in(folder, names, tell, needs_train)
    if not lower.isdisjoint(_TESTING + _VALIDATION) or not _have_images(folder, inside):
        missing = [name for name in names.values() if name not in inside]
        if _has_images(folder):
            raise RequestError(
                f"data.dir={outer}: its images are not in class folders; expected a folder per class with its "
                f"images, such as {folder.name}/cat and {folder.name}/dog"
            )
        there = f"; the folder contains {_listed(inside)}" * bool(inside) + _advise_on_source(data, folder)
        raise RequestError(f"data.dir={outer}: there is no folder {', '.join(missing)}{there}")
    classes = f"its {len(inside)} folder{'s are the classes' if len(inside) > 1 else ' is a class'}"
    part, remark = ("train", "there is no test set") if needs_train else ("test", "all images are scored")
    tell(f"{folder}: {classes}; {remark}")
    return {part: folder}


def _have_images(folder: Path, names: Iterable[str]) -> bool:
    return any(_has_images(folder / name) for name in names)


def _enter_only_folders(outer: Path, tell: Tell) -> Path:
    """Return the folder inside outer folders that contain only one folder, as in unpacked archives."""
    folder = outer
    while len(inside := _folders_in(folder)) == 1 and inside[0].lower() not in _TRAINING:
        if not _folders_in(folder / inside[0]):
            break
        folder /= inside[0]
    if folder != outer:
        tell(f"{outer}: reading its only folder, {folder.relative_to(outer)}")
    return folder


def _parts_in(folder: Path, names: Mapping[str, str], tell: Tell, needs_train: bool) -> dict[str, Path]:
    there = _folders_in(folder)
    paths: dict[str, Path] = {}
    missing = []
    for part, name in names.items():
        usual = _TRAINING if part == "train" else _TESTING
        near = [one for one in there if one.lower() in usual]
        if os.path.isdir(folder / name):
            paths[part] = folder / name
        elif name == part and len(near) == 1:
            paths[part] = folder / near[0]
            tell(f"{folder}: there is no folder {name}; {near[0]} is read instead")
        else:
            missing.append(name)
    others = [name for name in there if folder / name not in paths.values()]
    if missing == [names["train"]] and not needs_train:
        tell(f"{folder}: there is no folder {missing[0]}; the data set has no training set")
    elif missing:
        _explain_missing_folders(folder, names, missing, others, tell)
    _report_validation_folders(folder, others, tell)
    return paths


def _report_validation_folders(folder: Path, names: list[str], tell: Tell) -> None:
    if unread := [name for name in names if name.lower() in _VALIDATION]:
        tell(f"{folder}: {_listed(unread)} is not read; validation images are taken from the training set")


def _explain_missing_folders(
    folder: Path, names: Mapping[str, str], missing: list[str], others: list[str], tell: Tell
) -> None:
    """Report a missing test set, or raise `RequestError` for folders that are needed."""
    if missing == ["test"] and not others:
        tell(f"{folder}: there is no folder test; the data set has no test set")
        return
    advice = _advise_on_tests(others) if missing == [names.get("test")] else ""
    raise RequestError(f"data.dir={folder}: there is no folder {', '.join(missing)}{advice}")


def _advise_on_tests(others: list[str]) -> str:
    other = f", or data.files.test={_quoted(others[0])} to use that folder" if others else ""
    return f"; set data.files.test=null if there is no test set{other}"


def _explain_missing(
    data: DataConfig, folder: Path, paths: Mapping[str, Path], missing: list[str], there: list[str], tell: Tell
) -> None:
    """Report a missing test set, or raise `RequestError` for files that are needed."""
    wanted = " or ".join(data.parts[part].name for part in missing)
    used = {path.name for path in paths.values()} | {path.parent.name for path in paths.values()}
    others = [name for name in there if name not in used and re.fullmatch(_KINDS[data.source], name.lower())]
    optional = all(
        part.startswith("test") and data.parts[part].name == _DEFAULTS[data.source][part] for part in missing
    )
    tests = _tests_in(data.parts)
    if optional and len(missing) == len(tests) and not others and not data.mirrors:
        tell(f"{folder}: there is no {wanted}; the data set has no test set")
        return
    if missing == tests:
        advice = f"; set {' '.join(f'data.files.{part}=null' for part in tests)} if there is no test set"
    elif others:
        choice = f"data.files.{missing[0]}={_quoted(others[0])}"
        advice = f"; the folder contains {_listed(others)}; choose one, for example with {choice}"
    else:
        advice = f"; the folder contains {_listed(there)}" * bool(there) + _advise_on_source(data, folder)
    if data.source == "idx":
        raise RequestError(f"{given_by(folder)}={folder}: has no {wanted}, with or without .gz{advice}")
    raise RequestError(f"data.dir={folder}: there is no file {wanted}{advice}")


def _advise_on_source(data: DataConfig, folder: Path) -> str:
    """Return the end of a message with the option of `data` that reads a folder's content; empty if none does."""
    if given_by(folder) != "data.dir":
        return ""  # only data.dir is read by the other options
    inside = _folders_in(folder)
    if data.source != "folder" and _have_images(folder, [*inside, *_in_parts(folder, inside)]):
        return "; the images in its folders are read by data=folder data.resize=fit"
    if data.source != "folder" and _has_images(folder):
        return "; data=folder data.resize=fit reads images, sorted into a folder per class"
    names = [name.lower() for name, _ in _files_in(folder)]
    for source, pattern in _KINDS.items():
        if source != data.source and any(re.fullmatch(pattern, name) for name in names):
            return f"; its {source.upper()} files are read by data={source}"
    return ""


def _in_parts(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the class folders in the folders of parts, such as `train/cat`."""
    parts = [name for name in names if name.lower() in _TRAINING + _TESTING + _VALIDATION]
    return [f"{part}/{name}" for part in parts for name in _folders_in(folder / part)]


def given_by(folder: Path) -> str:
    """Return the name of the key or environment variable that the data set's folder comes from."""
    variable = os.environ.get("MNIST_EXP_DATA")
    return "MNIST_EXP_DATA" if variable and os.path.abspath(variable) == str(folder) else "data.dir"


def _files_in(folder: Path) -> list[tuple[str, Path]]:
    """Return the name and path of each file, including files that are alone in a subfolder."""
    files = []
    for path in sorted(folder.iterdir()):
        inner = [one for one in path.iterdir() if not is_clutter(one.name)] if path.is_dir() else [path]
        if not is_clutter(path.name) and len(inner) == 1 and inner[0].is_file():
            files.append((inner[0].name, inner[0]))
    return files


def _folders_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not is_clutter(path.name))


def _has_images(folder: Path) -> bool:
    return any(name.lower().endswith(ENDINGS) for name in os.listdir(folder))


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_MOST_NAMES]) + ", …" * (len(names) > _MOST_NAMES)


def _quoted(name: str) -> str:
    """Quote a name for the shell and Hydra, if necessary."""
    return name if re.fullmatch(r"[\w./-]+", name) else f"\"'{name}'\""
