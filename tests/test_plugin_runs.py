"""Runs with plug-ins: resumed exactly, swept under each launcher, evaluated and exported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from support.cli import PATIENCE, Cli, soak
from support.documents import environment

from mnist_exp.plugin_testing import verify

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "plugin.py"
# One of each kind.
ALL = (
    "model.layers=[{type: ChannelScale, noise: 0.1}, Flatten, {type: Dense, units: 10}, Softmax]",
    "aug.layers=[{type: RandomDimming, lowest: 0.4}]", "training.loss=sparse_focal",
    "training.metrics=[mean_doubt]", "training.callbacks=[WeightNorms]", "schedule.type=restarts",
    "optimizer.type=SignDescent", "+optimizer.momentum=0.8", "optimizer.learning_rate=0.005",
)  # fmt: skip
SMALL = ("data=digits", "data.limit=300", "model=linear", "training.epochs=1", "tracking=none")
LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local", "hydra.sweeper.max_batch_size=2"),
    "ray_local": ("hydra/launcher=ray_local",),
}


def test_the_example_keeps_the_contract():
    """A run that is killed within an epoch and resumed has the weights of an uninterrupted one."""
    verify(EXAMPLE, *ALL)


@pytest.mark.soak  # minutes
def test_a_broken_contract_is_found():
    """State that no checkpoint contains changes the resumed run, and `verify` says so."""
    Path("mine.py").write_text(
        "import keras\nfrom mnist_exp import plugin\n\n\n@plugin.callback()\nclass Counts(plugin.Callback):\n"
        "    count = 0\n\n    def on_start(self, training):\n        self.model = training.model\n\n"
        "    def on_steps(self, epoch, done, steps, metrics):\n        self.count += 1\n"
        "        for weight in self.model.trainable_variables:\n"
        "            weight.assign(weight * (1 - 0.01 * self.count))\n"
    )
    with pytest.raises(AssertionError, match="resumed"):
        verify("mine.py", "training.callbacks=[Counts]")


def test_a_run_keeps_a_copy_and_asks_for_the_plugin(cli: Cli):
    """Commands on its model need --plugin, name what is missing, and never import the copy."""
    file = Path("mine.py")
    shutil.copyfile(EXAMPLE, file)
    done = cli("--plugin", "mine.py", *SMALL, *ALL)
    assert done.run is not None
    [record] = done.result["plugins"]
    copy = done.run / "plugins" / "mine" / "mine.py"
    assert (record["name"], record["source"]) == ("mine", "mine.py")
    assert copy.read_bytes() == file.read_bytes()
    assert (done.run / "norms.csv").read_text().count("\n") == 1
    copy.write_text("raise AssertionError('imported')")
    run = f"run={done.run}"
    for verb in ("evaluate", "visualize", "show", "check", "resume"):
        assert "--plugin mine.py" in cli(verb, run, status=2).err
    said = cli("evaluate", f"run={done.run / 'model.keras'}", "data=digits", status=2).err
    assert "plug-in mine" in said
    assert cli("evaluate", "--plugin=mine.py", run).out.count("accuracy")
    cli("export", "--plugin=mine.py", run, "format=[keras,h5,yaml,savedmodel,onnx,litert]", "output=exported")
    cli("visualize", "--plugin=mine.py", run, "images=[0]")
    file.write_text(file.read_text() + "# changed\n")
    assert "has changed" in cli("evaluate", "--plugin=mine.py", run, "output=again").out
    assert "has changed" in cli("resume", "--plugin=mine.py", run, "training.epochs=2", status=2).err


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Return a function that runs a sweep of two seeds under a launcher and returns the hashes of its weights."""

    @cache
    def sweep(launcher: str) -> list[str]:
        folder = tmp_path_factory.mktemp(launcher)
        words = ["-m", f"--plugin={EXAMPLE}", *SMALL, *ALL, "device.threads=1", "seed=0,1", *LAUNCHERS[launcher]]
        subprocess.run(
            [sys.executable, "-m", "mnist_exp", *words],
            cwd=folder, env=environment(folder), check=True, timeout=300 * PATIENCE,
        )  # fmt: skip
        found = [json.loads(file.read_text()) for file in sorted(folder.glob("outputs/sweeps/*/*/result.json"))]
        assert [result["plugins"][0]["name"] for result in found] == ["plugin", "plugin"]
        return [result["weights_sha256"] for result in found]

    return sweep


@pytest.mark.parametrize("launcher", ["joblib", *map(soak, ("submitit_local", "ray_local"))])
def test_workers_of_every_launcher_get_the_plugins(swept: Callable[[str], list[str]], launcher: str):
    """A sweep trains the same weights under each launcher."""
    assert swept(launcher) == swept("basic")
    assert len(set(swept(launcher))) == 2
