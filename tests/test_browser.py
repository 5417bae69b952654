"""The inspector in a real browser: JupyterLab and the voila app, driven through Chromium, with screenshots in tests/artefacts/."""
import io
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ARTEFACTS = Path(__file__).with_name("artefacts")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH (Debian: apt-get install chromium), so nothing can be shown in a browser")
YELLOW = (240, 228, 66)  # of the correction
WAIT = 120_000  # ms


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run with snapshots on the phantom."
    from scsam.config import Recipe
    from scsam.phantom import phantom
    from scsam.experiment import remember_data
    from scsam.learner import fit, make_method

    folder = tmp_path_factory.mktemp("browser") / "run"
    recipe = Recipe.preset("smoke", steps=20, val_every=0, val=0.0, unet_optimizer="adam", unet_lr=0.003)
    fit(make_method(recipe), phantom(n=30, test=0), recipe, folder, snapshots=3, progress=False)
    remember_data(folder, "phantom", n=30, test=0)
    return folder


def clickable(folder) -> tuple:
    "A case of a run, and a point on its lesion to which SAM answers with a mask of sensible size."
    from scsam.inspector import Review

    review = Review(folder)
    for case in review.order()[1:]:
        y, x = (np.argwhere(review.truth(case) > 0).mean(0) + 0.5) / review.truth(case).shape
        if 0.005 < review.ask(case, [{"class": 1, "xy": [x, y], "label": 1}]).mean() < 0.9:
            return case, (x, y)
    pytest.fail("SAM answers no click on any lesion")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    "A web server in a process of its own; its words go to a log that is shown when it does not come up."

    def __init__(self, command, url, folder):
        env = {**os.environ, "OMP_NUM_THREADS": "1", **{f"JUPYTER_{k}_DIR": str(folder / k.lower()) for k in ("CONFIG", "RUNTIME", "DATA")}, "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
               "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"), "IPYTHONDIR": str(folder / "ipython"), "JUPYTER_PLATFORM_DIRS": "1"}
        env.pop("IN_TEST", None)  # the reader's tutorial, with the widget
        self.url, self.log = url, folder / "server.log"
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)

    def __enter__(self):
        until = time.monotonic() + 90
        while time.monotonic() < until and self.process.poll() is None:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return self
            except urllib.error.HTTPError:  # it answers, if only that there is no such page
                return self
            except OSError:
                time.sleep(0.3)
        self.__exit__()
        pytest.fail(f"no answer from {self.url}:\n{self.log.read_text()[-3000:]}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        yield b
        b.close()


class Inspector:
    "What a person does with the inspector on a page."

    def __init__(self, page, port):
        self.page, self.elsewhere, self.broken = page, [], []
        page.on("request", lambda r: self.elsewhere.append(r.url) if r.url.startswith("http") and f":{port}/" not in r.url else None)
        page.on("pageerror", lambda e: self.broken.append(str(e)))

    def ready(self):
        self.root = self.page.locator(".scsam").last
        self.root.wait_for(timeout=WAIT)
        self.page.wait_for_function("() => { const r = [...document.querySelectorAll('.scsam')].pop(); return r.dataset.ready && r.dataset.painted && r.dataset.busy === '0' }", timeout=WAIT)
        self.canvas = self.root.locator("canvas")
        return self

    def idle(self):
        self.page.wait_for_function("() => { const r = [...document.querySelectorAll('.scsam')].pop(); return r.dataset.busy === '0' && r.dataset.painted === r.dataset.case }", timeout=WAIT)
        self.page.wait_for_timeout(150)  # a frame to paint in

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)
            self.page.wait_for_timeout(30)
            self.idle()

    @property
    def case(self) -> str:
        return self.root.get_attribute("data-case")

    @property
    def status(self) -> str:
        return self.root.get_attribute("data-status")

    @property
    def message(self) -> str:
        return self.root.locator(".message").inner_text()

    def picture(self) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(self.canvas.screenshot())).convert("RGB")).astype(int)

    def yellow(self) -> int:  # pixels of the correction's outline
        return int((np.abs(self.picture() - YELLOW).sum(-1) < 60).sum())

    def place(self, x, y) -> dict:
        "Where the fraction (x, y) of the image lies on the canvas: an image of 192 x 160, fitted into it."
        box = self.canvas.bounding_box()
        k = min(box["width"] / 192, box["height"] / 160)
        return {"x": box["width"] / 2 + (x - 0.5) * 192 * k, "y": box["height"] / 2 + (y - 0.5) * 160 * k}

    def find(self, case):
        "Go to a case with the keys only."
        self.canvas.focus()
        for _ in range(40):
            if self.case == case:
                return
            self.press("n")
        pytest.fail(f"n never led to {case}")

    def shoot(self, name):
        ARTEFACTS.mkdir(exist_ok=True)
        self.root.screenshot(path=ARTEFACTS / f"{name}.png")


def project(to):
    "What the tutorial notebook needs of the project, copied to a folder in which it may write."
    root = Path(__file__).resolve().parents[1]
    for part in ("settings.ini", "nbs/tutorials/inspect.ipynb", "nbs/images/inspector.png", "results/inspect"):
        (to / part).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (root / part).is_dir() else shutil.copy)(root / part, to / part)


def decisions(folder) -> dict:
    return json.loads((folder / "decisions" / "decisions.json").read_text())["cases"]


def run_all(page):
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=WAIT)
    for _ in range(20):  # the first clicks may come before the kernel does
        page.wait_for_timeout(1000)
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        page.wait_for_timeout(1000)
        if "[ ]" not in page.locator(".jp-CodeCell .jp-InputPrompt").first.inner_text():
            break
    else:
        pytest.fail("JupyterLab does not run the notebook")
    until = time.monotonic() + 2 * WAIT / 1000
    while time.monotonic() < until and not page.locator(".scsam").count():  # JupyterLab has gone to the last cell; go back up
        page.locator(".jp-WindowedPanel-outer").first.evaluate("e => { e.scrollTop = 0 }")
        page.wait_for_timeout(500)


def test_the_tutorial_in_jupyterlab(browser, tmp_path):
    project(tmp_path)
    folder = tmp_path / "runs" / "inspect-tutorial"
    quiet = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    port, token = free_port(), secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}", "--allow-root"]
    with Server(command, f"http://127.0.0.1:{port}/api", tmp_path):
        page = browser.new_page(viewport={"width": 1600, "height": 1100})
        page.goto(f"http://127.0.0.1:{port}/lab/tree/nbs/tutorials/inspect.ipynb?token={token}", timeout=WAIT)
        w = Inspector(page, port)
        run_all(page)
        w.ready()
        target, (x, y) = clickable(folder)

        first = w.case
        w.canvas.focus()
        w.press("n")
        assert w.case != first
        w.press("p")
        assert w.case == first  # and JupyterLab did not take the keys for itself
        w.find(target)
        w.shoot("jupyterlab-case")

        w.press("1", "2")  # the two branches off: what is yellow now is the correction only
        before = w.yellow()
        w.canvas.click(position=w.place(x, y))
        w.idle()
        clicked = w.yellow()
        assert clicked > before + 40, w.message
        w.canvas.click(position=w.place(0.1, 0.1), button="right")
        w.idle()
        w.press("z", "z")
        assert abs(w.yellow() - before) < 20  # both taken back
        w.canvas.click(position=w.place(x, y))
        w.idle()
        assert abs(w.yellow() - clicked) < 20
        w.press("1", "2")
        w.shoot("jupyterlab-click")
        w.press("l")
        assert w.status == "corrected", w.message

        w.press("n")
        rejected = w.case
        w.press("r")
        assert w.status == "rejected", w.message
        cases = decisions(folder)
        assert cases[rejected]["status"] == "rejected" and cases[target]["status"] == "corrected"

        w.press("n", "b")  # a drag with the brush, and one with the box
        w.press("1", "2")
        before = w.yellow()
        a, b = w.place(0.2, 0.3), w.place(0.7, 0.6)
        corner = w.canvas.bounding_box()
        page.mouse.move(corner["x"] + a["x"], corner["y"] + a["y"])
        page.mouse.down()
        page.mouse.move(corner["x"] + b["x"], corner["y"] + b["y"], steps=5)
        page.mouse.up()
        page.mouse.move(1, 1)  # and the ring that shows the brush's size goes with the mouse
        w.idle()
        assert w.yellow() > before + 100
        begun, drawn = w.case, w.yellow()
        w.press("1", "2", "v")
        w.press("k", ",")  # curtain, an earlier snapshot
        w.shoot("jupyterlab-curtain")
        assert w.root.get_attribute("data-step") == "2"

        api = lambda path, data=None: json.load(urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", data, {"Authorization": f"token {token}"})))
        api(f"kernels/{api('kernels')[0]['id']}/restart", b"{}")  # in the middle of a correction
        page.reload(timeout=WAIT)
        run_all(page)
        w.ready()
        w.find(rejected)
        assert w.status == "rejected"
        w.find(begun)
        assert "was begun" in w.message
        w.press("1", "2")
        assert abs(w.yellow() - drawn) < 20  # the brush stroke of before the restart
        w.press("u")
        assert "no decision of this session" in w.message  # said in the widget
        assert not w.broken and not w.elsewhere, (w.broken, w.elsewhere)  # nothing fetched from anywhere else
        assert page.locator(".jp-RenderedText[data-mime-type='application/vnd.jupyter.stderr']").count() == 0


def test_dark_voila_app_at_150_percent_by_keyboard(run, browser, tmp_path):
    port = free_port()
    command = [sys.executable, "-c", f"from scsam.inspector import serve; serve({str(run)!r}, port={port}, browser=False)"]
    with Server(command, f"http://127.0.0.1:{port}/voila/static/nothing", tmp_path):
        context = browser.new_context(viewport={"width": 1000, "height": 730}, device_scale_factor=1.5)  # 1500 x 1095 at 150 %
        page = context.new_page()
        w = Inspector(page, port)
        page.goto(f"http://127.0.0.1:{port}/?theme=dark", timeout=WAIT)  # voila runs the notebook first
        w.ready()
        page.keyboard.press("Tab")  # by keyboard alone
        assert page.evaluate("() => document.querySelector('.scsam').contains(document.activeElement)")
        page.keyboard.press("Escape")  # to the picture
        w.press("n", "a")
        assert w.status == "accepted" and decisions(run)[w.case]["status"] == "accepted"
        w.press("n", "1", "2")
        before = w.picture()
        w.press("Shift+ArrowRight", "Shift+ArrowDown", "Enter")  # the crosshair, and a point
        assert w.root.locator(".message").get_attribute("data-level") != "error", w.message
        assert np.abs(w.picture() - before).max() > 60
        wide = page.evaluate("() => [document.querySelector('.scsam'), ...document.querySelectorAll('.scsam *')].filter(e => e.scrollWidth > e.clientWidth + 2 && getComputedStyle(e).display === 'grid').length")
        assert max(map(int, page.evaluate("() => getComputedStyle(document.querySelector('.scsam')).backgroundColor.match(/\\d+/g)"))) < 80, "not dark"
        assert wide == 0, "something sticks out at 150 %"
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth + 2")
        w.press("c", "1", "2")
        w.shoot("voila-dark")
        noted, place = w.case, int(w.root.locator(".count").inner_text().split()[0])
        w.root.locator("textarea").fill("look again")  # a note, and no decision
        w.press("Escape")
        assert w.status == "undecided" and decisions(run)[noted]["note"] == "look again", w.message
        for _ in range(3):  # faster than the kernel answers
            page.keyboard.press("n")
        w.idle()
        assert w.root.locator(".count").inner_text().startswith(f"{place + 3} of ")
        before = w.picture()
        w.press("+", "+", "m", "Shift+ArrowRight", "Shift+ArrowRight")  # zoom and pan
        panned = w.picture()
        w.press("0")
        assert np.abs(panned - before).max() > 60 and np.abs(w.picture() - before).max() < 20
        assert not w.broken and not w.elsewhere, (w.broken, w.elsewhere)
