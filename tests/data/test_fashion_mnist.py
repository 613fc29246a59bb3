"""Fashion-MNIST's real files: verified by their published digests, and converted both ways without loss.

They run where MNIST_EXP_FASHION_DATA names the folder with the four files.
"""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from support.cli import Cli

FASHION = os.environ.get("MNIST_EXP_FASHION_DATA")
SOURCE = ("data=fashion_mnist", f"data.dir={FASHION}")
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FASHION, reason="MNIST_EXP_FASHION_DATA does not name Fashion-MNIST's folder"),
]


def digest(output: str) -> str:
    """The SHA-256 that `dataset verify` prints for images and labels."""
    return output.split("SHA-256 ")[1].split()[0]


def test_the_files_are_the_published_ones(cli: Cli):
    """All images are there, and the digests of the files hold."""
    out = cli("dataset", "verify", *SOURCE).out
    assert "60,000 train, 10,000 test, each 28×28×1" in out


def test_a_changed_file_is_refused(cli: Cli, tmp_path: Path):
    """One bit of the labels differs."""
    for name in FILES:
        (tmp_path / f"{name}.gz").write_bytes(Path(str(FASHION), f"{name}.gz").read_bytes())
    changed = tmp_path / f"{FILES[1]}.gz"
    labels = bytearray(gzip.decompress(changed.read_bytes()))
    labels[-1] ^= 1
    changed.write_bytes(gzip.compress(bytes(labels)))
    said = cli("dataset", "verify", "data=fashion_mnist", f"data.dir={tmp_path}", status=2).err
    assert f"{FILES[1]}.gz" in said
    assert "SHA-256" in said


@pytest.mark.parametrize("to", ["csv", "npz"])
def test_conversions_lose_nothing(cli: Cli, to: str):
    """To another format and back to IDX: the same bytes as the published files, and the same digest of the data."""
    cli("dataset", "convert", *SOURCE, f"to={to}", "output=there")
    there = (f"data={to}", "data.dir=there")
    assert digest(cli("dataset", "verify", *there).out) == digest(cli("dataset", "verify", *SOURCE).out)
    cli("dataset", "convert", *there, "to=idx", "output=back")
    for name in FILES:
        [back] = Path("back").glob(f"{name}*")
        content = gzip.decompress(back.read_bytes()) if back.suffix == ".gz" else back.read_bytes()
        assert content == gzip.decompress(Path(str(FASHION), f"{name}.gz").read_bytes()), name
