"""A ComfyUI in this process, the demo checkpoint, and the contracts every node keeps."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def comfy(comfyui: Any, launcher: Any) -> Any:
    """`import comfy` works and runs on the CPU; nodes may be imported."""
    launcher.add_comfyui()
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
                3.0,
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


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _state(model: Any) -> tuple[Any, ...]:
    """Everything of a MODEL that a node could leave changed."""
    modules = list(model.model.modules())
    return (
        [(k, v.clone()) for k, v in model.model.state_dict().items()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in modules],
        [p.requires_grad for p in model.model.parameters()],
        sorted(model.patches),
        sorted(model.object_patches),
        repr(model.model_options),
        {kind: {k: len(v) for k, v in found.items()} for kind, found in model.wrappers.items()},
    )


@pytest.fixture
def untouched() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """`with untouched(model, latent, conditioning):` fails if the block changed any of them, or the global random state."""

    @contextlib.contextmanager
    def guard(*inputs: Any) -> Iterator[None]:
        models = [i for i in inputs if hasattr(i, "model_options")]
        held = [t for i in inputs if not hasattr(i, "model_options") for t in _tensors(i)]
        copies, states, random = [t.clone() for t in held], [_state(m) for m in models], torch.random.get_rng_state()
        yield
        assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True)), "an input tensor was changed in place"
        for model, before in zip(models, states, strict=True):
            after = _state(model)
            assert after[1:] == before[1:], "hooks, patches, flags or options of the model were changed"
            assert all(k == j and torch.equal(v, w) for (k, v), (j, w) in zip(after[0], before[0], strict=True)), "weights were changed"
        assert torch.equal(random, torch.random.get_rng_state()), "the global random state was changed"

    return guard


@pytest.fixture
def interrupted(comfy: Any) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """`with interrupted():` presses Cancel; the block must raise ComfyUI's interrupt, which is then cleared."""
    import comfy.model_management as management

    @contextlib.contextmanager
    def guard() -> Iterator[None]:
        management.interrupt_current_processing(True)
        try:
            with pytest.raises(management.InterruptProcessingException):
                yield
        finally:
            management.interrupt_current_processing(False)

    return guard
