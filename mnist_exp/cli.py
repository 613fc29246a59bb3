"""The command line: the verb, what errors print, and the exit status. Imports nothing heavy.

Exit status: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from mnist_exp.errors import Killed, MnistExpError, Problem, RequestError, listed

if TYPE_CHECKING:
    from mnist_exp.config.overrides import Request

# Each verb has a root config conf/<verb>.yaml, and a function of its name in mnist_exp.commands.<verb>.
VERBS = {
    "train": "one run; with -m, a sweep over comma-separated values",
    "resume": "goes on with an interrupted run, exactly: resume run=latest",
    "show": "the architecture of a config or, with run=, of a run; and what its augmentation does",
    "check": "everything that train would refuse, for one run or, with -m, for every job of a sweep",
    "runs": "the runs here: name, status, data, epochs, accuracy, age",
    "dataset": "fetch, verify or convert images: dataset convert data=mnist to=csv",
    "ui": "MLflow's UI, opened at the runs",
    "compare": "runs or sweeps side by side: means, intervals, differences, verdicts; a picture",
    "tune": "a search with Optuna: tune optimizer.learning_rate='tag(log,interval(1e-4,1e-1))'",
    "export": "a saved model in other formats, each checked against it; or into MLflow's registry",
    "visualize": "what a saved model sees and does: filters, feature maps, class activation, receptive fields",
    "evaluate": "a saved run's accuracy, per-class figures and calibration: evaluate run=latest",
    "predict": "classifies image files, folders, IDX, NPZ or CSV: predict run=latest inputs=digit.png",
    "sync": "delivers to MLflow what it missed",
}
DEFAULT_VERB = "train"
# Verbs about a training: its config is theirs, and run= starts from a run's.
OF_TRAINING = ("resume", "check", "show")
# What `dataset` does; the word after the verb.
ACTIONS = ("fetch", "verify", "convert")

_HELP = """\
mnist-exp trains image classifiers that are described by YAML files.

  mnist-exp [verb] [group=option …] [key=value …]

{verbs}

Without a verb it trains:  mnist-exp model=pyramid aug=rotate45
A verb's groups and keys:  mnist-exp {default} --help
Versions:                  mnist-exp --version
"""
# Hydra's flags that tell something instead of running something.
_TELLING = (
    "--help",
    "-h",
    "--hydra-help",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--shell-completion",
    "-sc",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. What is wrong is printed, never raised."""
    started = time.perf_counter()
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "…" is no reason to fail
    try:
        return _run(words, started)
    except KeyboardInterrupt:
        print("mnist-exp: interrupted", file=sys.stderr)
        return 130
    except Killed as signal:
        print(f"mnist-exp: ended by {signal}", file=sys.stderr)
        return signal.exit_status
    except BrokenPipeError:  # the reader of our output (`| head`) has seen enough
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0
    except MnistExpError as error:
        if _full_errors():
            raise
        print(f"mnist-exp: {error}", file=sys.stderr, flush=True)
        if isinstance(error, RequestError) and error.more is not None:
            _print_more(error.more)
        return error.exit_status
    except Exception as error:
        if _full_errors():
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
        print(f"mnist-exp: unexpected {type(error).__name__}: {first}", file=sys.stderr)
        print("HYDRA_FULL_ERROR=1 shows where it comes from.", file=sys.stderr)
        return 1


def _print_more(find: Callable[[], tuple[Problem, ...]]) -> None:
    try:
        if more := find():
            print(f"and {listed(more, 'more that Keras finds')}", file=sys.stderr)
    except KeyboardInterrupt:
        print("mnist-exp: interrupted before Keras was asked for more", file=sys.stderr)
    except Exception as error:
        print(f"mnist-exp: Keras could not be asked for more: {error}", file=sys.stderr)


def _full_errors() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def _run(words: list[str], started: float) -> int:
    if words and words[0] in ("--help", "-h"):
        width = max(map(len, VERBS))
        verbs = "\n".join(f"  {verb:<{width}}  {does}" for verb, does in VERBS.items())
        print(_HELP.format(verbs=verbs, default=DEFAULT_VERB), end="")
        return 0
    if "--version" in words:
        _print_versions()
        return 0
    verb, words = _take_verb(words)
    if verb == "dataset":
        words = _take_action(words)
    from mnist_exp.config.overrides import parse, request_from

    root = verb
    if verb in OF_TRAINING:
        root, words = "train", [re.sub("^run=", "from=", word) for word in words]
    request = request_from(root, parse(words))
    if any(word.split("=")[0] in _TELLING for word in words):
        return _let_hydra_tell(request, verb, words)
    command: Callable[..., None] = getattr(import_module(f"mnist_exp.commands.{verb}"), verb)
    if request.multirun:
        if verb not in ("train", "check"):
            raise RequestError(f"-m works with train and check, not with {verb}")
        if verb == "train":
            command = import_module("mnist_exp.commands.sweep").sweep
    from mnist_exp.config.hydra_adapter import hidden_options
    from mnist_exp.model import backend
    from mnist_exp.runs.log import to_console, warn

    to_console()
    backend.process_is_ours = True
    for file in hidden_options(request.config_dir):
        warn(f"{file}: hidden by our own option of that name; give it another")
    command(request, started)
    return 0


def _take_verb(words: list[str]) -> tuple[str, list[str]]:
    if not _begins_with_a_name(words):
        return DEFAULT_VERB, words
    if words[0] in VERBS:
        return words[0], words[1:]
    from mnist_exp.suggest import did_you_mean

    verbs = ", ".join(VERBS)
    raise RequestError(f"{words[0]}: no such verb{did_you_mean(words[0], VERBS)}; the verbs are {verbs}")


def _begins_with_a_name(words: list[str]) -> bool:
    """Whether the first word is neither a flag nor an override."""
    return bool(words) and not words[0].startswith(("-", "+", "~")) and "=" not in words[0]


def _take_action(words: list[str]) -> list[str]:
    """The word after `dataset` as the override that it stands for."""
    if words and words[0] in ACTIONS:
        return [f"action={words[0]}", *words[1:]]
    if any(word.split("=")[0] in ("action", *_TELLING) for word in words):
        return words

    actions = ", ".join(ACTIONS)
    if not _begins_with_a_name(words):
        raise RequestError(f"dataset: say what to do, after the verb: {actions}")
    return [f"action={words[0]}", *words[1:]]  # refused with whatever else is wrong


def _let_hydra_tell(request: Request, verb: str, words: list[str]) -> int:
    """Hydra's own --help, --cfg, --info and completion, for a verb's config."""
    import hydra

    from mnist_exp.config.compose import compose_or_explain
    from mnist_exp.config.hydra_adapter import VERSION_BASE, conf_folder
    from mnist_exp.sweeps.search_space import without_space

    if verb == "tune":
        request = without_space(request)
    # Completion is asked for with the whole line: Hydra does not know verbs.
    line = os.environ.get("COMP_LINE", "")
    before, space, after = line.partition(f" {verb} ")
    if verb == "dataset":
        after = re.sub(rf"^({'|'.join(ACTIONS)}) ", "", after)
    if space:
        os.environ["COMP_LINE"] = f"{before} {after}"
        shorter = len(line) - len(before) - 1 - len(after)
        os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", len(line))) - shorter)
    # Hydra's parser wants all overrides in one place.
    flags = [word for word in words if word not in request.words]
    if verb != request.verb and {"--help", "-h"} & set(flags):
        run = "run=<run>" if verb == "resume" else "[run=<run>]"
        flags.append(f"hydra.help.header='mnist-exp {verb} {run} [key=value …]: {VERBS[verb]}'")
    previous, sys.argv = sys.argv, ["mnist-exp", *request.overrides, *flags]
    asked_for_full = _full_errors()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let what is wrong reach us instead of being printed and exited on
    try:
        tell = hydra.main(config_path=str(conf_folder()), config_name=request.verb, version_base=VERSION_BASE)
        tell(lambda config: None)()
    except SystemExit as end:
        return int(end.code or 0)
    except Exception:
        if not asked_for_full:
            # The same words, composed by us, tell everything that is wrong at once.
            compose_or_explain(request)
        raise
    finally:
        sys.argv = previous
        if not asked_for_full:
            del os.environ["HYDRA_FULL_ERROR"]
    return 0


def _print_versions() -> None:
    from importlib.metadata import version

    from mnist_exp import __version__

    print(f"mnist-exp {__version__}")
    for name in ("keras", "tensorflow", "hydra-core", "mlflow"):
        print(f"{name} {version(name)}")
