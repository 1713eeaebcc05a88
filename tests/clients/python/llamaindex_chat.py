"""LlamaIndex's OpenAILike."""

import httpx
import openai
import pydantic
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

from row import *

row = Row("llama-index-llms-openai-like", "llama-index-core", "openai")


def model(**more):
    given = {"model": MODEL, "api_base": URL, "api_key": KEY, "is_chat_model": True, "is_function_calling_model": True}
    return OpenAILike(**{**given, **more})


def asked(prompt):
    return [ChatMessage(role="user", content=prompt)]


class Forecast(pydantic.BaseModel):
    """What the weather will be."""

    city: str
    days: int


def weather(city: str, days: int) -> str:
    """Tells the weather."""
    return f"20 C in {city} for {days}"


TOOL = FunctionTool.from_defaults(weather)


@row.cell("plain")
def _(prompt):
    answer = model().chat(asked(prompt))
    equal(answer.message.content, echo(prompt))
    assert answer.raw.usage.completion_tokens > 0
    equal(answer.raw.choices[0].finish_reason, "stop")


@row.cell("stream")
def _(prompt):
    chunks = list(model().stream_chat(asked(prompt)))
    equal((chunks[-1].message.content, "".join(chunk.delta or "" for chunk in chunks)), (echo(prompt),) * 2)
    assert len(chunks) > 3 and not any(chunk.raw.usage for chunk in chunks)


@row.cell("stream usage")
def _(prompt):
    whole = model().chat(asked(prompt)).raw.usage
    told = model(additional_kwargs={"stream_options": {"include_usage": True}}).stream_chat(asked(prompt))
    equal([chunk.raw.usage for chunk in told if chunk.raw.usage], [whole])


@row.cell("tools")
def _(prompt):
    llm = model()
    answer = llm.chat_with_tools([TOOL], user_msg=prompt)
    (call,) = llm.get_tool_calls_from_response(answer)
    equal((call.tool_name, call.tool_kwargs), ("weather", {"city": echo(prompt), "days": 1}))
    result = ChatMessage(role="tool", content=f"20 C {prompt}", additional_kwargs={"tool_call_id": call.tool_id})
    told = llm.chat_with_tools([TOOL], chat_history=[*asked(prompt), answer.message, result])
    equal(told.message.content, echo(f"20 C {prompt}"))


@row.cell("tool stream")
def _(prompt):
    llm = model()
    chunks = list(llm.stream_chat_with_tools([TOOL], user_msg=prompt))
    assert len(chunks) > 3, "the arguments came in one burst"
    (call,) = llm.get_tool_calls_from_response(chunks[-1])
    equal((call.tool_name, call.tool_kwargs), ("weather", {"city": echo(prompt), "days": 1}))


@row.cell("structured")
def _(prompt):
    said = model(should_use_structured_outputs=True).as_structured_llm(Forecast).chat(asked(prompt)).raw
    equal(said, Forecast(city=echo(prompt), days=1))


row.none("embeddings", "llama-index-llms-openai-like is a chat model; embeddings are another package")


@row.cell("400")
def _(prompt):
    refused(1, openai.BadRequestError, lambda: model().chat(asked(f"{prompt} [[fault:status-400 x9]]")))


@row.cell("401")
def _(prompt):
    refused(0, openai.AuthenticationError, lambda: model(api_base=GUARDED).chat(asked(prompt)))


@row.cell("404")
def _(prompt):
    error = refused(0, openai.NotFoundError, lambda: model(model="no-such-model").chat(asked(prompt)))
    equal(error.code, "model_not_found")


# A retry of its own, around the package's: nothing on the wire tells of it.
OWN = "LlamaIndex tries 429 and 5xx again itself, whatever x-should-retry says: give it max_retries=0"


@row.cell("500", OWN)
def _(prompt):
    plain = model(max_retries=0)
    call = lambda text, llm=plain: llm.chat(asked(f"{prompt} {text} [[fault:status-500 x99]]"))
    refused(ATTEMPTS, openai.InternalServerError, lambda: call("whole"))
    stream = asked(f"{prompt} stream [[fault:status-500 x99]]")
    refused(ATTEMPTS, openai.InternalServerError, lambda: list(plain.stream_chat(stream)))
    # That the note is true.
    refused(3 * ATTEMPTS, openai.InternalServerError, lambda: call("again", model()))


@row.cell("429", OWN)
def _(prompt):
    call = lambda: model(max_retries=0).chat(asked(f"{prompt} [[fault:rate-limited-bare x99]]"))
    refused(ATTEMPTS, openai.RateLimitError, call)


@row.cell("cut stream")
def _(prompt):
    for fault in ("cut-body", "unfinished", "error-midway"):
        text = f"{prompt} [[fault:{fault} x9]]"
        cut(openai.APIError, lambda: (chunk.delta or "" for chunk in model().stream_chat(asked(text))), text)


@row.cell("timeout")
def _(prompt):
    kinds = (openai.APITimeoutError, openai.InternalServerError)
    hasty = model(timeout=0.5, max_retries=0)
    timed_out(kinds, lambda: hasty.chat(asked(f"{prompt} [[fault:stall x99]]")))


@row.cell("cancel", "closing LlamaIndex's generator leaves its connection open and unread: close the http_client given to it")
def _(prompt):
    with leaving(), httpx.Client() as connections:
        stream = model(model=SLOW, http_client=connections).stream_chat(asked(prompt))
        next(chunk for chunk in stream if chunk.delta)
        stream.close()


row.run()
