"""The actions of `mnist-exp dataset`: fetch, verify and convert a data set."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import numpy as np

from mnist_exp.config.command_schemas import DatasetConfig
from mnist_exp.config.compose import compose
from mnist_exp.config.overrides import Request, quoted
from mnist_exp.data import convert, sources
from mnist_exp.data.dataset import Source, digest
from mnist_exp.data.formats import find, limit_source, missing_classes
from mnist_exp.data.quality import remarks
from mnist_exp.data.user_cache import cache_folder
from mnist_exp.errors import RequestError, WorkError
from mnist_exp.report.documents import VerifyDocument
from mnist_exp.report.progress import download_bar, images_bar
from mnist_exp.report.tables import print_table
from mnist_exp.runs.atomic import new_folder, refuse_existing
from mnist_exp.runs.log import say, warn


def fetch(config: DatasetConfig, started: float) -> None:
    """Fetch a data set into the cache, unless it is already there. Raises `RequestError` or `WorkError`."""
    data = config.data
    if not data.mirrors:
        raise RequestError(f"data={data.name}: nothing to fetch, as it has no mirrors")
    cache = cache_folder(data.name)
    if sources.is_cached(data):
        try:
            sources.verify_cache(data)
        except RequestError as error:
            say(f"{error}; fetching it again")
        else:
            say(f"{data.name} is already in {cache}; its files were verified")
            return
    try:
        with download_bar() as show:
            mirror = sources.fetch(data, say, show)
    except sources.NotFound as error:
        raise WorkError(str(error)) from error
    except OSError as error:
        raise WorkError(f"{cache}: cannot be written: {error.strerror}") from error
    say(f"{data.name} was fetched from {mirror} into {cache} in {time.perf_counter() - started:.1f} s")


def verify(config: DatasetConfig) -> VerifyDocument:
    """Print the classes and the digest of a data set, and return them as a document. Raises `RequestError`."""
    source = read_source(config)
    shape = "×".join(map(str, source.train.images.shape[1:]))
    say(f"data    {config.data.name} from {source.origin}")
    say(f"images  {', '.join(f'{len(part):,} {name}' for name, part in source.parts.items())}, each {shape}")
    counts = [np.bincount(part.labels, minlength=len(source.class_names)) for part in source.parts.values()]
    rows = [
        [str(label), name, *(f"{count[label]:,}" for count in counts)]
        for label, name in enumerate(source.class_names)
    ]
    print_table(["label", "class", *source.parts], rows, right=("label", *source.parts))
    missing = missing_classes(source.train.labels, source.class_names)
    weaknesses = [*([missing] if missing else []), *remarks(source)]
    for remark in weaknesses:
        warn(remark)
    sha256 = digest([source.train, source.test])
    say(f"SHA-256 {sha256} of pixels and labels")
    return VerifyDocument(
        data=config.data.name,
        origin=source.origin,
        sha256=sha256,
        shape=list(source.train.images.shape[1:]),
        class_names=list(source.class_names),
        images={name: count.tolist() for name, count in zip(source.parts, counts, strict=True)},
        remarks=weaknesses,
    )


def convert_images(config: DatasetConfig, started: float) -> None:
    """Write a data set in another format. Raises `RequestError` or `WorkError`."""
    assert config.to is not None
    default = Path(config.outputs) / "data" / f"{config.data.name}-{config.to}"
    target = (Path(config.output) if config.output else default).expanduser()
    refuse_existing(target)
    source = read_source(config)
    convert.check(source, config.to)
    written = False
    try:
        with (
            new_folder(target) as folder,
            images_bar("writing", sum(map(len, source.parts.values()))) as advance,
        ):
            written = True
            convert.write(source, config.to, folder, config.header, advance)
    except OSError as error:
        if not written:
            raise RequestError(f"output: {target} cannot be written: {error.strerror}") from error
        raise WorkError(f"{target}: {error.strerror}; nothing was written") from error
    say(f"{target}: written in {time.perf_counter() - started:.1f} s")
    for path in sorted(target.iterdir()):
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        count = f"{len(files):,} files, " if path.is_dir() else ""
        say(f"  {path.name:<26} {count}{sum(file.stat().st_size for file in files):,} bytes")
    say(f"images  {', '.join(f'{len(part):,} {name}' for name, part in source.parts.items())}")
    say(f"SHA-256 {digest([source.train, source.test])} of pixels and labels")
    say(f"use     {_command(config.to, target, convert.list_settings(source, config.to))}")


def read_source(config: DatasetConfig) -> Source:
    """Read the images and labels, up to `data.limit`. Raises `RequestError` if they are not found."""
    try:
        return limit_source(find(config.data, say, images_bar), config.data)
    except sources.NotFound as error:
        raise RequestError(f"{error}\n{error.advice}") from error


def _command(option: str, target: Path, keys: dict[str, object]) -> str:
    """Return the command that trains on the converted data, with all keys that differ from the defaults."""
    words = [f"data={option}", f"data.dir={target}"]
    defaults = compose(Request("dataset", (f"data={option}", "data.dir=."))).values
    for key, value in keys.items():
        default: object = defaults
        for part in key.split("."):
            default = default[part]  # type: ignore[index]
        if value != default:
            words.append(f"{key}={_in_hydras_syntax(value)}")
    return shlex.join(["mnist-exp", *words])


def _in_hydras_syntax(value: object) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_in_hydras_syntax, value))}]"
    return quoted(value) if isinstance(value, str) else "null" if value is None else str(value)
