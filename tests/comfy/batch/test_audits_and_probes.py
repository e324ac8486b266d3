"""What audits and probes of the command line say: of which base, of prompts that failed, of LoRAs that cannot be filtered."""

from __future__ import annotations

import importlib
import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from .reading import rows_of

SMALL = ["--steps", "2", "--cfg", "2", "--width", "64", "--height", "64"]


@pytest.fixture
def audit(command, tmp_path):
    (tmp_path / "list.txt").write_text("a red ring\n")
    more = [*SMALL, "--seeds", "2", "--neighbours", "0", "--out", str(tmp_path / "out")]
    return lambda *bases: command.main(["audit", str(tmp_path / "list.txt"), *more, *(w for b in bases for w in ("--base", str(b)))])


@pytest.fixture
def demo_as(command, tmp_path, monkeypatch):
    """demo_as(name): a file of that name that loads as the demo model."""
    tools = importlib.import_module("unmemorize_pack.batch.tools")
    real = tools.Base.__init__
    monkeypatch.setattr(tools.Base, "__init__", lambda self, _: real(self, tools.DEMO))

    def make(name):
        shutil.copyfile(tools.checkpoint(tools.DEMO), tmp_path / name)
        with (tmp_path / name).open("ab") as file:
            file.write(name.encode())
        return tmp_path / name

    return make


def test_the_page_of_an_audit_names_its_base(command, audit, tmp_path):
    out = tmp_path / "out"
    assert audit("demo") == command.GOOD and command.main(["merge", "--out", str(out)]) == command.GOOD
    page, (row,) = (out / "index.html").read_text(), rows_of(out)
    assert len(row["base_content"]) == 16 and f"demo ({row['base_content']})" in page.partition("<dl>")[2]
    assert '<button type="button">base</button>' not in page, "one base needs no column"


def test_rows_of_two_bases_can_be_told_apart(command, audit, demo_as, tmp_path):
    out, bases = tmp_path / "out", [demo_as("one.safetensors"), demo_as("two.safetensors")]
    assert audit(*bases) == command.GOOD and command.main(["merge", "--out", str(out)]) == command.GOOD
    table, _, facts = (out / "index.html").read_text().partition("<dl>")
    assert '<button type="button">base</button>' in table and len({r["base_content"] for r in rows_of(out)}) == 2
    for row in rows_of(out):
        named = f"{row['base']} ({row['base_content']})"
        assert f'data-name="base" data-value="{named}"' in table and named in facts


def test_a_prompt_that_failed_is_tried_again(command, audit, tmp_path, monkeypatch):
    """Its message says how to mend it, and that is no other prompt."""
    maker = importlib.import_module("unmemorize_pack.host.combined.audit_row").RowMaker
    with monkeypatch.context() as bad:
        bad.setattr(maker, "row", lambda self, prompt: {"prompt": prompt, "error": "try --fp32-vae"})
        assert audit("demo") == command.FAILED
    (row,) = rows_of(tmp_path / "out")
    assert row["again"] and row["error"] == "try --fp32-vae"
    assert audit("demo") == command.GOOD and "error" not in rows_of(tmp_path / "out")[0]
    before = (tmp_path / "out" / "rows.jsonl").read_text()
    assert audit("demo") == command.GOOD and (tmp_path / "out" / "rows.jsonl").read_text() == before


@pytest.fixture
def layer(demo):
    """A layer of the demo model as kohya spells it, its output and its input channels."""
    key = next(k for k in sorted(demo[0].model.state_dict()) if k.endswith("attn1.to_q.weight"))
    name = "lora_unet_" + key.removeprefix("diffusion_model.").removesuffix(".weight").replace(".", "_")
    return name, *demo[0].model.state_dict()[key].shape


def of_kind(kind, name, out, inner):
    """A LoRA of one layer, of kinds that are never filtered."""

    def numbers(*shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(1)) / 5

    parts = {
        "DoRA": {"lora_up.weight": (out, 2), "lora_down.weight": (2, inner), "dora_scale": (out, 1)},
        "OFT": {"oft_blocks": (out // 4, 4, 4)}, "BOFT": {"oft_blocks": (1, out // 4, 4, 4)},
        "GLoRA": {"a1.weight": (2, inner), "a2.weight": (inner, 2), "b1.weight": (2, inner), "b2.weight": (out, 2)},
    }[kind]  # fmt: skip
    return {f"{name}.{part}": numbers(*shape) for part, shape in parts.items()} | {f"{name}.alpha": torch.tensor(2.0)}


@pytest.fixture
def probe(command, tmp_path):
    def run(tensors):
        save_file(tensors, tmp_path / "lora.safetensors")
        line = ["probe", str(tmp_path / "lora.safetensors"), "--base", "demo", "--out", str(tmp_path / "out"), *SMALL]
        code = command.main([*line, "--pictures", "8", "--groups", "2"])
        (row,) = rows_of(tmp_path / "out")
        return code, row

    return run


KINDS = ["DoRA", "OFT", "BOFT", "GLoRA"]


@pytest.mark.parametrize(
    ("groups", "row"),
    [
        ([(0.9, 0.8, False), (0.7, 0.1, False)], {"agreement": 0.7, "like_base": 0.1}),
        ([(0.9, 0.1, False), (0.7, 0.4, True)], {"agreement": 0.7, "like_base": 0.4}),
        ([], {"agreement": None, "like_base": None}),
    ],
)
def test_a_row_tells_of_the_group_that_the_base_explains_least(probe, layer, monkeypatch, groups, row):
    """Not of the one that agrees most: the base may draw that too. And of a leak rather than of a style."""
    jobs = importlib.import_module("unmemorize_pack.batch.jobs")
    several = [{"agreement": agreement, "like_base": like, "leak": leak} for agreement, like, leak in groups]
    monkeypatch.setattr(jobs, "report", lambda *_: {"leaks": 0, "groups": several})
    _, found = probe(of_kind("OFT", *layer))
    assert {k: found[k] for k in row} == row and found["groups"] == len(groups)


def test_rows_of_another_rule_are_not_taken_for_done(command, probe, layer, monkeypatch):
    """A folder that was begun when a leak was something else is refused, and keeps its row."""
    code, first = probe(of_kind("OFT", *layer))
    monkeypatch.setattr(command, "BEYOND", 0.5)
    again, row = probe(of_kind("OFT", *layer))
    assert code == command.GOOD != again and row == first


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_filtered_can_be_probed(command, probe, layer, kind):
    code, row = probe(of_kind(kind, *layer))
    assert code == command.GOOD and row["leaks"] >= 0 and row["gallery"], row.get("error")


@pytest.mark.parametrize("kind", KINDS)
def test_what_fits_no_layer_is_not_probed_clean(command, probe, layer, kind):
    name, out, inner = layer
    code, row = probe(of_kind(kind, name, out + 12, inner + 12))
    assert code == command.FAILED and "leaks" not in row and "another model" in row["error"]
    assert "again" not in row and json.dumps(row)


def test_a_lora_without_a_layer_of_this_model_is_not_probed_clean(command, probe):
    code, row = probe(of_kind("OFT", "lora_unet_nothing_of_ours", 64, 64))
    assert code == command.FAILED and "changes no layer of this model" in row["error"]


def test_pictures_have_the_size_that_was_asked_for(comfy):
    """Also of models whose latents are a sixteenth of the side, such as Flux.2."""
    base = object.__new__(importlib.import_module("unmemorize_pack.batch.tools").Base)
    base.model = SimpleNamespace(get_model_object=lambda _: SimpleNamespace(latent_channels=128))
    base.vae = SimpleNamespace(spacial_compression_encode=lambda: 16)
    assert base.latent({"width": 512, "height": 256})["samples"].shape == (1, 128, 16, 32)
    with pytest.raises(ValueError, match="steps of 16 pixels"):
        base.latent({"width": 520, "height": 256})
