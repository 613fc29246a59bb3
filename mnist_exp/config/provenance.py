"""Find where a value of the composed config was set: on the command line or in a line of a YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

COMMAND_LINE = "command line"


class Places:
    """The places where the values of a config were set, by dotted path (`model.layers.2.filters`)."""

    def __init__(
        self,
        verb: str,
        folders: Sequence[Path],
        choices: Mapping[str, str | None],
        override_keys: Sequence[str],
        saved: Path | None = None,
    ) -> None:
        """Record what the config was composed from.

        Args:
            verb: The name of the root config.
            folders: The folders of options. As in Hydra, the first that contains an option's file is used.
            choices: The chosen option of each group.
            override_keys: The keys and groups of the overrides.
            saved: The file of an earlier run's config, used for the groups that no override chose.
        """
        self._saved = saved
        self._verb = verb
        self._folders = folders
        self._choices = choices
        self._override_keys = [key.split("@", 1)[0] for key in override_keys]

    def place(self, path: str) -> str:
        """Return where the value at a dotted path was set, as `file:line` or `command line`."""
        if self._is_overridden(path):
            return COMMAND_LINE
        # In order of precedence: an earlier run, presets, the group's own file, the root config.
        found = self._in_saved(path) or self._in_presets(path) or self._in_group(path) or self._in_root(path)
        return found or COMMAND_LINE

    def _is_overridden(self, path: str) -> bool:
        """Return whether an override set the value at a path, a mapping around it, or a key in it."""
        for key in self._override_keys:
            # An override of one list entry is not the cause of a problem with the list as a whole.
            inside = key.startswith(f"{path}.") and not key[len(path) + 1].isdigit()
            if key not in self._choices and (f"{path}.".startswith(f"{key}.") or inside):
                return True
        return False

    def _in_saved(self, path: str) -> str | None:
        if not self._saved or path.split(".", 1)[0] in self._override_keys:
            return None
        line = _line(self._saved, path, whole_path=True)
        return f"{short(self._saved)}:{line}" if line else None

    def _in_presets(self, path: str) -> str | None:
        for name in ("debug", "experiment"):
            option = self._choices.get(name)
            file = None if option in (None, "none") else self._file(f"{name}/{option}.yaml")
            if file and (line := _line(file, path, whole_path=True)):
                return f"{short(file)}:{line}"
        return None

    def _in_group(self, path: str) -> str | None:
        """Return the place in the file of the group's chosen option, or in one of its defaults."""
        group, _, inner = path.partition(".")
        if group not in self._choices:
            return None
        option = str(self._choices[group])
        if found := self._inherited(group, option, inner):
            return found
        file = self._file(f"{group}/{option}.yaml")
        # An empty file has no line.
        return f"{short(file)}:{_line(file, inner, whole_path=False) or 1}" if file else None

    def _in_root(self, path: str) -> str | None:
        """Return the place in the user's own root config; the built-in one only lists what can be given."""
        file = self._file(f"{self._verb}.yaml")
        if file is None or file.parent == self._folders[-1]:
            return None
        line = _line(file, path, whole_path=False)
        return f"{short(file)}:{line}" if line else None

    def _inherited(self, group: str, option: str, path: str) -> str | None:
        """Return where an option, or one of its defaults, sets the whole path; None if neither does."""
        file = self._file(f"{group}/{option}.yaml")
        if file is None:
            return None
        if line := _line(file, path, whole_path=True):
            return f"{short(file)}:{line}"
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        defaults = written.get("defaults") if isinstance(written, dict) else None
        names = [name for name in defaults or () if isinstance(name, str) and name not in ("_self_", option)]
        return next((found for name in names if (found := self._inherited(group, name, path))), None)

    def _file(self, name: str) -> Path | None:
        return next((folder / name for folder in self._folders if (folder / name).is_file()), None)


def _line(file: Path, path: str, *, whole_path: bool) -> int | None:
    """Return the line of the deepest part of `path` that exists in a file.

    If no part exists, return the first line of the content. Return None if the file is empty, or if `whole_path`
    is set and any part does not exist.
    """
    node = yaml.compose(file.read_text(encoding="utf-8"))
    line = None if node is None else node.start_mark.line + 1
    found = 0
    parts = path.split(".") if path else []
    for part in parts:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
        found += 1
    if whole_path and found < len(parts):
        return None
    return line


def short(file: Path) -> str:
    """Return the path, relative to the working directory if that is shorter."""
    relative = os.path.relpath(file)
    return relative if len(relative) < len(str(file)) else str(file)
