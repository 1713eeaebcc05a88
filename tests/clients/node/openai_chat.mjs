// The openai package, chats and embeddings.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import * as it from "./row.mjs";
import { equal, echo, fitting, user, MODEL } from "./row.mjs";

const row = new it.Row("openai");
const client = new OpenAI({ baseURL: it.place.url, apiKey: it.KEY });
const create = (body, options) => client.chat.completions.create({ model: MODEL, ...body }, options);
const tools = [{ type: "function", function: { name: "weather", parameters: it.PARAMETERS } }];
const is = (...kinds) => (error) => kinds.some((kind) => error instanceof kind);

async function* texts(prompt) {
  for await (const chunk of await create({ messages: user(prompt), stream: true })) yield chunk.choices[0]?.delta.content ?? "";
}

async function gather(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}

row.cell("plain", async (prompt) => {
  const answer = await create({ messages: user(prompt) });
  equal([answer.choices[0].message.content, answer.choices[0].finish_reason], [echo(prompt), "stop"]);
  equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  it.assert(answer.usage.completion_tokens > 0 && answer._request_id.startsWith("req_"));
});

row.cell("stream", async (prompt) => {
  const chunks = await gather(create({ messages: user(prompt), stream: true }));
  equal(chunks.map((chunk) => chunk.choices[0].delta.content ?? "").join(""), echo(prompt));
  equal(chunks.at(-1).choices[0].finish_reason, "stop");
  it.assert(chunks.length > 3 && !chunks.some((chunk) => chunk.usage));
});

row.cell("stream usage", async (prompt) => {
  const whole = (await create({ messages: user(prompt) })).usage;
  const chunks = await gather(create({ messages: user(prompt), stream: true, stream_options: { include_usage: true } }));
  equal([chunks.at(-1).choices, chunks.at(-1).usage], [[], whole]);
  it.assert(!chunks.slice(0, -1).some((chunk) => chunk.usage));
});

row.cell("tools", async (prompt) => {
  const { message, finish_reason } = (await create({ messages: user(prompt), tools })).choices[0];
  const [call] = message.tool_calls;
  equal([finish_reason, call.function.name], ["tool_calls", "weather"]);
  equal(JSON.parse(call.function.arguments), fitting(prompt));
  const result = { role: "tool", tool_call_id: call.id, content: `20 C ${prompt}` };
  const told = await create({ messages: [...user(prompt), message, result], tools });
  equal(told.choices[0].message.content, echo(result.content));
});

row.cell("tool stream", async (prompt) => {
  const chunks = await gather(create({ messages: user(prompt), tools, stream: true }));
  const pieces = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []);
  it.assert(pieces.length > 3, "the arguments came in one burst");
  equal(JSON.parse(pieces.map((piece) => piece.function.arguments).join("")), fitting(prompt));
  const final = await client.chat.completions.stream({ model: MODEL, messages: user(prompt), tools }).finalChatCompletion();
  equal(JSON.parse(final.choices[0].message.tool_calls[0].function.arguments), fitting(prompt));
});

row.cell("structured", async (prompt) => {
  const forecast = z.object({ city: z.string(), days: z.array(z.number()) });
  const answer = await client.chat.completions.parse({
    model: MODEL, messages: user(prompt), response_format: zodResponseFormat(forecast, "forecast"),
  });
  equal(answer.choices[0].message.parsed, { city: echo(prompt), days: [1] });
});

row.cell("embeddings", async (prompt) => {
  const embed = (more) => client.embeddings.create({ model: it.EMBEDDER, input: [prompt, "other"], ...more });
  const [packed, plain] = [await embed({}), await embed({ encoding_format: "float" })];
  equal(packed.data.map((item) => item.embedding), plain.data.map((item) => item.embedding));
  equal(packed.data[0].embedding.length, 16);
  it.assert(packed.usage.total_tokens > 0);
});

row.cell("batch", async (prompt) => {
  const line = (name) => {
    const body = { model: MODEL, messages: user(`${prompt} ${name}`) };
    return JSON.stringify({ custom_id: name, method: "POST", url: "/v1/chat/completions", body });
  };
  const text = Buffer.from(`${line("a")}\n${line("b")}\n`);
  const file = await client.files.create({ file: await OpenAI.toFile(text, "in.jsonl"), purpose: "batch" });
  equal([file.filename, file.bytes], ["in.jsonl", text.length]);
  let batch = await client.batches.create({
    input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h", metadata: { of: "matrix" },
  });
  const end = Date.now() + 60_000;
  while (["validating", "in_progress", "finalizing"].includes(batch.status)) {
    it.assert(Date.now() < end, `it stays so: ${JSON.stringify(batch)}`);
    await new Promise((go) => setTimeout(go, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  equal([batch.status, batch.request_counts.completed, batch.metadata], ["completed", 2, { of: "matrix" }]);
  const output = await (await client.files.content(batch.output_file_id)).text();
  for (const answer of output.trim().split("\n").map(JSON.parse)) {
    equal(answer.response.body.choices[0].message.content, echo(`${prompt} ${answer.custom_id}`));
  }
  const listed = [];
  for await (const one of client.batches.list({ limit: 1 })) listed.push(one.id);
  it.assert(listed.includes(batch.id));
  it.assert((await client.files.delete(file.id)).deleted);
});

row.cell("400", async (prompt) => {
  const error = await it.refused(1, is(OpenAI.BadRequestError), () => create({ messages: user(`${prompt} [[fault:status-400 x9]]`) }));
  equal(error.error.message, "status 400 (injected by the simulator)");
  const own = await it.refused(0, is(OpenAI.BadRequestError), () => create({ messages: "none" }));
  equal([own.code, own.param], ["invalid_request", "messages"]);
});

row.cell("401", async (prompt) => {
  const stranger = new OpenAI({ baseURL: it.place.guarded, apiKey: it.KEY });
  const call = () => stranger.chat.completions.create({ model: MODEL, messages: user(prompt) });
  equal((await it.refused(0, is(OpenAI.AuthenticationError), call)).code, "invalid_api_key");
});

row.cell("404", async (prompt) => {
  const error = await it.refused(0, is(OpenAI.NotFoundError), () => create({ model: "no-such-model", messages: user(prompt) }));
  equal(error.code, "model_not_found");
});

row.cell("500", async (prompt) => {
  for (const more of [{}, { stream: true }]) {
    const messages = user(`${prompt} ${more.stream} [[fault:status-500 x99]]`);
    await it.refused(it.ATTEMPTS, is(OpenAI.InternalServerError), () => create({ messages, ...more }));
  }
});

row.cell("429", async (prompt) => {
  const messages = user(`${prompt} [[fault:rate-limited-bare x99]]`);
  await it.refused(it.ATTEMPTS, is(OpenAI.RateLimitError), () => create({ messages }));
});

row.cell("cut stream", async (prompt) => {
  for (const fault of ["cut-body", "unfinished", "error-midway"]) {
    const asked = `${prompt} [[fault:${fault} x9]]`;
    await it.cut(is(OpenAI.APIError), () => texts(asked), asked);
  }
});

row.cell("timeout", async (prompt) => {
  const messages = user(`${prompt} [[fault:stall x99]]`);
  // The package tells us its limit: whoever is first.
  const first = is(OpenAI.APIConnectionTimeoutError, OpenAI.InternalServerError);
  await it.timedOut(first, () => create({ messages }, { timeout: 500, maxRetries: 0 }));
  const headers = { "x-forebay-timeout": "300ms" };
  const error = await it.timedOut(is(OpenAI.InternalServerError), () => create({ messages }, { headers }));
  equal([error.status, error.code], [504, "deadline_exceeded"]);
});

row.cell("cancel", async (prompt) => {
  await it.leaving(async () => {
    const stream = await create({ model: it.SLOW, messages: user(prompt), stream: true });
    for await (const chunk of stream) if (chunk.choices[0].delta.content) break;
    stream.controller.abort();
  });
});

await row.run();
