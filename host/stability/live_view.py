"""Messages to the browser while a node works: what the chart in the node draws during a run.

They carry numbers that were measured anyway, go only to the browser that queued the prompt, and cost at most a fiftieth of the run.
Without a server (tests, scripts) nothing is sent.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from comfy_execution.utils import get_executing_context

EVENT = "unmemorize.guard"
LEAST_SECONDS = 0.1
SHARE = 50
"""After a message that took t seconds to make, the next one waits for this many times t."""


@dataclass
class Live:
    """The line from one node to its browser."""

    node: str | None
    """Execution id of the node; None: nobody listens."""
    due: float = 0.0

    def open(self) -> bool:
        """Is there a browser, and is it time for a message?"""
        return self.node is not None and time.monotonic() >= self.due and _server() is not None

    def send(self, kind: str, data: dict[str, Any], began: float | None = None) -> None:
        """One message; `began`: when its making began, by time.monotonic()."""
        server = _server()
        if self.node is None or server is None:
            return
        # a page may have turned to another graph, whose nodes have the same ids; a cached node watches later runs too
        told = {"node": self.node, "prompt_id": getattr(server, "last_prompt_id", None), "kind": kind, **data}
        server.send_sync(EVENT, told, server.client_id)
        now = time.monotonic()
        self.due = now + max(LEAST_SECONDS, SHARE * (now - began if began is not None else 0.0))


def live() -> Live:
    """For the node that is executing now."""
    context = get_executing_context()
    return Live(None if context is None else context.node_id)


def _server() -> Any:
    """The running server if a browser waits for its messages. It is looked up, not imported: an import would start one half."""
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    return instance if getattr(instance, "client_id", None) else None
