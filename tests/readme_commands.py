"""Prints a command line of README.md: 'demo' (install and run the main job) or 'test' (install and pass the tests)."""
import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"


def commands() -> dict:
    "The first one-line shell blocks that hold `scsam demo` and `nbdev_test`."
    lines = [b.strip() for b in re.findall(r"```(?:sh|bash)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)]
    find = lambda word: next(line for line in lines if word in line and "\n" not in line)
    return {"demo": find("scsam demo"), "test": find("nbdev_test")}


if __name__ == "__main__":
    print(commands()[sys.argv[1]])
