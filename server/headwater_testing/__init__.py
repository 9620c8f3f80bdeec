"""Tests of applications that use Headwater: `pip install "headwater[testing]"`.

    plugin        the fixtures: headwater_db, headwater_faults, … (docs/guide/testing.md)
    machine       a thread that serves databases in memory, with the real engine and server
    faults        which fault happens to which request, from a seed
    faulty        carries requests and answers, and injects the faults
    scenarios     given(events).when(command).then(events)

It may import everything that ships; nothing that ships imports it. Nothing is imported until it is
used, since pytest loads the plugin before a program has set its environment.
"""

from typing import Any

_PLACES = {
    "Fault": "headwater_testing.faults",
    "FaultPlan": "headwater_testing.faults",
    "MemoryDatabase": "headwater_testing.machine",
    "MemoryMachine": "headwater_testing.machine",
    "Scenario": "headwater_testing.scenarios",
    "given": "headwater_testing.scenarios",
}

__all__ = [*_PLACES]  # noqa: PLE0604 - the names are those of the table


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(name)
    import importlib

    return getattr(importlib.import_module(_PLACES[name]), name)
