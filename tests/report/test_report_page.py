"""The page: whole, well-formed, complete, bounded, and nothing in it comes from elsewhere."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mae_vlm.commands.report import main
from mae_vlm.report import album
from mae_vlm.report.charts import Chart, Line, chart, number, thinned
from mae_vlm.report.page import report
from mae_vlm.report.recorded import read

_VOID = {"meta", "link", "img", "br"}


class Checked(HTMLParser):
    """Notes tags that are not closed in order, addresses, ids and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.wrong, self.addresses, self.ids, self.tags = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action", "data", "poster")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture(scope="module")
def page(run_with_pictures):
    return report(run_with_pictures)[0].decode()


def test_every_tag_is_closed_and_every_id_is_there_once(page):
    seen = Checked(page)
    assert seen.wrong == [] and seen.open == []
    assert len(seen.ids) == len(set(seen.ids))
    assert {link[1:] for link in seen.addresses if link.startswith("#")} <= set(seen.ids)


def test_nothing_comes_from_elsewhere(page):
    seen = Checked(page)
    assert all(address.startswith(("#", "data:")) for address in seen.addresses)
    assert not re.search(r"https?://|@import|url\((?!data:)|<script|<iframe|<object", page)


def test_it_says_what_was_found_before_anything_else(page, recorded):
    assert page.index("Nothing found") < page.index("<h2>Curves")
    faulty = report(recorded("mask99"))[0].decode()
    assert faulty.index("mask-ratio-extreme") < faulty.index("<h2>Curves")
    assert "What to change" in faulty and "model.masking.ratio" in faulty


def test_what_could_not_be_told_stands_there_with_its_reason(page):
    assert "no image-text objective was trained" in page


def test_pictures_are_described_and_all_the_charts_too(page):
    seen = Checked(page)
    images = [attributes for tag, attributes in seen.tags if tag == "img"]
    assert len(images) == 8 and all(image["alt"] and image["width"] and image["height"] for image in images)  # six of eight steps, and two
    charts = [attributes for tag, attributes in seen.tags if tag == "svg"]
    assert len(charts) > 6 and all(one["role"] == "img" and " to " in one["aria-label"] for one in charts)


def test_what_scrolls_can_be_reached_by_keyboard(page):
    scrolling = [attributes for _, attributes in Checked(page).tags if re.search(r"\b(strip)\b", attributes.get("class") or "")]
    assert scrolling and all(one["tabindex"] == "0" and one["aria-label"] for one in scrolling)


def test_a_large_picture_is_made_smaller_until_it_fits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (1200, 1600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x_00000001.png")
    kind, data, size = album.encoded(tmp_path / "x_00000001.png", 100_000)
    assert kind == "jpeg" and len(data) <= 100_000
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == size and image.width * 1200 == image.height * 1600


def test_the_first_and_the_last_picture_are_among_those_shown(page):
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert captions[0] == "before the first step" and captions[5] == "step 70"


def test_a_picture_that_was_cut_off_is_left_out(run_with_pictures, page):
    broken = run_with_pictures / "pictures" / "cut_00000001.png"
    broken.write_bytes(b"\x89PNG\r\n")
    try:
        assert report(run_with_pictures)[0].decode().count("<img") == page.count("<img")
    finally:
        broken.unlink()


def test_pictures_arrive_as_they_are(run_with_pictures, page):
    first = re.search(r'src="data:image/jpeg;base64,([^"]+)"', page)
    with (
        Image.open(io.BytesIO(base64.b64decode(first[1]))) as shown,
        Image.open(run_with_pictures / "pictures" / "reconstruction_00000000.png") as own,
    ):
        assert shown.size == own.size
        assert np.abs(np.asarray(shown, int) - np.asarray(own, int)).mean() < 60  # of noise, which JPEG keeps badly


def test_text_of_a_run_is_no_markup(recorded, tmp_path):
    (tmp_path / "config.yaml").write_text("name: '<script>alert(1)</script>'\n")
    (tmp_path / "metrics.csv").write_text("step,train/<b>x/loss\n1,2.0\n2,1.0\n")
    page = report(tmp_path)[0].decode()
    assert "<script" not in page and "<b>x" not in page and "&lt;script&gt;" in page


def test_the_start_is_what_was_measured_before_the_first_step(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,val/loss\n0,3.0\n0,2.0\n1,1.5\n1,1.0\n")
    assert read(tmp_path).curves["val/loss"] == [(0, 3.0), (1, 1.0)]


@pytest.mark.parametrize("left", [["config.yaml"], ["metrics.csv"], ["facts.json"]])
def test_a_run_of_which_little_is_left_has_a_page_too(recorded, tmp_path, left):
    for name in left:
        (tmp_path / name).write_text((recorded("scenes") / name).read_text())
    content, verdict = report(tmp_path)
    assert Checked(content.decode()).wrong == [] and verdict.names == []


def test_a_file_that_was_cut_off_is_read_up_to_there(recorded, tmp_path):
    for name in ("config.yaml", "metrics.csv", "facts.json", "sampled.json"):
        text = (recorded("zero") / name).read_text()
        (tmp_path / name).write_text(text[: int(0.9 * len(text))])
    assert report(tmp_path)[1].names == ["zero-learning-rate"]


def test_the_command_writes_the_page_and_tells_the_verdict(recorded, tmp_path, capsys):
    assert main([str(recorded("zero")), "--out", str(tmp_path / "page.html")]) == 0
    told = capsys.readouterr().out
    assert "zero-learning-rate: The learning rate is zero" in told and "change: leave model.optimizer.base_lr out" in told
    assert (tmp_path / "page.html").read_text().rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda folder: folder / "nowhere", "is not a folder"),
        (lambda folder: folder, "did you mean"),
    ],
)
def test_no_run_is_told_in_one_line(tmp_path, capsys, make, told):
    (tmp_path / "default" / "version_0").mkdir(parents=True)
    (tmp_path / "default" / "version_0" / "metrics.csv").write_text("step\n")
    assert main([str(make(tmp_path))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mae_vlm: error: ") and told in error and error.count("\n") == 1


def test_it_needs_no_torch(recorded, tmp_path):
    program = (
        "import sys; from mae_vlm.cli import main; "
        f"code = main(['report', {str(recorded('zero'))!r}, '--out', {str(tmp_path / 'page.html')!r}]); "
        "sys.exit(code or int('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


# --- charts


def test_a_curve_without_points_draws_nothing():
    assert chart(Chart("x", "", [Line("y", [], 0)])) == ""


@pytest.mark.parametrize("values", [[0.0], [1.0, 1.0], [1e-9, 1e9], [-3.0, -1.0], [5e-8, 5.1e-8], [0.0, 0.0]])
@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("zero", [True, False])
def test_any_values_have_an_axis_with_ticks_inside(values, log, zero):
    drawn = chart(Chart("x", "unit", [Line("y", list(enumerate(values)), 0)], log=log, zero=zero))
    places = [float(word) for word in re.findall(r'(?:cy|y1)="([\d.-]+)"', drawn)]
    assert places and all(0 <= place <= 212 for place in places)
    assert drawn.count('class="grid"') >= 1


def test_thinning_keeps_the_ends_of_a_spike():
    curve = [(step, 1.0) for step in range(10_000)]
    curve[5_003], curve[7_001] = (5_003, 99.0), (7_001, -99.0)
    kept = thinned(curve)
    assert len(kept) <= 400 and (5_003, 99.0) in kept and (7_001, -99.0) in kept and kept == sorted(kept)


@pytest.mark.parametrize(
    "value, told", [(0, "0"), (0.12345, "0.1235"), (12345.6, "12,346"), (0.00001234, "1.2e-5"), (float("nan"), "nan"), (3.0, "3")]
)
def test_numbers_are_short(value, told):
    assert number(value) == told
