// The anthropic package, against /v1/messages.

import Anthropic from "@anthropic-ai/sdk";

import * as it from "./row.mjs";
import { equal, echo, fitting, user } from "./row.mjs";

const CLAUDE = "claude-sonnet-4-5";
const row = new it.Row("@anthropic-ai/sdk");
const client = new Anthropic({ baseURL: it.ROOT, apiKey: it.KEY });
const tools = [{ name: "weather", description: "Tells it.", input_schema: it.PARAMETERS }];
const is = (...kinds) => (error) => kinds.some((kind) => error instanceof kind);
const create = (prompt, more, options, through = client) =>
  through.messages.create({ model: CLAUDE, max_tokens: 1000, messages: user(prompt), ...more }, options);
const enveloped = (error, kind) => equal([error.error.type, error.error.error.type], ["error", kind]);

async function* texts(prompt) {
  for await (const event of await create(prompt, { stream: true })) if (event.type === "content_block_delta") yield event.delta.text;
}

row.cell("plain", async (prompt) => {
  const answer = await create(prompt, { system: "Be brief." });
  equal([answer.content[0].text, answer.stop_reason], [echo(prompt), "end_turn"]);
  it.assert(answer.usage.input_tokens > 0 && answer.usage.output_tokens > 0);
});

row.cell("stream", async (prompt) => {
  const events = [];
  for await (const event of await create(prompt, { stream: true })) events.push(event);
  const deltas = events.filter((event) => event.type === "content_block_delta");
  equal(deltas.map((event) => event.delta.text).join(""), echo(prompt));
  equal([events[0].type, events.at(-1).type], ["message_start", "message_stop"]);
});

row.cell("stream usage", async (prompt) => {
  const final = await client.messages.stream({ model: CLAUDE, max_tokens: 1000, messages: user(prompt) }).finalMessage();
  equal(final.content[0].text, echo(prompt));
  equal(final.usage.output_tokens, (await create(prompt)).usage.output_tokens);
});

row.cell("tools", async (prompt) => {
  const answer = await create(prompt, { tools });
  const call = answer.content.find((block) => block.type === "tool_use");
  equal([answer.stop_reason, call.name, call.input], ["tool_use", "weather", fitting(prompt)]);
  const result = { type: "tool_result", tool_use_id: call.id, content: `20 C ${prompt}` };
  const messages = [...user(prompt), { role: "assistant", content: answer.content }, { role: "user", content: [result] }];
  equal((await create(prompt, { messages, tools })).content[0].text, echo(result.content));
});

row.cell("tool stream", async (prompt) => {
  const pieces = [];
  const stream = client.messages.stream({ model: CLAUDE, max_tokens: 1000, messages: user(prompt), tools });
  const final = await stream.on("inputJson", (piece) => pieces.push(piece)).finalMessage();
  it.assert(pieces.length > 3, "the arguments came in one burst");
  equal([final.stop_reason, final.content.at(-1).input], ["tool_use", fitting(prompt)]);
});

row.cell("structured", async (prompt) => {
  const answer = await create(prompt, { tools, tool_choice: { type: "tool", name: "weather" } });
  equal(answer.content.find((block) => block.type === "tool_use").input, fitting(prompt));
});

row.none("embeddings", "Anthropic offers none");

row.cell("count tokens", async (prompt) => {
  const count = await client.messages.countTokens({ model: CLAUDE, messages: user(prompt) });
  equal(count.input_tokens, (await create(prompt)).usage.input_tokens);
});

row.cell("400", async (prompt) =>
  enveloped(await it.refused(1, is(Anthropic.BadRequestError), () => create(`${prompt} [[fault:status-400 x9]]`)), "invalid_request_error"));

row.cell("401", async (prompt) => {
  const stranger = new Anthropic({ baseURL: it.GUARDED_ROOT, apiKey: it.KEY });
  const call = () => create(prompt, {}, {}, stranger);
  enveloped(await it.refused(0, is(Anthropic.AuthenticationError), call), "authentication_error");
});

row.cell("404", async (prompt) =>
  enveloped(await it.refused(0, is(Anthropic.NotFoundError), () => create(prompt, { model: "no-such-model" })), "not_found_error"));

row.cell("500", async (prompt) => {
  for (const more of [{}, { stream: true }]) {
    const call = () => create(`${prompt} ${more.stream} [[fault:status-500 x99]]`, more);
    enveloped(await it.refused(it.ATTEMPTS, is(Anthropic.InternalServerError), call), "api_error");
  }
});

row.cell("429", async (prompt) =>
  enveloped(await it.refused(it.ATTEMPTS, is(Anthropic.RateLimitError), () => create(`${prompt} [[fault:rate-limited-bare x99]]`)), "rate_limit_error"));

row.cell("cut stream", async (prompt) => {
  for (const fault of ["cut-body", "unfinished", "error-midway"]) {
    const asked = `${prompt} [[fault:${fault} x9]]`;
    await it.cut(is(Anthropic.APIError), () => texts(asked), asked);
  }
});

row.cell("timeout", async (prompt) => {
  const first = is(Anthropic.APIConnectionTimeoutError, Anthropic.InternalServerError);
  await it.timedOut(first, () => create(`${prompt} [[fault:stall x99]]`, {}, { timeout: 500, maxRetries: 0 }));
  const headers = { "x-forebay-timeout": "300ms" };
  const call = () => create(`${prompt} told [[fault:stall x99]]`, {}, { headers });
  equal((await it.timedOut(is(Anthropic.InternalServerError), call)).status, 504);
});

row.cell("cancel", (prompt) =>
  it.leaving(async () => {
    const stream = await create(prompt, { model: it.SLOW, stream: true });
    for await (const event of stream) if (event.type === "content_block_delta") break;
    stream.controller.abort();
  }));

await row.run();
