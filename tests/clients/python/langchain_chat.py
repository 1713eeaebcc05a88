"""LangChain's ChatOpenAI and OpenAIEmbeddings."""

import openai
import pydantic
from langchain_core.messages import ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from row import *

row = Row("langchain-openai", "langchain-core", "openai")


def model(**more):
    return ChatOpenAI(**{"model": MODEL, "base_url": URL, "api_key": KEY, "stream_usage": False, **more})


class Forecast(pydantic.BaseModel):
    """What the weather will be."""

    city: str
    days: list[int]


@row.cell("plain")
def _(prompt):
    answer = model().invoke(prompt)
    equal((answer.content, answer.response_metadata["finish_reason"]), (echo(prompt), "stop"))
    usage = answer.usage_metadata
    assert usage["output_tokens"] > 0 and usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


@row.cell("stream")
def _(prompt):
    chunks = list(model().stream(prompt))
    equal("".join(chunk.content for chunk in chunks), echo(prompt))
    assert len(chunks) > 3 and not any(chunk.usage_metadata for chunk in chunks)
    assert any(chunk.response_metadata.get("finish_reason") == "stop" for chunk in chunks)


@row.cell("stream usage")
def _(prompt):
    whole = model().invoke(prompt).usage_metadata
    chunks = list(model(stream_usage=True).stream(prompt))
    equal("".join(chunk.content for chunk in chunks), echo(prompt))
    equal([chunk.usage_metadata for chunk in chunks if chunk.usage_metadata], [whole])


@row.cell("tools")
def _(prompt):
    bound = model().bind_tools(TOOLS)
    answer = bound.invoke(prompt)
    (call,) = answer.tool_calls
    equal((call["name"], call["args"]), ("weather", fitting(prompt)))
    told = bound.invoke([("user", prompt), answer, ToolMessage(f"20 C {prompt}", tool_call_id=call["id"])])
    equal(told.content, echo(f"20 C {prompt}"))


@row.cell("tool stream")
def _(prompt):
    chunks = list(model().bind_tools(TOOLS).stream(prompt))
    assert sum(bool(chunk.tool_call_chunks) for chunk in chunks) > 3, "the arguments came in one burst"
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    equal([(call["name"], call["args"]) for call in whole.tool_calls], [("weather", fitting(prompt))])


@row.cell("structured")
def _(prompt):
    for method in ("json_schema", "function_calling"):
        said = model().with_structured_output(Forecast, method=method).invoke(prompt)
        equal(said, Forecast(city=echo(prompt), days=[1]))


@row.cell("embeddings")
def _(prompt):
    # Counting tokens first would fetch a vocabulary.
    embedder = OpenAIEmbeddings(model=EMBEDDER, base_url=URL, api_key=KEY, check_embedding_ctx_length=False)
    one, two = embedder.embed_documents([prompt, "other"])
    equal((len(one), embedder.embed_query(prompt)), (16, one))
    assert one != two


@row.cell("400")
def _(prompt):
    refused(1, openai.BadRequestError, lambda: model().invoke(f"{prompt} [[fault:status-400 x9]]"))


@row.cell("401")
def _(prompt):
    refused(0, openai.AuthenticationError, lambda: model(base_url=GUARDED).invoke(prompt))


@row.cell("404")
def _(prompt):
    error = refused(0, openai.NotFoundError, lambda: model(model="no-such-model").invoke(prompt))
    equal(error.code, "model_not_found")


@row.cell("500")
def _(prompt):
    refused(ATTEMPTS, openai.InternalServerError, lambda: model().invoke(f"{prompt} [[fault:status-500 x99]]"))
    asked = f"{prompt} stream [[fault:status-500 x99]]"
    refused(ATTEMPTS, openai.InternalServerError, lambda: list(model().stream(asked)))


@row.cell("429")
def _(prompt):
    refused(ATTEMPTS, openai.RateLimitError, lambda: model().invoke(f"{prompt} [[fault:rate-limited-bare x99]]"))


@row.cell("cut stream")
def _(prompt):
    for fault in ("cut-body", "unfinished", "error-midway"):
        asked = f"{prompt} [[fault:{fault} x9]]"
        cut(openai.APIError, lambda: (chunk.content for chunk in model().stream(asked)), asked)


@row.cell("timeout")
def _(prompt):
    hasty = model(timeout=0.5, max_retries=0)
    kinds = (openai.APITimeoutError, openai.InternalServerError)
    timed_out(kinds, lambda: hasty.invoke(f"{prompt} [[fault:stall x99]]"))


@row.cell("cancel")
def _(prompt):
    with leaving():
        stream = model(model=SLOW).stream(prompt)
        next(chunk for chunk in stream if chunk.content)
        stream.close()


row.run()
