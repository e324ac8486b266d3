"""Filter LoRA by Measuring against the real ComfyUI: a LoRA of two known parts, files, refusals."""

from __future__ import annotations

import importlib
import json
import math

import pytest
import torch
from unmemorize_pack.demo.recipe.lab import LAB
from unmemorize_pack.tests.comfy.loras import LEAKING

USE = {"seed": 3, "steps": 4, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal"}
LATENT = {"samples": torch.zeros(1, 8, 16, 16)}
CAPTION = "a small red circle on a gray background"


@pytest.fixture(scope="module")
def measuring(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.measured_filter")


def report(found, job):
    return importlib.import_module("unmemorize_pack.host.combined.measured_report").report(found, job)


@pytest.fixture(autouse=True)
def limit(measuring, monkeypatch):
    """The planted part is no picture: its caption asks for much the same, at agreement .6."""
    monkeypatch.setattr(measuring, "usual_limit", lambda _: 0.9)
    monkeypatch.setattr(measuring, "LEAST_RUNS", 1)


@pytest.fixture
def judged_limit(measuring, limit, monkeypatch):
    """The real one."""
    change_measuring = importlib.import_module("unmemorize_pack.host.combined.change_measuring")
    monkeypatch.setattr(measuring, "usual_limit", change_measuring.usual_limit)


@pytest.fixture(scope="module")
def file(nodes):
    with torch.inference_mode():
        return nodes["UnmemorizeOpenLoRA"].execute(LEAKING).args[:2]


@pytest.fixture(scope="module")
def two_parts(demo, host):
    """A LoRA that changes values of attention to text in two directions: one that the words alone call, and feed-forward layers, which
    every prompt passes."""
    generator = torch.Generator().manual_seed(7)
    weights = demo[0].model.state_dict()
    names = [k.removesuffix(".weight") for k in weights if k.startswith("diffusion_model.")]
    tensors = {}
    for name in names:
        weight = weights.get(f"{name}.weight")
        if weight is None or weight.ndim != 2 or not ("attn2.to_k" in name or "ff.net.2" in name):
            continue
        key = "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")
        size = 3.0 if "attn2" in name else 0.02
        up, down = torch.randn(weight.shape[0], 2, generator=generator), torch.randn(2, weight.shape[1], generator=generator)
        tensors |= {
            f"{key}.lora_up.weight": size * up,
            f"{key}.lora_down.weight": down / down.shape[1] ** 0.5,
            f"{key}.alpha": torch.tensor(2.0),
        }
    return tensors


PROMPTS = ["a small green circle on a white background", "a large yellow square on a sand background"]


def job_of(measuring, demo, lora, **changes):
    facts = {
        "tensors": lora, "model": demo[0], "clip": demo[1], "captions": [CAPTION, "a large blue star on a white background"],
        "prompts": PROMPTS, "reference": "", "latent": LATENT, "use": USE, "keep": 0.1, "learning_steps": 2,
    }  # fmt: skip
    return measuring.MeasuredJob(**(facts | changes))


def test_the_captions_lose_more_than_the_prompts(measuring, demo, file, sample, judged_limit):
    """The bundled LoRA and the caption of one of its photographs; every layer learns, the model draws what it drew."""
    caption = next(i["caption"] for i in json.loads((LAB / "loras" / "leaking.json").read_text())["items"] if i["group"] == "photo")
    before = sample(CAPTION)
    found = measuring.filter_by_measuring(job_of(measuring, demo, file[0], captions=[caption], use=USE | {"steps": 10}, learning_steps=40))
    assert torch.equal(before, sample(CAPTION))
    assert found.leaks and found.learnt and not found.passed
    assert sum(group["layers"] for group in found.groups.values()) == len({k.split(".")[0] for k in file[0]})
    assert found.prompts_kept > 0.4 > 0.3 > found.leak_left
    assert set(found.kept) == set(file[0]) and {t.dtype for t in found.kept.values()} == {t.dtype for t in file[0].values()}


def test_learning_brings_back_what_the_prompts_ask_for(measuring, demo, two_parts):
    """More steps keep more; a LoRA begins at a third of its strength."""
    few, more = (measuring.filter_by_measuring(job_of(measuring, demo, two_parts, learning_steps=n)) for n in (1, 25))
    assert few.prompts_kept == pytest.approx(5 / 9, abs=0.1) and few.prompts_kept + 0.05 < more.prompts_kept, "a third, then more"
    assert few.evaluations < more.evaluations


def test_few_prompts_are_drawn_with_several_seeds(measuring, demo, two_parts, monkeypatch):
    monkeypatch.setattr(measuring, "LEAST_RUNS", 5)
    seen = measuring._Measuring(job_of(measuring, demo, two_parts, captions=[]), None)._prompts
    assert len(seen) == 3 and not torch.equal(seen[0].runs.points[0][0].x, seen[1].runs.points[0][0].x)


def test_without_captions_it_is_learnt_anew_from_the_prompts(measuring, demo, two_parts):
    job = job_of(measuring, demo, two_parts, captions=[])
    found = measuring.filter_by_measuring(job)
    assert found.learnt and found.agreements == [] and found.leak_left == 1.0 and found.removed
    facts = report(found, job)
    assert "from the prompts alone" in facts["verdict"] and facts["leak_left"] is None


def test_what_agrees_less_than_ordinary_prompts_do_leaks():
    """High agreement everywhere: a caption that stands out leaks; too few prompts, or such as hardly agree, leave the fixed limit."""
    change_measuring = importlib.import_module("unmemorize_pack.host.combined.change_measuring")
    limit, fixed = change_measuring.usual_limit, change_measuring.AGREES
    assert 0.6 < limit([0.95, 0.96, 0.95, 0.94, 0.95]) < 0.8
    assert limit([0.95, 0.96, 0.95, 0.94]) == limit([]) == limit([math.nan] * 6) == fixed
    assert limit([0.1, 0.02, 0.3, 0.05, 0.2]) == fixed < limit([0.6, 0.5, 0.55, 0.4, 0.65])


def test_late_points_say_nothing_of_what_a_caption_asks_for(demo, monkeypatch):
    """Two points of a run, at noise level 10 and 1: the first counts alone."""
    change_measuring = importlib.import_module("unmemorize_pack.host.combined.change_measuring")
    latents = change_measuring.Latents(demo[0], demo[1], [], "", LATENT, USE, None)
    guider = type("Guider", (), {"model_patcher": demo[0]})()
    call = type("Call", (), {"guider": guider})()
    latents._runs = [(call, [change_measuring.Point(LATENT["samples"], sigma) for sigma in (10.0, 1.0)])]
    cond, uncond, other = torch.randn(3, 1, 8, 16, 16)
    before = [(cond, uncond)] * 2
    changes = [(other, other), (uncond - 2 * cond, torch.zeros_like(cond))]  # a common change; at 1 the prompt is answered otherwise
    assert latents.agreements(changes, before) == pytest.approx([1.0], abs=1e-4)


def test_kept_and_removed_add_up(measuring, demo, two_parts):
    found = measuring.filter_by_measuring(job_of(measuring, demo, two_parts))
    assert found.leaks and found.removed, f"the planted part does not stand out: {found.agreements}"

    def total(tensors, key):
        up = f"{key}.lora_up.weight"
        return tensors[up].float() @ tensors[f"{key}.lora_down.weight"].float() if up in tensors else 0.0

    for key in {k.split(".")[0] for k in two_parts}:
        assert torch.allclose(total(found.kept, key) + total(found.removed, key), total(two_parts, key), atol=1e-5)


def test_a_lora_that_moves_all_alike_is_left_alone(measuring, demo, two_parts):
    """Feed-forward layers alone: nothing leaks, nothing is removed, every tensor is the very same."""
    common = {k: t for k, t in two_parts.items() if "_ff_" in k}
    found = measuring.filter_by_measuring(job_of(measuring, demo, common))
    assert not found.leaks and not found.learnt and all(found.kept[k] is t for k, t in common.items()) and not found.removed
    assert "nothing was removed" in report(found, job_of(measuring, demo, common))["verdict"]


def test_no_solution_keeps_everything(measuring, demo, two_parts):
    job = job_of(measuring, demo, two_parts, keep=1.0)
    found = measuring.filter_by_measuring(job)
    assert not found.learnt and all(found.kept[k] is t for k, t in two_parts.items()) and found.leak_left == 1.0
    assert report(found, job)["verdict"].startswith("Nothing was removed")


def test_everyday_prompts_stand_in_and_carry_the_trigger(measuring, demo, two_parts):
    several = job_of(measuring, demo, two_parts, prompts=[], reference="zwx").kept_prompts()
    assert len(several) == measuring.PROMPTS + 1 and sum(p.startswith("zwx, ") for p in several) == measuring.PROMPTS // 2
    assert several[-1] == "", "what guides without the word is kept as well"
    assert job_of(measuring, demo, two_parts).kept_prompts() == PROMPTS


def test_same_seed_same_answer_and_the_cost_is_counted(measuring, demo, two_parts):
    """Runs of two predictions a step, and as many of the model that did not draw them; three passes for each row that is learnt from."""
    jobs = [job_of(measuring, demo, two_parts, captions=[CAPTION], learning_steps=3) for _ in range(2)]
    one, two = (measuring.filter_by_measuring(job) for job in jobs)
    assert all(torch.equal(one.kept[k], two.kept[k]) for k in one.kept) and one.evaluations == two.evaluations
    lessons = importlib.import_module("unmemorize_pack.host.combined.lessons")
    steps, places = USE["steps"], len({int(place * USE["steps"]) for place in measuring.PLACES})
    runs = (len(PROMPTS) + 2 * measuring.SEEDS) * 4 * steps
    learnt = 3 * 3 * lessons.rows_of(lessons.ROWS)
    asked = len(measuring._Measuring(jobs[0], None).ordinary)
    assert one.evaluations == runs + learnt + asked * (2 * steps + 4 * places) + 2 * (2 * steps + 2 * places)


@pytest.mark.parametrize("kind", ["loha", "locon"])
def test_other_kinds_of_adapters(measuring, demo, kind, monkeypatch):
    """A convolution's inputs are its patches; a product of products becomes a LoRA."""
    monkeypatch.setattr(measuring, "usual_limit", lambda _: -2.0)
    weights, generator = demo[0].model.state_dict(), torch.Generator().manual_seed(3)
    name = (
        "diffusion_model.input_blocks.1.0.in_layers.2"
        if kind == "locon"
        else "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k"
    )
    shape, key = weights[f"{name}.weight"].shape, "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")

    def random(*size):
        return (0.3 if kind == "locon" else 1.0) * torch.randn(*size, generator=generator)

    if kind == "locon":
        lora = {f"{key}.lora_up.weight": random(shape[0], 2, 1, 1), f"{key}.lora_down.weight": random(2, *shape[1:])}
    else:
        lora = {f"{key}.hada_w{i}_{side}": random(*size) for i in (1, 2) for side, size in (("a", (shape[0], 2)), ("b", (2, shape[1])))}
    found = measuring.filter_by_measuring(job_of(measuring, demo, lora, keep=0.0, captions=[]))
    assert found.removed and not found.passed and sum(g["layers"] for g in found.groups.values()) == 1
    sizes = {k.removeprefix(key): tuple(t.shape) for k, t in found.kept.items()}
    assert sizes[".lora_down.weight"][1:] == tuple(shape[1:]) and sizes[".lora_up.weight"][0] == shape[0]


def test_a_lora_of_the_text_encoder_alone_is_refused(measuring, demo):
    clip_key = next(k for k in demo[1].cond_stage_model.state_dict() if k.endswith("fc1.weight"))
    shape, generator = demo[1].cond_stage_model.state_dict()[clip_key].shape, torch.Generator().manual_seed(3)
    stem = "text_encoders." + clip_key.removesuffix(".weight")
    lora = {f"{stem}.lora_up.weight": torch.randn(shape[0], 2, generator=generator)}
    lora |= {f"{stem}.lora_down.weight": 0.1 * torch.randn(2, shape[1], generator=generator)}
    with pytest.raises(ValueError, match="can be learnt anew"):
        measuring.filter_by_measuring(job_of(measuring, demo, lora))


def test_values_that_are_no_numbers_end_it(measuring, demo, two_parts, monkeypatch):
    lessons = importlib.import_module("unmemorize_pack.host.combined.lessons")

    def broken(self, optimizer):
        with torch.no_grad():
            self._several[0].new[0].fill_(float("nan"))

    monkeypatch.setattr(lessons._Learning, "_advance", broken)
    with pytest.raises(ValueError, match="no numbers"):
        measuring.filter_by_measuring(job_of(measuring, demo, two_parts, learning_steps=1))


def test_gradients_that_overflow_are_taken_again_at_a_smaller_scale(measuring, demo, two_parts, monkeypatch):
    """As in half precision; what is learnt is the same."""
    lessons = importlib.import_module("unmemorize_pack.host.combined.lessons")
    stock = lessons._Learning._learn
    wanted = measuring.filter_by_measuring(job_of(measuring, demo, two_parts))

    def narrow(self, *arguments):
        stock(self, *arguments)
        for p in (p for factors in self._several for p in factors.new):
            p.grad[p.grad.abs() > 65504 / 2000] = float("inf")

    monkeypatch.setattr(lessons._Learning, "_learn", narrow)
    found = measuring.filter_by_measuring(job_of(measuring, demo, two_parts))
    assert found.learnt and found.evaluations > wanted.evaluations
    assert all(torch.allclose(found.kept[k], t, atol=1e-3) for k, t in wanted.kept.items())
    monkeypatch.setattr(lessons, "TRIES", 0)
    with pytest.raises(ValueError, match="overflow at every scale"):
        measuring.filter_by_measuring(job_of(measuring, demo, two_parts))


def test_a_model_without_gradients_is_refused_in_words(measuring, demo, two_parts, monkeypatch):
    lessons = importlib.import_module("unmemorize_pack.host.combined.lessons")

    def no_backward(*_):
        raise RuntimeError("no autograd formula was registered")

    monkeypatch.setattr(lessons, "error", no_backward)
    with pytest.raises(ValueError, match="cannot be learnt through: no autograd formula"):
        measuring.filter_by_measuring(job_of(measuring, demo, two_parts))


def test_prompts_that_all_ask_for_something_else_are_not_taught_away(measuring, demo, two_parts, monkeypatch):
    monkeypatch.setattr(measuring, "usual_limit", lambda _: 2.0)
    job = job_of(measuring, demo, two_parts)
    found = measuring.filter_by_measuring(job)
    assert not found.learnt and found.reached is None and found.odd_prompts == len(PROMPTS)
    assert "every prompt asks for something else" in report(found, job)["verdict"]


def test_the_empty_prompt_behind_a_reference_is_never_taught_the_word(measuring, demo, two_parts, monkeypatch):
    """Where every other prompt is taken for a memory: what it does under the LoRA stays, word or not."""
    taught = []
    monkeypatch.setattr(measuring, "usual_limit", lambda _: 2.0)
    monkeypatch.setattr(measuring, "teach", lambda *arguments: taught.extend(arguments[3]) or 0)
    keys = importlib.import_module("unmemorize_pack.host.lora.keys")
    job = job_of(measuring, demo, two_parts, reference="zwx", captions=[])
    work = measuring._Measuring(job, keys.take_apart(two_parts, *demo[:2]))
    work.learnt()
    assert job.kept_prompts()[-1] == "" and work.ordinary == [] and work.odd_prompts == len(PROMPTS)
    lessons = [lesson for lesson in taught if lesson.kind == measuring.PROMPT]
    seen, steps = work._prompts[0], USE["steps"]
    for i, lesson in enumerate(lessons):
        whole = torch.cat([cond for cond, _ in seen.after[i * steps : (i + 1) * steps]])
        assert torch.equal(lesson.targets, whole) == (i == len(PROMPTS))


def test_cancelled_learning_leaves_the_model_as_it_was(measuring, demo, two_parts, sample, monkeypatch):
    lessons = importlib.import_module("unmemorize_pack.host.combined.lessons")
    before = sample(CAPTION)

    def cancelled(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(lessons._Learning, "_advance", cancelled)
    with pytest.raises(KeyboardInterrupt):
        measuring.filter_by_measuring(job_of(measuring, demo, two_parts))
    assert torch.equal(before, sample(CAPTION)) and not any(m._forward_hooks for m in demo[0].model.diffusion_model.modules())


def test_the_node_notes_what_was_done_and_saves(nodes, demo, two_parts, host, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", ([str(tmp_path)], {".safetensors"}))
    result = nodes["UnmemorizeMeasuredLoRAFilter"].execute(
        lora=two_parts, model=demo[0], clip=demo[1], latent=LATENT, captions=f"# mine\n{CAPTION}", prompts="\n".join(PROMPTS),
        reference="", keep=0.1, learning_steps=2, info={"name": "two"}, **USE,
    )  # fmt: skip
    kept, _removed, info, leak, share, text = result.args
    facts = json.loads(text)
    assert facts["leak_left"] == pytest.approx(leak, abs=1e-3) and facts["prompts_kept"] == pytest.approx(share, abs=1e-3)
    assert facts["settings"]["captions"] == 1 and info["filter"]["source"]["name"] == "two"
    assert CAPTION not in json.dumps(info) and PROMPTS[0] not in json.dumps(info)
    name = nodes["UnmemorizeSaveFilteredLoRA"].execute(lora=kept, name="mine", info=info).args[0]
    assert (tmp_path / name).exists() or (tmp_path / f"{name}.safetensors").exists()


def test_bad_input_is_refused_before_any_work(measuring, demo, two_parts, monkeypatch):
    monkeypatch.setattr(measuring, "_Measuring", lambda *_: pytest.fail("work began"))
    for changes, words in (
        ({"learning_steps": 0}, "learning_steps"),
        ({"keep": 1.5}, "keep"),
        ({"use": USE | {"scheduler": "nobody"}}, "nobody"),
        ({"tensors": {"nobody.lora_up.weight": torch.zeros(2, 2)}}, "Nothing in this LoRA"),
    ):
        with pytest.raises(ValueError, match=words):
            measuring.filter_by_measuring(job_of(measuring, demo, two_parts, **changes))


def test_what_no_filter_touches_is_kept_and_never_called_removed(measuring, demo, two_parts):
    """The two parts add up to the LoRA."""
    foreign = two_parts | {"mystery.weight": torch.ones(3)}
    found = measuring.filter_by_measuring(job_of(measuring, demo, foreign))
    assert "mystery.weight" in found.kept and "mystery.weight" not in found.removed and found.removed
