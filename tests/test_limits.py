"""Files that declare far more than they contain are refused quickly, with their place."""

from __future__ import annotations

import gzip
import io
import json
import resource
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import Cli

from mnist_exp.config.yaml_limits import LONGEST_NUMBER, LONGEST_TEXT, MOST_DEPTH, limit_exceeded

BOMB = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 10)
)
EXCESSES = {
    "aliases": (BOMB, 5, "counting those that aliases expand to"),
    "merged": ("a: &a {k: 1}\n" + "".join(f"m{n}: &m{n} {{<<: *{'a' if not n else f'm{n - 1}'}, v: [{', '.join([f'*m{n - 1}' if n else '*a'] * 9)}]}}\n" for n in range(9)), 6, "aliases"),
    "deep": ("x: " + "[" * 20_000 + "]" * 20_000 + "\n", 1, "nested"),
    "deep mappings": ("x: " + "{a: " * 5000 + "1" + "}" * 5000 + "\n", 1, "nested"),
    "itself": ("y: 1\nx: &x [*x]\n", 2, "refers to the value that contains it"),
    "number": (f"x: 1{'0' * LONGEST_NUMBER}\n", 1, "a number is"),
    "hexadecimal": (f"x: 0x{'f' * 5000}\n", 1, "a number is"),
    "sexagesimal": ("x: 1" + ":59" * 3000 + "\n", 1, "a number is"),
    "text": (f"x: 1\ny: {'a' * (LONGEST_TEXT + 1)}\n", 2, "a value is"),
}  # fmt: skip


@pytest.mark.parametrize("kind", EXCESSES)
def test_excesses_are_found_with_their_line(kind: str):
    """They are found before any value is created."""
    text, line, message = EXCESSES[kind]
    begun = time.process_time()
    excess = limit_exceeded(text)
    assert time.process_time() - begun < 0.5
    assert excess is not None
    assert excess[0] == line
    assert message in excess[1]


def test_usual_yaml_is_accepted():
    """Anchors, aliases, nesting, long lists, and texts that are not YAML exceed no limit."""
    layers = "".join(f"  - {{type: Dense, units: {units}}}\n" for units in range(500))
    assert limit_exceeded(f"base: &b {{a: 1}}\nx: *b\ny: {{<<: *b, c: [*b, *b]}}\nlayers:\n{layers}") is None
    assert limit_exceeded("x: " + "[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1)) is None
    assert limit_exceeded("x: [1\ny: }") is None


@pytest.mark.parametrize("kind", EXCESSES)
def test_a_runs_config_over_a_limit_is_refused(cli: Cli, kind: str):
    """The message has the line."""
    run = Path("outputs/runs/shared")
    run.mkdir(parents=True)
    (run / "result.json").write_text('{"status": "finished", "started": 1, "data": {}}')
    (run / "config.yaml").write_text("seed: 0\n" + EXCESSES[kind][0])
    done = cli("check", "run=outputs/runs/shared", status=2)
    assert f"outputs/runs/shared/config.yaml:{EXCESSES[kind][1] + 1}: " in done.err


def test_an_interpolation_in_a_runs_config_is_refused(cli: Cli):
    """It could copy the user's environment into the store."""
    run = Path("outputs/runs/shared")
    run.mkdir(parents=True)
    (run / "result.json").write_text('{"status": "finished", "started": 1, "data": {}}')
    (run / "config.yaml").write_text("seed: 0\nname: ${oc.env:HOME}\n")
    done = cli("check", "run=outputs/runs/shared", status=2)
    assert "outputs/runs/shared/config.yaml:2: " in done.err


def test_option_files_over_a_limit_are_refused_together(cli: Cli):
    """Each has its place; unrelated files in the folder are ignored."""
    folder = Path("mine/model")
    folder.mkdir(parents=True)
    (folder / "bomb.yaml").write_text(BOMB)
    (folder / "deep.yaml").write_text(EXCESSES["deep"][0])
    (folder.parent / "other.yaml").write_text(BOMB)
    done = cli("check", "--config-dir=mine", "model=bomb", status=2)
    assert "2 problems" in done.err
    assert "mine/model/bomb.yaml:5" in done.err
    assert "mine/model/deep.yaml:1" in done.err


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["check", "experiment=of_group"], "mine/other/deep.yaml"),
        (["check", "experiment=of_root"], "mine/deep.yaml"),
        (["check", "+other=deep"], "mine/other/deep.yaml"),
        (["--cfg", "job", "experiment=of_root"], "mine/deep.yaml"),
    ],
)
def test_every_option_file_that_is_loaded_is_limited(cli: Cli, words: list[str], place: str):
    """This includes files outside the built-in groups, and commands that only print the config."""
    for folder in ("mine/experiment", "mine/other"):
        Path(folder).mkdir(parents=True)
    for file in ("mine/deep.yaml", "mine/other/deep.yaml"):
        Path(file).write_text(EXCESSES["deep"][0])
    preset = "# @package _global_\ndefaults:\n  - {}\n  - _self_\nseed: 1\n"
    Path("mine/experiment/of_group.yaml").write_text(preset.format("/other@_global_: deep"))
    Path("mine/experiment/of_root.yaml").write_text(preset.format("/deep"))
    assert f"{place}:1" in cli(*words, "--config-dir=mine", status=2).err


@pytest.mark.parametrize("file", ["result.json", "journal.jsonl"])
@pytest.mark.parametrize("content", ["[" * 100_000, '{"started": 1' + "0" * 5000 + "}\n", "{" * 100_000 + "\n"])
def test_nested_json_is_damaged_json(cli: Cli, file: str, content: str):
    """Deep nesting is reported as damage and raises no other error."""
    run = Path("outputs/runs/shared")
    run.mkdir(parents=True)
    (run / "result.json").write_text('{"status": "running", "started": 1, "data": {}}')
    (run / file).write_text(content)
    assert "shared" in cli("runs").out
    assert "unexpected" not in cli("sync", status=None).err


def peak() -> int:
    """Return the largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_a_model_that_promises_gigabytes_is_not_unpacked(cli: Cli, member: str):
    """It is refused because of its declared size."""
    cli("evaluate", "run=none.keras", "data=digits", status=2)
    with zipfile.ZipFile("bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        with archive.open(member, "w", force_zip64=True) as stream:
            for _ in range(300):
                stream.write(b" " * 2**20)
    before = peak()
    done = cli("evaluate", "run=bomb.keras", "data=digits", status=2)
    assert f"{member} would unpack" in done.err
    assert "314,572,800 bytes" in done.err
    assert "bomb.keras" in done.err
    assert peak() - before < 600  # Keras' own import; the archive unpacks to as much again, and several times that


def test_archives_of_images_that_promise_gigabytes_are_not_unpacked(cli: Cli):
    """This holds for NPZ and gzip, whatever their headers say."""
    import numpy as np

    header = np.lib.format.header_data_from_array_1_0(np.empty((0, 28, 28), np.uint8))
    with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("x_train", "y_train"):
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array_header_1_0(stream, {**header, "shape": (400_000, 28, 28)})
                for _ in range(400):
                    stream.write(bytes(784_000))
    before = peak()
    words = ["data=npz", "data.dir=.", "data.files.archive=data.npz", "data.shape=[28,28,1]", "data.classes=10"]
    done = cli("dataset", "verify", *words, status=2)
    assert "data.npz" in done.err
    assert "x_train.npy would unpack" in done.err
    assert "313,600,128 bytes" in done.err
    assert peak() - before < 150

    from mnist_exp.config.schema import FileSpec
    from mnist_exp.data.idx import read_content
    from mnist_exp.errors import RequestError

    content = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (400_000, 28, 28))
    with gzip.open("images.gz", "wb") as stream:
        stream.write(content)
        for _ in range(400):
            stream.write(bytes(784_000))
    before = peak()
    with pytest.raises(RequestError, match=r"images\.gz: would unpack from [\d,]+ to 313,600,000 bytes"):
        read_content(Path("images.gz"), FileSpec(name="images"))
    assert peak() - before < 50


def write_lying_npz(case: str) -> str:
    """Write an archive of a few megabytes with a false or excessive size; return a part of the refusal."""
    import numpy as np

    def start(*shape: int) -> bytes:
        stream, empty = io.BytesIO(), np.lib.format.header_data_from_array_1_0(np.empty(0, np.uint8))
        np.lib.format.write_array_header_1_0(stream, {**empty, "shape": shape})
        return stream.getvalue()

    header, names, megabytes = {
        "unpacked": (start(10, 28, 28), ("x_test",), 1000),
        "packed": (start(1000 << 20), ("x_test",), 1000),
        "header": (b"\x93NUMPY\2\0\xff\xff\xff\xff", ("x_test",), 60),
        "many": (start(50 << 20), [f"x_{number}" for number in range(20)], 50),
        "shape": (start(2**40, 2**20, 2**10), ("x_test",), 1),
    }[case]
    with zipfile.ZipFile("data.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(f"{name}.npy", "w") as stream:
                stream.write(header)
                for _ in range(megabytes):
                    stream.write(bytes(2**20))
    content = bytearray(Path("data.npz").read_bytes())
    directory = content.rindex(b"PK\1\2")
    if case == "packed":  # the compressed size in the archive's directory, then the size in it and in the file
        struct.pack_into("<I", content, directory + 20, 2**28)
    if case == "unpacked":
        struct.pack_into("<I", content, directory + 24, len(header) + 7840)
        struct.pack_into("<I", content, 22, len(header) + 7840)
    Path("data.npz").write_bytes(content)
    return {
        "unpacked": "x_test.npy: damaged: Bad CRC-32", "packed": "x_test.npy would unpack from",
        "header": "x_test.npy: damaged: EOF: reading array header", "many": "the archive would unpack from",
        "shape": "x_test.npy: the header declares 1099511627776×1048576×1024 values of uint8",
    }[case]  # fmt: skip


@pytest.mark.parametrize("case", ["unpacked", "packed", "header", "many", "shape"])
def test_archives_with_false_sizes_take_no_memory(case: str):
    """They are refused with one message, having read what they declare at most."""
    expected = write_lying_npz(case)
    code = (
        "import sys\nfrom pathlib import Path\nfrom mnist_exp.data import npz\n"
        "from mnist_exp.errors import RequestError\n"
        "def peak(): return int(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])\n"
        "before = peak()\n"
        "try: npz.read_images(Path('data.npz'), None, None)\n"
        "except RequestError as error: print(error)\n"
        "print((peak() - before) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    message, peak = done.stdout.splitlines()
    assert expected in message
    assert int(peak) < 30


def test_the_texts_of_these_tests_are_valid_yaml():
    """This holds for those that can be parsed at all."""
    for kind in ("itself", "number", "text"):
        yaml.safe_load(EXCESSES[kind][0])


MEASURED = """
import sys
from mnist_exp.cli import main
status = main(sys.argv[1:])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
sys.exit(status)
"""


def peak_of_a_process(*words: str) -> tuple[int, str]:
    """Return the largest resident size of a command's own process, in MB, and what it said; it exits with 2."""
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    return int(done.stdout.split()[-1]) // 1024, done.stderr


def write_config(excess: str) -> list[str]:
    run = Path("outputs/runs/shared")
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text('{"status": "finished", "started": 1, "data": {}}')
    (run / "config.yaml").write_text("seed: wrong\n" + excess)
    return ["check", "run=outputs/runs/shared"]


def write_model(size: int) -> list[str]:
    with zipfile.ZipFile("bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        with archive.open("config.json", "w", force_zip64=True) as stream:
            for _ in range(size):
                stream.write(b" " * 2**20)
    return ["evaluate", "run=bomb.keras", "data=digits"]


def write_idx(size: int) -> list[str]:
    Path("data").mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        for kind, header in (("images-idx3", [0x803, 1, 28, 28]), ("labels-idx1", [0x801, 1])):
            with gzip.open(f"data/{part}-{kind}-ubyte.gz", "wb") as stream:
                stream.write(b"".join(number.to_bytes(4, "big") for number in header))
                for _ in range(size):
                    stream.write(bytes(2**20))
    return ["dataset", "verify", "data=idx", "data.dir=data", "data.shape=[28,28,1]", "data.classes=10"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "small", "excessive"),
    [
        (write_config, "x: 1\n", [EXCESSES[kind][0] for kind in ("aliases", "merged", "deep", "number")]),
        (write_model, 0, [600]),
        (write_idx, 0, [300]),
    ],
    ids=["config.yaml", "model", "gzip"],
)
def test_bad_files_take_little_memory(write: Callable[[Any], list[str]], small: Any, excessive: Sequence[Any]):
    """At most 100 MB more than a small bad file of the same kind."""
    usual, _ = peak_of_a_process(*write(small))
    for content in excessive:
        peak, said = peak_of_a_process(*write(content))
        assert peak - usual <= 100, said
