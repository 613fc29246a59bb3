"""Data is looked for in a given folder, the cache, Keras' cache and the mirrors, in this order."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from support.cli import Cli

from mnist_exp.config.schema import DataConfig, FileSpec
from mnist_exp.data import sources
from mnist_exp.data.formats import find
from mnist_exp.data.sources import NotFound, fetch
from mnist_exp.data.user_cache import cache_folder
from mnist_exp.errors import RequestError
from mnist_exp.report.progress import download_bar

RNG = np.random.default_rng(0)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


CONTENTS = {
    "train_images": idx(RNG.integers(0, 256, (20, 4, 5), np.uint8)),
    "train_labels": idx(np.arange(20, dtype=np.uint8) % 3),
    "test_images": idx(RNG.integers(0, 256, (6, 4, 5), np.uint8)),
    "test_labels": idx(np.arange(6, dtype=np.uint8) % 3),
}


def config(**changes: object) -> DataConfig:
    files = {part: FileSpec(name=part, sha256=hashlib.sha256(c).hexdigest()) for part, c in CONTENTS.items()}
    nobody = ("http://127.0.0.1:1/",)
    values: dict[str, object] = {
        "name": "tiny", "source": "idx", "dir": None, "files": files, "mirrors": nobody, "keras_cache": None,
        "shape": (4, 5, 1), "classes": 3, "class_names": ("a", "b", "c"), "val_fraction": 0.1, "split_seed": 0,
        "limit": None, "fallback": None,
    }  # fmt: skip
    return DataConfig(**{**values, **changes})  # type: ignore[arg-type]


def write(folder: Path, packed: bool = False, **changes: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in {**CONTENTS, **changes}.items():
        (folder / (part + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    return folder


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path, list[str]]]:
    """Start a mirror on loopback; yields its address, its folder, and the requests it received."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            asked.append(self.path)

        def do_GET(self) -> None:
            if self.path.startswith("/breaks-off"):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"\x1f\x8b")
            elif self.path.startswith("/endless"):
                self.send_response(200)
                self.end_headers()
                with suppress(ConnectionError):
                    for _ in range(100):
                        self.wfile.write(bytes(2**20))
                    asked.append("all of it")
            else:
                super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", folder, asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_bytes_of_a_download_are_shown(
    mirror: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """On a terminal, with the file's size; names from a config cannot control it."""
    address, folder, _ = mirror
    write(folder, packed=True)
    shown: list[tuple[str, int, int | None]] = []
    fetch(config(mirrors=(address,)), print, lambda *values: shown.append(values))
    sizes = {f"{part}.gz": (folder / f"{part}.gz").stat().st_size for part in CONTENTS}
    assert {name: (done, size) for name, done, size in shown} == {name: (n, n) for name, n in sizes.items()}
    capsys.readouterr()
    for terminal in ("", "1"):
        monkeypatch.setenv("FORCE_COLOR", terminal)
        with download_bar() as show:
            show("images\x1b]0;x[red].gz", 1000, 2000)
        said = capsys.readouterr().out
        assert ("1.0/2.0 kB" in said) == ("images\\x1b]0;x[red].gz" in said) == bool(terminal)


def test_a_given_folder_comes_first(tmp_path: Path):
    """`data.dir`, with or without gzip, takes precedence over the cache."""
    write(cache_folder("tiny"), train_images=b"damaged")
    for packed in (False, True):
        folder = write(tmp_path / f"given{packed}", packed)
        source = find(config(dir=str(folder)), print)
        assert source.origin == str(folder)
        assert source.train.images.shape == (20, 4, 5, 1)
        assert source.test is not None
        assert source.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_given_folder_without_the_files_is_refused(tmp_path: Path):
    """No fallback replaces a folder that the user named."""
    folder = write(tmp_path / "given")
    (folder / "test_labels").unlink()
    with pytest.raises(RequestError, match="has no test_labels, with or without .gz"):
        find(config(dir=str(folder), fallback="digits"), print)
    with pytest.raises(RequestError, match="there is no such folder"):
        find(config(dir=str(tmp_path / "nope")), print)


def test_a_mirror_fills_the_cache(mirror: tuple[str, Path, list[str]]):
    """Downloads are verified, stored uncompressed, and not fetched again."""
    address, folder, asked = mirror
    write(folder, packed=True)
    told: list[str] = []
    assert find(config(mirrors=(address,)), told.append).origin == address
    assert len(told) == len(asked) == 4
    assert {path.name for path in cache_folder("tiny").iterdir()} == set(CONTENTS)
    assert find(config(mirrors=(address,)), print).origin == str(cache_folder("tiny"))
    assert len(asked) == 4


def test_a_bad_mirror_is_skipped(mirror: tuple[str, Path, list[str]], tmp_path: Path):
    """If a mirror refuses or has damaged or other files, the next one is used, and none of its files are kept."""
    address, folder, _ = mirror
    write(folder / "good", packed=True)
    write(folder / "other", packed=True, test_labels=CONTENTS["train_labels"])
    write(folder / "cut", packed=True)
    cut = folder / "cut" / "test_labels.gz"
    cut.write_bytes(cut.read_bytes()[:-5])
    bad = (
        "http://127.0.0.1:1/", "no-scheme", f"{address}none", f"{address}other", f"{address}cut", f"{address}breaks-off",
    )  # fmt: skip
    with pytest.raises(NotFound) as caught:
        find(config(mirrors=bad), lambda _: None)
    assert not cache_folder("tiny").exists()
    message = str(caught.value)
    for words in (
        *bad,
        "Connection refused",
        "HTTP Error 404",
        "not the expected file",
        "damaged",
        "unknown URL scheme",
        "IncompleteRead",
        str(cache_folder("tiny")),
    ):
        assert words in message
    assert find(config(mirrors=(*bad, f"{address}good")), lambda _: None).origin == f"{address}good"


def test_a_silent_mirror_costs_a_few_seconds(monkeypatch: pytest.MonkeyPatch):
    """A server that accepts connections but never answers is given up."""
    import socket

    monkeypatch.setattr(sources, "PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(NotFound, match="timed out"):
        find(config(mirrors=(f"http://127.0.0.1:{silent.getsockname()[1]}/",)), print)


def test_keras_own_cache_is_used(tmp_path: Path):
    """The archive of `keras.datasets` is used if its digest is correct."""
    archive = tmp_path / "keras" / "datasets" / "tiny.npz"
    archive.parent.mkdir(parents=True)
    images, labels = RNG.integers(0, 256, (9, 4, 5), np.uint8), np.arange(9, dtype=np.uint8) % 3
    np.savez(archive, x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3])
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    source = find(config(keras_cache=FileSpec(name="tiny.npz", sha256=sha256)), print)
    assert source.origin == str(archive)
    np.testing.assert_array_equal(source.train.images[..., 0], images)
    with pytest.raises(NotFound):
        find(config(keras_cache=FileSpec(name="tiny.npz", sha256="other")), print)


def test_a_damaged_cache_is_refused(tmp_path: Path):
    """The message names the changed file."""
    write(cache_folder("tiny"), test_images=CONTENTS["train_images"])
    with pytest.raises(RequestError, match="test_images: not the expected file"):
        find(config(), print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"classes": 2, "class_names": ("a", "b")},
            r"/train_labels\[2\]: expected a label, a whole number from 0 to 1, found 2",
        ),
        ({"shape": (5, 4, 1)}, "images of 4×5×1, but data.shape says 5×4×1"),
    ],
)
def test_data_must_be_as_declared(tmp_path: Path, changes: dict[str, object], message: str):
    """Labels out of range and other image sizes are reported with the declared and the found value."""
    with pytest.raises(RequestError, match=message):
        find(config(dir=str(write(tmp_path / "given")), **changes), print)


def test_labels_and_images_must_have_the_same_number(tmp_path: Path):
    """Different counts are refused."""
    labels = idx(np.zeros(19, np.uint8))
    folder = write(tmp_path / "given", train_labels=labels)
    loose = {part: FileSpec(name=part) for part in CONTENTS}
    with pytest.raises(RequestError, match="20 images, but 19 labels in .*train_labels"):
        find(config(dir=str(folder), files=loose), print)


def packed_specs() -> dict[str, FileSpec]:
    """Return the mirror's files with only the archives' digests known."""
    return {
        part: FileSpec(name=part, gz_sha256=hashlib.sha256(gzip.compress(content, mtime=0)).hexdigest())
        for part, content in CONTENTS.items()
    }


def write_archives(folder: Path, **changes: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part, content in {**CONTENTS, **changes}.items():
        (folder / f"{part}.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder


def test_archives_with_a_digest_are_kept_as_they_are(mirror: tuple[str, Path, list[str]]):
    """If only the archive's digest is published, the cache keeps the archive, which can be verified again."""
    address, folder, asked = mirror
    write_archives(folder)
    packed = config(mirrors=(address,), files=packed_specs())
    find(packed, lambda _: None)
    assert sorted(path.name for path in cache_folder("tiny").iterdir()) == sorted(
        f"{part}.gz" for part in CONTENTS
    )
    asked.clear()
    assert find(packed, lambda _: None).origin == str(cache_folder("tiny"))
    assert asked == []
    write_archives(cache_folder("tiny"), test_labels=CONTENTS["train_labels"])
    with pytest.raises(RequestError, match=r"test_labels\.gz: not the expected archive: SHA-256 "):
        find(packed, lambda _: None)


def test_a_mirror_that_sends_a_page_is_skipped(mirror: tuple[str, Path, list[str]]):
    """This also holds if only archive digests are known; a cached page is refused."""
    address, folder, _ = mirror
    page = b"<html>login</html>"
    (folder / "page").mkdir()
    for part in CONTENTS:
        (folder / "page" / f"{part}.gz").write_bytes(page)
    write_archives(folder / "good")
    packed = config(mirrors=(f"{address}page", f"{address}good"), files=packed_specs())
    assert find(packed, lambda _: None).origin == f"{address}good"
    (cache_folder("tiny") / "train_images.gz").write_bytes(page)
    with pytest.raises(RequestError, match=r"train_images\.gz: not a gzip archive: begins with 3c 68 74 6d"):
        find(packed, lambda _: None)


def test_a_mirror_that_sends_too_much_is_skipped(
    mirror: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
):
    """At most the size of the largest allowed archive is read."""
    address, folder, _ = mirror
    write(folder, packed=True)
    monkeypatch.setattr(sources, "MOST", 100)
    with pytest.raises(NotFound, match=r"train_images\.gz: more than 100 bytes"):
        find(config(mirrors=(address,)), lambda _: None)


class Strange(BaseHTTPRequestHandler):
    """A server that sends a byte at a time, or leads elsewhere."""

    def do_GET(self) -> None:
        if self.path.startswith("/slow"):
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            with suppress(OSError):
                for _ in range(1000):
                    self.wfile.write(b"\x1f")
                    time.sleep(0.05)
        else:
            self.send_response(302)
            self.send_header("Location", f"ftp://127.0.0.1:1{self.path}")
            self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def test_a_mirror_that_is_slow_or_leads_elsewhere_is_passed_over(
    mirror: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
):
    """One byte at a time counts as no answer, and a redirect to another scheme is not followed."""
    address, folder, _ = mirror
    write(folder / "good", packed=True)
    monkeypatch.setattr(sources, "PATIENCE", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), Strange) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        strange = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(NotFound) as caught:
            find(config(mirrors=(f"{strange}/slow", f"{strange}/away")), lambda _: None)
        assert "too slow" in str(caught.value)
        assert "redirects from http to ftp" in str(caught.value)
        mirrors = (f"{strange}/slow", f"{strange}/away", f"{address}good")
        assert find(config(mirrors=mirrors), lambda _: None).origin == f"{address}good"
        server.shutdown()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"name": "../x"}, "name"),
        ({"name": ".."}, "name"),
        ({"name": "a/b"}, "name"),
        (
            {"files": {**config().files, "test_labels": FileSpec(name="../../x", sha256="0" * 64)}},
            "files.test_labels",
        ),
        (
            {"files": {**config().files, "test_labels": FileSpec(name="/etc/x", sha256="0" * 64)}},
            "files.test_labels",
        ),
        ({"files": {**config().files, "test_labels": FileSpec(name="x")}}, "files.test_labels"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "file"])
def test_mirrors_write_into_the_cache_only_and_need_digests(changes: dict[str, object], key: str, scheme: str):
    """A config from elsewhere could name any file, and any content."""
    with pytest.raises(ValidationError, match=f"{key} must "):
        config(mirrors=(f"{scheme}://127.0.0.1/",), **changes)


def test_a_file_without_a_digest_is_not_downloaded(mirror: tuple[str, Path, list[str]], tmp_path: Path):
    """Also if the config has a folder, which `dataset fetch` does not look into."""
    address, folder, asked = mirror
    write(folder, packed=True)
    files = {part: FileSpec(name=part) for part in CONTENTS}
    with pytest.raises(NotFound, match="sha256"):
        sources.fetch(config(mirrors=(address,), files=files, dir=str(tmp_path)), print, lambda *_: None)
    assert not asked


def test_keras_folder_of_archives_is_used(tmp_path: Path):
    """Keras' folder of Fashion-MNIST is used if the digests are correct."""
    kept = write_archives(tmp_path / "keras" / "datasets" / "tiny")
    there = config(keras_cache=FileSpec(name="tiny"), files=packed_specs())
    assert find(there, lambda _: None).origin == str(kept)
    write_archives(kept, test_labels=CONTENTS["train_labels"])
    with pytest.raises(NotFound, match=r"test_labels\.gz: not the expected archive"):
        find(there, lambda _: None)


def test_files_without_test_part_are_enough(tmp_path: Path):
    """null for both test files means that there is no test set."""
    folder = write(tmp_path / "given")
    (folder / "test_images").unlink()
    (folder / "test_labels").unlink()
    files = {**(config().files), "test_images": None, "test_labels": None}
    assert find(config(dir=str(folder), files=files), print).test is None


@pytest.fixture
def words(mirror: tuple[str, Path, list[str]], tmp_path: Path) -> list[str]:
    """Return overrides for the mirror's data set, as an option of the user's own."""
    address, folder, _ = mirror
    write(folder, packed=True)
    files = {part: {"name": part, "sha256": hashlib.sha256(c).hexdigest()} for part, c in CONTENTS.items()}
    values = config().model_dump(mode="json") | {"files": files, "mirrors": [address]}
    option = tmp_path / "conf" / "data" / "tiny.yaml"
    option.parent.mkdir(parents=True)
    option.write_text(json.dumps(values))
    return ["--config-dir", str(option.parent.parent), "data=tiny"]


def test_fetch_fills_the_cache_once(cli: Cli, mirror: tuple[str, Path, list[str]], words: list[str]):
    """The output says where the files are; the second time, that they are already there."""
    address, _, asked = mirror
    out = cli("dataset", "fetch", *words).out
    assert f"tiny was fetched from {address} into {cache_folder('tiny')} in " in out
    assert len(asked) == 4
    assert (
        f"tiny is already in {cache_folder('tiny')}; its files were verified"
        in cli("dataset", "fetch", *words).out
    )
    assert len(asked) == 4
    assert "20 train, 6 test, each 4×5×1" in cli("dataset", "verify", *words).out


def test_fetch_repairs_a_damaged_cache(cli: Cli, words: list[str]):
    """A file that is not the expected one is fetched again."""
    cli("dataset", "fetch", *words)
    write(cache_folder("tiny"), test_images=b"damaged")
    out = cli("dataset", "fetch", *words).out
    assert "test_images: not the expected file" in out
    assert "fetching it again" in out
    assert "6 test" in cli("dataset", "verify", *words).out


def test_fetch_repairs_a_cache_of_pages(cli: Cli, words: list[str]):
    """A file named as an archive that is none is fetched again."""
    cli("dataset", "fetch", *words)
    (cache_folder("tiny") / "test_images").unlink()
    (cache_folder("tiny") / "test_images.gz").write_bytes(b"<html>login</html>")
    out = cli("dataset", "fetch", *words).out
    assert "test_images.gz: not a gzip archive" in out
    assert "6 test" in cli("dataset", "verify", *words).out


def test_a_cache_that_cannot_be_written_fails_the_fetch(cli: Cli, words: list[str], tmp_path: Path):
    """The exit status is 1, as the request was not fulfilled."""
    (tmp_path / "cache").write_text("")
    assert "cannot be written: Not a directory" in cli("dataset", "fetch", *words, status=1).err


def test_a_mirror_that_sends_too_much_is_cut_off(
    mirror: tuple[str, Path, list[str]], monkeypatch: pytest.MonkeyPatch
):
    """Reading stops at a limit, so that a broken mirror cannot fill the memory."""
    address, _, asked = mirror
    monkeypatch.setattr(sources, "MOST", 1000)
    with pytest.raises(NotFound, match="1,000 bytes"):
        find(config(mirrors=(f"{address}endless/",)), print)
    assert "all of it" not in asked
    assert not cache_folder("tiny").exists()
