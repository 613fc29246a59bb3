"""The command line: dispatch by verb, error printing, and exit status. Imports nothing heavy.

Exit status: 0 done, 1 the work failed, 2 the request was wrong, 130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

from mnist_exp import __version__, help_pages
from mnist_exp.engine import plugins
from mnist_exp.errors import (
    Killed,
    MnistExpError,
    Problem,
    RequestError,
    WorkError,
    describe_ending,
    format_problems,
)
from mnist_exp.model import backend
from mnist_exp.runs import signals
from mnist_exp.runs.log import to_console, warn
from mnist_exp.suggest import did_you_mean
from mnist_exp.text import mask_credentials, printable

if TYPE_CHECKING:
    from mnist_exp.config.overrides import Request
    from mnist_exp.report.documents import Document

# Each verb has a root config conf/<verb>.yaml, and a function of its name in mnist_exp.commands.<verb>.
VERBS = {
    "train": "train one model or, with -m, a sweep over comma-separated values",
    "resume": "resume an interrupted run bit for bit: resume run=latest",
    "show": "print the architecture of a config or a run (run=…), and examples of its augmentation",
    "check": "report all problems of a config or, with -m, of every job of a sweep",
    "runs": "list the runs: where=… sort=…; or tag, note, rm, diff: runs diff 'run=[a,b]'",
    "dataset": "fetch, verify or convert images: dataset convert data=mnist to=csv",
    "ui": "open the table of runs, or a run, in MLflow's UI",
    "compare": "compare runs or sweeps: means, intervals, differences, verdicts, a plot",
    "lr_find": "train a few steps at rising learning rates, and propose one: lr_find model=mlp aug=shift",
    "tune": "search hyperparameters with Optuna: tune optimizer.learning_rate='tag(log,interval(1e-4,1e-1))'",
    "ensemble": "average the probabilities of finished runs in one saved model: ensemble 'run=[a,b,c]'",
    "export": "convert a saved model to other formats and verify each, or register it in MLflow",
    "visualize": "draw a saved model's filters, feature maps, class activation and receptive fields",
    "demo": "open a page on which you draw and see a saved model's prediction: demo run=latest",
    "evaluate": "score a saved model: accuracy, per-class metrics, calibration: evaluate run=latest",
    "report": "write one HTML file about a run, sweep, study or several runs: report run=latest",
    "predict": "classify image files, folders, IDX, NPZ or CSV: predict run=latest inputs=digit.png",
    "sync": "deliver pending events to MLflow",
    "schema": "print a JSON Schema of the config, a group's options, or a command's JSON document",
}
DEFAULT_VERB = "train"
# Verbs that use the root config of `train`. Their run=… becomes from=…, which loads the config of a run.
OF_TRAINING = ("resume", "check", "show")
# Verbs whose config has no key `format`, so that `format=json` is removed from the command line.
_WITHOUT_FORMAT_KEY = ("train", "resume", "check", "show", "lr_find", "tune")
# Verbs that print their result as a JSON document with `format=json`.
WITH_JSON = (*_WITHOUT_FORMAT_KEY, "runs", "compare", "report", "evaluate", "ensemble", "predict", "dataset")
_JSON = "format=json"
# Verbs that use the classes of plug-ins.
_WITH_PLUGINS = (
    "train", *OF_TRAINING, "lr_find", "tune", "export", "visualize", "evaluate", "ensemble", "report", "predict",
    "demo",
)  # fmt: skip
# The actions of a verb, given by the word after it.
ACTIONS = {"dataset": ("fetch", "verify", "convert"), "runs": ("tag", "note", "rm", "diff")}

_HELP = """\
mnist-exp trains image classifiers described by YAML files.

  mnist-exp [command] [group=option …] [key=value …]

{verbs}

Without a command it trains:  mnist-exp model=pyramid aug=rotate45
A command's groups and keys:  mnist-exp {default} --help
Your own layers, losses, …:   mnist-exp --plugin mine.py …
A page of the documentation:  mnist-exp help <topic> (topics that are also commands end in .md)
Versions:                     mnist-exp --version

Topics: {topics}
"""
# Flags of Hydra that print something instead of running the verb.
_INFORMATION_FLAGS = (
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
# Flags of Hydra whose value is the next word.
_FLAGS_WITH_VALUES = (
    "--config-dir",
    "-cd",
    "--config-name",
    "-cn",
    "--config-path",
    "-cp",
    "--cfg",
    "-c",
    "--package",
    "-p",
    "--plugin",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. Errors are printed, not raised."""
    started = time.perf_counter()
    signals.forget()
    words = _verb_first(list(sys.argv[1:] if arguments is None else arguments))
    _tolerate_unprintable()
    if _wants_json(words):
        return _print_document(words, started)
    return _attempt(words, started)[0]


def _attempt(words: list[str], started: float) -> tuple[int, Document | BaseException | None]:
    """Run a command line, and report its end if it trains.

    Returns the exit status, and the result or the error. An error has already been printed.
    """
    status, result = _run_catching(words, started)
    trains = _verb_of(words) in ("train", "resume", "tune") and not any(map(_asks_for_information, words))
    # Check the environment here: few users want these reports, and importing `notification` takes time.
    if trains and status != 2 and ("MNIST_EXP_ON_END" in os.environ or "MNIST_EXP_WEBHOOK" in os.environ):
        _report_end(_verb_of(words), status, result)
    return status, result


def _report_end(verb: str, status: int, result: Document | BaseException | None) -> None:
    """Report the end of a run, sweep or search to the command and the webhook given by the environment."""
    from mnist_exp.runs.notification import notify

    document = getattr(result, "document", None) if isinstance(result, BaseException) else result
    message = {
        "command": verb,
        "exit_status": status,
        "message": mask_credentials(str(result)) if isinstance(result, BaseException) else "",
        "result": json.loads(document.as_json()) if document else None,
    }
    notify(message, signalled=status > 128)


def _run_catching(words: list[str], started: float) -> tuple[int, Document | BaseException | None]:
    """Run a command line. Returns the exit status, and the result or the error, after printing the error."""
    try:
        return 0, _run(words, started)
    except (KeyboardInterrupt, Killed) as signal:
        return _ended_by(signal), signal
    except BrokenPipeError:  # the reader of our output (`| head`) has exited
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 0, None
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if (cause := signals.received()) is not None:  # a library may have replaced the signal's exception
            if isinstance(error, WorkError):
                _report(error)
            return _ended_by(cause), cause
        return _report(error), error


def _wants_json(words: list[str]) -> bool:
    return _verb_of(words) in WITH_JSON and _JSON in words and not any(map(_asks_for_information, words))


def _verb_of(words: list[str]) -> str:
    return words[0] if words and words[0] in VERBS else DEFAULT_VERB


def _asks_for_information(word: str) -> bool:
    return word.split("=")[0] in (*_INFORMATION_FLAGS, "--version")


def _print_document(words: list[str], started: float) -> int:
    """Run a command line with all messages on standard error, and print its result as one JSON document."""
    output = sys.stdout
    with redirect_stdout(sys.stderr):
        status, result = _attempt(words, started)
    from mnist_exp.report.documents import Document, failure_document  # pydantic

    document: object = result
    if isinstance(result, BaseException):
        document = getattr(result, "document", None) or failure_document(result, status, _verb_of(words))
    try:
        if isinstance(document, Document):
            print(document.as_json(), end="", file=output, flush=True)
    except BrokenPipeError:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return status


def _tolerate_unprintable() -> None:
    """Replace characters that the terminal cannot show, such as "…", instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _report(error: Exception) -> int:
    """Print an error, and return the exit status."""
    if isinstance(error, MnistExpError):
        print(f"mnist-exp: {printable(str(error))}", file=sys.stderr, flush=True)
        if isinstance(error, RequestError) and error.pending is not None:
            _print_more(error, error.pending)
        return error.exit_status
    first = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    print(f"mnist-exp: unexpected {type(error).__name__}: {printable(first)}", file=sys.stderr)
    print("HYDRA_FULL_ERROR=1 shows the traceback.", file=sys.stderr)
    return 1


def _ended_by(signal: BaseException) -> int:
    """Print which signal ended the command, and return the exit status."""
    text, status = describe_ending(signal)
    print(text, file=sys.stderr)
    return status


def _print_more(error: RequestError, find: Callable[[], tuple[Problem, ...]]) -> None:
    """Print the problems that take a long time to find, and add them to those of the error."""
    try:
        if more := find():
            error.problems += more
            print(printable(format_problems(more, "Keras found {count} more problem{s}:")), file=sys.stderr)
    except KeyboardInterrupt:
        print("mnist-exp: interrupted before Keras could check the rest", file=sys.stderr)
    except Exception as failure:
        print(f"mnist-exp: Keras could not check the rest: {printable(str(failure))}", file=sys.stderr)


def _run(words: list[str], started: float) -> Document | None:
    """Run the verb and return its result; for a flag such as `--help`, print the information and return None."""
    if words and words[0] in ("--help", "-h"):
        _print_help(words[1:])
        return None
    if "--version" in words:
        _print_versions()
        return None
    verb, words = _take_verb(words)
    named, words = _take_plugins(verb, words)
    if verb in _WITHOUT_FORMAT_KEY:
        words = _take_format(words)
    if verb in ACTIONS:
        words = _take_action(verb, words)
    from mnist_exp.config.hydra_adapter import hidden_options
    from mnist_exp.config.overrides import parse, request_from

    root = verb
    if verb in OF_TRAINING:
        root, words = "train", [re.sub("^run=", "from=", word) for word in words]
    request = request_from(root, parse(words))
    if any(map(_asks_for_information, words)):
        _run_hydra_flags(request, verb, words)
        return None
    command = _import_command(verb, request.multirun)
    signals.start()
    to_console()
    backend.process_is_ours = True
    if verb in _WITH_PLUGINS:
        plugins.load([*named, *plugins.named_in_environment()])
    for file in hidden_options(request.config_dir):
        warn(f"{file}: hidden by the built-in option of the same name; rename the file")
    with signals.lost_exceptions_unreported():
        return command(request, started)


def _print_help(words: list[str]) -> None:
    """Print the page of the topic that the first word names, or the commands and topics if it names none."""
    if _begins_with_a_name(words):
        from mnist_exp.report.markdown import print_page

        print_page(help_pages.read_page(words[0], VERBS))
        return
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {does}" for verb, does in VERBS.items())
    topics = textwrap.fill(", ".join(help_pages.list_topics(VERBS)), 100, subsequent_indent="        ")
    print(_HELP.format(verbs=verbs, default=DEFAULT_VERB, topics=topics), end="")


def _take_plugins(verb: str, words: list[str]) -> tuple[list[str], list[str]]:
    """Return the values of `--plugin`, and the other words. Raises `RequestError` for a flag without effect."""
    named: list[str] = []
    others: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.partition("=")
        if flag != "--plugin":
            others.append(word)
            continue
        value = value if equals else next(rest, "")
        if not value or verb not in _WITH_PLUGINS:
            why = (
                f"has no effect on '{verb}'" if value else "missing; give a Python file, or the name of a plug-in"
            )
            raise RequestError([Problem("invalid-override", "command line", f"--plugin: {why}", "")])
        named.append(value)
    return named, others


def _take_format(words: list[str]) -> list[str]:
    """Return the words without `format=json`. Raises `RequestError` for another format."""
    for word in words:
        if word.startswith("format=") and word != _JSON:
            message = f"{word}: must be json, found {word.removeprefix('format=')}"
            raise RequestError([Problem("unknown-option", "command line", message, "format")])
    return [word for word in words if word != _JSON]


def _import_command(verb: str, multirun: bool) -> Callable[..., Document | None]:
    """Return the function of a verb. Raises `RequestError` if `-m` is given and the verb does not support it."""
    module = verb
    if multirun and verb == "train":
        module = "sweep"
    elif multirun and verb != "check":
        raise RequestError(f"-m works with train and check, not with {verb}")
    command: Callable[..., Document | None] = getattr(import_module(f"mnist_exp.commands.{module}"), module)
    return command


def _verb_first(words: list[str]) -> list[str]:
    """Move the verb before the flags that precede it, and turn `help [verb or topic]` into `--help`."""
    if words and words[0] == "help":
        is_topic = _begins_with_a_name(words[1:]) and words[1] not in VERBS
        return ["--help", words[1]] if is_topic else [*words[1:2], "--help"]
    number = 0
    while number < len(words) and words[number].startswith("-"):
        number += 2 if words[number] in _FLAGS_WITH_VALUES else 1
    if 0 < number < len(words) and words[number] in VERBS:
        return [words[number], *words[:number], *words[number + 1 :]]
    return words


def _take_verb(words: list[str]) -> tuple[str, list[str]]:
    if not _begins_with_a_name(words):
        return DEFAULT_VERB, words
    if words[0] in VERBS:
        return words[0], words[1:]
    is_key = re.fullmatch(
        r"(aug|data|device|model|optimizer|preprocess|schedule|tracking|training)\.[\w.]+", words[0]
    )
    hint = f" (to set a key, write {words[0]}=…)" if is_key else did_you_mean(words[0], VERBS)
    raise RequestError(f"{words[0]}: no such command{hint}; the commands are {', '.join(VERBS)}")


def _begins_with_a_name(words: list[str]) -> bool:
    """Whether the first word is neither a flag nor an override, nor the key of one with a space before its `=`."""
    is_key = any(word.startswith("=") for word in words[1:2])
    return bool(words) and not is_key and not words[0].startswith(("-", "+", "~")) and "=" not in words[0]


def _take_action(verb: str, words: list[str]) -> list[str]:
    """Turn the word after `dataset` or `runs` into an override of `action`."""
    if words and words[0] in ACTIONS[verb]:
        return [f"action={words[0]}", *words[1:]]
    if any(word.startswith("action=") or _asks_for_information(word) for word in words):
        return words

    actions = ", ".join(ACTIONS[verb])
    if not _begins_with_a_name(words):
        if verb == "runs":
            return words
        raise RequestError(f"dataset: give an action: {actions}")
    return [f"action={words[0]}", *words[1:]]  # rejected later, together with all other problems


def _run_hydra_flags(request: Request, verb: str, words: list[str]) -> None:
    """Run Hydra's own --help, --cfg, --info or completion for a verb's config."""
    from mnist_exp.config.compose import compose_or_explain, refuse_foreign_settings
    from mnist_exp.config.hydra_adapter import conf_folder, describe_options, run_flags
    from mnist_exp.config.key_lines import describe_command
    from mnist_exp.sweeps.search_space import without_space

    if verb == "tune" or request.multirun:
        request = without_space(request)
    _hide_verb_from_completion(verb)
    # Hydra's parser expects all overrides in one place.
    flags = [word for word in words if word not in request.words]
    is_help = bool({"--help", "-h"} & set(flags))
    if verb != request.verb and is_help:
        run = "run=<run>" if verb == "resume" else "[run=<run>]"
        flags.append(f"hydra.help.header='mnist-exp {verb} {run} [key=value …]: {VERBS[verb]}'")
    shown = io.StringIO()
    if request.config_dir is not None:
        refuse_foreign_settings(request)
    try:
        with redirect_stdout(shown):
            status = run_flags(request.verb, [*request.overrides, *flags])
        text = mask_credentials(shown.getvalue())
        if is_help:
            topic = help_pages.topic_of(verb)
            text = text.replace("<command>", describe_command(conf_folder() / f"{request.verb}.yaml"))
            text = f"{describe_options(text, request.config_dir)}Documentation: mnist-exp help {topic}\n"
        print(text, end="")
        if status:
            sys.exit(status)
    except Exception:
        if os.environ.get("HYDRA_FULL_ERROR") != "1":
            compose_or_explain(request)  # raises all problems at once
        raise


def _hide_verb_from_completion(verb: str) -> None:
    """Remove the verb, which Hydra does not know, from the line to complete."""
    before, space, after = os.environ.get("COMP_LINE", "").partition(f" {verb} ")
    if not space:
        return
    length = len(before) + 1 + len(verb) + 1 + len(after)
    if verb in ACTIONS:
        after = re.sub(rf"^({'|'.join(ACTIONS[verb])}) ", "", after)
    os.environ["COMP_LINE"] = f"{before} {after}"
    removed = length - len(before) - 1 - len(after)
    os.environ["COMP_POINT"] = str(int(os.environ.get("COMP_POINT", length)) - removed)


def _print_versions() -> None:
    print(f"mnist-exp {__version__}")
    for name in ("keras", "tensorflow", "hydra-core", "mlflow"):
        print(f"{name} {version(name)}")
