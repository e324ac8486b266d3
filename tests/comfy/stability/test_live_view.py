"""Messages to the browser: only where somebody listens, and seldom."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("comfy_execution.utils", reason="no ComfyUI")
from comfy_execution.utils import CurrentNodeContext
from unmemorize_pack.host.stability import live_view


class Server:
    def __init__(self, client_id: str | None) -> None:
        self.client_id, self.sent, self.last_prompt_id = client_id, [], "first"

    def send_sync(self, event: str, data: dict, sid: str) -> None:
        self.sent.append((event, data, sid))


def listen(monkeypatch: pytest.MonkeyPatch, client_id: str | None) -> Server:
    server = Server(client_id)
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=server)))
    return server


def test_nobody_listens(monkeypatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    line = live_view.live()
    assert line.node is None and not line.open()
    line.send("step", {})
    server = listen(monkeypatch, None)
    line = live_view.Live("7")
    line.send("step", {})
    assert not line.open() and server.sent == []


def test_a_message_names_its_node_and_goes_to_its_browser_alone(monkeypatch):
    server = listen(monkeypatch, "tab")
    with CurrentNodeContext("prompt", "3:7", 0):
        line = live_view.live()
    assert line.open()
    line.send("step", {"step": 1})
    assert server.sent == [(live_view.EVENT, {"node": "3:7", "prompt_id": "first", "kind": "step", "step": 1}, "tab")]
    assert not line.open()  # the next one waits


def test_a_message_names_the_run_that_is_going_on(monkeypatch):
    """A node that the server has cached watches the runs after the one it was made in, too."""
    server, line = listen(monkeypatch, "tab"), live_view.Live("7")
    server.last_prompt_id = "second"
    line.send("step", {})
    assert server.sent[0][1]["prompt_id"] == "second"
    del server.last_prompt_id
    line.send("step", {})
    assert server.sent[1][1]["prompt_id"] is None


def test_messages_cost_at_most_a_fiftieth(monkeypatch):
    listen(monkeypatch, "tab")
    clock = [100.0]
    monkeypatch.setattr(live_view.time, "monotonic", lambda: clock[0])
    line = live_view.Live("7")
    began, clock[0] = clock[0], 101.0  # it took a second to make
    line.send("step", {}, began)
    clock[0] += live_view.SHARE - 0.01
    assert not line.open()
    clock[0] += 0.02
    assert line.open()
