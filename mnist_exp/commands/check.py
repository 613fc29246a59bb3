"""`mnist-exp check`: report everything that `train` would refuse; with -m, for every job of a sweep.

No data is read: the config is checked against what it declares of the data.
"""

from __future__ import annotations

import time

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.engine.preparation import check_config, load_base_run
from mnist_exp.runs.log import say
from mnist_exp.sweeps.grid import expand
from mnist_exp.sweeps.job_check import check_jobs
from mnist_exp.sweeps.job_names import job_names


def check(request: Request, started: float) -> None:
    """Report that nothing is wrong, or raise `RequestError` with all problems."""
    request = load_base_run(request)
    if request.multirun:
        grid = expand(request)
        names = job_names(grid)
        right = check_jobs(request, grid, names)
        for name, (_, config) in right.items():
            say(f"{name:<{max(map(len, names))}}  {_described(config)}")
        what = f"nothing is wrong with any of these {len(right)} jobs"
    else:
        _, config, _ = check_config(request)
        what = f"nothing is wrong: {_described(config)}"
    say(f"{what} ({time.perf_counter() - started:.1f} s)")


def _described(config: TrainConfig) -> str:
    from mnist_exp.model.build import build
    from mnist_exp.model.preprocessing import Statistics, count_parameters

    parameters = count_parameters(build(config, Statistics(), "float32", compiled=False))
    return f"model {config.model.name}, {parameters:,} parameters, for {'×'.join(map(str, config.data.shape))}"
