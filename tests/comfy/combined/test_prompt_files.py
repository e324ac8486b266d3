"""Lists of prompts in other code pages, and in folders that may not be opened."""

from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def files(comfy):
    return importlib.import_module("unmemorize_pack.host.combined.prompt_files")


@pytest.fixture
def written(tmp_path):
    """written(text, encoding): a table with that caption."""

    def write(text, encoding):
        path = tmp_path / "list.csv"
        path.write_bytes(f'caption\r\n"{text}"\r\n'.encode(encoding))
        return path

    return write


@pytest.mark.parametrize(
    "text",
    ["a cat", "a café with \u201cquotes\u201d \u2014 a cat\u2019s hat\u2026", "Mädchen, Äpfel, Tür, Fuß", "a piñata on a table, 20 °C",
     "tarte à la crème dans un champ de fleurs sous un ciel bleu", "un gato pequeño duerme en la montaña bajo la luz"],
)  # fmt: skip
def test_western_text_of_windows_programs_is_read_and_that_is_said(files, written, text, caplog):
    for encoding in ("utf-8", "utf-16", "cp1252"):
        caplog.clear()
        assert files.read_at(written(text, encoding)) == [text]
        assert ("Western Windows" in caplog.text) == (encoding == "cp1252" and not text.isascii())


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("gbk", "\u4e00\u53ea\u732b\u5750\u5728\u57ab\u5b50\u4e0a"), ("big5", "\u4e00\u96bb\u8c93"), ("shift_jis", "\u732b\u306e\u7d75"),
     ("euc_jp", "\u732b\u306e\u7d75"), ("cp949", "\ub9e4\ud2b8 \uc704\uc758 \uace0\uc591\uc774"), ("cp949", "\uace0\uc591\uc774 on a mat"),
     ("cp1251", "\u041a\u043e\u0448\u043a\u0430 \u043d\u0430 \u043a\u043e\u0432\u0440\u0435"), ("cp1253", "\u039c\u03b9\u03b1"),
     ("cp1250", "Ko\u010dka na kobere\u010dku"), ("cp1250", "Ma\u0142y kot \u015bpi"), ("cp1250", "spava na \u010darapi pored ku\u0107e"),
     ("cp1254", "Hal\u0131n\u0131n \xfczerinde"), ("cp1257", "Ka\u0137is s\u0113\u017e uz pakl\u0101ja")],
)  # fmt: skip
def test_what_may_be_other_letters_is_refused(files, written, encoding, text):
    with pytest.raises(ValueError, match=r"'list\.csv' is not UTF-8.*Excel.*CSV UTF-8"):
        files.read_at(written(text, encoding))
    assert files.read_at(written(text, "utf-8")) == [text]


def test_what_is_no_text_is_refused(files, tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\x89PNG\r\n\0\0\x90")
    with pytest.raises(ValueError, match="not UTF-8"):
        files.read_at(tmp_path / "list.txt")


def test_every_node_is_there_whatever_cannot_be_opened(nodes, files, tmp_path, monkeypatch, shut):
    """ComfyUI asks each node what it offers when it starts; an error there takes all later nodes away."""
    paths = importlib.import_module("folder_paths")
    monkeypatch.setattr(paths, "get_input_directory", lambda: str(tmp_path / "input"))
    monkeypatch.setattr(paths, "get_user_directory", lambda: str(tmp_path / "user"))
    kinds = [f"user/unmemorize/{kind}" for kind in ("profiles", "masks", "thresholds")]
    for folder in ("input/open", "input/closed", "input/listed/inner", "loras/listed/inner", *kinds):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.txt").write_text("a cat")
    for kind in ("loras", "clip_vision"):
        monkeypatch.setitem(paths.folder_names_and_paths, kind, ([str(tmp_path / "loras")], {".safetensors"}))
    monkeypatch.setattr(paths, "filename_list_cache", {})
    (tmp_path / "input" / "captions.txt").symlink_to(tmp_path / "input" / "closed" / "a.txt")
    shut(tmp_path / "input" / "closed")
    shut(tmp_path / "user")
    for folder in ("input/listed", "loras/listed"):
        shut(tmp_path / folder, names=True)
    for node in nodes.values():
        node.define_schema()
    assert files.names() == ["open/a.txt"]
    with pytest.raises(ValueError, match="no file"):
        files.read("captions.txt")
