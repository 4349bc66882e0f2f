"""A headless Chromium, and servers for it to open; nothing outside this machine is asked for."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
).split()
MAC = "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", MAC)
PATIENCE = 300_000  # milliseconds, for a machine that does other things too
SETTINGS = {
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "notebook-extension/tracker": '{"windowingMode": "none"}',
}


def missing(what: str) -> None:
    """Skip, or fail where HCVIZ_BROWSER=must says that nothing may be skipped."""
    (pytest.fail if os.environ.get("HCVIZ_BROWSER") == "must" else pytest.skip)(what)


@pytest.fixture(scope="session")
def chromium():
    """A running Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed: pip install -c constraints.txt -e '.[browser]'")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        missing("no Chromium on the path: apt-get install chromium, or CHROMIUM=/its/path")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A projector's page; errors of its console and requests to other machines fail the test."""
    page = chromium.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(PATIENCE)
    errors, outside = [], []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    here = ("http://127.0.0.1", "ws://127.0.0.1", "data:", "blob:", "file:")
    page.on("request", lambda r: None if r.url.startswith(here) else outside.append(r.url))
    yield page
    page.close()
    assert not errors
    assert not outside


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def serve(folder: Path, address: str, *words: str) -> subprocess.Popen:
    """Start a server of notebooks in its own folders, and wait until it answers."""
    env = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "PYTHONPATH": str(ROOT),
    }
    env.pop("MPLBACKEND", None)  # the kernels draw as in a real session
    for name, text in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    for _ in range(240):
        try:
            urllib.request.urlopen(address, timeout=PATIENCE / 1000).close()
            return server
        except urllib.error.HTTPError:
            return server  # it answers
        except OSError:
            if server.poll() is not None:
                break
            time.sleep(0.5)
    stop(server)
    raise RuntimeError((folder / "log").read_text(encoding="utf-8"))


def stop(server: subprocess.Popen) -> None:
    """End a server and what it started."""
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(30)


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """The address of a JupyterLab on a copy of the notebooks."""
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=lambda *_: ["runs"])
    server = serve(
        folder, f"http://127.0.0.1:{port}/api", "-m", "jupyterlab", "--no-browser", "--allow-root",
        f"--port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=abc",
        "--LabApp.expose_app_in_browser=True",
    )  # fmt: skip
    yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}?token=abc&reset"
    stop(server)
