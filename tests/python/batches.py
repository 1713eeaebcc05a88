"""OpenAI's Batch API as the real openai package uses it, served by the daemon for any upstream; through kill -9, too.

usage: batches.py [--lines N] [NAME...]   (default: every check, the long one with 5,000 lines)"""

import argparse
import contextlib
import faulthandler
import io
import json
import os
import pathlib
import re
import sys
import tempfile
import threading
import time
import traceback

import openai

import support
from support import echo, simulator

MODEL = "gpt-4o-mini"
KEY = "sk-callers-own-0000000001"
# What the daemon may take, whatever is uploaded.
MEMORY_MAX_MB = 200
ENDS = ("completed", "failed", "expired", "cancelled")
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def equal(have, wanted):
    assert have == wanted, f"{have!r} is not {wanted!r}"


def raised(kind, call):
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}, but {answer!r}")


class House:
    """A folder with a store, and the daemon that keeps it; the daemon can be killed and started again."""

    def __init__(self, directory, upstream, more=""):
        self.directory = directory
        path = os.path.join(directory, "gateway.toml")
        with open(path, "w") as file:
            file.write(f"""
[server]
listen = "127.0.0.1:0"
[store]
url = "sqlite:{directory}/forebay.db"
[upstreams.simulator]
base_url = "{upstream}"
api_keys = ["sk-simulated-0000000001"]
models = ["{MODEL}"]
retry = {{ max_attempts = 2, base_delay = "10ms", retry_budget = 1.0 }}
{more}
""")
        self.path, self.running = path, None

    def start(self):
        self.stack = contextlib.ExitStack()
        self.running = self.stack.enter_context(support._running(["serve", "-c", self.path], self.directory, "serve"))
        self.url = self.running.url.rstrip("/") + "/v1"
        self.client = openai.OpenAI(base_url=self.url, api_key=KEY, max_retries=0)

    def kill(self):
        self.running.process.kill()
        self.running.process.wait()
        self.stop()

    def stop(self):
        self.stack.close()

    def memory_mb(self):
        """The most that the daemon has had in memory."""
        status = pathlib.Path(f"/proc/{self.running.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) / 1024

    def upload(self, text):
        return self.client.files.create(file=("in.jsonl", io.BytesIO(text.encode())), purpose="batch")

    def create(self, file, **more):
        return self.client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", **more
        )

    def until(self, batch, is_there, within=120):
        deadline = time.monotonic() + within
        while not is_there(batch):
            assert time.monotonic() < deadline, f"it stays so: {batch}"
            time.sleep(0.05)
            batch = self.client.batches.retrieve(batch.id)
        return batch

    def until_ended(self, batch, within=120):
        return self.until(batch, lambda batch: batch.status in ENDS, within)

    def lines(self, file_id):
        if file_id is None:
            return []
        file = self.client.files.retrieve(file_id)
        equal(file.purpose, "batch_output")
        text = self.client.files.content(file_id).text
        equal(len(text.encode()), file.bytes)
        return [json.loads(line) for line in text.splitlines()]


@contextlib.contextmanager
def house(*flags, more=""):
    with simulator(*flags) as provider, tempfile.TemporaryDirectory() as directory:
        place = House(directory, provider.url, more)
        place.provider = provider
        place.start()
        try:
            yield place
        finally:
            place.stop()


def line(name, prompt, **more):
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], **more}
    return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})


def file_of(count, prompt=lambda n: f"prompt {n}", **more):
    return "".join(line(f"line-{n}", prompt(n), **more) + "\n" for n in range(count))


def every_line_once(place, batch, count):
    """Every line has its own right answer, in the order of the lines."""
    equal((batch.status, batch.error_file_id), ("completed", None))
    equal((batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed), (count, count, 0))
    output = place.lines(batch.output_file_id)
    equal([answer["custom_id"] for answer in output], [f"line-{n}" for n in range(count)])
    for n, answer in enumerate(output):
        equal(answer["response"]["status_code"], 200)
        equal(answer["response"]["body"]["choices"][0]["message"]["content"], echo(f"prompt {n}"))
    equal(len({answer["id"] for answer in output}), count)


@check
def a_batch_runs_to_its_end_and_failed_lines_are_in_the_error_file(options):
    with house() as place:
        text = file_of(20, lambda n: f"[[fault:status-400]] {n}" if n % 5 == 0 else f"prompt {n}")
        file = place.upload(text)
        equal((file.object, file.purpose, file.filename, file.bytes), ("file", "batch", "in.jsonl", len(text.encode())))
        assert abs(file.created_at - time.time()) < 60 and file.expires_at == file.created_at + 30 * 86_400
        equal(place.client.files.retrieve(file.id), file)
        equal(place.client.files.content(file.id).content, text.encode())
        batch = place.create(file, metadata={"team": "a"})
        equal((batch.object, batch.endpoint, batch.input_file_id), ("batch", "/v1/chat/completions", file.id))
        equal((batch.completion_window, batch.expires_at), ("24h", batch.created_at + 86_400))
        assert batch.status in ("validating", "in_progress"), batch.status
        ended = place.until_ended(batch)
        equal((ended.status, ended.metadata, ended.model, ended.errors), ("completed", {"team": "a"}, MODEL, None))
        counts = ended.request_counts
        equal((counts.total, counts.completed, counts.failed), (20, 16, 4))
        assert batch.created_at <= ended.in_progress_at <= ended.finalizing_at <= ended.completed_at
        output, error = place.lines(ended.output_file_id), place.lines(ended.error_file_id)
        equal([answer["custom_id"] for answer in output], [f"line-{n}" for n in range(20) if n % 5])
        equal([answer["custom_id"] for answer in error], [f"line-{n}" for n in range(20) if n % 5 == 0])
        used = sum(answer["response"]["body"]["usage"]["total_tokens"] for answer in output)
        equal(ended.usage.total_tokens, used)
        for answer in output:
            body = openai.types.chat.ChatCompletion.model_validate(answer["response"]["body"])
            equal((body.choices[0].message.content, answer["error"]), (echo(f"prompt {answer['custom_id'][5:]}"), None))
        for answer in error:
            equal((answer["response"]["status_code"], answer["error"]), (400, None))
            assert "message" in answer["response"]["body"]["error"]


@check
def files_and_batches_are_listed_in_pages_and_removed(options):
    with house() as place:
        files = [place.upload(file_of(1)) for _ in range(5)]
        batches = [place.until_ended(place.create(file)) for file in files[:3]]
        listed = list(place.client.files.list(purpose="batch", limit=2, order="asc"))
        equal([file.id for file in listed], [file.id for file in files])
        listed = list(place.client.files.list(purpose="batch", limit=3))
        equal([file.id for file in listed], [file.id for file in reversed(files)])
        equal(len(place.client.files.list(purpose="batch_output").data), 3)
        equal(place.client.files.list(purpose="fine-tune").data, [])
        listed = list(place.client.batches.list(limit=2))
        equal([batch.id for batch in listed], [batch.id for batch in reversed(batches)])
        gone = place.client.files.delete(files[0].id)
        equal((gone.id, gone.object, gone.deleted), (files[0].id, "file", True))
        raised(openai.NotFoundError, lambda: place.client.files.retrieve(files[0].id))
        raised(openai.NotFoundError, lambda: place.client.files.content(files[0].id))
        raised(openai.NotFoundError, lambda: place.client.files.delete(files[0].id))


@check
def what_is_wrong_is_said_in_openais_words(options):
    with house(more='[jobs]\nmax_file = "100KiB"') as place:
        client = place.client
        wrong = lambda: client.files.create(file=("x", b"{}"), purpose="fine-tune")
        equal(raised(openai.BadRequestError, wrong).param, "purpose")
        too_large = lambda: client.files.create(file=("x", b"x" * 102_401), purpose="batch")
        equal(raised(openai.APIStatusError, too_large).status_code, 413)
        client.files.create(file=("x", b"x" * 102_400), purpose="batch")
        huge = lambda: client.files.create(file=("x", b"x" * 10_000_000), purpose="batch")
        # The refusal may come before all of it was sent.
        assert isinstance(raised(openai.APIError, huge), (openai.APIStatusError, openai.APIConnectionError))
        hour = {"anchor": "created_at", "seconds": 3_600}
        kept = client.files.create(file=("x", b"{}"), purpose="batch", expires_after=hour)
        equal(kept.expires_at, kept.created_at + 3_600)
        short = lambda: client.files.create(file=("x", b"{}"), purpose="batch", expires_after={**hour, "seconds": 1})
        equal(raised(openai.BadRequestError, short).param, "expires_after")
        file = place.upload("\n".join([line("a", "x"), "{", line("a", "x"), line("b", "x").replace(MODEL, "nobody")]))
        failed = place.until_ended(place.create(file))
        equal((failed.status, failed.errors.object, failed.output_file_id), ("failed", "list", None))
        said = [(error.line, error.code, error.param) for error in failed.errors.data]
        wanted = [
            (2, "invalid_json_line", None), (3, "duplicate_custom_id", "custom_id"), (4, "model_not_found", "body.model")
        ]
        equal(said, wanted)
        assert failed.failed_at >= failed.created_at and all(error.message for error in failed.errors.data)
        for kind, param, asked in (
            (openai.NotFoundError, "input_file_id", {"input_file_id": "file-0000000000000000"}),
            (openai.BadRequestError, "endpoint", {"endpoint": "/v1/files"}),
            (openai.BadRequestError, "completion_window", {"completion_window": "1h"}),
            (openai.BadRequestError, "metadata", {"metadata": {"a": "x" * 513}}),
        ):
            right = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
            equal(raised(kind, lambda: client.batches.create(**{**right, **asked})).param, param)
        raised(openai.NotFoundError, lambda: client.batches.retrieve("batch_0000000000000000"))
        equal(raised(openai.BadRequestError, lambda: client.batches.cancel(failed.id)).code, "invalid_request")


@check
def tenants_see_nothing_of_each_other(options):
    more = '[tenants.a]\nkey = "sk-tenant-a-000001"\n[tenants.b]\nkey = "sk-tenant-b-000001"'
    with house(more=more) as place:
        ours, theirs = (openai.OpenAI(base_url=place.url, api_key=f"sk-tenant-{name}-000001") for name in "ab")
        place.client = ours
        file = place.upload(file_of(2))
        batch = place.until_ended(place.create(file))
        equal((theirs.files.list().data, theirs.batches.list().data), ([], []))
        for call in (
            lambda: theirs.files.retrieve(file.id),
            lambda: theirs.files.content(batch.output_file_id),
            lambda: theirs.files.delete(file.id),
            lambda: theirs.batches.retrieve(batch.id),
            lambda: theirs.batches.cancel(batch.id),
            lambda: theirs.batches.create(
                input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
            ),
        ):
            raised(openai.NotFoundError, call)
        every_line_once(place, batch, 2)


@check
def a_batch_that_is_cancelled_keeps_what_was_done(options):
    with house("--latency=200ms", more="limits = { max_concurrent = 10 }") as place:
        batch = place.create(place.upload(file_of(2_000)))
        place.until(batch, lambda batch: batch.request_counts.completed >= 10)
        cancelled = place.client.batches.cancel(batch.id)
        equal(cancelled.status, "cancelling")
        ended = place.until_ended(batch, within=20)
        equal(ended.status, "cancelled")
        assert ended.cancelling_at <= ended.cancelled_at
        output, error = place.lines(ended.output_file_id), place.lines(ended.error_file_id)
        counts = ended.request_counts
        equal((len(output), len(error)), (counts.completed, counts.failed))
        equal(sorted(answer["custom_id"] for answer in output + error), sorted(f"line-{n}" for n in range(2_000)))
        assert 10 <= len(output) < 1_000, len(output)
        assert all(answer["error"]["code"] == "batch_cancelled" for answer in error)
        # Those that were under way had their ends, and no other was made.
        equal(place.provider.ledger()["requests"], len(output))


@check
def a_daemon_that_is_killed_anywhere_goes_on_where_it_was(options):
    count = 3_000
    with house("--latency=10ms", more="limits = { max_concurrent = 50 }") as place:
        # In the midst of an upload: nothing of it stays.
        large = lambda: place.client.files.create(file=("x", b"x" * 100_000_000), purpose="batch")
        upload = threading.Thread(target=lambda: raised(openai.APIError, large))
        upload.start()
        while stored_bytes(place) < 3_000_000:
            time.sleep(0.005)
        place.kill()
        upload.join()
        place.start()
        equal(place.client.files.list().data, [])
        batch = place.create(place.upload(file_of(count)))
        # While lines become jobs, then while they are called, again and again.
        kills = 0
        while kills < 6:
            now = place.client.batches.retrieve(batch.id)
            if now.status in ENDS:
                break
            if now.status in ("in_progress", "finalizing") and now.request_counts.completed >= kills * count // 6:
                place.kill()
                place.start()
                kills += 1
            time.sleep(0.02)
        # While its files are written, if it is caught at that.
        now = place.until(batch, lambda batch: batch.status in ("finalizing", *ENDS), within=300)
        caught = now.status == "finalizing"
        if caught:
            place.kill()
            place.start()
        every_line_once(place, place.until_ended(batch, within=300), count)
        extra = place.provider.ledger()["requests"] - count
        print(f"        {kills} kills, {'one more while files were written, ' if caught else ''}{extra} extra calls")
        assert 0 <= extra <= (kills + caught) * 50, extra


def stored_bytes(place):
    """How large the store is, its log included."""
    return sum(path.stat().st_size for path in pathlib.Path(place.directory).glob("forebay.db*"))


@check
def many_lines_take_little_memory(options):
    count = options.lines
    # About as many bytes as OpenAI allows, where as many lines as it allows are asked for.
    padding = "x" * 3_500
    with house(more="limits = { max_concurrent = 64 }") as place:
        started = time.monotonic()
        file = place.upload(file_of(count, user=padding))
        uploaded = time.monotonic()
        batch = place.create(file)
        ended = place.until_ended(batch, within=3_000)
        done = time.monotonic()
        every_line_once(place, ended, count)
        read = time.monotonic()
        memory = place.memory_mb()
        print(
            f"        {count} lines, {file.bytes / 1e6:.0f} MB: uploaded in {uploaded - started:.1f} s, done in "
            f"{done - uploaded:.1f} s, read in {read - done:.1f} s; at most {memory:.0f} MB of memory"
        )
        assert memory < MEMORY_MAX_MB, memory


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lines", type=int, default=5_000)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    # A check that hangs is a failed one, and where it hangs is worth knowing.
    faulthandler.dump_traceback_later(3_600, exit=True)
    wanted = [one for one in CHECKS if not options.names or any(name in one.__name__ for name in options.names)]
    failed = 0
    for one in wanted:
        name = one.__name__.replace("_", " ")
        try:
            one(options)
            print(f"ok      {name}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(wanted) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
