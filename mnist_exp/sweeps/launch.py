"""Run a sweep's jobs with one of Hydra's launchers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from mnist_exp.config.loader import config_loader
from mnist_exp.config.request import Request, key_of


def launch(request: Request, directory: Path, jobs: int, function: Callable[[Any], Any]) -> list[Any]:
    """Call `function` once per job, and return what it returned, in order.

    A launcher (`hydra/launcher=…`) has jobs to spread, not configs to compose: each job knows its own by
    `job_number`. `function` must not raise, and must be importable by name: some launchers run it in other
    processes. `directory` is where launchers leave their own files.
    """
    quoted = str(directory).replace("\\", "\\\\").replace("'", "\\'")
    overrides = [text for text in request.overrides if key_of(text).startswith("hydra")]
    with config_loader(request.config_dir) as loader:
        master = loader.load_configuration(
            request.verb, [*overrides, f"hydra.sweep.dir='{quoted}'"], RunMode.MULTIRUN
        )
        HydraConfig.instance().set_config(master)
        launcher = Plugins.instance().instantiate_launcher(
            # Without the config's callbacks: a config must not name code to run.
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks()),
            task_function=function,
            config=master,
        )
        return [done.return_value for done in launcher.launch([[] for _ in range(jobs)], initial_job_idx=0)]


def job_number() -> int:
    """The place of the job that this code runs in among the sweep's, from 0."""
    return int(HydraConfig.get().job.num)
