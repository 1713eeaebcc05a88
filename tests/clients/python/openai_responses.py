"""The openai package, responses."""

import json

import openai
import pydantic

from row import *

row = Row("openai")
client = openai.OpenAI(base_url=URL, api_key=KEY)
create = client.responses.create
FLAT = [{"type": "function", "name": "weather", "parameters": PARAMETERS, "strict": True}]


@row.cell("plain")
def _(prompt):
    answer = create(model=MODEL, input=prompt)
    equal((answer.output_text, answer.status), (echo(prompt), "completed"))
    assert answer.usage.output_tokens > 0 and answer._request_id.startswith("req_")


@row.cell("stream")
def _(prompt):
    events = list(create(model=MODEL, input=prompt, stream=True))
    equal("".join(event.delta for event in events if event.type == "response.output_text.delta"), echo(prompt))
    equal((events[0].type, events[-1].type), ("response.created", "response.completed"))


@row.cell("stream usage")
def _(prompt):
    *_, last = create(model=MODEL, input=prompt, stream=True)
    equal(last.response.usage, create(model=MODEL, input=prompt).usage)


@row.cell("tools")
def _(prompt):
    (call,) = create(model=MODEL, input=prompt, tools=FLAT).output
    equal((call.type, call.name, json.loads(call.arguments)), ("function_call", "weather", fitting(prompt)))
    result = {"type": "function_call_output", "call_id": call.call_id, "output": f"20 C {prompt}"}
    told = create(model=MODEL, input=[{"role": "user", "content": prompt}, call, result], tools=FLAT)
    equal(told.output_text, echo(result["output"]))


@row.cell("tool stream")
def _(prompt):
    with client.responses.stream(model=MODEL, input=prompt, tools=FLAT) as stream:
        deltas = [event.delta for event in stream if event.type == "response.function_call_arguments.delta"]
        final = stream.get_final_response()
    assert len(deltas) > 3, "the arguments came in one burst"
    equal(json.loads("".join(deltas)), fitting(prompt))
    equal(json.loads(final.output[0].arguments), fitting(prompt))


class Forecast(pydantic.BaseModel):
    city: str
    days: list[int]


@row.cell("structured")
def _(prompt):
    answer = client.responses.parse(model=MODEL, input=prompt, text_format=Forecast)
    equal(answer.output_parsed, Forecast(city=echo(prompt), days=[1]))


row.none("embeddings", "embeddings are no responses: they are in the row of chats")


@row.cell("400")
def _(prompt):
    refused(1, openai.BadRequestError, lambda: create(model=MODEL, input=f"{prompt} [[fault:status-400 x9]]"))


@row.cell("401")
def _(prompt):
    stranger = openai.OpenAI(base_url=GUARDED, api_key=KEY)
    error = refused(0, openai.AuthenticationError, lambda: stranger.responses.create(model=MODEL, input=prompt))
    equal(error.code, "invalid_api_key")


@row.cell("404")
def _(prompt):
    error = refused(0, openai.NotFoundError, lambda: create(model="no-such-model", input=prompt))
    equal(error.code, "model_not_found")


@row.cell("500")
def _(prompt):
    for more in ({}, {"stream": True}):
        asked = f"{prompt} {more} [[fault:status-500 x99]]"
        refused(ATTEMPTS, openai.InternalServerError, lambda: create(model=MODEL, input=asked, **more))


@row.cell("429")
def _(prompt):
    asked = f"{prompt} [[fault:rate-limited-bare x99]]"
    refused(ATTEMPTS, openai.RateLimitError, lambda: create(model=MODEL, input=asked))


@row.cell("cut stream")
def _(prompt):
    asked = f"{prompt} [[fault:cut-body x9]]"
    events = []

    def read():
        events.extend(iter(create(model=MODEL, input=asked, stream=True)))
        # The error event of a response is one that the package hands out.
        assert events[-1].type in ("error", "response.failed"), events[-1]
        raise openai.APIError(events[-1].type, None, body=None)

    raised(openai.APIError, read)
    assert "response.completed" not in {event.type for event in events}


@row.cell("timeout")
def _(prompt):
    asked = f"{prompt} [[fault:stall x99]]"
    hasty = client.with_options(timeout=0.5, max_retries=0).responses.create
    timed_out((openai.APITimeoutError, openai.InternalServerError), lambda: hasty(model=MODEL, input=asked))


@row.cell("cancel")
def _(prompt):
    with leaving():
        stream = create(model=SLOW, input=prompt, stream=True)
        for event in stream:
            if event.type == "response.output_text.delta":
                break
        stream.close()


row.run()
