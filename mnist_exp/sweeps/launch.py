"""Run a sweep's jobs with one of Hydra's launchers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode

from mnist_exp.config.loader import config_loader
from mnist_exp.config.request import Request


def launch(
    request: Request, fixed: Sequence[str], jobs: Sequence[Sequence[str]], function: Callable[[Any], Any]
) -> list[Any]:
    """Call `function` once per job with the config that Hydra composes from the job's overrides.

    `fixed` are the overrides that all jobs share; the launcher (`hydra/launcher=…`) is among them. `function`
    must not raise, and must be importable by name: some launchers run it in other processes.
    """
    with config_loader(request.config_dir) as loader:
        master = loader.load_configuration(request.verb, list(fixed), RunMode.MULTIRUN)
        HydraConfig.instance().set_config(master)
        launcher = Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=loader, callbacks=Callbacks(master)),
            task_function=function,
            config=master,
        )
        # Hydra adds its own overrides to each job by itself.
        own = [[text for text in job if not text.lstrip("+~").startswith("hydra")] for job in jobs]
        return [done.return_value for done in launcher.launch(own, initial_job_idx=0)]


def job_number() -> int:
    """The place of the job that this code runs in among the sweep's."""
    return int(HydraConfig.get().job.num)


def job_overrides() -> tuple[str, ...]:
    """The overrides of the job that this code runs in."""
    return tuple(HydraConfig.get().overrides.task)
