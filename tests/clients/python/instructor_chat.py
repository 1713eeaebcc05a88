"""instructor around the openai package."""

import asyncio

import instructor
import openai
import pydantic
from instructor.core import IncompleteOutputException, InstructorRetryException

from row import *

row = Row("instructor", "openai")


class Forecast(pydantic.BaseModel):
    city: str
    days: list[int]


def same(answer, prompt):
    """Its answers are of classes that it derives from the caller's."""
    equal(answer.model_dump(), {"city": echo(prompt), "days": [1]})


def client(mode=instructor.Mode.TOOLS, **more):
    return instructor.from_openai(openai.OpenAI(**{"base_url": URL, "api_key": KEY, **more}), mode=mode)


def ask(prompt, through=None, model=MODEL, **more):
    given = {"model": model, "messages": user(prompt), "response_model": Forecast, "max_retries": 1, **more}
    return (through or client()).chat.completions.create(**given)


def cause(error):
    """What of openai's lies under it."""
    while error and not isinstance(error, openai.OpenAIError):
        last = error.args and error.args[0]
        error = error.__cause__ or error.__context__ or (last if isinstance(last, Exception) else None)
    return error


def failing(attempts, kind, call):
    error = refused(attempts, (InstructorRetryException, openai.OpenAIError), call)
    assert isinstance(cause(error), kind), repr(error)
    return cause(error)


@row.cell("plain")
def _(prompt):
    answer, raw = client().chat.completions.create_with_completion(
        model=MODEL, messages=user(prompt), response_model=Forecast
    )
    same(answer, prompt)
    assert raw.usage.completion_tokens > 0


@row.cell("stream")
def _(prompt):
    parts = list(client().chat.completions.create_partial(model=MODEL, messages=user(prompt), response_model=Forecast))
    same(parts[-1], prompt)
    assert len(parts) > 1


row.none("stream usage", "its streams are objects without usage")


@row.cell("tools")
def _(prompt):
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        same(ask(f"{prompt} {mode}", client(mode)), f"{prompt} {mode}")


@row.cell("tool stream")
def _(prompt):
    found = list(client().chat.completions.create_iterable(model=MODEL, messages=user(prompt), response_model=Forecast))
    (only,) = found
    same(only, prompt)


@row.cell("structured")
def _(prompt):
    same(ask(prompt, client(instructor.Mode.JSON_SCHEMA)), prompt)


row.none("embeddings", "instructor makes none")


@row.cell("400")
def _(prompt):
    failing(1, openai.BadRequestError, lambda: ask(f"{prompt} [[fault:status-400 x9]]"))


@row.cell("401")
def _(prompt):
    failing(0, openai.AuthenticationError, lambda: ask(prompt, client(base_url=GUARDED)))


@row.cell("404")
def _(prompt):
    equal(failing(0, openai.NotFoundError, lambda: ask(prompt, model="no-such-model")).code, "model_not_found")


@row.cell("500")
def _(prompt):
    failing(ATTEMPTS, openai.InternalServerError, lambda: ask(f"{prompt} [[fault:status-500 x99]]"))


@row.cell("429")
def _(prompt):
    failing(ATTEMPTS, openai.RateLimitError, lambda: ask(f"{prompt} [[fault:rate-limited-bare x99]]"))


@row.cell("cut stream")
def _(prompt):
    create = client().chat.completions.create_partial
    parts = []

    def read():
        for part in create(model=MODEL, messages=user(f"{prompt} [[fault:cut-body x9]]"), response_model=Forecast):
            parts.append(part)

    raised((InstructorRetryException, IncompleteOutputException, openai.APIError), read)


@row.cell("timeout")
def _(prompt):
    kinds = (InstructorRetryException, openai.APITimeoutError, openai.InternalServerError)
    hasty = client(timeout=0.5, max_retries=0)
    error = timed_out(kinds, lambda: ask(f"{prompt} [[fault:stall x99]]", hasty))
    assert isinstance(cause(error), (openai.APITimeoutError, openai.InternalServerError)), repr(error)


@row.cell("cancel", "instructor's synchronous streams are read to their end first; its asynchronous ones can be left")
def _(prompt):
    async def leave():
        async with openai.AsyncOpenAI(base_url=URL, api_key=KEY) as connections:
            create = instructor.from_openai(connections).chat.completions.create_partial
            stream = create(model=SLOW, messages=user(prompt), response_model=Forecast)
            async for _ in stream:
                break
            await stream.aclose()

    with leaving():
        asyncio.run(leave())


row.run()
