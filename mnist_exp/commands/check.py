"""`mnist-exp check`: report everything that `train` would refuse; with -m, for every job of a sweep.

If the data is in a folder, its files, headers and labels are checked; with `data.verify=true`, its pixels too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import DataConfig, TrainConfig
from mnist_exp.engine.preparation import check_config, load_base_run
from mnist_exp.report.documents import CheckDocument, CheckedData, CheckedModel
from mnist_exp.runs.log import say
from mnist_exp.sweeps.grid import expand
from mnist_exp.sweeps.job_check import check_jobs
from mnist_exp.sweeps.job_names import job_names
from mnist_exp.text import format_shape


def check(request: Request, started: float) -> CheckDocument:
    """Report that there are no problems, or raise `RequestError` with all of them."""
    request = load_base_run(request)
    jobs = _check_configs(request)
    from mnist_exp.data.declaration import examine  # NumPy
    from mnist_exp.engine.model_description import check_model  # Keras
    from mnist_exp.report.progress import images_bar

    data_sets = {config.data.as_found if request.multirun else config.data for config in jobs.values()}
    data = [_describe_data(one, examine(one, say, images_bar)) for one in data_sets]
    models = [check_model(config, name) for name, config in jobs.items()]
    what = f": {_describe(models[0])}"
    if request.multirun:
        _print_jobs(models)
        what = f" in any of {len(jobs)} jobs"
    if any(data_set.dir and not (data_set.mirrors or data_set.verify) for data_set in data_sets):
        say("note    pixels were not read, so damaged images may remain; data.verify=true reads them")
    say(f"no problems{what} ({time.perf_counter() - started:.1f} s)")
    return CheckDocument(ok=True, problems=[], models=models, data=data)


def _check_configs(request: Request) -> dict[str | None, TrainConfig]:
    """Return the config of each job of a sweep, or of a run, whose name is None. Raises `RequestError`."""
    if not request.multirun:
        return {None: check_config(request)[1]}
    grid = expand(request)
    return {name: config for name, (_, config) in check_jobs(request, grid, job_names(grid)).items()}


def _print_jobs(models: Sequence[CheckedModel]) -> None:
    names = [model.job or "" for model in models]
    for name, model in zip(names, models, strict=True):
        say(f"{name:<{max(map(len, names))}}  {_describe(model)}")


def _describe_data(data: DataConfig, counts: Mapping[str, int]) -> CheckedData:
    """Print the number of images in each part, if they were counted. Returns the data's entry for the document."""
    if counts:
        sizes = ", ".join(f"{count:,} {name}" for name, count in counts.items())
        is_limited = data.limit is not None and data.limit < counts.get("train", 0)
        part = f", of which data.limit={data.limit} keeps a part" if is_limited else ""
        say(f"data    {data.name} from {data.dir or 'scikit-learn'}: {sizes}{part}")
    return CheckedData(name=data.name, dir=data.dir, images=dict(counts))


def _describe(model: CheckedModel) -> str:
    return f"model {model.model}, {model.parameters:,} parameters, for {format_shape(model.shape)}"
