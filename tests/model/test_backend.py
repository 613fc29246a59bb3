"""How Keras is imported."""

from __future__ import annotations

import subprocess
import sys
from threading import Thread

import pytest

from mnist_exp.model import backend

# First as a command line does it, then as a user's own code may.
OURS = """\
import gc, sys
from mnist_exp.model import backend
from mnist_exp import load
assert not backend.process_is_ours
backend.process_is_ours = True
backend.load()
print(*sorted(set(sys.modules) & {"keras", "matplotlib", "pandas", "pyarrow", "scipy", "sklearn"}))
import pandas, scipy.stats
print(*sorted(set(sys.modules) & {"pandas", "scipy"}))
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""


@pytest.mark.slow
def test_optional_imports_of_keras_are_skipped():
    """They are skipped in this package's processes; other code can still import them. Garbage is not searched for
    among TensorFlow's objects."""
    done = subprocess.run([sys.executable, "-c", OURS], capture_output=True, text=True, check=True)
    assert done.stdout == "keras\npandas scipy\nTrue True\n"
    assert done.stderr == ""


def test_a_module_is_absent_for_one_thread(monkeypatch: pytest.MonkeyPatch):
    """Another thread may be importing it."""
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    found = []
    with backend._as_if_without(("colorsys",)):
        with pytest.raises(ModuleNotFoundError):
            import colorsys
        other = Thread(target=lambda: found.append(__import__("colorsys")))
        other.start()
        other.join()
        import colorsys
    assert found == [colorsys]
