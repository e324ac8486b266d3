"""Reference Pictures: folders and batches, odd files, links, the cache."""

from __future__ import annotations

import importlib
import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def tools(comfy):
    names = ("references", "pictures", "detectors")
    return {n: importlib.import_module(f"unmemorize_pack.host.copies.{n}") for n in names}


@pytest.fixture
def home(comfy, tmp_path, monkeypatch):
    """ComfyUI's input folder with a folder `mine` of six pictures, and an empty user folder."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(tmp_path / "user"))
    folder = tmp_path / "input" / "mine"
    (folder / "inner").mkdir(parents=True)
    for k in range(6):
        picture(k).save(folder / ("inner" if k > 3 else "") / f"{k}.png")
    return folder


def picture(seed, side=64, mode="RGB"):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8))
    return small.resize((side, side), Image.Resampling.BICUBIC).convert(mode)


def gathered(tools, folder="mine", images=None):
    return tools["references"].gathered(folder, images, lambda _count: lambda: None)


def test_a_folder_and_those_in_it(tools, home):
    found = gathered(tools)
    assert found.names == ["0.png", "1.png", "2.png", "3.png", "inner/4.png", "inner/5.png"] and not found.left_out
    assert found.picture(0).shape == (3, 64, 64)


def test_odd_files_are_left_out_and_named(tools, home):
    (home / "broken.png").write_bytes(b"\x89PNG nothing")
    (home / "empty.jpg").write_bytes(b"")
    (home / "notes.txt").write_text("no picture")
    picture(0).save(home / "twin.png")
    found = gathered(tools)
    assert len(found.names) == 6 and set(found.left_out) == {"broken.png", "empty.jpg", "twin.png"}
    assert "0.png" in found.left_out["twin.png"] and "cannot be read" in found.left_out["broken.png"]


def test_links_out_of_the_folder_are_left_out(tools, home, tmp_path):
    picture(9).save(tmp_path / "secret.png")
    os.symlink(tmp_path / "secret.png", home / "link.png")
    os.symlink(home / "0.png", home / "again.png")
    os.symlink(home / "round.png", home / "round.png")
    os.symlink("/etc", home / "folder")
    os.symlink(home / "gone.png", home / "dead.png")
    os.mkfifo(home / "pipe.png")
    found = gathered(tools)
    assert {n: found.left_out[n] for n in ("round.png", "dead.png", "pipe.png")} == dict.fromkeys(
        ("round.png", "dead.png", "pipe.png"), "a link to nothing, or no file"
    ), "a pipe would be waited for without end"
    assert "leads out" in found.left_out["folder"] and tools["pictures"].stamp("mine") != "missing"
    assert "leads out" in found.left_out["link.png"] and "again.png" in found.left_out, "the same picture"


def test_what_cannot_be_opened_is_named(tools, home, shut):
    for k, folder in enumerate(("closed", "listed", "elsewhere")):
        (home / folder).mkdir()
        picture(20 + k).save(home / folder / "a.png")
        shut(home / folder, names=folder == "listed")
    os.symlink(home / "elsewhere" / "a.png", home / "link.png")
    found = gathered(tools)
    assert len(found.names) == 6 and found.left_out == {
        "closed": "a folder that cannot be opened", "elsewhere": "a folder that cannot be opened",
        "listed/a.png": "a file that cannot be opened", "link.png": "a file that cannot be opened",
    }  # fmt: skip
    assert tools["pictures"].stamp("mine") != "missing"
    shut(home)
    with pytest.raises(ValueError, match=r"no picture that can be read \(1 left out: a folder that cannot be opened\)"):
        gathered(tools)


@pytest.mark.parametrize("name", ["", "..", "../user", "/etc", "mine/../..", "nobody", "mine\0", "a" * 5000, "\ud800"])
def test_folders_outside_are_refused(tools, home, name):
    with pytest.raises(ValueError, match="no folder"):
        tools["pictures"].listed(name)


def test_an_empty_folder_says_what_to_do(tools, home):
    (home.parent / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no picture"):
        gathered(tools, "empty")
    with pytest.raises(ValueError, match="no references"):
        gathered(tools, None)


def test_every_kind_of_picture_is_read_upright_in_rgb(tools, home):
    read = tools["pictures"].read
    plain = picture(3)
    plain.convert("CMYK").save(home / "cmyk.jpg", quality=95)
    plain.convert("L").save(home / "grey.png")
    plain.convert("P").save(home / "palette.gif")
    Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257).save(home / "deep.png")
    half = plain.copy()
    half.putalpha(0)
    half.save(home / "clear.png")
    plain.save(home / "moving.webp", save_all=True, append_images=[picture(4)], lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.asarray(plain)[:, :32]).save(home / "turned.jpg", exif=exif, quality=95)
    whole = read(home / "3.png") if (home / "3.png").exists() else None
    assert whole is not None
    for name in ("cmyk.jpg", "moving.webp"):
        assert (read(home / name) - whole).abs().mean() < 0.1
    for name in ("grey.png", "deep.png"):
        assert (read(home / name) - whole.mean(0)).abs().mean() < 0.1
    assert bool((read(home / "clear.png") == 1).all()), "what is transparent is white"
    assert read(home / "turned.jpg").shape == (3, 32, 64)


def test_pictures_of_real_numbers_are_not_black(tools, home):
    """From 0 to 1, or to 255, as programs for science write them; beyond 1; below 0; of sizes that whole numbers of 16 and 32 bits hold."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64).repeat(64, 0)
    reals = {"one": ramp, "byte": ramp * 255, "beyond": ramp * 2.5, "signed": ramp * 2 - 1, "deep": ramp * 65535, "odd": ramp * 1e6}
    reals["broken"] = np.where(np.arange(64 * 64).reshape(64, 64) == 5, np.inf, ramp).astype(np.float32)
    wholes = {"byte32": ramp * 255, "deep32": ramp * 65535, "whole32": ramp * (2**31 - 129), "mask32": ramp.round()}
    several = reals | {name: values.astype(np.int32) for name, values in wholes.items()}
    several["camera16"] = (ramp * 4095).astype(np.uint16)
    for name, values in several.items():
        Image.fromarray(values).save(home / f"{name}.tiff")
        found = tools["pictures"].read(home / f"{name}.tiff")[0]
        wanted = torch.from_numpy(ramp.round() if name == "mask32" else ramp)
        off = (found - wanted).abs()
        assert float(off[1:].max()) < 0.01 and float((off > 0.01).float().mean()) < 0.001, name


def test_dark_pictures_stay_dark(tools, home):
    """Where the size of their numbers is known."""
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(1, 64).repeat(64, 0)
    Image.fromarray(ramp * 0.3).save(home / "real.tiff")
    Image.fromarray((ramp * 20000).astype(np.uint16)).save(home / "deep.png")
    for name, brightest in (("real.tiff", 0.3), ("deep.png", 20000 / 65535)):
        assert float(tools["pictures"].read(home / name).max()) == pytest.approx(brightest, abs=0.01)
    Image.fromarray(np.zeros((8, 8), dtype=np.int32)).save(home / "black.tiff")
    assert float(tools["pictures"].read(home / "black.tiff").max()) == 0


def test_huge_pictures_are_made_smaller_or_refused(tools, home, monkeypatch):
    picture(1, 3000).save(home / "large.jpg")
    assert max(tools["pictures"].read(home / "large.jpg").shape) <= 2048
    monkeypatch.setattr(tools["pictures"], "MOST_PIXELS", 1000)
    with pytest.raises(ValueError, match="3000 x 3000 pixels"):
        tools["pictures"].read(home / "large.jpg")


def test_what_is_kept_is_found_by_content(tools, home, monkeypatch):
    references, detector = tools["references"], tools["detectors"].BuiltIn()
    first = references.features(gathered(tools), detector, lambda: None)
    (home / "0.png").rename(home / "renamed.png")
    monkeypatch.setattr(type(detector), "prepare", lambda *_: pytest.fail("prepared again"))
    again = references.features(gathered(tools), detector, lambda: None)
    assert torch.equal(first.sort(0).values, again.sort(0).values)


def test_a_changed_file_is_prepared_again_and_a_damaged_cache_made_anew(tools, home):
    references, detector = tools["references"], tools["detectors"].BuiltIn()
    before = references.features(gathered(tools), detector, lambda: None)
    picture(77).save(home / "0.png")
    for path in home.parent.parent.joinpath("user", "unmemorize", "references").rglob("*.safetensors"):
        path.write_bytes(b"broken")
    after = references.features(gathered(tools), detector, lambda: None)
    assert torch.equal(before[1:], after[1:]) and not torch.equal(before[0], after[0])


@pytest.mark.parametrize("which", [0, 1])
def test_a_cache_of_another_shape_is_made_anew(tools, home, which):
    """Of the first picture, whose shape the others are held against, too."""
    references, detector = tools["references"], tools["detectors"].BuiltIn()
    known = gathered(tools)
    before = references.features(known, detector, lambda: None)
    store = importlib.import_module("unmemorize_pack.host.core.store")
    path = references._path(known.hashes[which], detector.name)
    save_file({"features": torch.zeros(3, 5)}, path, store.facts_as_metadata({"kind": references.KIND}))
    assert torch.equal(references.features(known, detector, lambda: None), before)


def test_names_that_are_no_text_are_read_and_stamped(tools, home):
    picture(8).save(home / "plain.png")
    os.rename(home / "plain.png", os.path.join(os.fsencode(home), b"bad\xff.png"))
    assert "bad\udcff.png" in gathered(tools).names and tools["pictures"].stamp("mine") != "missing"
    json.dumps(gathered(tools).left_out)


def test_what_is_no_picture_is_said_without_the_users_folders(tools, home):
    (home / "text.jpg").write_text("hello")
    said = gathered(tools).left_out["text.jpg"]
    assert str(home) not in said and "kind that is not known" in said


def test_batches_of_nothing_of_grey_and_broken_ones(tools):
    of = tools["references"].of_batch
    assert of(torch.rand(1, 16, 16, 1)).sources[0].shape == (3, 16, 16)
    broken = of(torch.cat([torch.full((1, 16, 16, 3), torch.nan), torch.rand(1, 16, 16, 3)]))
    assert broken.names == ["picture 1"] and "no numbers" in broken.left_out["picture 0"]
    for empty in (torch.zeros(0, 16, 16, 3), torch.full((1, 16, 16, 3), torch.nan)):
        with pytest.raises(ValueError, match="no references"):
            gathered(tools, None, empty)


def test_a_batch_keeps_each_picture_once(tools):
    images = torch.rand(3, 16, 16, 3)
    images[2] = images[0]
    found = tools["references"].of_batch(images)
    assert found.names == ["picture 0", "picture 1"] and "picture 2" in found.left_out


def test_the_node_joins_folder_and_batch_and_reports(nodes, home):
    node = nodes["UnmemorizeReferencePictures"]
    found, count, text = node.execute("mine", torch.rand(2, 16, 16, 3)).args
    assert count == 8 == len(found.names) and json.loads(text)["pictures"] == 8
    stamp = node.fingerprint_inputs("mine")
    picture(5).save(home / "new.png")
    assert node.fingerprint_inputs("mine") != stamp and node.fingerprint_inputs("nobody") == "missing"


def test_a_file_whose_exif_is_cut_and_one_that_may_not_be_read_are_left_out(tools, home, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(9).save(home / "cut.jpg", exif=exif)
    data = (home / "cut.jpg").read_bytes()
    at = data.index(b"Exif\x00\x00")
    head, kept = data[: at - 4], data[at : at + 6 + 4]
    size = int.from_bytes(data[at - 2 : at], "big")
    (home / "cut.jpg").write_bytes(head + b"\xff\xe1" + (2 + len(kept)).to_bytes(2, "big") + kept + data[at - 2 + size :])
    real = tools["references"].content_hash

    def guarded(path):
        if path.name == "0.png":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(tools["references"], "content_hash", guarded)
    found = gathered(tools)
    assert "0.png" not in found.names and "Permission denied" in found.left_out["0.png"] and len(found.names) >= 5
    assert ("cut.jpg" in found.names) != ("cut.jpg" in found.left_out)


def test_the_digest_is_that_of_all_in_any_order(tools):
    pictures = torch.rand(3, 16, 16, 3)
    one, other = (tools["references"].of_batch(p) for p in (pictures, pictures.flip(0)))
    assert one.digest == other.digest != tools["references"].of_batch(pictures[:2]).digest
