// The openai package, responses.

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import * as it from "./row.mjs";
import { equal, echo, fitting, MODEL } from "./row.mjs";

const row = new it.Row("openai");
const client = new OpenAI({ baseURL: it.place.url, apiKey: it.KEY });
const create = (body, options) => client.responses.create({ model: MODEL, ...body }, options);
const tools = [{ type: "function", name: "weather", parameters: it.PARAMETERS, strict: true }];
const is = (...kinds) => (error) => kinds.some((kind) => error instanceof kind);

async function gather(stream) {
  const events = [];
  for await (const event of await stream) events.push(event);
  return events;
}

row.cell("plain", async (prompt) => {
  const answer = await create({ input: prompt });
  equal([answer.output_text, answer.status], [echo(prompt), "completed"]);
  it.assert(answer.usage.output_tokens > 0 && answer._request_id.startsWith("req_"));
});

row.cell("stream", async (prompt) => {
  const events = await gather(create({ input: prompt, stream: true }));
  const deltas = events.filter((event) => event.type === "response.output_text.delta");
  equal(deltas.map((event) => event.delta).join(""), echo(prompt));
  equal([events[0].type, events.at(-1).type], ["response.created", "response.completed"]);
});

row.cell("stream usage", async (prompt) => {
  const events = await gather(create({ input: prompt, stream: true }));
  equal(events.at(-1).response.usage, (await create({ input: prompt })).usage);
});

row.cell("tools", async (prompt) => {
  const [call] = (await create({ input: prompt, tools })).output;
  equal([call.type, call.name, JSON.parse(call.arguments)], ["function_call", "weather", fitting(prompt)]);
  const result = { type: "function_call_output", call_id: call.call_id, output: `20 C ${prompt}` };
  const told = await create({ input: [{ role: "user", content: prompt }, call, result], tools });
  equal(told.output_text, echo(result.output));
});

row.cell("tool stream", async (prompt) => {
  const events = await gather(create({ input: prompt, tools, stream: true }));
  const deltas = events.filter((event) => event.type === "response.function_call_arguments.delta");
  it.assert(deltas.length > 3, "the arguments came in one burst");
  equal(JSON.parse(deltas.map((event) => event.delta).join("")), fitting(prompt));
});

row.cell("structured", async (prompt) => {
  const forecast = z.object({ city: z.string(), days: z.array(z.number()) });
  const answer = await client.responses.parse({ model: MODEL, input: prompt, text: { format: zodTextFormat(forecast, "forecast") } });
  equal(answer.output_parsed, { city: echo(prompt), days: [1] });
});

row.none("embeddings", "embeddings are no responses: they are in the row of chats");

row.cell("400", (prompt) =>
  it.refused(1, is(OpenAI.BadRequestError), () => create({ input: `${prompt} [[fault:status-400 x9]]` })));

row.cell("401", async (prompt) => {
  const stranger = new OpenAI({ baseURL: it.place.guarded, apiKey: it.KEY });
  const call = () => stranger.responses.create({ model: MODEL, input: prompt });
  equal((await it.refused(0, is(OpenAI.AuthenticationError), call)).code, "invalid_api_key");
});

row.cell("404", async (prompt) => {
  const error = await it.refused(0, is(OpenAI.NotFoundError), () => create({ model: "no-such-model", input: prompt }));
  equal(error.code, "model_not_found");
});

row.cell("500", async (prompt) => {
  for (const more of [{}, { stream: true }]) {
    const input = `${prompt} ${more.stream} [[fault:status-500 x99]]`;
    await it.refused(it.ATTEMPTS, is(OpenAI.InternalServerError), () => create({ input, ...more }));
  }
});

row.cell("429", (prompt) =>
  it.refused(it.ATTEMPTS, is(OpenAI.RateLimitError), () => create({ input: `${prompt} [[fault:rate-limited-bare x99]]` })));

row.cell("cut stream", async (prompt) => {
  const seen = [];
  await it.thrown(is(OpenAI.APIError), async () => {
    for await (const event of await create({ input: `${prompt} [[fault:cut-body x9]]`, stream: true })) seen.push(event.type);
    // The error event of a response is one that the package may hand out.
    it.assert(["error", "response.failed"].includes(seen.at(-1)), seen.at(-1));
    throw new OpenAI.APIError(undefined, undefined, seen.at(-1), undefined);
  });
  it.assert(seen.includes("response.output_text.delta") && !seen.includes("response.completed"));
});

row.cell("timeout", (prompt) =>
  it.timedOut(is(OpenAI.APIConnectionTimeoutError, OpenAI.InternalServerError), () =>
    create({ input: `${prompt} [[fault:stall x99]]` }, { timeout: 500, maxRetries: 0 })));

row.cell("cancel", (prompt) =>
  it.leaving(async () => {
    const stream = await create({ model: it.SLOW, input: prompt, stream: true });
    for await (const event of stream) if (event.type === "response.output_text.delta") break;
    stream.controller.abort();
  }));

await row.run();
