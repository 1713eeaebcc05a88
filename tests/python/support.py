"""Starts the real program and its simulator for checks in Python, and knows what a right answer is."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.request

FOREBAY = os.environ.get("FOREBAY", "target/debug/forebay")


def fnv(data):
    """FNV-1a, 64 bits: the simulator's hash."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def echo(prompt):
    """What the simulator answers to `prompt`, and to no other: see `forebay simulate --help`."""
    return f"echo {fnv(prompt.encode()):016x}: {prompt[:200]}"


class Running:
    """A process of ours that has said where it listens."""

    def __init__(self, process, url, log):
        self.process, self.url, self._log = process, url, log

    def log(self):
        return pathlib.Path(self._log).read_text(errors="replace")

    def ledger(self):
        root = self.url.removesuffix("/v1")
        with urllib.request.urlopen(f"{root}/simulator/ledger", timeout=10) as answer:
            return json.load(answer)


def _environment():
    names = ("PATH", "HOME", "TMPDIR", "LANG", "LLVM_PROFILE_FILE")
    return {name: os.environ[name] for name in names if name in os.environ}


@contextlib.contextmanager
def _running(arguments, directory, name):
    log = os.path.join(directory, f"{name}.log")
    with open(log, "w") as err:
        process = subprocess.Popen(
            [os.path.abspath(FOREBAY), *arguments],
            stdout=subprocess.PIPE, stderr=err, text=True, cwd=directory, env=_environment(),
        )
        try:
            line = process.stdout.readline()
            found = re.search(r"http://\S+", line)
            if not found:
                raise RuntimeError(f"{name} did not start: {line!r} {pathlib.Path(log).read_text()}")
            yield Running(process, found.group(), log)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


@contextlib.contextmanager
def simulator(*flags):
    with tempfile.TemporaryDirectory() as directory:
        with _running(["simulate", "--listen", "127.0.0.1:0", *flags], directory, "simulate") as running:
            yield running


@contextlib.contextmanager
def gateway(upstream, more="", models=("*",)):
    """The daemon in front of `upstream`, which serves `models`; `more` is TOML behind the upstream's own keys."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "gateway.toml")
        with open(path, "w") as file:
            file.write(f"""
[server]
listen = "127.0.0.1:0"
[upstreams.simulator]
base_url = "{upstream}"
api_keys = ["sk-simulated-0000000001"]
models = {json.dumps(list(models))}
{more}
""")
        with _running(["serve", "-c", path], directory, "serve") as running:
            running.url = running.url.rstrip("/") + "/v1"
            yield running
