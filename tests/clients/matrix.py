"""Real clients through the real daemon: a table of client and feature, with the versions. Exits with 1 unless every cell
is green, or empty with a reason.

usage: matrix.py [--python VENV] [--older VENV] [--node FOLDER] [ROW...] [+FEATURE...]

The venvs hold python/requirements.txt and python/requirements-older.txt, the folder what `npm ci` makes of
node/package.json. A ROW or +FEATURE picks those whose names contain it."""

import argparse
import concurrent.futures
import contextlib
import json
import os
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "python"))

from support import gateway, simulator  # noqa: E402

FEATURES = [
    "plain", "stream", "stream usage", "tools", "tool stream", "structured", "embeddings", "batch", "count tokens",
    "400", "401", "404", "429", "500", "cut stream", "timeout", "cancel", "golden",
]
# Client, what runs it, and what it speaks: where the program does not serve that yet, the row is missing.
ROWS = [
    ("openai (Python)", "python openai_chat.py", None),
    ("openai (Python) responses", "python openai_responses.py", None),
    ("openai 2 (Python)", "older openai_chat.py", None),
    ("openai (Node)", "node openai_chat.mjs", None),
    ("openai (Node) responses", "node openai_responses.mjs", None),
    ("LangChain", "python langchain_chat.py", None),
    ("LlamaIndex", "older llamaindex_chat.py", None),
    ("instructor", "older instructor_chat.py", None),
    ("litellm", "older litellm_chat.py", None),
    ("Vercel openai-compatible", "node vercel.mjs compatible", None),
    ("Vercel openai", "node vercel.mjs responses", None),
    ("anthropic (Python)", "python anthropic_messages.py", "/v1/messages"),
    ("anthropic (Node)", "node anthropic_messages.mjs", "/v1/messages"),
    ("Vercel anthropic", "node vercel.mjs anthropic", "/v1/messages"),
    ("openai (Python) to anthropic", "python openai_chat.py anthropic", "anthropic"),
    ("openai (Python) to gemini", "python openai_chat.py gemini", "gemini"),
    ("vendors' own types", "python golden.py", "golden"),
]
TENANT_KEY = "sk-tenant-0000000001"
# A call fails for good after two attempts; budgets keep none of these few calls waiting.
UPSTREAM = """
retry = { max_attempts = 2, base_delay = "10ms", retry_budget = 1.0 }
"""
# Rows at a time: starting an interpreter and its packages is most of the work.
AT_ONCE = 2
# Of one row; it is stopped then.
PATIENCE_S = 180


def missing(needs):
    """What the program lacks for a row, if anything."""
    if needs == "golden":
        folder = HERE.parent / "golden"
        return None if any(folder.glob("*/answers/*")) else f"no files under {folder.name}/*/answers"
    if needs is None:
        return None
    kind = "anthropic" if needs == "/v1/messages" else needs
    with simulator() as provider, gateway(provider.url, f"""
[upstreams.{kind}]
kind = "{kind}"
base_url = "{provider.url}"
api_keys = ["sk-simulated-0000000002"]
models = ["{kind}-model"]
""") as forebay:
        if "not in force" in forebay.log():
            return f"upstreams of kind {kind} are not in force"
    return None


def run(row, tools, features):
    """A row's cells, by feature, and the versions of what ran."""
    name, program, needs = row
    lack = missing(needs)
    if lack:
        return {}, {}, f"missing: {lack}"
    runner, script, *arguments = program.split()
    folder = HERE / ("node" if runner == "node" else "python")
    if not (folder / script).exists():
        return {}, {}, f"missing: {script}"
    with contextlib.ExitStack() as stack:
        provider = stack.enter_context(simulator("--chunk-gap=1ms"))
        slow = stack.enter_context(simulator("--chunks=300", "--chunk-gap=50ms"))
        models = ["gpt-4o-mini", "text-embedding-3-small", "claude-sonnet-4-5"]
        kind = arguments[0] if needs in ("anthropic", "gemini") else "anthropic" if needs == "/v1/messages" else "openai"
        more = f'kind = "{kind}"\n{UPSTREAM}' + f"""
[upstreams.slow]
kind = "{kind}"
base_url = "{base(kind, slow.url)}"
api_keys = ["sk-simulated-0000000002"]
models = ["slow"]
"""
        url = base(kind, provider.url)
        forebay = stack.enter_context(gateway(url, more, models))
        guarded = stack.enter_context(gateway(url, f'{more}\n[tenants.team]\nkey = "{TENANT_KEY}"', models))
        place = {
            "url": forebay.url, "guarded": guarded.url, "tenant_key": TENANT_KEY, "features": features,
            "ledger": provider.url.removesuffix("/v1") + "/simulator/ledger",
            "slow_ledger": slow.url.removesuffix("/v1") + "/simulator/ledger",
        }
        environment = {
            **os.environ, "MATRIX": json.dumps(place), "PYTHONDONTWRITEBYTECODE": "1",
            # Nothing is told to anybody, and nothing fetched.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGCHAIN_TRACING_V2": "false", "AI_SDK_LOG_WARNINGS": "false",
        }
        # A key of the vendor's own must not be in reach: all of them are told theirs.
        for key in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "GEMINI_API_KEY", "GOOGLE_API_KEY"):
            environment.pop(key, None)
        command = [tools[runner], str(folder / script), *arguments]
        if runner == "node":
            # Packages are looked for beside the script: it is copied there.
            command[1] = str(tools["folder"] / script)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    cells, versions = {}, {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            said = json.loads(line)
            versions.update(said.get("versions", {}))
            if "feature" in said:
                cells[said["feature"]] = (said["state"], said.get("note", ""))
    trouble = f"exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-3000:]}" if done.returncode else None
    return cells, versions, trouble


def base(kind, url):
    """What is configured as that kind's `base_url`."""
    return {"anthropic": url.removesuffix("/v1"), "gemini": url.removesuffix("/v1") + "/v1beta"}.get(kind, url)


def mark(state, note):
    return {"ok": "ok*" if note else "ok", "none": "-", "failed": "FAIL"}[state]


def table(results, features):
    width = max(len(name) for name, *_ in results)
    columns = [feature.split() for feature in features]
    widths = [max(4, *(len(word) for word in words)) for words in columns]
    for line in range(max(len(words) for words in columns)):
        heads = (words[line] if line < len(words) else "" for words in columns)
        print(" " * width, *(head.center(wide) for head, wide in zip(heads, widths)))
    for name, cells, versions, trouble in results:
        marked = (mark(*cells[feature]) if feature in cells else "?" if not trouble else "!" for feature in features)
        told = ", ".join(f"{package} {version}" for package, version in versions.items())
        print(name.ljust(width), *(one.center(wide) for one, wide in zip(marked, widths)), " ", told)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache")) / "forebay-ci"
    parser.add_argument("--python", default=cache / "clients", type=pathlib.Path)
    parser.add_argument("--older", default=cache / "clients-older", type=pathlib.Path)
    parser.add_argument("--node", default=cache / "clients-node", type=pathlib.Path)
    parser.add_argument("picks", nargs="*")
    given = parser.parse_args()
    tools = {
        "python": str(given.python / "bin/python"), "older": str(given.older / "bin/python"), "node": "node",
        "folder": given.node.resolve(),
    }
    wanted = [pick for pick in given.picks if not pick.startswith("+")]
    features = [one for one in FEATURES if any(pick[1:] in one for pick in given.picks if pick.startswith("+"))]
    rows = [row for row in ROWS if not wanted or any(pick in row[0] for pick in wanted)]
    for script in (HERE / "node").glob("*.mjs"):
        (tools["folder"] / script.name).write_bytes(script.read_bytes())
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        ends = list(pool.map(lambda row: attempt(row, tools, features), rows))
    results = [(name, *end) for (name, *_), end in zip(rows, ends)]
    shown = features or [one for one in FEATURES if any(one in cells for _, cells, *_ in results)]
    green = sum(state == "ok" for _, cells, *_ in results for state, _ in cells.values())
    problems = []
    for name, cells, _, trouble in results:
        problems += [f"{name}: {trouble}"] if trouble else []
        problems += [f"{name}, {feature}: {note}" for feature, (state, note) in cells.items() if state == "failed"]
        # Where a row says nothing of a feature, nobody knows.
        silent = [one for one in features or required(name) if one not in cells]
        problems += [f"{name}: nothing said of {', '.join(silent)}"] if silent and not trouble else []
    for problem in problems:
        print(f"\nNOT GREEN {problem}")
    notes = {note for _, cells, *_ in results for state, note in cells.values() if state == "ok" and note}
    reasons = [(name, feature, note) for name, cells, *_ in results for feature, (state, note) in cells.items() if state == "none"]
    print()
    table(results, shown)
    print()
    for name, feature, note in reasons:
        print(f"-  {name}, {feature}: {note}")
    for note in sorted(notes):
        print(f"ok*  {note}")
    print(f"{green} cells green, {len(reasons)} empty with a reason, {len(problems)} problems")
    sys.exit(bool(problems))


def required(name):
    """The features of which a row must speak."""
    if name == "vendors' own types":
        return ["golden"]
    program, speaks = next((row[1], row[2]) for row in ROWS if row[0] == name)
    # What only some of them can do at all.
    special = {"golden": False, "count tokens": speaks == "/v1/messages", "batch": "openai_chat." in program}
    return [one for one in FEATURES if special.get(one, True)]


def attempt(row, tools, features):
    try:
        return run(row, tools, features)
    except Exception as error:
        return {}, {}, f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    main()
