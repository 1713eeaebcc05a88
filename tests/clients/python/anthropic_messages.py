"""The anthropic package, against /v1/messages."""

import anthropic

from row import *

CLAUDE = "claude-sonnet-4-5"
row = Row("anthropic")
client = anthropic.Anthropic(base_url=ROOT, api_key=KEY)
TOOL = {"name": "weather", "description": "Tells it.", "input_schema": PARAMETERS}


def create(prompt, through=client, **more):
    return through.messages.create(**{"model": CLAUDE, "max_tokens": 1000, "messages": user(prompt), **more})


def texts(prompt):
    for event in create(prompt, stream=True):
        if event.type == "content_block_delta":
            yield event.delta.text


@row.cell("plain")
def _(prompt):
    answer = create(prompt, system="Be brief.")
    equal((answer.content[0].text, answer.stop_reason), (echo(prompt), "end_turn"))
    assert answer.usage.input_tokens > 0 and answer.usage.output_tokens > 0


@row.cell("stream")
def _(prompt):
    events = list(create(prompt, stream=True))
    equal("".join(event.delta.text for event in events if event.type == "content_block_delta"), echo(prompt))
    equal((events[0].type, events[-1].type), ("message_start", "message_stop"))


@row.cell("stream usage")
def _(prompt):
    with client.messages.stream(model=CLAUDE, max_tokens=1000, messages=user(prompt)) as stream:
        final = stream.get_final_message()
    equal(final.content[0].text, echo(prompt))
    equal(final.usage.output_tokens, create(prompt).usage.output_tokens)


@row.cell("tools")
def _(prompt):
    answer = create(prompt, tools=[TOOL])
    (call,) = (block for block in answer.content if block.type == "tool_use")
    equal((answer.stop_reason, call.name, call.input), ("tool_use", "weather", fitting(prompt)))
    result = {"type": "tool_result", "tool_use_id": call.id, "content": f"20 C {prompt}"}
    messages = [*user(prompt), {"role": "assistant", "content": answer.content}, {"role": "user", "content": [result]}]
    equal(create(prompt, messages=messages, tools=[TOOL]).content[0].text, echo(result["content"]))


@row.cell("tool stream")
def _(prompt):
    with client.messages.stream(model=CLAUDE, max_tokens=1000, messages=user(prompt), tools=[TOOL]) as stream:
        pieces = [event.partial_json for event in stream if event.type == "input_json"]
        final = stream.get_final_message()
    assert len(pieces) > 3, "the arguments came in one burst"
    equal((final.stop_reason, final.content[-1].input), ("tool_use", fitting(prompt)))


@row.cell("structured")
def _(prompt):
    forced = {"type": "tool", "name": "weather"}
    (call,) = (it for it in create(prompt, tools=[TOOL], tool_choice=forced).content if it.type == "tool_use")
    equal(call.input, fitting(prompt))


row.none("embeddings", "Anthropic offers none")


@row.cell("count tokens")
def _(prompt):
    count = client.messages.count_tokens(model=CLAUDE, messages=user(prompt))
    equal(count.input_tokens, create(prompt).usage.input_tokens)


def enveloped(error, kind):
    equal((error.body["type"], error.body["error"]["type"]), ("error", kind))
    return error


@row.cell("400")
def _(prompt):
    call = lambda: create(f"{prompt} [[fault:status-400 x9]]")
    enveloped(refused(1, anthropic.BadRequestError, call), "invalid_request_error")


@row.cell("401")
def _(prompt):
    stranger = anthropic.Anthropic(base_url=GUARDED_ROOT, api_key=KEY)
    error = refused(0, anthropic.AuthenticationError, lambda: create(prompt, stranger))
    enveloped(error, "authentication_error")
    assert KEY not in str(error)


@row.cell("404")
def _(prompt):
    call = lambda: create(prompt, model="no-such-model")
    enveloped(refused(0, anthropic.NotFoundError, call), "not_found_error")


@row.cell("500")
def _(prompt):
    for more in ({}, {"stream": True}):
        call = lambda: create(f"{prompt} {more} [[fault:status-500 x99]]", **more)
        enveloped(refused(ATTEMPTS, anthropic.InternalServerError, call), "api_error")


@row.cell("429")
def _(prompt):
    call = lambda: create(f"{prompt} [[fault:rate-limited-bare x99]]")
    enveloped(refused(ATTEMPTS, anthropic.RateLimitError, call), "rate_limit_error")


@row.cell("cut stream")
def _(prompt):
    # Left to itself this package takes an early end for success.
    for fault in ("cut-body", "unfinished", "error-midway"):
        asked = f"{prompt} [[fault:{fault} x9]]"
        cut(anthropic.APIError, lambda: texts(asked), asked)


@row.cell("timeout")
def _(prompt):
    hasty = client.with_options(timeout=0.5, max_retries=0)
    kinds = (anthropic.APITimeoutError, anthropic.InternalServerError)
    timed_out(kinds, lambda: create(f"{prompt} [[fault:stall x99]]", hasty))
    told = {"x-forebay-timeout": "300ms"}
    call = lambda: create(f"{prompt} told [[fault:stall x99]]", extra_headers=told)
    equal(timed_out(anthropic.InternalServerError, call).status_code, 504)


@row.cell("cancel")
def _(prompt):
    with leaving():
        stream = create(prompt, model=SLOW, stream=True)
        next(event for event in stream if event.type == "content_block_delta")
        stream.close()


row.run()
