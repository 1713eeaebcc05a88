"""The golden files, read by the vendors' own types: an upstream's answers by its SDK, what is made of them by openai's.
Types are validated, not merely filled in."""

import pathlib

import anthropic
import openai
import pydantic
from anthropic.types import Message, RawMessageStreamEvent
from google.genai.types import GenerateContentResponse
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from row import *

GOLDEN = pathlib.Path(__file__).parents[2] / "golden"
WHOLE = {"anthropic": Message, "gemini": GenerateContentResponse}
EVENT = {"anthropic": RawMessageStreamEvent, "gemini": GenerateContentResponse}
row = Row("anthropic", "google-genai", "openai")


def valid(kind, data, path):
    """`data` as `kind`, by validation; a field that the type has and the data misses, or of another type, is an error."""
    try:
        return pydantic.TypeAdapter(kind).validate_json(data)
    except pydantic.ValidationError as error:
        raise AssertionError(f"{path.relative_to(GOLDEN)} is no {kind}: {error}") from None


def events(decoder, path):
    """The data of each event, by an SDK's own decoder."""
    for event in decoder.iter_bytes(iter([path.read_bytes()])):
        if event.data and event.data != "[DONE]":
            yield event


@row.cell("golden")
def _(_):
    read = 0
    for vendor in ("anthropic", "gemini"):
        files = sorted((GOLDEN / vendor / "answers").glob("*.json"))
        assert files, f"no answers of {vendor}"
        for path in files:
            ours = path.name.endswith(".openai.json")
            valid(ChatCompletion if ours else WHOLE[vendor], path.read_bytes(), path)
            read += 1
        files = sorted((GOLDEN / vendor / "streams").glob("*.sse"))
        assert files, f"no streams of {vendor}"
        for path in files:
            ours = path.name.endswith(".openai.sse")
            decoder = openai._streaming.SSEDecoder() if ours or vendor == "gemini" else anthropic._streaming.SSEDecoder()
            kind = ChatCompletionChunk if ours else EVENT[vendor]
            found = list(events(decoder, path))
            assert found, f"{path} has no events"
            for event in found:
                # The SDK keeps a ping to itself.
                if event.event != "ping":
                    valid(kind, event.data, path)
            read += 1
    row.say({"versions": {"files": str(read)}})


row.run()
