"""Read and write image folders: one folder of image files per class.

Images are ordered by file name, then by class. Files that file managers and archives leave behind are skipped.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mnist_exp.config.data_schema import DataConfig
from mnist_exp.data.dataset import Advance, Images, Part, Progress, Tell, default_class_names, no_progress
from mnist_exp.data.decoded_cache import Decoded, Entry, NewImages
from mnist_exp.data.faults import Faults
from mnist_exp.data.pictures import ENDINGS, NAMED, OtherSize, Unusable, decoder, read_header, read_picture_file
from mnist_exp.data.pixels import TWELVE_BITS
from mnist_exp.errors import RequestError
from mnist_exp.text import format_shape, shape_override

_CLUTTER = ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found")
_TEXTS = (".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".ini", ".db", ".log", ".html")

WORTH_KEEPING = 0.5  # seconds: images that take longer to decode are kept in the cache
_AT_A_TIME = 64  # files that a thread decodes at a time
_MOST_THREADS = 8
_SMALL_FILE = 4096  # bytes
_SAMPLE = 50  # files

MANY = 1000  # minimum number of files whose sizes are kept in the cache

Result = TypeVar("Result")


@dataclass
class Listing:
    """The image files of a data set, by part and class folder, and what else was found."""

    files: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """The paths of the images in each class folder of each part; the class folders are in class order."""
    folders: Mapping[str, Path] = field(default_factory=dict)
    """The folder of each part."""
    clutter: list[str] = field(default_factory=list)
    """The paths of files and folders that are skipped because they are not meant as images."""
    faults: Faults = field(default_factory=Faults)
    """Files that cannot be used; `data.skip_bad` leaves them out."""

    @property
    def paths(self) -> list[str]:
        """The paths of all images."""
        return [path for part in self.files.values() for paths in part.values() for path in paths]

    def note_clutter(self) -> str:
        """Return a note on the skipped files; empty if there are none."""
        names = Counter(os.path.basename(path) for path in self.clutter)
        shown = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in names.most_common(4))
        count = len(self.clutter)
        skipped = f"{count:,} files that are not images" if count > 1 else "1 file that is not an image"
        return f"skipped {skipped}: {shown}{', …' * (len(names) > 4)}"


@dataclass
class Sizes:
    """The number of images of each size."""

    counts: Counter[tuple[int, int]] = field(default_factory=Counter)
    examples: dict[tuple[int, int], str] = field(default_factory=dict)
    coloured: int = 0
    faults: Faults = field(default_factory=Faults)
    """Files whose header cannot be read."""

    def other_than(self, size: tuple[int, int]) -> Sizes:
        """Return the counts of all other sizes."""
        counts = Counter({other: count for other, count in self.counts.items() if other != size})
        return Sizes(counts, {other: path for other, path in self.examples.items() if other != size})

    def add(self, size: tuple[int, int], path: str) -> None:
        """Count an image of the given height and width."""
        self.counts[size] += 1
        self.examples.setdefault(size, path)

    @property
    def colours(self) -> str:
        """The colours of the images, such as `in colour` or `3 of 50 in colour`."""
        if self.coloured in (0, self.counts.total()):
            return "in colour" if self.coloured else "grey"
        return f"{self.coloured:,} of {self.counts.total():,} in colour"

    def as_values(self) -> dict[str, Any]:
        """Return the sizes as values for the cache."""
        counts = [[*size, count, self.examples[size]] for size, count in self.counts.items()]
        return {"counts": counts, "coloured": self.coloured}

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Sizes:
        """Return the sizes that `as_values` returned."""
        sizes = cls(coloured=values["coloured"])
        for height, width, count, example in values["counts"]:
            sizes.counts[height, width] = count
            sizes.examples[height, width] = example
        return sizes

    def __str__(self) -> str:
        """Describe the sizes, such as `37 sizes from 20×31 to 400×300`."""
        sizes = sorted(self.counts, key=lambda size: (size[0] * size[1], size))
        if len(sizes) == 1:
            return format_shape(sizes[0])
        return f"{len(sizes):,} sizes from {format_shape(sizes[0])} to {format_shape(sizes[-1])}"


def is_clutter(name: str) -> bool:
    """Return whether a file or folder is hidden, or left behind by a file manager or an archive."""
    return name.startswith(".") or name.lower() in _CLUTTER


def list_images(paths: Mapping[str, Path]) -> Listing:
    """List the images in the class folders of each part. Raises `RequestError` if there are no class folders."""
    listing = Listing(folders=paths)
    for part, folder in paths.items():
        folders = []
        for entry in _entries(folder, listing):
            if entry.is_dir():
                folders.append(entry.name)
            elif entry.name.lower().endswith(ENDINGS):
                text = f"expected a folder per class in {folder}, found a file"
                listing.faults.add("images outside of a class folder", entry.path, text)
            else:
                listing.clutter.append(entry.path)
        if not folders:
            listing.faults.raise_any(str(folder))
            raise RequestError(f"{folder}: no class folders; expected a folder per class, with its images in it")
        listing.files[part] = {name: _images_in(folder / name, listing) for name in sort_class_names(folders)}
    return listing


def sort_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Sort class names naturally: `class_9` before `class_10`."""
    return tuple(sorted(names, key=natural_order))


def measure(listing: Listing, progress: Progress = no_progress) -> Sizes:
    """Return the sizes of all images, from their headers. Unreadable files are left for `read` to report.

    Raises `RequestError` if no image can be read.
    """
    sizes = _sizes_of(listing.paths, progress)
    if not sizes.counts:
        sizes.faults.include(listing.faults)
        sizes.faults.raise_any(os.path.commonpath(listing.paths) if listing.paths else "the data set")
        raise RequestError(
            f"{next(iter(next(iter(listing.files.values()))))}: no images in this or any other class folder"
        )
    return sizes


def find_unreadable(listing: Listing, progress: Progress = no_progress) -> Faults:
    """Return the faults of the files whose headers cannot be read."""
    return _sizes_of(listing.paths, progress).faults


def _sizes_of(paths: Sequence[str], progress: Progress) -> Sizes:
    entry = _entry_of(paths, "headers")
    known = entry.load_values() if entry else None
    sizes = Sizes.from_values(known) if known else _read_headers(paths, progress)
    if entry and not known and len(paths) >= MANY and not len(sizes.faults):
        entry.save_values(sizes.as_values())
    return sizes


def _read_headers(paths: Sequence[str], progress: Progress) -> Sizes:
    sizes = Sizes()
    with decoder(), progress("reading headers", len(paths)) as advance:
        for path in paths:
            advance(1)
            try:
                size, coloured = read_header(path)
            except Unusable as error:
                sizes.faults.add(error.kind, path, str(error))
                continue
            sizes.add(size, path)
            sizes.coloured += coloured
    return sizes


def _entry_of(paths: Sequence[str], options: object) -> Entry | None:
    """Return the cache entry for what is read from files; None if there are no files, or a link is broken."""
    try:
        return Entry.of(paths, options) if paths else None
    except OSError:
        return None


def read(
    images: Mapping[str, list[str]],
    classes: Sequence[str],
    data: DataConfig,
    faults: Faults,
    tell: Tell = print,
    progress: Progress = no_progress,
) -> Part:
    """Read the images of a part, labelled by the order of `classes`, in the shape of the config.

    Adds the files that cannot be used to `faults`. Raises `RequestError` if the config does not fit all images.
    """
    files = sorted(
        (os.path.basename(path), label, path)
        for label, name in enumerate(classes)
        for path in images.get(name, ())
    )
    paths = [path for _, _, path in files]
    decoded = _decode_or_load(paths, data, faults, tell, progress)
    for index, (kind, text) in decoded.unusable.items():
        faults.add(kind, paths[index], text)
    good = [(label, path) for index, (_, label, path) in enumerate(files) if index not in decoded.unusable]
    labels = np.array([label for label, _ in good], np.int64)
    return Part(decoded.images, labels, [path for _, path in good])


def _decode_or_load(
    paths: Sequence[str], data: DataConfig, faults: Faults, tell: Tell, progress: Progress
) -> Decoded:
    """Return the images of files, from the cache if they were decoded before. Raises `RequestError`."""
    shape = (data.shape[1], data.shape[0], data.shape[2]) if data.transpose else data.shape
    entry = _entry_of(paths, [shape, data.resize, data.scale])
    if entry and (known := entry.load(verify=data.verify)):
        tell(f"{data.dir}: {len(paths):,} images are loaded from the cache in {entry.folder.parent}")
        return known
    size = (len(paths), *shape)
    started = time.perf_counter()
    with entry.new_images(size) if entry else nullcontext(NewImages(np.empty(size, np.uint8))) as new:
        decoded = _decode(paths, new.array, data, faults, progress)
        if entry and time.perf_counter() - started > WORTH_KEEPING:
            entry.save(decoded, new, verify=data.verify)
    return decoded


def _decode(paths: Sequence[str], images: Images, data: DataConfig, faults: Faults, progress: Progress) -> Decoded:
    """Decode files into an array. Raises `RequestError` if the config does not fit all images."""
    shape = (images.shape[1], images.shape[2], images.shape[3])
    largest = 0
    unusable: dict[int, tuple[str, str]] = {}
    others, unfit = Sizes(), Faults()

    def read_some(start: int) -> tuple[int, list[tuple[int, Unusable | OtherSize]]]:
        deepest, failed = 0, []
        for index in range(start, min(start + _AT_A_TIME, len(paths))):
            try:
                images[index], deep = read_picture_file(paths[index], shape, data.resize, data.scale)
                deepest = max(deepest, deep)
            except (Unusable, OtherSize) as error:
                failed.append((index, error))
        return deepest, failed

    with decoder(), progress("reading", len(paths)) as advance:
        for start, (deepest, failed) in _in_threads(
            read_some, range(0, len(paths), _AT_A_TIME), _threads_for(paths)
        ):
            advance(min(_AT_A_TIME, len(paths) - start))
            largest = max(largest, deepest)
            for index, error in failed:
                if isinstance(error, OtherSize):
                    others.add(error.size, paths[index])
                elif error.of_the_config:
                    advice = error.declares and (error.declares if data.alternative is None else data.alternative)
                    unfit.add(error.kind, paths[index], f"{error}{advice}")
                else:
                    unusable[index] = error.kind, str(error)
    for index, (kind, text) in unusable.items() if others.counts or len(unfit) else ():
        faults.add(kind, paths[index], text)  # the caller reports them otherwise
    refuse_other_sizes(others, len(paths), data, faults, unfit)
    if data.scale is None:
        _refuse_twelve_bits(largest, os.path.dirname(paths[0]) if paths else "")
    good = np.ones(len(paths), bool)
    good[list(unusable)] = False
    images.flags.writeable = False  # it may be a file of the cache
    return Decoded(images if good.all() else images[good], unusable)


def _refuse_twelve_bits(largest: int, place: str) -> None:
    """Raise `RequestError` if the largest value of 16-bit files suggests that only 12 bits are used."""
    if 0 < largest <= TWELVE_BITS:
        raise RequestError(
            f"{place}: the largest value in these 16-bit files is {largest}, so white may be {TWELVE_BITS} "
            "(12 bits) or 65535; set data.scale to one of them"
        )


def _threads_for(paths: Sequence[str]) -> int:
    """Return the number of threads that decode fastest: one for small files, for which more are no faster."""
    some = paths[:: max(1, len(paths) // _SAMPLE)]
    size = sum(os.path.getsize(path) for path in some if os.path.exists(path)) / max(1, len(some))
    return min(len(os.sched_getaffinity(0)), _MOST_THREADS) if size > _SMALL_FILE else 1


def _in_threads(
    function: Callable[[int], Result], values: Iterable[int], threads: int
) -> Iterator[tuple[int, Result]]:
    """Yield each value with the function's result, in order. After an exception, no further call is started."""
    if threads == 1:
        yield from ((value, function(value)) for value in values)
        return
    values = list(values)
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield from zip(values, pool.map(function, values), strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def refuse_other_sizes(others: Sizes, images: int, data: DataConfig, faults: Faults, unfit: Faults) -> None:
    """Raise `RequestError` if the sizes or colours of images differ from those in the config.

    The message lists the other faults, too, unless `data.skip_bad` leaves their files out.
    """
    height, width, channels = data.shape
    if others.counts:
        [(size, path), *_] = others.examples.items()
        count = others.counts.total()
        text = f"an image of {format_shape(size)} (height×width), but data.shape says {height}×{width}"
        if count == images and len(others.counts) == 1 and data.alternative is None:
            text += f"; {shape_override((*size, channels))} reads it as it is, data.resize=fit scales it"
        elif count > 1:
            text += f"; {count - 1:,} more of {images:,} also differ ({others}); data.resize=fit scales them"
        else:
            text += "; data.resize=fit scales it"
        if data.alternative is not None:
            text += (" (grey images only)" if channels == 1 else "") + data.alternative
        unfit.add("images of other sizes", path, text)
    if len(unfit):
        advice = ""
        if len(faults) and not data.skip_bad:
            unfit.include(faults)
            advice = "; data.skip_bad=true leaves unusable files out"
        unfit.raise_any(str(data.dir), advice)


def write(folder: Path, parts: dict[str, Part], class_names: tuple[str, ...], advance: Advance) -> None:
    """Write each image to its class folder as a PNG file named by its index."""
    from PIL import Image

    names = folder_names(class_names)
    for part_name, part in parts.items():
        folders = [folder / part_name / name for name in names]
        for path in folders:
            path.mkdir(parents=True)
        digits = len(str(len(part) - 1))
        images = part.images[..., 0] if part.images.shape[3] == 1 else part.images
        for index, label in enumerate(part.labels):
            Image.fromarray(images[index]).save(folders[label] / f"{index:0{digits}}.png")
            advance(1)


def folder_names(class_names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the class names if all are valid, distinct folder names, otherwise the class numbers."""
    good = all(name and not name.startswith(".") and not set(name) & set('/\\:*?"<>|\0') for name in class_names)
    distinct = len({name.lower() for name in class_names}) == len(class_names)
    return class_names if good and distinct else default_class_names(len(class_names))


def _images_in(folder: Path, listing: Listing) -> list[str]:
    paths = []
    for entry in _entries(folder, listing):
        if entry.is_dir():
            text = "a folder inside a class folder; expected image files"
            listing.faults.add("folders inside a class folder", entry.path, text)
        elif entry.name.lower().endswith(ENDINGS):
            paths.append(entry.path)
        elif entry.name.lower().endswith(_TEXTS):
            listing.clutter.append(entry.path)
        else:
            text = f"not a {NAMED} file ({', '.join(ENDINGS)})"
            listing.faults.add("files that are not images", entry.path, text)
    return paths


def _entries(folder: Path, listing: Listing) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without clutter. Raises `RequestError` if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be read: {error.strerror}") from error
    good = []
    for entry in found:
        if is_clutter(entry.name):
            listing.clutter.append(entry.path)
        elif (shown := os.fsencode(entry.name).decode(errors="backslashreplace")) != entry.name:
            listing.faults.add("names that are not UTF-8", f"{folder}/{shown}", "its name is not UTF-8; rename it")
        else:
            good.append(entry)
    return good


def natural_order(name: str) -> list[tuple[int, int | str]]:
    """Return the sort key for natural order: `2.png` before `10.png`."""
    parts: list[tuple[int, int | str]] = [
        (0, int(part)) if index % 2 else (1, part) for index, part in enumerate(re.split(r"([0-9]+)", name))
    ]
    return [*parts, (2, name)]
