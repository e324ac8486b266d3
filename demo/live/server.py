"""A real ComfyUI server with the pack in it, and the few HTTP calls needed to use it."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .lower import lower

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS, RUN_SECONDS = 300.0, 900.0

log = logging.getLogger("demo.server")


class WorkflowFailed(RuntimeError):
    """ComfyUI refused a prompt or a node raised; the message is what its user would see."""


@dataclass(frozen=True)
class Server:
    """A running ComfyUI."""

    url: str
    folder: Path
    log_file: Path

    def get(self, path: str) -> bytes:
        """Body of a GET; raises urllib.error.HTTPError."""
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def object_info(self) -> dict[str, Any]:
        """The schema of every node."""
        return self.get_json("/object_info")

    def post(self, path: str, body: dict[str, Any]) -> Any:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            raise WorkflowFailed(error.read().decode(errors="replace")) from error

    def queue(self, prompt: dict[str, Any]) -> str:
        """Queue an API-format prompt; WorkflowFailed if any node was refused, even if others could run."""
        answer = self.post("/prompt", {"prompt": prompt, "client_id": "unmemorize-demo"})
        if answer.get("node_errors"):
            raise WorkflowFailed(json.dumps(answer["node_errors"], indent=1))
        return answer["prompt_id"]

    def run(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Queue, wait, and return {node id: ui outputs}."""
        prompt_id = self.queue(prompt)
        deadline = time.monotonic() + RUN_SECONDS
        while time.monotonic() < deadline:
            entry = self.get_json(f"/history/{prompt_id}").get(prompt_id)
            if entry and entry.get("status", {}).get("completed"):
                return entry["outputs"]
            if entry and entry.get("status", {}).get("status_str") == "error":
                raise WorkflowFailed(_error_text(entry["status"]["messages"]))
            time.sleep(0.2)
        raise WorkflowFailed(f"no result after {RUN_SECONDS:.0f} s")

    def run_workflow(self, path: Path) -> dict[str, Any]:
        """Run a UI-format workflow file as the front end would."""
        return self.run(lower(json.loads(path.read_text(encoding="utf-8")), self.object_info()))

    def picture(self, image: dict[str, str]) -> bytes:
        """The PNG of one entry of a node's `images` output."""
        return self.get("/view?" + urllib.parse.urlencode(image))


def _error_text(messages: list[Any]) -> str:
    for kind, data in messages:
        if kind == "execution_error":
            return f"{data['node_type']}: {data['exception_message'].strip()}"
    return json.dumps(messages)


@contextlib.contextmanager
def running(pack: Path = ROOT, pack_folder: str = "unmemorize", port: int | None = None, quiet: bool = True) -> Iterator[Server]:
    """Boot ComfyUI (COMFYUI_PATH) on the CPU with only this pack, under any folder name, in a temporary base folder."""
    port = _free_port(port or 0)
    with tempfile.TemporaryDirectory(prefix="unmemorize-", ignore_cleanup_errors=True) as temporary:
        base = Path(temporary)
        for name in ("custom_nodes", "models", "user/default", "input", "output"):
            (base / name).mkdir(parents=True)
        _place(pack, base / "custom_nodes" / pack_folder)
        settings = {"Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False}
        (base / "user/default/comfy.settings.json").write_text(json.dumps(settings))
        log_file = base / "comfyui.log"
        with log_file.open("w") as output:
            process = subprocess.Popen(
                _command(base, pack_folder, port), stdout=output if quiet else None, stderr=subprocess.STDOUT if quiet else None
            )
            server = Server(f"http://127.0.0.1:{port}", base, log_file)
            try:
                _wait(server, process)
                yield server
            finally:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _command(base: Path, pack_folder: str, port: int) -> list[str]:
    tree = Path(os.environ["COMFYUI_PATH"])
    return [
        sys.executable, str(tree / "main.py"), "--cpu", "--use-pytorch-cross-attention", "--listen", "127.0.0.1", "--port", str(port),
        "--base-directory", str(base), "--disable-all-custom-nodes", "--whitelist-custom-nodes", pack_folder, "--disable-api-nodes",
        "--database-url", "sqlite:///:memory:",
    ]  # fmt: skip


def _place(pack: Path, target: Path) -> None:
    """Link the pack into custom_nodes, or copy it where links need a privilege (Windows)."""
    try:
        target.symlink_to(pack, target_is_directory=True)
    except OSError:
        shutil.copytree(pack, target, ignore=shutil.ignore_patterns(".git", ".nox", "out"))


def _free_port(wanted: int) -> int:
    """`wanted`, or any free port for 0; RuntimeError if another program has it."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise RuntimeError(f"port {wanted} is taken: stop the other program, or choose another with --port") from error
        return probe.getsockname()[1]


def _wait(server: Server, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("ComfyUI did not start:\n" + server.log_file.read_text()[-4000:])
        try:
            server.get("/system_stats")
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.3)
    raise RuntimeError(f"ComfyUI did not answer within {START_SECONDS:.0f} s:\n" + server.log_file.read_text()[-4000:])


def main() -> None:
    """Command line of `nox -s comfy`."""
    parser = argparse.ArgumentParser(description="An interactive ComfyUI with the pack and the demo checkpoint.")
    parser.add_argument("--port", type=int, default=8188)
    port = parser.parse_args().port
    with running(port=port, quiet=False) as server:
        log.info("ComfyUI is at %s (Workflow > Browse Templates > unmemorize). Ctrl-C stops it.", server.url)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
