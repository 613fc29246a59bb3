"""Parse and check the entries of a config that only plug-ins can fill: callbacks, and the schedule's arguments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mnist_exp import registrations
from mnist_exp.keras_spec.arguments import Fault, is_list, key_faults, plain_fault, split_entry
from mnist_exp.keras_spec.signatures import arguments_of
from mnist_exp.registrations import Registration
from mnist_exp.suggest import near_or_all


def plugin_faults(schedule: Any, training: Any) -> Iterator[Fault]:
    """Yield the faults of the schedule's arguments and the callbacks of a config.

    Args:
        schedule: The `schedule` group, not yet validated; the schema reports values of the wrong type.
        training: The `training` group, likewise.
    """
    if isinstance(schedule, Mapping):
        own = registrations.find("schedule", str(schedule.get("type")))
        arguments = schedule.get("arguments")
        if own is not None:
            given = arguments if isinstance(arguments, Mapping) else {}
            yield from (fault.at("schedule.arguments") for fault in _argument_faults(own, given))
        elif arguments:
            yield Fault("unknown-argument", "schedule.arguments", "only for the schedules of plug-ins")
    callbacks = training.get("callbacks") if isinstance(training, Mapping) else None
    for index, entry in enumerate(callbacks if is_list(callbacks) else ()):
        yield from (fault.at(f"training.callbacks.{index}") for fault in _callback_faults(entry))


def _callback_faults(entry: Any) -> Iterator[Fault]:
    name, arguments = split_entry(entry)
    own = registrations.find("callback", name) if isinstance(name, str) else None
    if not isinstance(name, str):
        yield Fault("invalid-entry", "", f"expected a callback's name or a mapping with 'type', found {entry!r}")
    elif own is None:
        known = registrations.names("callback")
        hint = near_or_all(name, known) if known else "; callbacks are registered by plug-ins (--plugin)"
        yield Fault(
            "unknown-option", "type" if isinstance(entry, Mapping) else "", f"there is no callback '{name}'{hint}"
        )
    else:
        yield from _argument_faults(own, arguments)


def _argument_faults(own: Registration, arguments: Mapping[str, Any]) -> Iterator[Fault]:
    signature = arguments_of(own.target)
    yield from key_faults(own.name, arguments, signature.known, signature.required)
    for key, value in arguments.items():
        if value is not None and key in signature.known and (fault := plain_fault(key, value, signature)):
            yield fault
