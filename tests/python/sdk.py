"""The real openai package, sync and async, against the real daemon: nothing about it may need to change but `base_url`.

usage: sdk.py [NAME...]   (default: every check; a NAME picks those whose names contain it)"""

import asyncio
import contextlib
import faulthandler
import http.server
import json
import struct
import sys
import threading
import time
import traceback

import openai

from support import echo, fnv, gateway, simulator

MODELS = ["gpt-4o-mini", "text-embedding-3-small", "omni-moderation-latest"]
MODEL = MODELS[0]
UPSTREAM_KEY = "sk-simulated-0000000001"
TENANT_KEY = "sk-tenant-0000000001"
CALLERS_KEY = "sk-callers-own-0000000001"
# Faults that strike a stream behind its first content: another attempt would repeat what the caller has read.
LATE_FAULTS = ["reset-body", "cut-body", "cut-unframed", "unfinished", "truncated-json", "error-midway", "stall-body"]
# What forebay can do about a failing call is done when its answer comes: attempts it makes of each. Not `quota`: an account
# out of credit rests, and with it every later call here (tests/pushback.rs).
FINAL_ERRORS = {
    "status-400": 1, "status-403": 1, "status-404": 1, "status-413": 1, "status-422": 1, "redirect": 1,
    "status-408": 2, "status-409": 2, "status-500": 2, "status-503": 2, "status-529": 2, "rate-limited-bare": 2,
    "reset": 2, "garbage": 2, "truncated-json": 2,
}

CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


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
    raise AssertionError(f"no {kind.__name__}, but {answer!r}")


class Place:
    """A simulator, the daemon in front of it, and clients of that daemon."""

    def __init__(self, provider, forebay):
        self.provider, self.forebay = provider, forebay
        self.client = self.sync()

    def sync(self, **options):
        return openai.OpenAI(**{"base_url": self.forebay.url, "api_key": CALLERS_KEY, **options})

    def run(self, work, **options):
        """Runs the coroutine function `work` with an asynchronous client."""

        async def inside():
            options_of_it = {"base_url": self.forebay.url, "api_key": CALLERS_KEY, **options}
            async with openai.AsyncOpenAI(**options_of_it) as client:
                return await work(client)

        return asyncio.run(inside())

    def until_idle(self, requests):
        """Waits until the provider has seen `requests` calls and has none in flight."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            ledger = self.provider.ledger()
            if ledger["requests"] >= requests and ledger["in_flight"] == 0:
                return
            time.sleep(0.01)
        raise AssertionError(f"still in flight: {ledger}")

    def attempts(self, work):
        """How many attempts reach the provider during `work`."""
        before = self.provider.ledger()["requests"]
        work()
        return self.provider.ledger()["requests"] - before


@contextlib.contextmanager
def recorder(answer, kind="application/json"):
    """An upstream that records requests and gives each the same answer: its URL and the list of what it saw."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            seen.append((dict(self.headers.items()), body))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def embedding(text, dimensions=16):
    """What the simulator's embedding of `text` is."""
    seed = fnv(text.encode())
    hashes = (fnv(struct.pack("<Q", seed ^ n * 0x9E3779B97F4A7C15 % 2**64)) for n in range(dimensions))
    return [(value >> 41) / 4_194_304 - 1 for value in hashes]


def text_of(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


@check
def a_chat_is_answered(place):
    answer = place.client.chat.completions.create(model=MODEL, messages=user("Grüße \U0001f600"))
    equal(answer.choices[0].message.content, echo("Grüße \U0001f600"))
    equal(answer.choices[0].finish_reason, "stop")
    assert answer.usage.total_tokens > 0
    assert answer._request_id.startswith("req_")


@check
def fifty_async_chats_at_once_get_their_own_answers(place):
    async def work(client):
        calls = (client.chat.completions.create(model=MODEL, messages=user(f"call {n}")) for n in range(50))
        return await asyncio.gather(*calls)

    contents = [answer.choices[0].message.content for answer in place.run(work)]
    equal(contents, [echo(f"call {n}") for n in range(50)])


@check
def a_prompt_of_a_megabyte_passes(place):
    prompt = "0123456789abcdef" * 65536
    answer = place.client.chat.completions.create(model=MODEL, messages=user(prompt))
    equal(answer.choices[0].message.content, echo(prompt))


@check
def a_stream_is_complete_and_shows_no_usage_unasked(place):
    with place.client.chat.completions.create(model=MODEL, messages=user("stream"), stream=True) as stream:
        chunks = list(stream)
    equal(text_of(chunks), echo("stream"))
    equal([choice.finish_reason for choice in chunks[-1].choices], ["stop"])
    assert all(chunk.choices and not chunk.usage for chunk in chunks)


@check
def fifty_async_streams_at_once_are_complete(place):
    async def one(client, prompt):
        stream = await client.chat.completions.create(model=MODEL, messages=user(prompt), stream=True)
        return text_of([chunk async for chunk in stream])

    async def work(client):
        return await asyncio.gather(*(one(client, f"stream {n}") for n in range(50)))

    equal(place.run(work), [echo(f"stream {n}") for n in range(50)])


@check
def usage_of_a_stream_comes_when_asked_for(place):
    stream = place.client.chat.completions.create(
        model=MODEL, messages=user("count"), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    equal(text_of(chunks), echo("count"))
    equal((chunks[-1].choices, chunks[-1].usage.prompt_tokens > 0), ([], True))
    assert not any(chunk.usage for chunk in chunks[:-1])


@check
def the_stream_helper_gathers_a_whole_answer(place):
    with place.client.chat.completions.stream(model=MODEL, messages=user("helper")) as stream:
        kinds = {event.type for event in stream}
        answer = stream.get_final_completion()
    equal(answer.choices[0].message.content, echo("helper"))
    assert {"chunk", "content.delta", "content.done"} <= kinds, kinds


@check
def completions_work_whole_and_streamed(place):
    answer = place.client.completions.create(model=MODEL, prompt="legacy")
    equal(answer.choices[0].text, echo("legacy"))
    stream = place.client.completions.create(model=MODEL, prompt="legacy", stream=True)
    equal("".join(chunk.choices[0].text for chunk in stream if chunk.choices), echo("legacy"))


@check
def embeddings_are_right_as_base64_and_as_floats(place):
    inputs = ["one", "two", "three"]
    embed = place.client.embeddings.create
    # Without `encoding_format` the package asks for base64 and decodes it.
    for more in ({}, {"encoding_format": "float"}):
        answer = embed(model="text-embedding-3-small", input=inputs, **more)
        equal([list(item.embedding) for item in answer.data], [embedding(text) for text in inputs])
    raw = embed(model="text-embedding-3-small", input="one", encoding_format="base64").data[0].embedding
    assert isinstance(raw, str)
    tokens = embed(model="text-embedding-3-small", input=[1, 2, 3]).data[0].embedding
    equal(list(tokens), embedding("[1,2,3]"))


@check
def async_embeddings_are_right(place):
    async def work(client):
        embed = client.embeddings.create
        return await asyncio.gather(*(embed(model="text-embedding-3-small", input=f"text {n}") for n in range(20)))

    equal([list(answer.data[0].embedding) for answer in place.run(work)], [embedding(f"text {n}") for n in range(20)])


@check
def responses_work_whole_and_streamed(place):
    equal(place.client.responses.create(model=MODEL, input="whole").output_text, echo("whole"))
    with place.client.responses.create(model=MODEL, input="streamed", stream=True) as stream:
        events = list(stream)
    equal((events[0].type, events[-1].type), ("response.created", "response.completed"))
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"), echo("streamed"))
    equal(events[-1].response.output_text, echo("streamed"))
    numbers = [event.sequence_number for event in events]
    equal(numbers, sorted(set(numbers)))


@check
def the_response_stream_helper_works_async(place):
    async def work(client):
        async with client.responses.stream(model=MODEL, input="helper") as stream:
            async for _ in stream:
                pass
            return await stream.get_final_response()

    equal(place.run(work).output_text, echo("helper"))


@check
def moderations_work_with_a_model_and_without(place):
    for more in ({}, {"model": "omni-moderation-latest"}):
        answer = place.client.moderations.create(input="judge this", **more)
        equal(answer.results[0].flagged, False)
        assert abs(answer.results[0].category_scores.violence - abs(embedding("judge this", 1)[0]) / 2) < 1e-9


@check
def models_are_listed_and_found(place):
    listed = list(place.client.models.list())
    equal(sorted(model.id for model in listed), sorted(MODELS))
    equal({model.object for model in listed}, {"model"})
    for name in (MODEL, f"simulator/{MODEL}"):
        equal(place.client.models.retrieve(name).id, name)
    error = raised(openai.NotFoundError, lambda: place.client.models.retrieve("no-such-model"))
    equal(error.code, "model_not_found")


@check
def tools_and_unknown_fields_pass_through(_):
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice], "news": {"a": 1}}
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": schema, "strict": True}}]
    with recorder(json.dumps(answer).encode()) as (url, seen), gateway(url) as forebay:
        client = openai.OpenAI(base_url=forebay.url, api_key=CALLERS_KEY, organization="org-1")
        got = client.chat.completions.create(
            model=MODEL, messages=user("weather?"), tools=tools, tool_choice="auto", parallel_tool_calls=True,
            extra_body={"big": 12345678901234567890123, "unknown": [None, 1.0]},
        )
    equal(got.choices[0].message.tool_calls[0].function.arguments, '{"city": "Köln"}')
    equal((got.choices[0].finish_reason, got.news), ("tool_calls", {"a": 1}))
    ((headers, body),) = seen
    sent = json.loads(body)
    equal((sent["tools"], sent["tool_choice"], sent["parallel_tool_calls"]), (tools, "auto", True))
    equal((sent["big"], sent["unknown"]), (12345678901234567890123, [None, 1.0]))
    headers = {name.lower(): value for name, value in headers.items()}
    equal(headers["authorization"], f"Bearer {UPSTREAM_KEY}")
    equal(headers["openai-organization"], "org-1")
    assert CALLERS_KEY not in str(headers) and not any(name.startswith("x-stainless") for name in headers)


@check
def streamed_tool_calls_keep_their_pieces(_):
    def chunk(delta, finish=None):
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        data = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": MODEL, "choices": [choice]}
        return f"data: {json.dumps(data)}\n\n"

    def piece(index, arguments, name=None):
        first = {"id": f"call_{index}", "type": "function"} if name else {}
        return {"tool_calls": [{"index": index, **first, "function": {"name": name, "arguments": arguments}}]}

    deltas = [piece(0, "", "a"), piece(0, '{"x'), piece(0, '":1}'), piece(1, "", "b"), piece(1, "{}")]
    events = chunk({"role": "assistant", "content": None}) + "".join(map(chunk, deltas)) + chunk({}, "tool_calls")
    with recorder(f"{events}data: [DONE]\n\n".encode(), "text/event-stream") as (url, _), gateway(url) as forebay:
        client = openai.OpenAI(base_url=forebay.url, api_key=CALLERS_KEY)
        chunks = list(client.chat.completions.create(model=MODEL, messages=user("tools?"), stream=True))
    pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or []]
    equal(len(pieces), len(deltas))
    arguments = ["".join(call.function.arguments for call in pieces if call.index == index) for index in (0, 1)]
    equal(arguments, ['{"x":1}', "{}"])
    equal(chunks[-1].choices[0].finish_reason, "tool_calls")


@check
def a_whole_answer_to_a_stream_is_no_empty_stream(_):
    choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    whole = {"id": "c", "object": "chat.completion", "created": 1, "model": MODEL, "choices": [choice]}
    with recorder(json.dumps(whole).encode()) as (url, seen), gateway(url) as forebay:
        client = openai.OpenAI(base_url=forebay.url, api_key=CALLERS_KEY)
        call = lambda: list(client.chat.completions.create(model=MODEL, messages=user("x"), stream=True))
        error = raised(openai.InternalServerError, call)
    equal((error.status_code, error.code, len(seen)), (502, "upstream_unavailable", 1))


@check
def broken_json_to_a_stream_is_tried_again(_):
    patience = 'retry = { max_attempts = 2, base_delay = "10ms" }'
    with recorder(b"{malformed json: <<<chaos>>>") as (url, seen), gateway(url, patience) as forebay:
        client = openai.OpenAI(base_url=forebay.url, api_key=CALLERS_KEY)
        call = lambda: list(client.chat.completions.create(model=MODEL, messages=user("x"), stream=True))
        error = raised(openai.InternalServerError, call)
    equal((error.status_code, error.code, len(seen)), (502, "upstream_unavailable", 2))


@check
def raw_responses_show_our_headers_and_no_others(place):
    create = place.client.chat.completions.with_raw_response.create
    raw = create(model=MODEL, messages=user("raw [[fault:status-500]]"))
    equal(raw.parse().choices[0].message.content, echo("raw [[fault:status-500]]"))
    equal((raw.headers["x-forebay-upstream"], raw.headers["x-forebay-attempts"]), ("simulator", "2"))
    assert raw.headers["x-request-id"].startswith("req_") and int(raw.headers["x-forebay-queued-ms"]) >= 0
    equal(raw.headers["openai-processing-ms"], "1")
    equal(raw.headers["x-ratelimit-limit-requests"], "60000")
    assert "set-cookie" not in raw.headers and raw.request_id == raw.headers["x-request-id"]
    stream = create(model=MODEL, messages=user("raw"), stream=True)
    equal(stream.headers["x-forebay-attempts"], "1")
    assert stream.headers["content-type"].startswith("text/event-stream")
    equal(text_of(list(stream.parse())), echo("raw"))


@check
def a_streaming_response_gives_the_body_as_it_comes(place):
    create = place.client.chat.completions.with_streaming_response.create
    with create(model=MODEL, messages=user("lines"), stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    equal(lines[-1], "data: [DONE]")
    assert all(line.startswith("data: {") for line in lines[:-1])


@check
def an_unknown_model_is_not_found(place):
    def call():
        place.error = raised(
            openai.NotFoundError, lambda: place.client.chat.completions.create(model="nothing", messages=user("x"))
        )

    equal(place.attempts(call), 0)
    equal((place.error.status_code, place.error.code), (404, "model_not_found"))
    assert "nothing" in place.error.message and place.error.request_id.startswith("req_")


@check
def a_call_that_is_none_is_a_bad_request(place):
    calls = {
        "messages": lambda: place.client.chat.completions.create(model=MODEL, messages="not a list"),
        "model": lambda: place.client.chat.completions.create(model="", messages=[]),
        "stream": lambda: place.client.chat.completions.create(model=MODEL, messages=[], extra_body={"stream": "yes"}),
    }
    for param, call in calls.items():
        error = raised(openai.BadRequestError, call)
        equal((error.code, error.param, error.type), ("invalid_request", param, "invalid_request_error"))
    odd = {"x-forebay-priority": "urgent"}
    error = raised(
        openai.BadRequestError,
        lambda: place.client.chat.completions.create(model=MODEL, messages=[], extra_headers=odd),
    )
    equal(error.code, "invalid_request")


@check
def an_upstreams_own_refusal_passes_unchanged(place):
    error = raised(
        openai.UnprocessableEntityError,
        lambda: place.client.chat.completions.create(model=MODEL, messages=user("[[fault:status-422]]")),
    )
    equal((error.code, error.type), (None, "invalid_request_error"))
    equal(error.body["message"], "status 422 (injected by the simulator)")


@check
def what_forebay_has_tried_the_package_does_not_try_again(place):
    client = place.sync()
    equal(client.max_retries, openai.DEFAULT_MAX_RETRIES)
    for fault, attempts in FINAL_ERRORS.items():
        for more in ({}, {"stream": True}):
            # Of a stream, broken JSON comes behind content.
            if fault == "truncated-json" and more:
                continue
            prompt = f"{fault} {more} [[fault:{fault} x99]]"
            made = place.attempts(
                lambda: raised(
                    openai.APIStatusError,
                    lambda: client.chat.completions.create(model=MODEL, messages=user(prompt), **more),
                )
            )
            assert made == attempts, f"{fault} {more}: {made} attempts instead of {attempts}"


@check
def a_call_that_takes_too_long_ends_in_time(place):
    client = place.sync()
    start = time.monotonic()
    error = raised(
        openai.InternalServerError,
        lambda: client.chat.completions.create(
            model=MODEL, messages=user("[[fault:stall x9]]"), extra_headers={"x-forebay-timeout": "300ms"}
        ),
    )
    equal((error.status_code, error.code), (504, "deadline_exceeded"))
    assert time.monotonic() - start < 5
    requests = place.provider.ledger()["requests"]
    # The package's own limit, which it tells us as well: whoever is first, nothing is left behind.
    raised(
        (openai.APITimeoutError, openai.InternalServerError),
        lambda: client.with_options(timeout=0.5, max_retries=0).chat.completions.create(
            model=MODEL, messages=user("other [[fault:stall x9]]")
        ),
    )
    place.until_idle(requests + 1)


@check
def a_stream_that_breaks_raises(place):
    for fault in LATE_FAULTS:
        prompt = f"[[fault:{fault}]]"
        got = []

        def read():
            for chunk in place.client.chat.completions.create(model=MODEL, messages=user(prompt), stream=True):
                got.append(chunk)

        error = raised(openai.APIError, read)
        assert got and echo(prompt).startswith(text_of(got)), f"{fault}: {got}"
        assert error.message and error.body, f"{fault}: {error!r}"


@check
def an_async_stream_that_breaks_raises(place):
    async def work(client):
        for fault in LATE_FAULTS:
            try:
                messages = user(f"async [[fault:{fault}]]")
                stream = await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
                async for _ in stream:
                    pass
            except openai.APIError:
                continue
            raise AssertionError(f"{fault} is not noticed")

    place.run(work)


@check
def a_response_stream_that_breaks_raises_or_says_it_failed(place):
    for fault in LATE_FAULTS:
        events = []

        def read():
            with place.client.responses.create(model=MODEL, input=f"[[fault:{fault}]]", stream=True) as stream:
                events.extend(stream)

        try:
            read()
        except openai.APIError:
            pass
        else:
            assert events[-1].type in ("error", "response.failed"), f"{fault}: {events[-1]}"
        assert "response.completed" not in {event.type for event in events}, fault


@check
def a_fault_before_the_first_content_is_never_seen(place):
    for fault in ("cut-opening", "error-first", "error-opening", "reset", "status-500", "stall", "garbage"):
        prompt = f"cured [[fault:{fault}]]"
        stream = place.client.chat.completions.create(model=MODEL, messages=user(prompt), stream=True)
        equal(text_of(list(stream)), echo(prompt))
        answer = place.client.responses.create(model=MODEL, input=f"response {prompt}", stream=True)
        equal(list(answer)[-1].response.output_text, echo(f"response {prompt}"))


@check
def a_cancelled_async_stream_frees_its_place_upstream(place):
    async def work(client):
        async def read(prompt, begun):
            begun.set()
            stream = await client.chat.completions.create(model=MODEL, messages=user(prompt), stream=True)
            async for _ in stream:
                pass

        async def until_in_flight():
            while place.provider.ledger()["in_flight"] == 0:
                await asyncio.sleep(0.01)

        # Before the first byte of an answer, and in the middle of one.
        for fault in ("stall", "stall-body"):
            begun = asyncio.Event()
            task = asyncio.create_task(read(f"cancelled [[fault:{fault} x9]]", begun))
            await begun.wait()
            await asyncio.wait_for(until_in_flight(), 20)
            task.cancel()
            (ended,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(ended, asyncio.CancelledError), repr(ended)
            place.until_idle(0)

    # This daemon waits a minute for an answer: only the caller's leaving frees the place.
    with gateway(place.provider.url, "limits = { max_concurrent = 1 }") as patient:
        Place(place.provider, patient).run(work)
        client = openai.OpenAI(base_url=patient.url, api_key=CALLERS_KEY)
        answer = client.chat.completions.create(model=MODEL, messages=user("after"))
        equal(answer.choices[0].message.content, echo("after"))


@check
def a_stream_closed_early_frees_its_place_upstream(place):
    with gateway(place.provider.url, "limits = { max_concurrent = 1 }") as patient:
        client = openai.OpenAI(base_url=patient.url, api_key=CALLERS_KEY)
        stream = client.chat.completions.create(model=MODEL, messages=user("[[fault:stall-body x9]]"), stream=True)
        next(iter(stream))
        stream.close()
        place.until_idle(0)
        equal(client.chat.completions.create(model=MODEL, messages=user("b")).choices[0].message.content, echo("b"))


@check
def tenants_need_their_key(place):
    with gateway(place.provider.url, f'[tenants.team]\nkey = "{TENANT_KEY}"') as guarded:
        stranger = openai.OpenAI(base_url=guarded.url, api_key=CALLERS_KEY)
        for call in (
            lambda: stranger.chat.completions.create(model=MODEL, messages=user("x")),
            lambda: stranger.chat.completions.create(model=MODEL, messages=user("x"), stream=True),
            lambda: stranger.models.list(),
        ):
            error = raised(openai.AuthenticationError, call)
            equal((error.status_code, error.code, CALLERS_KEY in str(error)), (401, "invalid_api_key", False))
        team = openai.OpenAI(base_url=guarded.url, api_key=TENANT_KEY)
        equal(team.chat.completions.create(model=MODEL, messages=user("in")).choices[0].message.content, echo("in"))
        log = guarded.log()
        assert not any(key in log for key in (TENANT_KEY, CALLERS_KEY, UPSTREAM_KEY)), "a key is in the log"


@check
def an_upstream_that_refuses_our_key_is_told_as_it_is(place):
    # A daemon of its own: the key rests afterwards.
    with gateway(place.provider.url) as forebay:
        client = openai.OpenAI(base_url=forebay.url, api_key=CALLERS_KEY)
        call = lambda: client.chat.completions.create(model=MODEL, messages=user("[[fault:status-401 x9]]"))
        made = place.attempts(lambda: raised(openai.AuthenticationError, call))
        equal(made, 1)


@check
def no_key_and_no_prompt_is_in_any_log(place):
    log = place.forebay.log()
    for secret in (UPSTREAM_KEY, CALLERS_KEY, "echo ", "injected by the simulator", "[[fault:"):
        assert secret not in log, f"{secret!r} is in the log"


def main():
    # A check that hangs is a failed one, and where it hangs is worth knowing.
    faulthandler.dump_traceback_later(300, exit=True)
    upstream = """
first_byte_timeout = "1500ms"
answer_timeout = "1500ms"
idle_timeout = "1500ms"
retry = { max_attempts = 2, base_delay = "10ms", retry_budget = 1.0 }
limits = { requests_per_minute = 60000 }
"""
    wanted = [one for one in CHECKS if len(sys.argv) < 2 or any(name in one.__name__ for name in sys.argv[1:])]
    failed = 0
    with simulator("--chunk-gap=1ms") as provider, gateway(provider.url, upstream, models=MODELS) as forebay:
        place = Place(provider, forebay)
        for one in wanted:
            name = one.__name__.replace("_", " ")
            try:
                one(place)
                print(f"ok      {name}", flush=True)
            except Exception:
                failed += 1
                print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)
    print(f"{len(wanted) - failed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
