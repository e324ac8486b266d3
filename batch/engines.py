"""Who does the units: this process, or a Ray cluster with one actor a device. Both yield rows as they come."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .jobs import Tools, Unit, as_dict, row_of
from .tools import Options

ENGINES = ("local", "ray")
RETRIES = 3
"""A unit whose worker died is handed out again so often; then it is a row with an error."""


def local(units: Iterable[Unit], options: Options) -> Iterator[dict[str, Any]]:
    """One after the other, in this process."""
    tools = Tools(options)
    for unit in units:
        yield tools.row(unit)


def ray(units: list[Unit], options: Options, workers: int) -> Iterator[dict[str, Any]]:
    """On a Ray cluster that runs (RAY_ADDRESS), or on one that is started here."""
    try:
        cluster = importlib.import_module("ray")
    except ImportError:
        raise ValueError('Ray is not installed: pip install "ray>=2.9", or leave out --engine ray.') from None
    cluster.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False)
    devices = int(cluster.cluster_resources().get("GPU", 0))
    room = devices or int(cluster.cluster_resources().get("CPU", 1))
    count = max(1, min(workers or room, room))  # a worker beyond what the cluster has room for would never start
    need = {"num_gpus": 1} if devices else {"num_cpus": 1}
    cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import the pack before they have ComfyUI
    kind = cluster.remote(**need)(_Actor)
    start: dict[str, Any] = {
        "root": str(Path(__file__).resolve().parents[1]),
        "comfyui": os.environ.get("COMFYUI_PATH", ""),
        "folder": os.getcwd(),
        "argv": options.comfyui,
        "dealt": bool(devices),
    }
    start |= {"output": options.output, "settings": options.settings, "paths": options.paths}
    actors = [kind.remote(start) for _ in range(min(count, max(1, len(units))))]
    todo, tries = list(reversed(units)), dict.fromkeys((u.id for u in units), 0)
    idle = list(actors)
    busy: dict[Any, tuple[Unit, Any]] = {}
    while todo or busy:
        while todo and idle:
            unit, actor = todo.pop(), idle.pop()
            busy[actor.work.remote(as_dict(unit))] = unit, actor
            tries[unit.id] += 1
        ready, _ = cluster.wait(list(busy), num_returns=1)
        unit, actor = busy.pop(ready[0])
        try:
            row = cluster.get(ready[0])
            idle.append(actor)
            yield row
        except cluster.exceptions.RayActorError as error:
            cluster.kill(actor)  # it may be dying, or out of reach: another one takes its place
            idle.append(kind.remote(start))
            if tries[unit.id] < RETRIES:
                todo.append(unit)
            else:
                yield row_of(unit) | {"error": f"its worker died {RETRIES} times: {_reason(error)}", "again": True}


def _reason(error: Exception) -> str:
    """The last line of what a worker died of, and its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return ": ".join([type(error).__name__, *lines[-1:]])[:300]


class _Actor:
    """A worker of the cluster: loads the pack and ComfyUI once, and keeps what the last unit was done with."""

    def __init__(self, start: dict[str, Any]) -> None:
        if start["comfyui"]:
            os.environ["COMFYUI_PATH"] = start["comfyui"]
        with contextlib.suppress(OSError):  # ComfyUI's options may name files from where the command was given
            os.chdir(start["folder"])
        sys.path.insert(0, str(Path(start["root"]) / "batch"))
        entry = importlib.import_module("run")
        entry.add_comfyui(start["argv"], choose_device=not start["dealt"])
        entry.load_pack()
        self._jobs: Any = importlib.import_module(f"{entry.PACKAGE}.batch.jobs")
        self._tools = self._jobs.Tools(self._jobs.Options(start["output"], start["settings"], start["paths"]))

    def work(self, unit: dict[str, str]) -> dict[str, Any]:
        """The row of a unit."""
        row: dict[str, Any] = self._tools.row(self._jobs.Unit(**unit))
        return row
