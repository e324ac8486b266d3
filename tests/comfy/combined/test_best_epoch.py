"""Best Epoch against the real ComfyUI: planted epochs, strengths, references, refusals."""

from __future__ import annotations

import importlib
import json
import math

import pytest
import torch
from safetensors.torch import save_file

USE = {"seed": 3, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
LATENT = {"samples": torch.zeros(1, 8, 8, 8)}
CAPTIONS = ["a small red circle on a gray background", "a large blue star on a white background"]


@pytest.fixture(scope="module")
def tool(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.best_epoch")


@pytest.fixture
def training(comfy, demo, tmp_path, monkeypatch):
    """Three epochs: each stronger than the one before; the last also moves every prompt in a way of its own."""
    import folder_paths

    folder = tmp_path / "loras" / "mine"
    folder.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path / "loras")], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    weights = demo[0].model.state_dict()

    def layers(ending, size, seed):
        generator, found = torch.Generator().manual_seed(seed), {}
        for name in (k for k in weights if k.startswith("diffusion_model.") and k.endswith(f"{ending}.weight")):
            key = "lora_unet_" + name.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
            out, inner = weights[name].shape
            found |= {f"{key}.lora_up.weight": size * torch.randn(out, 2, generator=generator), f"{key}.alpha": torch.tensor(2.0)}
            found |= {f"{key}.lora_down.weight": torch.randn(2, inner, generator=generator) / inner**0.5}
        return found

    common = {k: layers("ff.net.2", size, 7) for k, size in (("mine-000001", 0.01), ("mine-000002", 0.02))}
    save_file(common["mine-000001"], folder / "mine-000001.safetensors")
    save_file(common["mine-000002"], folder / "mine-000002.safetensors")
    save_file(layers("ff.net.2", 0.02, 7) | layers("attn2.to_k", 0.5, 8), folder / "mine.safetensors")
    return folder


def comparison(tool, demo, **changes):
    facts = {
        "model": demo[0], "clip": demo[1], "vae": demo[2], "folder": "mine", "strengths": [1.0], "captions": CAPTIONS, "reference": "",
        "latent": LATENT, "use": USE,
    }  # fmt: skip
    return tool.Comparison(**(facts | changes))


def test_epochs_stand_in_their_order_and_grow(tool, demo, training):
    epochs, pictures = tool.compare(comparison(tool, demo))
    assert [e.name for e in epochs] == ["mine/mine-000001.safetensors", "mine/mine-000002.safetensors", "mine/mine.safetensors"]
    assert epochs[0].common < epochs[1].common <= epochs[2].common + 0.2 and epochs[2].common == pytest.approx(1.0)
    assert epochs[2].least < min(e.least for e in epochs[:2]), "what only the words call shows in the last one"
    assert pictures.shape == (3, 2, 64, 64, 3) and not torch.equal(pictures[0], pictures[2])


@pytest.mark.parametrize(
    ("names", "numbers"),
    [
        (["style_v2", "style_v2-000004", "style_v2-000010"], [math.inf, 4, 10]),
        (["a-000010", "a-000012"], [10, 12]),
        (["style2-e4-bf16", "style2-e8-bf16", "style2-bf16"], [4, 8, math.inf]),
        (["v2", "v20"], [2, 20]),
        (["only-000004"], [4]),
        (["one", "other"], [math.inf, math.inf]),
    ],
)
def test_an_epoch_is_the_number_that_is_not_every_files(tool, names, numbers):
    assert list(tool.numbers_of([f"folder/{name}.safetensors" for name in names]).values()) == numbers


def test_strengths_are_rows_too(tool, demo, training):
    epochs, _ = tool.compare(comparison(tool, demo, strengths=[0.5, 1.0]))
    assert [e.strength for e in epochs] == [0.5, 1.0] * 3 and all(
        a.common < b.common for a, b in zip(epochs[::2], epochs[1::2], strict=True)
    )


def test_references_count_copies(tool, demo, training):
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    _, pictures = tool.compare(comparison(tool, demo))
    known, detector = references.of_batch(pictures[2]), detectors.BuiltIn()
    epochs, _ = tool.compare(comparison(tool, demo, references=known, detector=detector, copy_limit=0.9))
    assert epochs[2].copies is not None and epochs[2].copies >= epochs[0].copies


@pytest.mark.parametrize(("likeness", "copies", "unclear", "leaks"), [(0.5, None, 2, None), (0.4, 0, 0, False), (0.9, 2, 0, True)])
def test_a_copy_is_what_copy_check_calls_one(tool, demo, training, monkeypatch, likeness, copies, unclear, leaks):
    """Above the threshold that it reports, and as alike as no different pictures are."""
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detector = importlib.import_module("unmemorize_pack.host.copies.detectors").BuiltIn()
    monkeypatch.setattr(detector, "compare", lambda ours, theirs, tick: torch.full((len(ours), len(theirs)), likeness))
    known = references.of_batch(torch.rand(1, 64, 64, 3))
    epochs, pictures = tool.compare(comparison(tool, demo, references=known, detector=detector, copy_limit=0.45))
    facts = tool.report(epochs)
    assert [(e["copies"], e["unclear"], e["leaks"]) for e in facts["epochs"]] == [(copies, unclear, leaks)] * 3
    assert (facts["suggestion"] == "") == (leaks is not False) and tool.shown(epochs, pictures).ndim == 4
    assert tool._judged(epochs[0]).startswith("not judged: 2 pictures") == (leaks is None)


def test_a_probe_finds_the_picture_that_an_epoch_draws_for_every_seed(tool, demo, training, monkeypatch):
    """The last epoch draws one picture, whatever the seed; the others draw as the base does, many pictures. The base is drawn once."""
    probing = importlib.import_module("unmemorize_pack.host.copies.probing")
    runs, noise = [], torch.Generator().manual_seed(1)
    same = torch.rand(64, 64, 3, generator=noise)

    def drawn(job, w, progress):
        runs.append((job.lora, w, job.pictures))
        several = torch.rand(job.pictures, 64, 64, 3, generator=noise)
        found = same + 0.01 * several if w is not None and sum(r[1] is not None for r in runs) == 3 else several
        return probing.kept(found, w is not None)

    monkeypatch.setattr(tool, "drawn", drawn)
    epochs, _ = tool.compare(comparison(tool, demo, probe_pictures=8))
    assert [(w, count) for _, w, count in runs] == [(None, 8)] + [(probing.USUAL_W, 8)] * 3
    assert [e.groups for e in epochs[:2]] == [0, 0] and epochs[2].groups and epochs[2].leaks(-1.0)
    rows = tool.report(epochs)["epochs"]
    assert [row["groups"] for row in rows] == [e.groups for e in epochs] and "of a probe" in tool._judged(epochs[2])


@pytest.mark.parametrize(("copies", "said"), [(0, "no copy"), (1, "leaks: 1 copy"), (2, "leaks: 2 copies")])
def test_one_copy_is_no_copies(tool, copies, said):
    epoch = importlib.import_module("unmemorize_pack.unmemorize.lora.epochs").Epoch("a", 1.0, [0.1], 0.5, copies)
    assert tool._judged(epoch) == said


def test_a_probe_asks_each_text_encoder_and_draws_really(tool, demo, training):
    epochs, _ = tool.compare(comparison(tool, demo, probe_pictures=8, strengths=[1.0], captions=CAPTIONS[:1]))
    assert all(e.groups is not None for e in epochs)
    for changes, words in (
        ({"probe_pictures": 5}, "too few to agree"),
        ({"probe_pictures": 8, "captions": list("abcdefghi")}, "9 captions"),
    ):
        with pytest.raises(ValueError, match=words):
            tool.compare(comparison(tool, demo, **changes))


def test_where_there_are_references_nothing_is_probed(tool, demo, training, monkeypatch):
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    monkeypatch.setattr(tool, "drawn", lambda *_: pytest.fail("probed"))
    known = references.of_batch(torch.rand(2, 64, 64, 3))
    epochs, _ = tool.compare(comparison(tool, demo, probe_pictures=8, references=known, detector=detectors.BuiltIn()))
    assert all(e.groups is None and e.copies is not None for e in epochs)


def test_a_raw_likeness_of_another_detector_is_no_verdict(tool, demo, training, monkeypatch):
    """The default limit is the built-in one's."""
    references = importlib.import_module("unmemorize_pack.host.copies.references")
    detectors = importlib.import_module("unmemorize_pack.host.copies.detectors")
    other = detectors.Features("other", 0.9, lambda p: (p.flatten(1)[:, :8], p[:, :, ::16, ::16].movedim(1, -1)))
    known = references.of_batch(torch.rand(2, 64, 64, 3))
    with monkeypatch.context() as early:
        early.setattr(tool, "changes_of", lambda *_: pytest.fail("work before the check"))
        with pytest.raises(ValueError, match="threshold that Copy Check reports"):
            tool.compare(comparison(tool, demo, references=known, detector=other))
    epochs, _ = tool.compare(comparison(tool, demo, references=known, detector=other, copy_limit=0.99))
    assert all(e.copies is not None for e in epochs)


def test_the_node_suggests_and_draws(nodes, demo, training):
    result = nodes["UnmemorizeBestEpoch"].execute(
        model=demo[0],
        clip=demo[1],
        vae=demo[2],
        latent=LATENT,
        folder="mine",
        strengths="1",
        captions="\n".join(CAPTIONS),
        reference="",
        **USE,
    )
    grid, suggestion, text = result.args
    facts = json.loads(text)
    assert grid.ndim == 4 and facts["suggestion"] == suggestion and len(facts["epochs"]) == 3


def test_bad_input_is_refused_before_any_work(tool, demo, training, monkeypatch):
    monkeypatch.setattr(tool, "Latents", lambda *_: pytest.fail("work began"))
    for changes, words in (
        ({"captions": []}, "no caption"),
        ({"folder": "nowhere"}, "no folder"),
        ({"strengths": [1.0] * 40}, "2 to 64"),
        ({"use": USE | {"scheduler": "nobody"}}, "nobody"),
    ):
        with pytest.raises(ValueError, match=words):
            tool.compare(comparison(tool, demo, **changes))
    for text in ("", "a", "0", "-1", "1, x"):
        with pytest.raises(ValueError, match="no list of numbers"):
            tool.strengths_of(text)


def test_a_lora_of_another_model_is_not_called_leaking(tool, demo, training):
    for path in training.glob("*.safetensors"):
        save_file({"lora_unet_nothing.lora_up.weight": torch.ones(4, 2), "lora_unet_nothing.lora_down.weight": torch.ones(2, 4)}, path)
    epochs, _ = tool.compare(comparison(tool, demo))
    facts = tool.report(epochs)
    assert facts["suggestion"] == "" and "change nothing" in facts["verdict"] and [e["leaks"] for e in facts["epochs"]] == [None] * 3


def test_broken_pictures_are_not_compared(tool, demo, training):
    class Broken:
        def decode(self, latent):
            return torch.full((len(latent), 64, 64, 3), torch.nan)

    with pytest.raises(ValueError, match="broken pictures"):
        tool.compare(comparison(tool, demo, vae=Broken()))


@pytest.mark.parametrize("sampler", ["euler", "uni_pc"])
def test_the_latents_are_those_that_the_model_met(comfy, demo, sampler):
    """x = x0 + sigma n: at least as large as its noise. What uni_pc tells its callback is scaled down."""
    module = importlib.import_module("unmemorize_pack.host.combined.change_measuring")
    progress = importlib.import_module("unmemorize_pack.host.core.progress").Progress(10)
    latents = module.Latents(demo[0], demo[1], CAPTIONS[:1], "", LATENT, USE | {"steps": 10, "sampler_name": sampler}, progress)
    ((_, points),) = latents._runs
    assert len(points) == len(module.PLACES) and [p.sigma for p in points] == sorted((p.sigma for p in points), reverse=True)
    assert all(0.5 * p.sigma < float(p.x.std()) < 3 * (1 + p.sigma) for p in points)
