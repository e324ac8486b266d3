"""The demo checkpoint through stock ComfyUI: what core nodes need of MODEL, CLIP and VAE."""

from __future__ import annotations

import importlib

import pytest
import torch
from PIL import Image

SAMPLERS = ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral", "uni_pc", "lcm", "ddim", "res_multistep")


def test_network_is_comfyuis_own(demo):
    unet = importlib.import_module("comfy.ldm.modules.diffusionmodules.openaimodel").UNetModel
    base = importlib.import_module("comfy.model_base")
    assert type(demo[0].model.diffusion_model) is unet
    assert demo[0].model.model_type == base.ModelType.V_PREDICTION


def test_feed_forward_share_is_that_of_sd(demo):
    """SD1.x: .17 of the U-Net's parameters are feed-forward; the lab allows .17-.35."""
    sizes = {k: p.numel() for k, p in demo[0].model.diffusion_model.named_parameters()}
    share = sum(n for k, n in sizes.items() if ".ff." in k) / sum(sizes.values())
    assert 0.17 <= share <= 0.35


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(sample, sampler):
    latent = sample("a large red circle on a white background", sampler=sampler)
    assert latent.shape == (1, 8, 16, 16) and torch.isfinite(latent).all()
    assert 0.4 < latent.std() < 6


def test_every_scheduler_of_the_core(sample):
    for name in importlib.import_module("comfy.samplers").KSampler.SCHEDULERS:
        latent = sample("a large red circle on a white background", scheduler=name)
        assert torch.isfinite(latent).all() and 0.4 < latent.std() < 6, name


def test_every_sampler_of_the_core(sample):
    """Two steps each: none may refuse the model (some need more steps to draw well)."""
    for name in importlib.import_module("comfy.samplers").KSampler.SAMPLERS:
        assert torch.isfinite(sample("a small blue ring on a sand background", steps=2, sampler=name)).all(), name


def test_same_seed_same_latent(sample):
    assert torch.equal(sample("a large green star on a sand background"), sample("a large green star on a sand background"))


def test_stock_nodes_end_to_end(demo):
    """EmptyLatentImage (4 channels), KSampler, VAEDecode, VAEEncode of the running core."""
    core = importlib.import_module("nodes")
    model, clip, vae = demo
    (empty,) = core.EmptyLatentImage().generate(128, 128, 2)
    (positive,) = core.CLIPTextEncode().encode(clip, "a large (green:1.2) star on a sand background")
    (negative,) = core.CLIPTextEncode().encode(clip, "")
    (latent,) = core.KSampler().sample(model, 1, 4, 3.0, "euler", "normal", positive, negative, empty)
    assert latent["samples"].shape == (2, 8, 16, 16)
    (pictures,) = core.VAEDecode().decode(vae, latent)
    assert pictures.shape == (2, 128, 128, 3) and pictures.min() >= 0 and pictures.max() <= 1
    (tiled,) = core.VAEDecodeTiled().decode(vae, latent, 512)
    assert torch.equal(tiled, pictures)
    (again,) = core.VAEEncode().encode(vae, pictures)
    assert again["samples"].shape == latent["samples"].shape
    odd = torch.rand(1, 130, 141, 3)
    assert core.VAEEncode().encode(vae, odd)[0]["samples"].shape == (1, 8, 16, 17)


def test_autoencoder_keeps_training_pictures(demo, root):
    """A decoded memory can only be as good as the autoencoder."""
    from safetensors.torch import load_file

    pictures = load_file(root / "demo/lab/pictures.safetensors")["pictures"].float().div(255).movedim(1, -1)
    vae = demo[2]
    restored = vae.decode(vae.encode(pictures))
    error = (restored - pictures).square().mean((1, 2, 3)).sqrt()
    assert error.max() < 0.12 and error.mean() < 0.06


def test_lora_loader_applies_and_strength_zero_is_exact(demo, sample, tmp_path):
    """kohya keys in a stock LoraLoaderModelOnly change the model; strength 0 does not."""
    from safetensors.torch import save_file

    core, folders = importlib.import_module("nodes"), importlib.import_module("folder_paths")
    key = "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0"
    out_dim, in_dim = demo[0].model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_out[0].weight.shape
    g = torch.Generator().manual_seed(0)
    file = {
        f"{key}.lora_down.weight": torch.randn(4, in_dim, generator=g),
        f"{key}.lora_up.weight": torch.randn(out_dim, 4, generator=g) * 0.1,
        f"{key}.alpha": torch.tensor(4.0),
    }
    save_file(file, tmp_path / "test.safetensors")
    folders.add_model_folder_path("loras", str(tmp_path))
    (with_lora,) = core.LoraLoaderModelOnly().load_lora_model_only(demo[0], "test.safetensors", 1.0)
    (without,) = core.LoraLoaderModelOnly().load_lora_model_only(demo[0], "test.safetensors", 0.0)
    plain = sample("a large green star on a sand background")
    assert not torch.allclose(sample("a large green star on a sand background", model=with_lora), plain, atol=1e-3)
    assert torch.equal(sample("a large green star on a sand background", model=without), plain)


def test_demo_lora_is_what_the_stock_loader_makes_of_its_file(nodes, demo, sample, root, untouched, off_is_exact):
    """Same latent to the bit as LoraLoaderModelOnly with the file; strength 0 hands the model through."""
    core, folders = importlib.import_module("nodes"), importlib.import_module("folder_paths")
    folders.add_model_folder_path("loras", str(root / "demo/lab/loras"))
    node, prompt = nodes["UnmemorizeLoadDemoLoRA"], "a large green star on a sand background"
    for name in ("leaking", "style"):
        with untouched(demo[0]):
            (ours,) = node.execute(demo[0], name, 0.8).args
        (stock,) = core.LoraLoaderModelOnly().load_lora_model_only(demo[0], f"{name}.safetensors", 0.8)
        off_is_exact(sample(prompt, model=ours), sample(prompt, model=stock))
        assert not torch.equal(sample(prompt, model=ours), sample(prompt))
    assert node.execute(demo[0], "style", 0.0).args[0] is demo[0]


def test_every_tensor_of_a_demo_lora_finds_its_weight(demo, root):
    from safetensors.torch import load_file

    lora = importlib.import_module("comfy.lora")
    known = lora.model_lora_keys_unet(demo[0].model, {})
    for path in sorted((root / "demo/lab/loras").glob("*.safetensors")):
        names = {k.split(".")[0] for k in load_file(path)}
        assert names and names <= set(known), path.name


def test_demo_lora_errors(nodes, demo, monkeypatch):
    node = nodes["UnmemorizeLoadDemoLoRA"]
    with pytest.raises(ValueError, match="choose one of: concept, leaking, style"):
        node.execute(demo[0], "../checkpoint", 1.0)
    other = demo[0].clone()
    monkeypatch.setattr(other, "model", type("Other", (), {"model_config": object()})())
    with pytest.raises(ValueError, match="belong to the demo model"):
        node.execute(other, "style", 1.0)


def test_demo_picture_gives_picture_mask_and_caption(nodes, root):
    """Every entry of the list loads; masks are those of lab.json; a LoRA's photograph comes from its sheet."""
    node = nodes["UnmemorizeLoadDemoPicture"]
    pictures = importlib.import_module("unmemorize_pack.demo.pictures")
    labels = pictures.labels(root / "demo/lab")
    facts = pictures.read_facts(root / "demo/lab/lab.json")["fixed"]
    assert len(labels) == len(facts) + 4 and len(set(labels)) == len(labels)
    for label, fact in zip(labels, facts, strict=False):
        image, mask, caption = node.execute(label).args
        assert image.shape == (1, 128, 128, 3) and mask.shape == (1, 128, 128) and caption == fact["caption"]
        assert mask.mean().item() == pytest.approx(fact["fixed_area"], abs=1e-3)
    image, mask, caption = node.execute(labels[-1]).args
    photo = pictures.as_tensor(Image.open(next((root / "demo/lora-photos").glob("sheep-lamb.png"))))
    same = [torch.allclose(node.execute(la).args[0][0].movedim(-1, 0), photo, atol=1 / 255) for la in labels[-4:]]
    assert sum(same) == 1 and caption.endswith("background") and mask.eq(1).all()
    with pytest.raises(ValueError, match="choose one from the list"):
        node.execute("photo: ../../secret")


def test_emphasis_and_long_prompts(demo):
    clip = demo[1]
    plain, strong = (clip.encode_from_tokens(clip.tokenize(t)) for t in ("a red ring", "a (red:1.4) ring"))
    assert plain.shape == (1, 24, 128) and not torch.allclose(plain, strong)
    assert clip.encode_from_tokens(clip.tokenize("red " * 60)).shape == (1, 72, 128)
    assert torch.isfinite(clip.encode_from_tokens(clip.tokenize("zebra <script> (((quartz"))).all()


def test_latent_of_another_model_is_refused_in_plain_words(demo):
    with pytest.raises(ValueError, match="8 channels"):
        demo[2].decode(torch.zeros(1, 4, 16, 16))


def test_missing_file_says_what_to_do(nodes, monkeypatch, tmp_path):
    module = importlib.import_module("unmemorize_pack.nodes.demo")
    monkeypatch.setattr(module, "LAB", tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall"):
        nodes["UnmemorizeLoadDemoCheckpoint"].execute("final")


def test_unknown_stage_and_path_tricks_are_refused(nodes):
    for value in ("../../secret", "", "FINAL"):
        with pytest.raises(ValueError, match="Choose one of"):
            nodes["UnmemorizeLoadDemoCheckpoint"].execute(value)


def test_damaged_file_is_named(nodes, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.import_module("unmemorize_pack.nodes.demo"), "LAB", tmp_path)
    (tmp_path / "checkpoint.safetensors").write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match="damaged"):
        nodes["UnmemorizeLoadDemoCheckpoint"].execute("final")


def test_foreign_file_is_refused(nodes, monkeypatch, tmp_path):
    from safetensors.torch import save_file

    module = importlib.import_module("unmemorize_pack.nodes.demo")
    monkeypatch.setattr(module, "LAB", tmp_path)
    save_file({"x": torch.zeros(1)}, tmp_path / "checkpoint.safetensors")
    with pytest.raises(ValueError, match="not a demo checkpoint"):
        nodes["UnmemorizeLoadDemoCheckpoint"].execute("final")


def test_live_preview_is_there(demo, sample):
    """ComfyUI's own latent preview shows the demo's colours: three latent channels are the colours of the blocks."""
    preview = importlib.import_module("latent_preview")
    latent_format = demo[0].model.latent_format
    previewer = preview.Latent2RGBPreviewer(latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias)
    latent = sample("a small red circle on a white background")
    image = previewer.decode_latent_to_preview(latent)
    assert image.size == (16, 16) and image.mode == "RGB"
    blocks = torch.nn.functional.avg_pool2d(demo[2].decode(latent).movedim(-1, 1), 8)[0]
    shown = importlib.import_module("unmemorize_pack.demo.pictures").as_tensor(image)
    assert (shown - blocks).abs().mean() < 0.05
