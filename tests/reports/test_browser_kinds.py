"""A browser shows pages of every kind as they are meant: comparison, index, kernels, study."""

import functools
import html
import http.server
import json
import re
import threading

import pytest

import reports
from harness.messages import language
from tests import page_kinds
from tests.page_kinds import EVIL
from tests.reports import test_browser as browser
from tests.result_folder import Run, make_result

WIDTHS = (390, 1440)


def sweep(place):
    """A run of many stages, some of which fail requests and break limits."""
    run = Run(loads=(0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 9.0), duration_s=12, failing=0.05, question=EVIL, message=EVIL)
    return reports.write_all(make_result(place, run)).read_text(encoding="utf-8")


KINDS = {**page_kinds.KINDS, "run": sweep}
PROBE = """
<!DOCTYPE html><link rel="icon" href="data:,"><title>probe</title><body>
{frames}
<script>
function look(frame) {{
  var page = frame.contentDocument, root = page.documentElement, found = {{}};
  var all = function (what) {{ return Array.from(page.querySelectorAll(what)); }};
  all("details").forEach(function (part) {{ part.open = true; }});
  found.widths = [root.scrollWidth, root.clientWidth];
  found.wide = all("body *").filter(function (part) {{
    return !part.closest(".scroll, nav ul, pre, .skip, .hidden, svg") &&
      part.getBoundingClientRect().right > root.clientWidth + 0.5;
  }}).map(function (part) {{ return part.tagName + "." + part.className; }});
  found.charts = all("svg.chart").length;
  found.unsaid = all("svg.chart").filter(function (part) {{
    return part.getAttribute("role") !== "img" || part.getAttribute("aria-labelledby").split(" ").some(function (id) {{
      var said = page.getElementById(id);
      return !said || !said.textContent.trim();
    }});
  }}).length;
  found.dead = all("a[href^='#']").map(function (part) {{ return part.getAttribute("href").slice(1); }})
    .filter(function (id) {{ return !page.getElementById(id); }});
  found.foreign = all("img, iframe, object, link[rel=stylesheet], [onerror], [src]").length;
  found.scripts = all("script:not([type])").length;
  found.ran = all(".tip").length;
  all(".is-live").forEach(function (part) {{ part.classList.remove("is-live"); }});  // the drawings that the script hid
  return Object.assign(found, words(frame, all("svg.chart")));
}}
function words(frame, charts) {{
  var found = {{sizes: [], cut: [], met: []}};
  charts.forEach(function (chart) {{
    var paper = chart.getBoundingClientRect(), scale = paper.width / chart.viewBox.baseVal.width, before = [];
    chart.querySelectorAll("text").forEach(function (part) {{
      var box = part.getBoundingClientRect(), said = part.textContent;
      found.sizes.push(scale * parseFloat(frame.contentWindow.getComputedStyle(part).fontSize));
      if (box.left < paper.left - 1 || box.right > paper.right + 1 ||
          box.top < paper.top - 1 || box.bottom > paper.bottom + 1) {{ found.cut.push(said); }}
      before.forEach(function (other) {{
        var wide = Math.min(box.right, other.box.right) - Math.max(box.left, other.box.left);
        var high = Math.min(box.bottom, other.box.bottom) - Math.max(box.top, other.box.top);
        if (wide > 1.5 && high > 0.35 * box.height) {{ found.met.push([other.said, said]); }}
      }});
      before.push({{box: box, said: said}});
    }});
  }});
  return found;
}}
window.onload = function () {{
  var all = {{}};
  document.querySelectorAll("iframe").forEach(function (frame) {{ all[frame.id] = look(frame); }});
  document.body.textContent = "found " + JSON.stringify(all) + " end";
}};
</script>
"""

pytestmark = browser.pytestmark


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What one browser found on every page in both languages and widths; its log; what it asked the server for."""
    place = tmp_path_factory.mktemp("served")
    frames = []
    for kind, make in KINDS.items():
        for lang in ("en", "zh"):
            name = f"{kind}-{lang}"
            with language(lang):
                page = make(tmp_path_factory.mktemp(kind)) if make is sweep else page_kinds.drawn(kind, lang)
            (place / f"{name}.html").write_text(page, encoding="utf-8")
            frames += [
                f'<iframe id={name}-{width} src="{name}.html" style="width:{width}px;height:600px;border:0"></iframe>'
                for width in WIDTHS
            ]
    (place / "probe.html").write_text(PROBE.format(frames="".join(frames)), encoding="utf-8")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, _format, *parts):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=place)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/probe.html"
        dom, log = browser.run(tmp_path_factory.mktemp("browser"), "--window-size=1500,900", "--dump-dom", url)
        server.shutdown()
        thread.join()
    found = json.loads(html.unescape(re.search(r"found (\{.*\}) end", dom)[1]))
    return found, browser.complaints(log), set(asked)


@pytest.fixture(params=[f"{kind}-{lang}" for kind in KINDS for lang in ("en", "zh")])
def page(request, seen):
    """What was found on one page, at each width."""
    return [seen[0][f"{request.param}-{width}"] for width in WIDTHS]


def test_no_console_complains_and_no_request_leaves_a_page(seen):
    """No error, no blocked request, nothing fetched but the pages themselves."""
    _, complaints, asked = seen

    assert complaints == []
    assert asked == {f"/{kind}-{lang}.html" for kind in KINDS for lang in ("en", "zh")} | {"/probe.html"}


def test_no_page_scrolls_sideways(page):
    """On a phone and on a desk a page is as wide as its window; what is wider scrolls in a box of its own."""
    assert [found["widths"] for found in page] == [[width, width] for width in WIDTHS]
    assert [found["wide"] for found in page] == [[], []]


def test_every_figure_has_an_alternative_text(page):
    """A name and a description, neither of them empty."""
    assert page[0]["charts"] >= 1
    assert page[0]["unsaid"] == 0


def test_every_link_within_a_page_leads_somewhere(page):
    """Of the sections and of every explained word."""
    assert page[0]["dead"] == []


def test_what_came_from_outside_is_text(page):
    """No element of a hostile name is there; the one script is ours, and did run."""
    assert page[0]["foreign"] == 0
    assert page[0]["scripts"] == 1
    assert page[0]["ran"] == 1


def test_words_in_figures_can_be_read_on_a_phone_and_on_a_desk(page):
    """No smaller than nine pixels, no larger than the page's own text."""
    sizes = [size for found in page for size in found["sizes"]]

    assert min(sizes) >= 9
    assert max(sizes) <= 16


def test_words_in_figures_are_whole_and_apart(page):
    """None is cut at the figure's edge, none lies on another."""
    assert [found["cut"] for found in page] == [[], []]
    assert [found["met"] for found in page] == [[], []]
