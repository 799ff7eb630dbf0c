"""`python -m docs.tools.pictures`: the page of a run and of a study on the simulator, as PNG, by headless Chromium.

`make pictures` runs it. Both pages are marked SIMULATED; a picture is at most 300 kB.
"""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
RUN = ("run", "chat", "--engine", "simulator", "--quiet")
STUDY = ("tune", "tune", "--quiet")
WIDTH, HEIGHT = 1200, 1500
MOST_BYTES = 300_000
COLORS = 128


def main() -> None:
    """Run a scenario and a study, and take a picture of each page in both languages."""
    with tempfile.TemporaryDirectory() as folder:
        for name, command in (("run", RUN), ("study", STUDY)):
            out = Path(folder) / name
            _harness(*command, "--out", str(out))
            for language, suffix in (("en", ""), ("zh", ".zh")):
                _harness("report", str(out), "--lang", language)
                taken(out / "report.html", PICTURES / f"{name}{suffix}.png")


def _harness(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "harness", *words], cwd=ROOT, check=True)


def taken(page: Path, picture: Path) -> None:
    """The top of a page as a small PNG."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
        size = [f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile", f"--screenshot={shot}"]
        subprocess.run([chromium, *flags, *size, page.resolve().as_uri()], check=True, capture_output=True, timeout=120)
        written = io.BytesIO()
        Image.open(shot).convert("RGB").quantize(COLORS).save(written, "PNG", optimize=True)
    assert len(written.getvalue()) <= MOST_BYTES, f"{picture.name}: {len(written.getvalue())} bytes"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(written.getvalue())


if __name__ == "__main__":
    main()
