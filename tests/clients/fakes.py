"""Providers that nobody here wrote, behind the real daemon: llmock, which also judges its client, and aimock under chaos.

usage: fakes.py [--older VENV] [--node FOLDER]   (as matrix.py)"""

import argparse
import asyncio
import collections
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "python"))

import openai  # noqa: E402

from support import gateway  # noqa: E402

CALLS = 200
# A caller that is told its stream has broken asks again; one that is told nothing would not.
ASKS = 8


def free_port():
    # Neither of them can be told to take one and to say which.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(command, port, path):
    """A server on that port that has answered at `path`."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                    break
                except urllib.error.HTTPError:
                    break
                except OSError:
                    log.seek(0)
                    assert process.poll() is None and time.monotonic() < end, log.read()
                    time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


async def one(client, places, prompt, stream, again):
    async with places:
        return await answered(client, prompt, stream, again)


async def answered(client, prompt, stream, again):
    """The text of the answer, asking again when a stream that has begun breaks, and with `again` whatever fails; or the error."""
    messages = [{"role": "user", "content": prompt}]
    error = None
    for ask in range(ASKS):
        begun = False
        try:
            if not stream:
                answer = await client.chat.completions.create(model="m", messages=messages)
                return answer.choices[0].message.content
            text, finish = "", None
            async for chunk in await client.chat.completions.create(model="m", messages=messages, stream=True):
                begun = True
                for choice in chunk.choices:
                    text += choice.delta.content or ""
                    finish = choice.finish_reason or finish
            assert finish, f"the stream of {prompt!r} ended without an error and without a finish"
            return text
        except openai.APIError as broken:
            error = broken
            if not begun and not again:
                break
            await asyncio.sleep(0.3 * 2**ask)
    return error


async def ask_all(url, prompts, is_stream, at_once=CALLS, timeout="60s", again=False):
    headers = {"x-forebay-timeout": timeout}
    places = asyncio.Semaphore(at_once)
    async with openai.AsyncOpenAI(timeout=120, max_retries=0, base_url=url, api_key="unused", default_headers=headers) as client:
        return await asyncio.gather(*(one(client, places, prompt, is_stream(n), again) for n, prompt in enumerate(prompts)))


def right_or_honest(prompts, answers, is_right, may_fail):
    """Every call is answered with its own answer or ends with one error in the gateway's words."""
    problems, failed = [], collections.Counter()
    for prompt, answer in zip(prompts, answers):
        if isinstance(answer, openai.APIError):
            failed[f"{type(answer).__name__} {getattr(answer, 'status_code', 'in a stream')} {answer.code}"] += 1
            if not answer.message:
                problems.append(f"{prompt!r}: an error without a word: {answer!r}")
        elif not is_right(prompt, answer):
            problems.append(f"{prompt!r} is answered {answer!r}")
    if sum(failed.values()) > may_fail:
        problems.append(f"{sum(failed.values())} calls failed: {dict(failed)}")
    return problems, failed


def llmock(older):
    """Each kind of fault is judged apart, for the judge takes a wait that is not longer than the one before for no backoff:
    a 429 or 503 with `Retry-After` holds back the whole account, so that the first retry of another call may wait longer
    than its second; and what breaks behind its first content is asked for again by the caller, whose patience would mix
    with the gateway's: there the gateway has none, and what is judged is that it tells of each break."""
    errors = ["--error-rate", "500=0.15"]
    limits = ["--rpm", "3000", "--error-rate", "429=0.05", "--error-rate", "503=0.05"]
    breaks = ["--stream-fault", "truncate=0.15", "--stream-fault", "malformed=0.1", "--stream-chunk-delay-ms", "20"]
    half = lambda n: n % 2 == 1
    return [
        *judged(older, errors, half, CALLS, 6),
        *judged(older, limits, half, CALLS, 6),
        # A caller that asks again must not stand behind all others: its wait for a place would pass for its patience.
        *judged(older, breaks, lambda n: True, 12, 1),
    ]


def judged(older, faults, is_stream, at_once, attempts):
    port = free_port()
    program = str(older / "bin/llmock")
    command = [program, "serve", "-h", "127.0.0.1", "-p", str(port), "--response-style", "echo", *faults]
    # With jitter one wait in four is not longer than the one before, by chance.
    upstream = f'retry = {{ jitter = "none", base_delay = "200ms", max_attempts = {attempts}, retry_budget = 1.0 }}'
    prompts = [f"llmock call <{n}>" for n in range(CALLS)]
    with running(command, port, "/health") as fake, gateway(f"{fake}/v1", upstream) as forebay:
        start = time.monotonic()
        answers = asyncio.run(ask_all(forebay.url, prompts, is_stream, at_once, again=attempts == 1))
        took = time.monotonic() - start
        report = [program, "report", "--url", fake]
        verdict = subprocess.run([*report, "--strict"], capture_output=True, text=True)
        counts = json.loads(subprocess.run([*report, "--json"], capture_output=True, text=True).stdout)
    problems, failed = right_or_honest(prompts, answers, lambda prompt, answer: prompt in answer, may_fail=0)
    print(f"llmock: {CALLS} calls, {counts['attempts']} attempts, {counts['faults_injected']} faults, "
          f"{dict(failed) or 'none'} failed, {took:.1f} s; `llmock report --strict` exits with {verdict.returncode}", flush=True)
    if verdict.returncode or not counts["faults_injected"] or counts["attempts"] < CALLS:
        problems.append(f"the verdict: {verdict.stdout}{verdict.stderr}")
    return problems


def aimock(node):
    """Its 429 says that tokens are gone for six minutes and that one may come again in a second, whatever is true: calls
    wait for that, and end with an honest error when their time is too short."""
    chaos = ["--chaos-disconnect", ".1", "--chaos-drop", ".1", "--chaos-malformed", ".1"]
    # Of three kinds at a tenth each, six attempts in a row strike one call in a thousand.
    return chaotic(node, chaos, "60s", may_fail=3) + chaotic(node, [*chaos, "--chaos-ratelimit", ".1"], "10s", CALLS)


def chaotic(node, chaos, timeout, may_fail):
    port = free_port()
    prompts = [f"aimock call <{n}>" for n in range(CALLS)]
    with tempfile.TemporaryDirectory() as directory:
        # A fixture for each call: it is the text of its own prompt that is answered.
        fixtures = [{"match": {"userMessage": prompt}, "response": {"content": f"the answer to {prompt}"}} for prompt in prompts]
        pathlib.Path(directory, "calls.json").write_text(json.dumps({"fixtures": fixtures}))
        program = node / "node_modules/@copilotkit/aimock/dist/cli.js"
        command = ["node", str(program), "-h", "127.0.0.1", "-p", str(port), "-f", directory, "--log-level", "silent"]
        upstream = 'retry = { base_delay = "50ms", max_attempts = 6, retry_budget = 1.0 }'
        with running([*command, *chaos], port, "/health") as fake, gateway(f"{fake}/v1", upstream) as forebay:
            start = time.monotonic()
            answers = asyncio.run(ask_all(forebay.url, prompts, lambda n: n % 2 == 1, timeout=timeout))
            took = time.monotonic() - start
    is_right = lambda prompt, answer: answer == f"the answer to {prompt}"
    problems, failed = right_or_honest(prompts, answers, is_right, may_fail)
    print(f"aimock: {CALLS} calls, {dict(failed) or 'none'} failed, {took:.1f} s", flush=True)
    return problems


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "forebay-ci"
    parser.add_argument("--older", default=cache / "clients-older", type=pathlib.Path)
    parser.add_argument("--node", default=cache / "clients-node", type=pathlib.Path)
    given = parser.parse_args()
    problems = [*llmock(given.older), *aimock(given.node)]
    for problem in problems[:10]:
        print(f"FAILED {problem}")
    print(f"{len(problems)} problems")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
