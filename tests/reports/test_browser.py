"""A browser shows the page as it is meant: no complaint, no request, no sideways scroll, in light and dark."""

import functools
import html
import http.server
import os
import re
import shutil
import subprocess
import threading

import pytest
from PIL import Image

import reports
from tests.result_folder import Run, make_result

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--hide-scrollbars"),
    *("--virtual-time-budget=2000", "--enable-logging=stderr"),
]
PROBE = """
<!DOCTYPE html><title>probe</title><body>
<iframe id=frame style="width:{width}px;height:900px;border:0" srcdoc="{page}"></iframe>
<script>
frame.onload = function () {{
  var page = frame.contentDocument, root = page.documentElement, wide = [];
  page.querySelectorAll("details").forEach(function (part) {{ part.open = true; }});
  page.querySelectorAll("body *").forEach(function (part) {{
    if (part.closest(".scroll, nav ul, pre, .skip, .hidden, svg")) {{ return; }}
    if (part.getBoundingClientRect().right > root.clientWidth + 0.5) {{
      wide.push(part.tagName + "." + part.className);
    }}
  }});
  document.body.textContent = "scrolls " + root.scrollWidth + " of " + root.clientWidth + "; wide: " + wide.join(" ");
}};
</script>
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium found: install the chromium package, or set CHROMIUM to a browser"
    ),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a sweep with words that would run if they were markup."""
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    return reports.write_all(
        make_result(
            tmp_path_factory.mktemp("page"),
            Run(loads=(1.0, 5.0), duration_s=15, failing=0.05, message=evil, question=evil, model="m" * 200),
        )
    )


def run(tmp_path, *words):
    """Run Chromium to its end; its output and what it logged."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def complaints(log):
    """Console messages in a log."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


def test_the_console_stays_silent(page, tmp_path):
    """No error, no warning, no blocked request, no hostile script that ran, and our own script did run."""
    dom, log = run(tmp_path, "--dump-dom", page.as_uri())

    assert complaints(log) == []
    assert 'class="tip"' in dom
    assert dom.count("<svg") >= 8


def test_nothing_is_asked_of_a_server_but_the_page(page, tmp_path):
    """Served over HTTP, the page is the only thing that the browser fetches."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _format, *parts):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=page.parent)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        _, log = run(tmp_path, "--dump-dom", f"http://127.0.0.1:{server.server_port}/report.html")
        server.shutdown()
        thread.join()

    assert complaints(log) == []
    assert asked == ["/report.html"]


@pytest.mark.parametrize("width", [390, 1440])
def test_nothing_scrolls_sideways(page, tmp_path, width):
    """On a phone and on a desk the page is as wide as its window; what is wider scrolls in a box of its own."""
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=width, page=html.escape(page.read_text(encoding="utf-8"))), encoding="utf-8")
    dom, _ = run(tmp_path, f"--window-size={max(width, 600)},900", "--dump-dom", probe.as_uri())
    (found,) = re.findall(r"scrolls (\d+) of (\d+); wide: ([^<]*)", dom)

    assert found == (str(width), str(width), "")


def test_a_chinese_page_is_as_wide_as_a_phone(page, tmp_path):
    """In the other language nothing scrolls sideways either, and nothing hostile runs."""
    folder = tmp_path / "result"
    shutil.copytree(page.parent, folder)
    chinese = reports.write_all(folder, "zh").read_text(encoding="utf-8")
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE.format(width=390, page=html.escape(chinese)), encoding="utf-8")
    dom, log = run(tmp_path, "--window-size=600,900", "--dump-dom", probe.as_uri())

    assert complaints(log) == []
    assert re.findall(r"scrolls (\d+) of (\d+); wide: ([^<]*)", dom) == [("390", "390", "")]


@pytest.mark.parametrize(("scheme", "paper"), [(1, (246, 246, 243)), (0, (18, 21, 24))], ids=["light", "dark"])
def test_the_paper_follows_the_light(page, tmp_path, scheme, paper):
    """Light and dark are drawn from the same file."""
    picture = tmp_path / "page.png"
    run(
        tmp_path,
        "--window-size=900,600",
        f"--blink-settings=preferredColorScheme={scheme}",
        f"--screenshot={picture}",
        page.as_uri(),
    )
    with Image.open(picture) as image:
        corner = image.convert("RGB").getpixel((3, 590))

    assert corner == paper


def test_the_page_prints(page, tmp_path):
    """A PDF of several pages comes out."""
    paper = tmp_path / "page.pdf"
    run(tmp_path, f"--print-to-pdf={paper}", page.as_uri())

    assert paper.read_bytes()[:5] == b"%PDF-"
    assert len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes())) > 2
