"""`mnist-exp check`: report everything that `train` would refuse; with -m, for every job of a sweep.

Of data in a folder, the files, headers and labels are checked, and with `data.verify=true` the pixels as well.
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
    """Report that there are no problems, or raise `RequestError` with all of them."""
    request = load_base_run(request)
    jobs: dict[str, TrainConfig] = {}
    if request.multirun:
        grid = expand(request)
        jobs = {name: config for name, (_, config) in check_jobs(request, grid, job_names(grid)).items()}
    else:
        _, config, _ = check_config(request)
    from mnist_exp.data.declaration import examine  # NumPy
    from mnist_exp.engine.model_description import describe_model  # Keras
    from mnist_exp.report.progress import images_bar

    for data in {config.data.as_found for config in jobs.values()} or {config.data}:
        if counts := examine(data, say, images_bar):
            sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
            say(f"data    {data.name} from {data.dir or 'scikit-learn'}: {sizes}")

    for name, config in jobs.items():
        say(f"{name:<{max(map(len, jobs))}}  {describe_model(config)}")
    what = f" in any of {len(jobs)} jobs" if request.multirun else f": {describe_model(config)}"
    say(f"no problems{what} ({time.perf_counter() - started:.1f} s)")
