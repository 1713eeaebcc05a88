"""The golden files of translations, parsed by the vendors' own packages: a wrong belief cannot confirm itself.

Answers and events of the upstream's side must be what the vendor's package calls one, their translations what OpenAI's does,
and requests what either would send. `python golden.py`
"""

import json
import pathlib
import sys

import anthropic.types as theirs
import openai.types.chat as ours
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming, MessageCreateParamsStreaming
from openai.types.chat.completion_create_params import (
    CompletionCreateParamsNonStreaming,
    CompletionCreateParamsStreaming,
)
from pydantic import TypeAdapter

GOLDEN = pathlib.Path(__file__).parent.parent / "golden" / "anthropic"
EVENT = TypeAdapter(theirs.RawMessageStreamEvent)


def events(text):
    """The data of each event in a stream."""
    for block in text.split("\n\n"):
        data = [line.removeprefix("data: ") for line in block.splitlines() if line.startswith("data: ")]
        if data and data != ["[DONE]"]:
            yield json.loads("\n".join(data))


def main():
    parsed = 0
    for path in sorted(GOLDEN.glob("answers/*.json")):
        kind = ours.ChatCompletion if path.name.endswith(".openai.json") else theirs.Message
        kind.model_validate(json.loads(path.read_text()))
        parsed += 1
    for path in sorted(GOLDEN.glob("streams/*.sse")):
        for event in events(path.read_text()):
            if path.name.endswith(".openai.sse"):
                ours.ChatCompletionChunk.model_validate(event)
            elif event["type"] != "ping":
                EVENT.validate_python(event)
        parsed += 1
    for path in sorted(GOLDEN.glob("requests/*.json")):
        request = json.loads(path.read_text())
        if path.name.endswith(".anthropic.json"):
            kind = MessageCreateParamsStreaming if request.get("stream") else MessageCreateParamsNonStreaming
        else:
            kind = CompletionCreateParamsStreaming if request.get("stream") else CompletionCreateParamsNonStreaming
        TypeAdapter(kind).validate_python(request)
        parsed += 1
    print(f"{parsed} golden files of Anthropic's are what the packages say they are")
    return 0 if parsed >= 30 else 1


if __name__ == "__main__":
    sys.exit(main())
