"""Run directories as a stranger could have made them. Each case changes a copy of a finished run's directory."""

from __future__ import annotations

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path, Path, str], None]
"""Changes a run's directory, given it, a folder with secrets (`key.txt`), and the address of a server."""
CASES: dict[str, Change] = {}

RED = "\x1b[31m"
BOMB = "\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"a{number}: &a{number} [{','.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 10)
)
DEAD = {"status": "running", "pid": 999_999_999}
END = {"kind": "end", "time": 2, "status": "FINISHED"}


def case(change: Change) -> Change:
    CASES[change.__name__] = change
    return change


def each(suffix: str, values: dict[str, Any]) -> Callable[[Callable[..., None]], None]:
    """Add a case for each value, which the function takes as its last argument."""

    def add(change: Callable[..., None]) -> None:
        for name, value in values.items():
            CASES[f"{name}_{suffix}"] = lambda run, secret, uri, value=value: change(run, secret, uri, value)

    return add


def edit_text(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text, (file, old)
    file.write_text(text.replace(old, new))


def edit_result(run: Path, **changes: Any) -> None:
    values = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps({**values, **changes}))


def lines_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "journal.jsonl").read_text().splitlines()]


def write_lines(run: Path, lines: list[dict[str, Any]]) -> None:
    (run / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


# The run's address, files outside of it, and what is not a regular file


@case
def foreign_store(run: Path, secret: Path, uri: str) -> None:
    write_lines(run, [{**lines_of(run)[0], "uri": uri}, *artifacts(run, secret), END])


@case
def foreign_store_of_a_dead_run(run: Path, secret: Path, uri: str) -> None:
    write_lines(run, [{**lines_of(run)[0], "uri": uri}, *artifacts(run, secret)])
    edit_result(run, **DEAD)


@case
def files_outside(run: Path, secret: Path, uri: str) -> None:
    write_lines(run, [{**lines_of(run)[0], "uri": None}, *artifacts(run, secret), END])


def artifacts(run: Path, secret: Path) -> list[dict[str, Any]]:
    files = (str(secret / "key.txt"), os.path.relpath(secret / "key.txt", run), "/etc/hostname")
    return [{"kind": "artifact", "time": 1, "file": file, "folder": None} for file in files]


@case
def store_in_config(run: Path, secret: Path, uri: str) -> None:
    edit_text(run / "config.yaml", "uri: null", f"uri: {uri}")


@case
def mirror_in_config(run: Path, secret: Path, uri: str) -> None:
    edit_text(run / "config.yaml", "mirrors: []", f"mirrors: ['{uri}/data']")


@case
def data_in_config(run: Path, secret: Path, uri: str) -> None:
    edit_text(run / "config.yaml", "  dir: null", f"  dir: {secret}")


@case
def init_from_in_config(run: Path, secret: Path, uri: str) -> None:
    edit_text(run / "config.yaml", "init_from: null", f"init_from: {secret}")


@case
def outputs_in_config(run: Path, secret: Path, uri: str) -> None:
    text = (run / "config.yaml").read_text()
    changed, edits = re.subn(r"(?m)^outputs: .*", f"outputs: {secret / 'new'}", text)
    assert edits == 1
    (run / "config.yaml").write_text(changed)
    edit_result(run, status="interrupted")


FILES = ("config.yaml", "result.json", "journal.jsonl", "history.csv", "model.keras", "delivery.json", "run.log")


@each("is_a_link", {name: name for name in (*FILES, "checkpoint", "plots")})
def link(run: Path, secret: Path, uri: str, name: str) -> None:
    if (run / name).exists():
        (run / name).rename(secret / name)
    (run / name).symlink_to(secret / name)


@each("is_a_pipe", {name: name for name in (*FILES, ".lock", ".delivery.lock")})
def pipe(run: Path, secret: Path, uri: str, name: str) -> None:
    remove(run / name)
    os.mkfifo(run / name)


@each("is_a_link_to_nothing", {name: name for name in (".lock", ".delivery.lock", "delivery.json")})
def dangling(run: Path, secret: Path, uri: str, name: str) -> None:
    remove(run / name)
    (run / name).symlink_to(secret / "new")


@each("is_a_folder", {name: name for name in FILES})
def folder(run: Path, secret: Path, uri: str, name: str) -> None:
    remove(run / name)
    (run / name).mkdir()


# config.yaml


@each(
    "at_the_end_of_config",
    {
        "aliases": BOMB,
        "depth": "\nx: " + "[" * 20_000 + "]" * 20_000 + "\n",
        "self_reference": "\nx: &x [*x]\n",
        "code": "\nhydra:\n  launcher:\n    _target_: os.system\n    command: echo run\n",
        "tag": "\nx: !!python/object/apply:os.system ['echo x']\n",
        "dates_and_complex_keys": "\nx: 2020-01-01\ny: 2020-99-99\n? [a, b]\n: 1\n",
        "second_document": "\n---\nx: 1\n",
        "long_number": f"\nx: {'9' * 6000}\n",
        "control_characters": f"\nx: 1\n{RED}: 1\n",
    },
)
def config_end(run: Path, secret: Path, uri: str, text: str) -> None:
    with (run / "config.yaml").open("a") as file:
        file.write(text)


@each(
    "in_config",
    {
        "environment": ("experiment: mnist-exp", "experiment: ${oc.env:HOME}"),
        "escapes": ("experiment: mnist-exp", 'experiment: "\\e[31mx\\ny"'),
        "escaped_name": ("name: linear", 'name: "\\e[31mx\\ny"'),
        "wrong_seed": ("seed: 0", "seed: 2020-99-99"),
        "many_layers": ("  layers:\n", "  layers:\n" + "  - Flatten\n" * 20_000),
        "huge_layer": ("  layers:\n", "  layers:\n  - {type: Dense, units: 999999999999}\n"),
    },
)
def config_edit(run: Path, secret: Path, uri: str, edit: tuple[str, str]) -> None:
    edit_text(run / "config.yaml", *edit)


@case
def config_that_is_cut(run: Path, secret: Path, uri: str) -> None:
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.split("device:")[0])


@case
def config_in_another_encoding(run: Path, secret: Path, uri: str) -> None:
    with (run / "config.yaml").open("ab") as file:
        file.write(b"\nx: \xff\xfe\n")


# result.json and history.csv


@each(
    "in_result",
    {
        "wrong_types": {"started": "x", "epochs": "many", "data": [1]},
        "wrong_times": {"started": 1e300, "ended": -1e300},
        "no_numbers": {"started": float("nan"), "best": {"epoch": float("inf"), "val/accuracy": float("nan")}},
        "escapes": {"status": f"{RED}\u202efinished", "reason": f"{RED}\x07", "name": "../../x",
                    "overrides": [f"{RED}=1", "seed=0"]},
    },
)  # fmt: skip
def result(run: Path, secret: Path, uri: str, changes: dict[str, Any]) -> None:
    edit_result(run, **changes)


@case
def strange_data_in_result(run: Path, secret: Path, uri: str) -> None:
    data = json.loads((run / "result.json").read_text())["data"]
    strange = {"class_names": ["=1+1", RED, "a\nb"] * 4, "shape": [10**9] * 3, "name": f"{RED}x\nFAKE LINE"}
    edit_result(run, data={**data, **strange})


@each(
    "for_result",
    {
        "list": "[]",
        "depth": '{"status": "finished", "started": 1, "data": ' + "[" * 100_000 + "]" * 100_000 + "}",
        "long_number": '{"status": "finished", "started": 1' + "0" * 6000 + "}",
    },
)
def result_text(run: Path, secret: Path, uri: str, text: str) -> None:
    (run / "result.json").write_text(text)


@each(
    "for_history",
    {
        "strange_text": f"epoch,=cmd(),{RED}\n1,2,3\n" + "x," * 5 + "\n\x00\n",
        "long_lines": f"epoch,{'a' * 200_000}\n1,{'1' * 200_000}\n",
    },
)
def history(run: Path, secret: Path, uri: str, text: str) -> None:
    (run / "history.csv").write_text(text)


@case
def history_of_300_megabytes(run: Path, secret: Path, uri: str) -> None:
    os.truncate(run / "history.csv", 300 << 20)


# journal.jsonl and delivery.json


@each(
    "in_journal",
    {
        "unknown_kind": [{"kind": "_is_there", "time": 1}],
        "wrong_step": [{"kind": "metrics", "time": 1, "step": {"a": 1}, "metrics": {"x": 1}}],
        "distant_times": [{"kind": "metrics", "time": 10**18, "step": 1, "values": {"x": 1.0}}],
        "no_number": [{"kind": "metrics", "time": 1, "step": 1, "values": {"x": float("inf")}}],
        "refused_parameter": [{"kind": "params", "time": 1, "values": {f"{RED}#": "x"}}],
    },
)
def journal(run: Path, secret: Path, uri: str, lines: list[dict[str, Any]]) -> None:
    write_lines(run, [lines_of(run)[0], *lines, END])


@each("at_the_end_of_journal", {
    "depth": '{"kind": "params", "time": 1, "values": ' + '{"a":' * 50_000 + "1" + "}" * 50_001 + "\n",
    "long_number": '{"kind": "metrics", "time": 1' + "0" * 5000 + ', "step": 1, "values": {"x": 1e999}}\n',
})  # fmt: skip
def journal_end(run: Path, secret: Path, uri: str, text: str) -> None:
    with (run / "journal.jsonl").open("a") as file:
        file.write(text)


@case
def empty_journal_of_a_dead_run(run: Path, secret: Path, uri: str) -> None:
    (run / "journal.jsonl").write_text("")
    edit_result(run, **DEAD)


@case
def strange_names_in_journal(run: Path, secret: Path, uri: str) -> None:
    first = {"name": f"{RED}a\nb", "experiment": f"{RED}x' --", "parent": "../../../secret"}
    write_lines(run, [{**lines_of(run)[0], **first}, *lines_of(run)[1:]])


@case
def key_that_is_a_search(run: Path, secret: Path, uri: str) -> None:
    write_lines(run, [{**lines_of(run)[0], "key": "k' OR '1' = '1"}, *lines_of(run)[1:]])


@each("for_delivery", {
    "wrong_types": '{"outputs": {"run_id": 5, "lines": "x"}, "http://x": 3}',
    "depth": "[" * 100_000 + "]" * 100_000,
    "negative_lines": '{"outputs": {"run_id": "nosuch", "lines": -5}}',
})  # fmt: skip
def delivery(run: Path, secret: Path, uri: str, text: str) -> None:
    (run / "delivery.json").write_text(text)


# model.keras, and the directory's own name


def edit_model(run: Path, change: Callable[[dict[str, bytes]], dict[str, bytes]]) -> None:
    with zipfile.ZipFile(run / "model.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(run / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in change(members).items():
            archive.writestr(name, content)


@each("in_model", {
    "module": (b'"keras.layers"', b'"os"'),
    "escapes": (b'"name": "', b'"name": "\\u001b[31m'),
    "huge_shape": (b"[null, 8, 8, 1]", b"[null, 800000, 800000, 1]"),
    "code": (b'"class_name": "Flatten"', b'"class_name": "Lambda"'),
})  # fmt: skip
def model(run: Path, secret: Path, uri: str, edit: tuple[bytes, bytes]) -> None:
    edit_model(run, lambda of: {**of, "config.json": of["config.json"].replace(*edit)})


@case
def depth_in_model(run: Path, secret: Path, uri: str) -> None:
    edit_model(run, lambda of: {**of, "config.json": b"[" * 200_000 + b"]" * 200_000})


@case
def members_outside_of_model(run: Path, secret: Path, uri: str) -> None:
    edit_model(run, lambda of: {**of, "../../../../secret/new": b"x", str(secret / "new"): b"x"})


@case
def member_of_256_megabytes_in_model(run: Path, secret: Path, uri: str) -> None:
    edit_model(run, lambda of: {**of, "config.json": b" " * 2**28})


@case
def strange_name_of_the_directory(run: Path, secret: Path, uri: str) -> None:
    shutil.copytree(run, run.with_name(f"=shared-{RED}red\nline"))
