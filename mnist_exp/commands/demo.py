"""`mnist-exp demo`: serve a page on which to draw an image and watch how one or two models classify it."""

from __future__ import annotations

import gc
import webbrowser
from contextlib import suppress
from pathlib import Path

from mnist_exp.config.command_schemas import DemoConfig
from mnist_exp.config.overrides import Request
from mnist_exp.config.schema import TrainConfig
from mnist_exp.config.validation import compose_checked
from mnist_exp.engine.preparation import set_up
from mnist_exp.engine.saved_model import Saved, compose_run_config, find_saved, split_overrides
from mnist_exp.errors import RequestError
from mnist_exp.immediate_exit import exit_at_once
from mnist_exp.runs.log import say
from mnist_exp.serving.listening import listen, page_address


def demo(request: Request, started: float) -> None:
    """Serve the page until Ctrl-C. Raises `RequestError`."""
    own, over_run = split_overrides(request)
    config, _ = compose_checked(own, DemoConfig)
    models = find_models(config, request, over_run)
    with listen(config.host, config.port) as listener:
        set_up(models[0][1])
        from mnist_exp.serving.demo_session import DemoSession  # Keras
        from mnist_exp.serving.page_server import PageServer  # Starlette

        session = DemoSession(request, over_run, Path(config.outputs), config.channels)
        for saved, of_run in models:
            say(f"model   {session.add(saved, of_run).name}")
        session.load_examples(*models[0])
        server = PageServer(session, listener)
        gc.freeze()  # collecting TensorFlow's graphs at the exit would take seconds
        with suppress(KeyboardInterrupt):  # before the server handles it
            address = page_address(listener, server.token)
            print(address, flush=True)
            say("Press Ctrl-C to stop it.")
            if config.open:
                webbrowser.open(address)
            server.run()
        if session.is_busy:  # nothing is being written: don't wait for a model that is being loaded
            exit_at_once(0, "")


def find_models(
    config: DemoConfig, request: Request, over_run: tuple[str, ...]
) -> list[tuple[Saved, TrainConfig]]:
    """Return the saved models and the configs of their runs. Raises `RequestError` with the problems of all."""
    models, problems = [], []
    for name in config.run or (None,):
        try:
            saved = find_saved(name, Path(config.outputs))
            models.append((saved, compose_run_config(saved, request, over_run)))
        except RequestError as error:
            problems.append(error)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise RequestError("\n".join(map(str, problems)))
    return models
