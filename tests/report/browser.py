"""Debian's Chromium without a window: a page from the disk, what became of it, and every address that it asked for."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")

_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-background-networking"]
_ALONE = ["--disable-sync", "--disable-component-update", "--disable-default-apps", "--host-resolver-rules=MAP * ~NOTFOUND"]


def open_page(page: Path, folder: Path, *flags: str) -> str:
    """The document as HTML after its scripts ran; the log of the network stands in ``folder/net.json``."""
    assert CHROMIUM is not None
    own = [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}", "--virtual-time-budget=5000", "--dump-dom"]
    done = subprocess.run([CHROMIUM, *_FLAGS, *_ALONE, *own, *flags, page.as_uri()], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def asked_for(log: Path) -> set[str]:
    """Addresses of all requests in a network log, the browser's own housekeeping left out: what a page asks for, it asks as initiator."""
    text = log.read_text()
    events = json.loads(text if text.rstrip().endswith("}") else text.rstrip().rstrip(",") + "]}")["events"]  # cut off when it was closed
    params = [event.get("params", {}) for event in events]
    return {one["url"] for one in params if re.match(r"(https?|wss?|ftp):", str(one.get("url", ""))) and _of_page(one)}


def _of_page(params: dict) -> bool:
    return params.get("initiator", "not an origin") != "not an origin"
