"""The example page, in a headless Chromium: it shows the probabilities that Python computes.

It needs npm's packages of the page (`npm install` in examples/browser), playwright and a Chromium;
SKCLIPSVD_SCREENSHOT names a file for a picture of the page.
"""

import functools
import os
import runpy
import shutil
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "examples" / "browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The example's folder, with what its script writes, and the classifier that it fitted."""
    if CHROMIUM is None or not (PAGE / "node_modules").is_dir():
        pytest.skip("needs a Chromium, and `npm install` in examples/browser")
    folder = tmp_path_factory.mktemp("browser") / "page"
    shutil.copytree(PAGE, folder, ignore=shutil.ignore_patterns("node_modules", "digits.*"))
    (folder / "node_modules").symlink_to(PAGE / "node_modules")
    clf = runpy.run_path(str(folder / "export.py"))["clf"]
    return folder, clf


@pytest.fixture(scope="module")
def address(folder):
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder[0]))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def page(address):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 720, "height": 640})
        said = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        page.get_by_text("Draw a digit, large.").wait_for()
        yield page
        assert not said
        browser.close()


def shown(page):
    page.get_by_text("Answered in").wait_for()
    rows = page.locator("#answer tr")
    names = [row.locator("th").text_content() for row in rows.all()]
    probabilities = [float(row.get_attribute("data-probability")) for row in rows.all()]
    assert page.locator("#answer tr.best th").text_content() == names[np.argmax(probabilities)]
    return dict(zip(names, probabilities, strict=True))


def test_a_picture_is_answered_as_python_does(page, folder, digits, tmp_path):
    """At the model's own size, so that nothing depends on how a browser resizes."""
    clf = folder[1]
    for path in digits[0][600:603]:
        Image.open(path).resize((32, 32), Image.Resampling.BICUBIC).save(tmp_path / "a.png")
        page.get_by_text("Clear").click()
        page.locator("#file").set_input_files(tmp_path / "a.png")
        found = shown(page)
        assert list(found) == clf.classes_.tolist()
        expected = clf.predict_proba([tmp_path / "a.png"])[0]
        np.testing.assert_allclose(list(found.values()), expected, rtol=0, atol=1e-5)


def test_what_is_drawn_is_read(page):
    box = page.locator("#pad").bounding_box()

    def stroke(*points):
        xs, ys = zip(*points, strict=True)
        page.mouse.move(box["x"] + xs[0], box["y"] + ys[0])
        page.mouse.down()
        for x, y in points[1:]:
            page.mouse.move(box["x"] + x, box["y"] + y, steps=8)
        page.mouse.up()

    circle = [(128 + 70 * np.sin(a), 128 - 95 * np.cos(a)) for a in np.linspace(0, 2 * np.pi, 25)]
    stroke(*circle)
    found = shown(page)
    if "SKCLIPSVD_SCREENSHOT" in os.environ:
        page.screenshot(path=os.environ["SKCLIPSVD_SCREENSHOT"])
    assert max(found, key=found.get) == "zero"
    page.get_by_text("Clear").click()
    assert page.locator("#answer tr").count() == 0
