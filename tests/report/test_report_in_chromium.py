"""The page in a real browser: every picture loads, nothing is asked of any network, it can be read in both lights."""

from __future__ import annotations

import json
import re

import pytest
from browser import asked_for, needs_chromium, open_page

from mae_vlm.report.page import report

pytestmark = [needs_chromium, pytest.mark.slow]

_LOOK = """<script>addEventListener("load", () => {
  const pictures = [...document.images];
  document.title = JSON.stringify({pictures: pictures.length, loaded: pictures.filter(one => one.complete && one.naturalWidth > 0).length,
    wide: document.documentElement.scrollWidth > innerWidth, ink: getComputedStyle(document.body).color,
    paper: getComputedStyle(document.body).backgroundColor, charts: document.querySelectorAll("svg").length,
    sections: [...document.querySelectorAll("nav a")].map(one => !!document.getElementById(one.hash.slice(1)))}) })</script>"""


def seen(page, folder, *flags, added=""):
    """What a script finds in a copy of the page, and the addresses that were asked for."""
    copy = folder / "copy.html"
    copy.write_text(page.replace("</body>", f"{added}{_LOOK}</body>"))
    document = open_page(copy, folder, *flags)
    title = re.search(r"<title>(.*?)</title>", document, re.DOTALL)
    assert title, document[:500]
    return json.loads(title[1].replace("&amp;", "&")), asked_for(folder / "net.json")


@pytest.fixture(scope="module")
def page(run_with_pictures):
    return report(run_with_pictures)[0].decode()


def test_every_picture_loads_and_no_request_leaves(page, tmp_path):
    found, asked = seen(page, tmp_path, "--window-size=1240,900")
    assert found["pictures"] == found["loaded"] == 8 and found["charts"] > 6
    assert all(found["sections"]) and not found["wide"]
    assert asked == set()


def test_a_request_would_have_been_noticed(page, tmp_path):
    _, asked = seen(page, tmp_path, added='<img src="https://example.org/a.png">')
    assert asked == {"https://example.org/a.png"}


def test_it_is_dark_where_the_reader_wants_it_dark_and_fits_a_narrow_window(page, tmp_path):
    light, _ = seen(page, tmp_path, "--window-size=1240,900")
    dark, _ = seen(page, tmp_path, "--blink-settings=preferredColorScheme=0", "--window-size=500,900")
    assert brightness(light["paper"]) > 200 > 80 > brightness(light["ink"])
    assert brightness(dark["paper"]) < 80 < 200 < brightness(dark["ink"])
    assert not dark["wide"]


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3
