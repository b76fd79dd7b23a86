"""Find a Chromium to print and to check the book with."""

import os
import shutil
from pathlib import Path

from playwright.sync_api import Playwright

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

REMEDY = (
    "No Chromium found: install it with `apt-get install -y --no-install-recommends chromium` or "
    "`python -m playwright install chromium`, or name a browser in APV_CHROMIUM."
)


def executable(playwright: Playwright) -> str | None:
    """A Chromium: named by APV_CHROMIUM, fetched by Playwright, or of the system; None if none."""
    named = os.environ.get("APV_CHROMIUM")
    own = playwright.chromium.executable_path
    system = [shutil.which(name) for name in ("chromium", "google-chrome", "chromium-browser")]
    paths = [named] if named else [own, *system]
    return next((path for path in paths if path and Path(path).is_file()), None)
