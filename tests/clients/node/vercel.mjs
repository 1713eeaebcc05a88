// Vercel's `ai` with one of its providers: `compatible`, `responses` (what createOpenAI speaks) or `anthropic`.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, embedMany, generateObject, generateText, jsonSchema, RetryError, streamText, tool } from "ai";
import { z } from "zod";

import * as it from "./row.mjs";
import { equal, echo, fitting } from "./row.mjs";

const kind = process.argv[2];
const MODEL = kind === "anthropic" ? "claude-sonnet-4-5" : it.MODEL;
const packages = { compatible: "@ai-sdk/openai-compatible", responses: "@ai-sdk/openai", anthropic: "@ai-sdk/anthropic" };
const row = new it.Row("ai", packages[kind]);
const makers = {
  compatible: (baseURL, more) => createOpenAICompatible({ name: "forebay", baseURL, apiKey: it.KEY, supportsStructuredOutputs: true, ...more }),
  responses: (baseURL) => createOpenAI({ baseURL, apiKey: it.KEY }),
  anthropic: (baseURL) => createAnthropic({ baseURL, apiKey: it.KEY }),
};
const provider = makers[kind](it.place.url);
const ask = (more) => ({ model: provider(MODEL), onError() {}, ...more });
const tools = { weather: tool({ inputSchema: jsonSchema(it.PARAMETERS) }) };
const NOTE = "`ai` tries 408, 409, 429 and 5xx twice more itself, whatever x-should-retry says: give it maxRetries: 0";

/** Which status an error has, below the retries that `ai` makes of it. */
const status = (...wanted) => (error) => {
  const last = RetryError.isInstance(error) ? error.lastError : error;
  return APICallError.isInstance(last) && wanted.includes(last.statusCode);
};

async function parts(more) {
  const found = [];
  try {
    for await (const part of streamText(ask(more)).fullStream) found.push(part);
  } catch (error) {
    // An unclean end is thrown, an error event handed out.
    found.push({ type: "error", error });
  }
  return found;
}

row.cell("plain", async (prompt) => {
  const answer = await generateText(ask({ prompt }));
  equal([answer.text, answer.finishReason], [echo(prompt), "stop"]);
  it.assert(answer.usage.outputTokens > 0 && answer.response.headers["x-request-id"].startsWith("req_"));
});

row.cell("stream", async (prompt) => {
  const found = await parts({ prompt });
  const deltas = found.filter((part) => part.type === "text-delta");
  equal(deltas.map((part) => part.text).join(""), echo(prompt));
  equal(found.at(-1).finishReason, "stop");
  it.assert(deltas.length > 3);
});

row.cell("stream usage", async (prompt) => {
  const asking = kind === "compatible" ? makers[kind](it.place.url, { includeUsage: true }) : provider;
  const found = await parts({ prompt, model: asking(MODEL) });
  const { inputTokens, outputTokens } = (await generateText(ask({ prompt }))).usage;
  const told = found.at(-1).totalUsage;
  equal([told.inputTokens, told.outputTokens], [inputTokens, outputTokens]);
  it.assert(outputTokens > 0);
});

row.cell("tools", async (prompt) => {
  const answer = await generateText(ask({ prompt, tools }));
  const [call] = answer.toolCalls;
  equal([answer.finishReason, call.toolName, call.input], ["tool-calls", "weather", fitting(prompt)]);
  const output = { type: "text", value: `20 C ${prompt}` };
  const result = { role: "tool", content: [{ type: "tool-result", toolCallId: call.toolCallId, toolName: "weather", output }] };
  const messages = [{ role: "user", content: prompt }, ...answer.response.messages, result];
  equal((await generateText(ask({ messages, tools }))).text, echo(output.value));
});

row.cell("tool stream", async (prompt) => {
  const found = await parts({ prompt, tools });
  const deltas = found.filter((part) => part.type === "tool-input-delta");
  it.assert(deltas.length > 3, "the arguments came in one burst");
  equal(JSON.parse(deltas.map((part) => part.delta).join("")), fitting(prompt));
  equal(found.find((part) => part.type === "tool-call").input, fitting(prompt));
});

row.cell("structured", async (prompt) => {
  const schema = z.object({ city: z.string(), days: z.array(z.number()) });
  equal((await generateObject(ask({ prompt, schema }))).object, { city: echo(prompt), days: [1] });
});

if (kind === "anthropic") {
  row.none("embeddings", "Anthropic offers none");
  row.none("count tokens", "`ai` has no such call");
} else {
  row.cell("embeddings", async (prompt) => {
    const answer = await embedMany({ model: provider.textEmbeddingModel(it.EMBEDDER), values: [prompt, "other"] });
    equal(answer.embeddings.map((one) => one.length), [16, 16]);
    it.assert(answer.usage.tokens > 0 && answer.embeddings[0][0] !== answer.embeddings[1][0]);
  });
}

row.cell("400", (prompt) =>
  it.refused(1, status(400), () => generateText(ask({ prompt: `${prompt} [[fault:status-400 x9]]` }))));

row.cell("401", (prompt) =>
  it.refused(0, status(401), () => generateText(ask({ prompt, model: makers[kind](it.place.guarded)(MODEL) }))));

row.cell("404", (prompt) =>
  it.refused(0, status(404), () => generateText(ask({ prompt, model: provider("no-such-model") }))));

for (const [feature, fault, code] of [["500", "status-500", 500], ["429", "rate-limited-bare", 429]]) {
  row.cell(feature, async (prompt) => {
    const call = (text, more) => () => generateText(ask({ prompt: `${text} [[fault:${fault} x99]]`, ...more }));
    await it.refused(it.ATTEMPTS, status(code), call(prompt, { maxRetries: 0 }));
    // That the note below is true: one attempt of ours for one of theirs would be as bad, and nothing tells us of it.
    await it.refused(2 * it.ATTEMPTS, status(code), call(`${prompt} again`, { maxRetries: 1 }));
  }, NOTE);
}

row.cell("cut stream", async (prompt) => {
  for (const fault of ["cut-body", "unfinished", "error-midway"]) {
    const asked = `${prompt} [[fault:${fault} x9]]`;
    const found = await parts({ prompt: asked });
    const text = found.filter((part) => part.type === "text-delta").map((part) => part.text).join("");
    it.assert(text && echo(asked).startsWith(text), text);
    it.assert(found.some((part) => part.type === "error"), `${fault}: ${JSON.stringify(found.slice(-2))}`);
    it.assert(found.at(-1).finishReason !== "stop", fault);
  }
});

row.cell("timeout", async (prompt) => {
  const abortSignal = AbortSignal.timeout(500);
  const gaveUp = (error) => ["TimeoutError", "AbortError"].includes(error.name);
  await it.timedOut(gaveUp, () => generateText(ask({ prompt: `${prompt} [[fault:stall x99]]`, abortSignal })));
  const headers = { "x-forebay-timeout": "300ms" };
  const asked = `${prompt} told [[fault:stall x99]]`;
  await it.timedOut(status(504), () => generateText(ask({ prompt: asked, headers, maxRetries: 0 })));
});

row.cell("cancel", (prompt) =>
  it.leaving(async () => {
    const leave = new AbortController();
    const answer = streamText(ask({ prompt, model: provider(it.SLOW), abortSignal: leave.signal }));
    for await (const _ of answer.textStream) break;
    leave.abort();
  }));

await row.run();
