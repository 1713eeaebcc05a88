"""litellm's own client, which speaks to the gateway as to any server of OpenAI's kind."""

import json

import litellm
import openai
import pydantic

from row import *

row = Row("litellm", "openai")
litellm.telemetry = False
litellm.suppress_debug_info = True


def ask(prompt, model=MODEL, **more):
    given = {"model": f"openai/{model}", "messages": user(prompt), "api_base": URL, "api_key": KEY, **more}
    return litellm.completion(**given)


class Forecast(pydantic.BaseModel):
    city: str
    days: list[int]


@row.cell("plain")
def _(prompt):
    answer = ask(prompt)
    equal((answer.choices[0].message.content, answer.choices[0].finish_reason), (echo(prompt), "stop"))
    assert answer.usage.completion_tokens > 0


@row.cell("stream")
def _(prompt):
    chunks = list(ask(prompt, stream=True))
    equal("".join(chunk.choices[0].delta.content or "" for chunk in chunks), echo(prompt))
    equal(chunks[-1].choices[0].finish_reason, "stop")
    assert len(chunks) > 3


@row.cell("stream usage")
def _(prompt):
    whole = ask(prompt).usage
    chunks = list(ask(prompt, stream=True, stream_options={"include_usage": True}))
    told = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    equal([(it.prompt_tokens, it.completion_tokens) for it in told], [(whole.prompt_tokens, whole.completion_tokens)])


@row.cell("tools")
def _(prompt):
    answer = ask(prompt, tools=TOOLS).choices[0]
    (call,) = answer.message.tool_calls
    equal((answer.finish_reason, call.function.name), ("tool_calls", "weather"))
    equal(json.loads(call.function.arguments), fitting(prompt))
    result = {"role": "tool", "tool_call_id": call.id, "content": f"20 C {prompt}"}
    told = ask(prompt, messages=[*user(prompt), answer.message, result], tools=TOOLS)
    equal(told.choices[0].message.content, echo(result["content"]))


@row.cell("tool stream")
def _(prompt):
    chunks = list(ask(prompt, tools=TOOLS, stream=True))
    pieces = [piece for chunk in chunks for piece in chunk.choices[0].delta.tool_calls or []]
    assert len(pieces) > 3, "the arguments came in one burst"
    equal(json.loads("".join(piece.function.arguments or "" for piece in pieces)), fitting(prompt))
    equal(chunks[-1].choices[0].finish_reason, "tool_calls")


@row.cell("structured")
def _(prompt):
    content = ask(prompt, response_format=Forecast).choices[0].message.content
    equal(Forecast.model_validate_json(content), Forecast(city=echo(prompt), days=[1]))


@row.cell("embeddings")
def _(prompt):
    made = [
        litellm.embedding(model=f"openai/{EMBEDDER}", input=[prompt], api_base=URL, api_key=KEY, encoding_format=how)
        for how in ("float", "base64")
    ]
    equal(len(made[0].data[0]["embedding"]), 16)
    assert made[0].usage.total_tokens > 0 and made[1].data[0]["embedding"]


@row.cell("400")
def _(prompt):
    refused(1, litellm.BadRequestError, lambda: ask(f"{prompt} [[fault:status-400 x9]]"))


@row.cell("401")
def _(prompt):
    refused(0, litellm.AuthenticationError, lambda: ask(prompt, api_base=GUARDED))


@row.cell("404")
def _(prompt):
    refused(0, litellm.NotFoundError, lambda: ask(prompt, "no-such-model"))


@row.cell("500")
def _(prompt):
    refused(ATTEMPTS, litellm.InternalServerError, lambda: ask(f"{prompt} [[fault:status-500 x99]]"))
    asked = f"{prompt} stream [[fault:status-500 x99]]"
    refused(ATTEMPTS, litellm.InternalServerError, lambda: ask(asked, stream=True))


@row.cell("429")
def _(prompt):
    refused(ATTEMPTS, litellm.RateLimitError, lambda: ask(f"{prompt} [[fault:rate-limited-bare x99]]"))


@row.cell("cut stream")
def _(prompt):
    # Left to itself this client invents `finish_reason: stop` for a stream that ends too early.
    for fault in ("cut-body", "unfinished", "error-midway"):
        asked = f"{prompt} [[fault:{fault} x9]]"
        cut(openai.APIError, lambda: (it.choices[0].delta.content or "" for it in ask(asked, stream=True)), asked)


@row.cell("timeout")
def _(prompt):
    kinds = (litellm.Timeout, litellm.InternalServerError, litellm.APIError)
    timed_out(kinds, lambda: ask(f"{prompt} [[fault:stall x99]]", timeout=0.5, max_retries=0))


@row.cell("cancel")
def _(prompt):
    with leaving():
        stream = ask(prompt, SLOW, stream=True)
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
        stream.completion_stream.close()


row.run()
