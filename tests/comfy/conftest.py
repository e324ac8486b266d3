"""A ComfyUI in this process, the demo checkpoint, and the contracts every node keeps."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import importlib
import io
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from unmemorize_pack.tests import pretend_device


@pytest.fixture(scope="session")
def comfy(comfyui: Any, launcher: Any) -> Any:
    """`import comfy` works and runs on the CPU, with COMFYUI_DEVICE=gpu on a GPU, with pretend on one that only tells devices apart."""
    launcher.add_comfyui()
    if os.environ.get("COMFYUI_DEVICE") == "pretend":
        pretend_device.install()
    torch.set_num_threads(1)
    return importlib.import_module("comfy")


@pytest.fixture(autouse=True)
def _inference_mode(comfy: Any) -> Iterator[None]:
    """ComfyUI runs every node so."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def nodes(comfy: Any) -> dict[str, Any]:
    """Every node class of the pack by its id."""
    pack = importlib.import_module("unmemorize_pack.nodes")
    return {n.define_schema().node_id: n for n in pack.NODES}


@pytest.fixture(scope="session")
def host(comfy: Any) -> Callable[[str], Any]:
    """host("name") -> that module of host/."""
    return lambda name: importlib.import_module(f"unmemorize_pack.host.{name}")


@pytest.fixture(scope="session")
def demo(nodes: dict[str, Any]) -> tuple[Any, Any, Any]:
    """MODEL, CLIP, VAE of the final demo checkpoint, through its node."""
    with torch.inference_mode():
        return nodes["UnmemorizeLoadDemoCheckpoint"].execute("final").args


@pytest.fixture(scope="session")
def encode(demo: tuple[Any, Any, Any]) -> Callable[[str], list]:
    """Prompt -> CONDITIONING, as CLIPTextEncode does it."""
    clip = demo[1]
    return lambda text: clip.encode_from_tokens_scheduled(clip.tokenize(text))


@pytest.fixture(scope="session")
def sample(demo: tuple[Any, Any, Any], encode: Callable[[str], list]) -> Callable[..., torch.Tensor]:
    """Stock sampling of the demo: sample(prompt, seed, steps, sampler, scheduler, model) -> latent [n, 8, 16, 16]."""
    import comfy.sample

    def run(
        prompt: str,
        seed: int = 1,
        steps: int = 4,
        sampler: str = "euler",
        scheduler: str = "normal",
        model: Any = None,
        n: int = 1,
        **more: Any,
    ) -> torch.Tensor:
        with torch.inference_mode():
            empty = torch.zeros(n, 8, 16, 16)
            noise = comfy.sample.prepare_noise(empty, seed)
            return comfy.sample.sample(
                model or demo[0],
                noise,
                steps,
                2.0,
                sampler,
                scheduler,
                encode(prompt),
                encode(""),
                empty,
                disable_pbar=True,
                seed=seed,
                **more,
            )

    return run


@pytest.fixture(scope="session")
def guarding(comfy: Any) -> Any:
    """host.stability.guard."""
    return importlib.import_module("unmemorize_pack.host.stability.guard")


@pytest.fixture(scope="session")
def draw(demo: tuple[Any, Any, Any], encode: Callable[[str], list]) -> Callable[..., torch.Tensor]:
    """ComfyUI's own sampling of small pictures, all of KSampler's settings: draw(model, n=2, sampler="heun") -> [n, 8, 8, 8]."""
    import comfy.sample

    def run(
        model: Any = None, n: int = 1, prompt: Any = "a red ring", negative: Any = "", seed: int = 1, steps: int = 5, cfg: float = 2.0,
        sampler: str = "euler", scheduler: str = "normal", latent: torch.Tensor | None = None, **more: Any,
    ) -> torch.Tensor:  # fmt: skip
        with torch.inference_mode():
            latent = torch.zeros(n, 8, 8, 8) if latent is None else latent
            sides = [encode(p) if isinstance(p, str) else p for p in (prompt, negative)]
            noise = comfy.sample.prepare_noise(latent, seed)
            return comfy.sample.sample(
                model or demo[0], noise, steps, cfg, sampler, scheduler, *sides, latent, disable_pbar=True, seed=seed, **more
            )

    return run


@pytest.fixture(scope="session")
def stored(demo: tuple[Any, Any, Any], encode: Callable[[str], list]) -> Any:
    """A stability profile of the demo, of five short runs."""
    profiles = importlib.import_module("unmemorize_pack.host.stability.profiles")
    sampling = {"seed": 7, "steps": 5, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
    with torch.inference_mode():
        prompts = [encode(f"a {colour} ring") for colour in ("red", "blue", "green", "yellow", "white")]
        return profiles.calibrate(demo[0], prompts, encode(""), {"samples": torch.zeros(1, 8, 8, 8)}, 1, sampling)


@pytest.fixture(scope="session")
def wide(stored: Any) -> Any:
    """A profile whose regions no run leaves."""
    p = stored.profile
    sd = {name: torch.full_like(values, 1e9) for name, values in p.sd.items()}
    return dataclasses.replace(stored, profile=dataclasses.replace(p, sd=sd, score_spread=1e9))


@pytest.fixture(scope="session")
def profile_of(stored: Any) -> Callable[..., Any]:
    """profile_of(record, sample): a narrow profile of which exactly this sample of that run is the mean."""

    def make(record: dict[str, Any], sample: int, width: float = 1e-3) -> Any:
        mean = {
            name: torch.tensor([math.nan if row[sample] is None else row[sample] for row in rows]).nan_to_num(0.0).flip(0)
            for name, rows in record["observed"].items()
        }
        sd = {name: torch.full_like(values, width) for name, values in mean.items()}
        angles = torch.tensor(record["angles"][:-1]).flip(0)
        return dataclasses.replace(stored, profile=type(stored.profile)(angles, mean, sd, 50, 0.0, 1.0))

    return make


def _deep(value: Any) -> Any:
    """A comparable copy of nested containers: keys, order, identities of opaque objects, and tensors by value."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.detach().cpu().numpy().tobytes())
    if isinstance(value, dict):
        return {k: _deep(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_deep(v) for v in value]
    return value if isinstance(value, int | float | str | bool | None) else id(value)


def _state(model: Any) -> dict[str, Any]:
    """Everything of a MODEL that a node could leave changed."""
    modules = list(model.model.modules())
    return {
        "weights": _deep(model.model.state_dict()),
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in modules],
        "flags": [p.requires_grad for p in model.model.parameters()],
        "patches": {k: len(v) for k, v in model.patches.items()},
        "object patches": {k: id(v) for k, v in model.object_patches.items()},
        "options": _deep(model.model_options),
        "wrappers": _deep(model.wrappers),
        "callbacks": _deep(model.callbacks),
    }


@pytest.fixture
def untouched() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """`with untouched(model, latent, conditioning):` fails if the block changed any of them, or the global random state."""

    @contextlib.contextmanager
    def guard(*inputs: Any) -> Iterator[None]:
        def look() -> list[Any]:
            return [_state(i) if hasattr(i, "model_options") else _deep(i) for i in inputs]

        before, random = look(), torch.random.get_rng_state()
        yield
        for number, (old, new) in enumerate(zip(before, look(), strict=True)):
            changed = (
                [k for k in old if old[k] != new[k]] if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys() else []
            )
            assert old == new, f"input {number} was changed in place: {changed}"
        assert torch.equal(random, torch.random.get_rng_state()), "the global random state was changed"

    return guard


@pytest.fixture
def off_is_exact() -> Callable[[Any, Any], None]:
    """off_is_exact(result with the node off, stock result): the same to the last bit, however nested."""

    def compare(off: Any, stock: Any) -> None:
        assert _deep(off) == _deep(stock)

    return compare


@pytest.fixture
def interrupted(comfy: Any) -> Callable[..., contextlib.AbstractContextManager[list[int]]]:
    """`with interrupted(model, after=3) as calls:` presses Cancel during the third network call.

    The block must raise ComfyUI's interrupt without another whole call; the flag is cleared afterwards.
    """
    import comfy.model_management as management

    @contextlib.contextmanager
    def guard(model: Any, after: int) -> Iterator[list[int]]:
        calls: list[int] = []

        def press(*_: Any) -> None:
            calls.append(len(calls) + 1)
            if len(calls) == after:
                management.interrupt_current_processing(True)

        hook = model.model.diffusion_model.register_forward_pre_hook(press)
        try:
            with pytest.raises(management.InterruptProcessingException):
                yield calls
        finally:
            hook.remove()
            management.interrupt_current_processing(False)
        assert len(calls) == after, "work went on after Cancel"

    return guard


@pytest.fixture
def shut(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """shut(folder): as if it belonged to somebody else; tests may run as root, whom no rights stop. With `names` its files can still be
    listed."""
    known: dict[Path, bool] = {}

    def barred(path: Any, listing: bool) -> bool:
        if not known or not isinstance(path, str | bytes | os.PathLike):
            return False
        real = Path(os.path.realpath(os.fsdecode(path)))
        return any(folder in real.parents or (listing and folder == real and not names) for folder, names in known.items())

    def guard(module: Any, name: str) -> None:
        real = getattr(module, name)

        def guarded(path: Any, *more: Any, **options: Any) -> Any:
            if barred(path, name == "scandir"):
                raise PermissionError(13, "Permission denied", os.fsdecode(path))
            return real(path, *more, **options)

        monkeypatch.setattr(module, name, guarded)

    for module, name in ((os, "stat"), (os, "scandir"), (io, "open"), (builtins, "open")):
        guard(module, name)

    def close(folder: Path, names: bool = False) -> None:
        known[Path(os.path.realpath(folder))] = names

    return close


@pytest.fixture(scope="session")
def neuron_host(comfy: Any) -> Any:
    """Modules of host/ that tests on neurons use, by their last name."""
    names = (
        "neurons.recording",
        "neurons.finding",
        "neurons.masks",
        "neurons.layers",
        "core.weights",
        "demo",
        "core.store",
        "core.sampling",
    )
    return SimpleNamespace(**{n.split(".")[-1]: importlib.import_module(f"unmemorize_pack.host.{n}") for n in names})
