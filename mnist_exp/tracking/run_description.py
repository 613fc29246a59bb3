"""The description of a finished run in MLflow: its result, and how to repeat it and load its model."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from mnist_exp.config.schema import TrainConfig
from mnist_exp.runs.directory import MODEL, PLOTS
from mnist_exp.runs.events import RUN_ID
from mnist_exp.runs.regular_files import read_text
from mnist_exp.runs.result import PluginRecord, RunResult
from mnist_exp.text import display_path, format_percent

CARD = "architecture.md"
_CURVE = f"{PLOTS}/accuracy.png"


def describe_run(run: Path, result: RunResult, config: TrainConfig) -> str:
    """Return the description of a finished run as Markdown, with its architecture card at the end."""
    shown = display_path(run)
    curve = embed_picture(_CURVE, "Accuracy by epoch")
    parts = [
        _result_line(result, config),
        f"```sh\n{repeating_command(shown, result)}\n```",
        f"```python\n{loading_lines(shown, config)}\n```",
        curve if (run / _CURVE).is_file() else "",
        read_text(run / CARD),
    ]
    return "\n\n".join(filter(None, parts))


def repeating_command(run: Path, result: RunResult) -> str:
    """Return the command that repeats a run."""
    return shlex.join(["mnist-exp", *plugin_flags(result.plugins), f"from={run}"])


def plugin_flags(plugins: Iterable[PluginRecord]) -> list[str]:
    """Return the flags of a command that load plug-ins, each once."""
    sources = dict.fromkeys(plugin.source for plugin in plugins)
    return [word for source in sources for word in ("--plugin", source)]


def embed_picture(artifact: str, text: str) -> str:
    """Return the Markdown that shows an artifact of the run itself, with an alternative text.

    MLflow's UI drops images with a `data:` address but keeps relative ones, like this address.
    """
    return f"![{text}](get-artifact?path={artifact}&run_uuid={RUN_ID})"


def _result_line(result: RunResult, config: TrainConfig) -> str:
    best = result.best or {}
    figures = [f"**test accuracy {format_percent(result.test['accuracy'])}**"] if result.test else []
    if "val/accuracy" in best:
        figures.append(f"validation accuracy {format_percent(best['val/accuracy'])}")
    if result.training_seconds is not None:
        figures.append(f"{result.training_seconds:.1f} s")
    return ", ".join([*figures, f"epoch {best.get('epoch')} of {result.epochs}", f"model {config.model.name}"])


def loading_lines(run: Path, config: TrainConfig) -> str:
    """Return the Python code that loads the model from the files that the run keeps."""
    if config.sweep.keep_models == "best":
        return "# sweep.keep_models=best: only the best job of the sweep keeps its model"
    shape = ", ".join(map(str, config.data.shape))
    predict = f"model.predict(images)  # pixels 0…255 of shape (n, {shape})"
    for kind, file in (("keras", MODEL), ("h5", "model.h5")):
        if kind in config.save:
            return f"import keras\nmodel = keras.saving.load_model({str(run / file)!r})\n{predict}"
    if "yaml" in config.save:
        architecture, weights = str(run / "architecture.yaml"), str(run / "model.weights.h5")
        return (
            "import json, keras, yaml\n"
            f"model = keras.models.model_from_json(json.dumps(yaml.safe_load(open({architecture!r}))))\n"
            f"model.load_weights({weights!r}); {predict}"
        )
    return f"# save=[{', '.join(config.save)}]: the run kept no model"
