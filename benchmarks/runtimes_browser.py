"""Pages in headless Chromium that run compiled models: by onnxruntime-web, by transformers.js."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parent / "runtimes_clients"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
TYPES = {
    ".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm",
    ".html": "text/html", ".json": "application/json",
}  # fmt: skip


def find_browser() -> str | None:
    """Path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def run_in_browser(job: dict[str, Any], package: Path, timeout: float) -> dict[str, Any]:
    """What onnxruntime-web makes of the model of ``job``: ``runs``, or an ``error``.

    ``package`` is the folder of the npm package onnxruntime-web.
    """
    model = Path(job["model"])
    data = [path.name for path in model.parent.glob(f"{model.name}?*")]
    content = {**job, "file": model.name, "data": data}
    folders = {"ort": package / "dist", "model": model.parent}
    return visit("browser.html", content, folders, timeout)


def use_in_browser(job: dict[str, Any], modules: Path, timeout: float) -> dict[str, Any]:
    """What transformers.js says of the inputs of ``job``: ``outputs``, or an ``error``.

    Inputs that are files are fetched by the page. ``modules`` is the folder of npm packages.
    """
    folders = {
        "model": Path(job["folder"]),
        "library": modules / "@huggingface" / "transformers",
        "ort": modules / "onnxruntime-web" / "dist",
        "clients": CLIENTS,
    }
    inputs = []
    for given in job["inputs"]:
        if Path(given).is_file():
            folders["inputs"] = Path(given).parent
            given = f"/inputs/{Path(given).name}"
        inputs.append(given)
    content = {**job, "inputs": inputs, "device": "wasm"}
    return visit("transformers_js.html", content, folders, timeout)


def visit(
    page: str, content: dict[str, Any], folders: Mapping[str, Path], timeout: float
) -> dict[str, Any]:
    """What the client ``page`` posts, which fetches ``content`` as ``/job``; or an ``error``.

    It reaches files in ``folders``, each under its name.
    """
    posted: list[dict[str, Any]] = []
    done = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            top, _, name = self.path.lstrip("/").partition("/")
            path = CLIENTS / page if top == "page" else folders.get(top, CLIENTS / "none") / name
            if top == "job":
                self.answer(json.dumps(content).encode(), "application/json")
            elif path.is_file():
                self.answer(path.read_bytes(), TYPES.get(path.suffix, "application/octet-stream"))
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer(b"", "text/plain")
            done.set()

        def answer(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        url = f"http://127.0.0.1:{server.server_port}/page"
        browser = subprocess.Popen(
            [str(find_browser()), *FLAGS, f"--user-data-dir={profile}", url],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            done.wait(timeout)
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    return posted[0] if posted else {"error": f"no answer within {timeout:.0f} s"}
