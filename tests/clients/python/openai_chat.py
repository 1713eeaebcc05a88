"""The openai package, chats and embeddings; with `anthropic` or `gemini` as argument, chats to such an upstream."""

import json

import openai
import pydantic

from row import *

VIA = sys.argv[1] if len(sys.argv) > 1 else None
row = Row("openai")
client = openai.OpenAI(base_url=URL, api_key=KEY)
create = client.chat.completions.create


def texts(prompt, **more):
    for chunk in create(**{"model": MODEL, "messages": user(prompt), "stream": True, **more}):
        for choice in chunk.choices:
            yield choice.delta.content or ""


@row.cell("plain")
def _(prompt):
    answer = create(model=MODEL, messages=user(prompt))
    choice = answer.choices[0]
    equal((choice.message.content, choice.finish_reason), (echo(prompt), "stop"))
    usage = answer.usage
    assert usage.completion_tokens > 0 and usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert answer._request_id.startswith("req_")


@row.cell("stream")
def _(prompt):
    chunks = list(create(model=MODEL, messages=user(prompt), stream=True))
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), echo(prompt))
    equal(chunks[-1].choices[0].finish_reason, "stop")
    assert len(chunks) > 3 and not any(chunk.usage for chunk in chunks)


@row.cell("stream usage")
def _(prompt):
    whole = create(model=MODEL, messages=user(prompt)).usage
    *chunks, last = create(model=MODEL, messages=user(prompt), stream=True, stream_options={"include_usage": True})
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), echo(prompt))
    equal((last.choices, last.usage), ([], whole))
    assert not any(chunk.usage for chunk in chunks)


@row.cell("tools")
def _(prompt):
    # The simulator's other faces call one tool at a time.
    names = ["weather"] if VIA else ["weather", "clock"]
    two = [{"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in names]
    answer = create(model=MODEL, messages=user(prompt), tools=two, parallel_tool_calls=True).choices[0]
    calls = answer.message.tool_calls
    equal((answer.finish_reason, [call.function.name for call in calls]), ("tool_calls", names))
    equal([json.loads(call.function.arguments) for call in calls], [fitting(prompt)] * len(names))
    results = [{"role": "tool", "tool_call_id": call.id, "content": f"20 C {call.id}"} for call in calls]
    told = create(model=MODEL, messages=[*user(prompt), answer.message, *results], tools=two)
    equal(told.choices[0].message.content, echo(results[-1]["content"]))


WHOLE = "Gemini sends a call whole, and so it comes: one piece of arguments" if VIA == "gemini" else ""


@row.cell("tool stream", WHOLE)
def _(prompt):
    chunks = list(create(model=MODEL, messages=user(prompt), tools=TOOLS, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    assert WHOLE or len(pieces) > 3, "the arguments came in one burst"
    equal(json.loads("".join(piece.function.arguments for piece in pieces)), fitting(prompt))
    equal((pieces[0].function.name, chunks[-1].choices[0].finish_reason), ("weather", "tool_calls"))
    with client.chat.completions.stream(model=MODEL, messages=user(prompt), tools=TOOLS) as stream:
        final = stream.get_final_completion()
    equal(json.loads(final.choices[0].message.tool_calls[0].function.arguments), fitting(prompt))


class Forecast(pydantic.BaseModel):
    city: str
    days: list[int]


@row.cell("structured")
def _(prompt):
    answer = client.chat.completions.parse(model=MODEL, messages=user(prompt), response_format=Forecast)
    equal(answer.choices[0].message.parsed, Forecast(city=echo(prompt), days=[1]))


def embeddings(prompt):
    packed, plain = (
        client.embeddings.create(model=EMBEDDER, input=[prompt, "other"], **more)
        for more in ({}, {"encoding_format": "float"})
    )
    equal([item.embedding for item in packed.data], [item.embedding for item in plain.data])
    assert len(packed.data[0].embedding) == 16 and packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.total_tokens > 0


if VIA:
    row.none("embeddings", f"of {VIA} only chats are translated")
else:
    row.cell("embeddings")(embeddings)


@row.cell("batch")
def _(prompt):
    def line(name):
        body = {"model": MODEL, "messages": user(f"{prompt} {name}")}
        return json.dumps({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body})

    file = client.files.create(file=("in.jsonl", f"{line('a')}\n{line('b')}\n".encode()), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h", metadata={"of": "matrix"}
    )
    end = time.monotonic() + 60
    while batch.status in ("validating", "in_progress", "finalizing"):
        assert time.monotonic() < end, f"it stays so: {batch}"
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    equal((batch.status, batch.request_counts.completed, batch.metadata), ("completed", 2, {"of": "matrix"}))
    for answer in map(json.loads, client.files.content(batch.output_file_id).text.splitlines()):
        content = answer["response"]["body"]["choices"][0]["message"]["content"]
        equal(content, echo(f"{prompt} {answer['custom_id']}"))
    assert batch.id in [one.id for one in client.batches.list()]
    assert client.files.delete(file.id).deleted


@row.cell("400")
def _(prompt):
    error = refused(1, openai.BadRequestError, lambda: create(model=MODEL, messages=user(f"{prompt} [[fault:status-400 x9]]")))
    equal(error.body["message"], "status 400 (injected by the simulator)")
    error = refused(0, openai.BadRequestError, lambda: create(model=MODEL, messages="none"))
    equal((error.code, error.param), ("invalid_request", "messages"))


@row.cell("401")
def _(prompt):
    stranger = openai.OpenAI(base_url=GUARDED, api_key=KEY)
    call = lambda: stranger.chat.completions.create(model=MODEL, messages=user(prompt))
    error = refused(0, openai.AuthenticationError, call)
    equal((error.code, KEY in str(error)), ("invalid_api_key", False))


@row.cell("404")
def _(prompt):
    error = refused(0, openai.NotFoundError, lambda: create(model="no-such-model", messages=user(prompt)))
    equal(error.code, "model_not_found")


@row.cell("500")
def _(prompt):
    for more in ({}, {"stream": True}):
        messages = user(f"{prompt} {more} [[fault:status-500 x99]]")
        error = refused(ATTEMPTS, openai.InternalServerError, lambda: create(model=MODEL, messages=messages, **more))
        equal(error.status_code, 500)


@row.cell("429")
def _(prompt):
    messages = user(f"{prompt} [[fault:rate-limited-bare x99]]")
    error = refused(ATTEMPTS, openai.RateLimitError, lambda: create(model=MODEL, messages=messages))
    assert VIA or error.code == "rate_limit_exceeded", error


@row.cell("cut stream")
def _(prompt):
    for fault in ("cut-body", "unfinished", "error-midway"):
        asked = f"{prompt} [[fault:{fault} x9]]"
        error = cut(openai.APIError, lambda: texts(asked), asked)
        assert error.message, repr(error)


@row.cell("timeout")
def _(prompt):
    messages = user(f"{prompt} [[fault:stall x99]]")
    hasty = client.with_options(timeout=0.5, max_retries=0).chat.completions.create
    # The package tells us its limit: whoever is first.
    timed_out((openai.APITimeoutError, openai.InternalServerError), lambda: hasty(model=MODEL, messages=messages))
    told = {"x-forebay-timeout": "300ms"}
    error = timed_out(openai.InternalServerError, lambda: create(model=MODEL, messages=messages, extra_headers=told))
    equal((error.status_code, error.code), (504, "deadline_exceeded"))


@row.cell("cancel")
def _(prompt):
    with leaving():
        stream = create(model=SLOW, messages=user(prompt), stream=True)
        next(iter(stream))
        stream.close()


row.run()
