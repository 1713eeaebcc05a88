"""One row of the matrix: a client whose cells are checked one after the other, told to `matrix.py` as lines of JSON.

`matrix.py` starts the gateway, with a provider behind it that answers quickly (`MODEL`) and one whose streams last for
ten seconds (`SLOW`), and says where they are in the variable MATRIX."""

import importlib.metadata
import json
import os
import pathlib
import sys
import time
import traceback
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "python"))

from support import echo  # noqa: E402,F401

PLACE = json.loads(os.environ["MATRIX"])
URL, GUARDED = PLACE["url"], PLACE["guarded"]
# As Anthropic's SDK takes it.
ROOT, GUARDED_ROOT = URL.removesuffix("/v1"), GUARDED.removesuffix("/v1")
MODEL, SLOW, EMBEDDER = "gpt-4o-mini", "slow", "text-embedding-3-small"
KEY = "sk-callers-own-0000000001"
# What the gateway makes of a call that fails and fails again.
ATTEMPTS = 2
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"], "type": "string"}},
    "required": ["city", "days", "unit"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": PARAMETERS}}]


def fitting(prompt):
    """What the simulator says to `prompt` where PARAMETERS are its schema."""
    return {"city": echo(prompt), "days": 1, "unit": "C"}


def user(prompt):
    return [{"role": "user", "content": prompt}]


def equal(have, wanted):
    assert have == wanted, f"{have!r} is not {wanted!r}"


def raised(kind, call):
    """The exception of `kind` that `call` must raise."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind}, but {answer!r}")


def ledger(which="ledger"):
    with urllib.request.urlopen(PLACE[which], timeout=10) as answer:
        return json.load(answer)


def until(condition, which="ledger"):
    """Waits until that provider's ledger fulfils `condition`."""
    end = time.monotonic() + 20
    while not condition(seen := ledger(which)):
        assert time.monotonic() < end, f"the ledger stays so: {seen}"
        time.sleep(0.01)


def refused(attempts, kind, call):
    """The exception of `kind` that `call` must raise, for which exactly so many requests reach the provider."""
    before = ledger()["requests"]
    error = raised(kind, call)
    until(lambda now: now["in_flight"] == 0)
    equal(ledger()["requests"] - before, attempts)
    return error


def timed_out(kind, call):
    """`call`, to which no answer comes, gives up in time and leaves nothing in flight."""
    start = time.monotonic()
    error = raised(kind, call)
    took = time.monotonic() - start
    assert took < 5, f"{took} s"
    until(lambda now: now["in_flight"] == 0)
    return error


def cut(kind, pieces, prompt):
    """The exception of `kind` by which the texts that `pieces` gives end, none of them wrong."""
    got = []

    def read():
        for text in pieces():
            got.append(text)

    error = raised(kind, read)
    text = "".join(got)
    assert text and echo(prompt).startswith(text), f"{got}"
    return error


class leaving:
    """Within it, a stream from the slow provider is left before its end, and the provider must see that."""

    def __enter__(self):
        self.before = ledger("slow_ledger")["abandoned"]

    def __exit__(self, kind, *_):
        if kind is None:
            until(lambda now: (now["in_flight"], now["abandoned"]) == (0, self.before + 1), "slow_ledger")


class Row:
    def __init__(self, *packages):
        self.cells = {}
        self.say({"versions": {name: importlib.metadata.version(name) for name in packages}})

    def say(self, line):
        print(json.dumps(line), flush=True)

    def cell(self, feature, note=""):
        """A feature that is checked; `note` says what a reader of the table must know."""

        def named(check):
            self.cells[feature] = (check, note)
            return check

        return named

    def none(self, feature, reason):
        """The client has no such feature."""
        self.say({"feature": feature, "state": "none", "note": reason})

    def run(self):
        wanted = PLACE["features"]
        for feature, (check, note) in self.cells.items():
            if wanted and feature not in wanted:
                continue
            try:
                # A prompt of its own: the simulator counts attempts by body.
                check(" ".join([pathlib.Path(sys.argv[0]).stem, *sys.argv[1:], feature]))
                self.say({"feature": feature, "state": "ok", "note": note})
            except BaseException:
                self.say({"feature": feature, "state": "failed", "note": traceback.format_exc()})
