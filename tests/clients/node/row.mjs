// One row of the matrix, as python/row.py is it there: cells checked one after the other, told as lines of JSON.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export { assert };
export const place = JSON.parse(process.env.MATRIX);
// As Anthropic's SDK takes it.
export const [ROOT, GUARDED_ROOT] = [place.url, place.guarded].map((url) => url.replace(/\/v1$/, ""));
export const [MODEL, SLOW, EMBEDDER] = ["gpt-4o-mini", "slow", "text-embedding-3-small"];
export const KEY = "sk-callers-own-0000000001";
// What the gateway makes of a call that fails and fails again.
export const ATTEMPTS = 2;
export const PARAMETERS = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" }, unit: { enum: ["C", "F"], type: "string" } },
  required: ["city", "days", "unit"],
  additionalProperties: false,
};

/** What the simulator answers to `prompt`, and to no other. */
export function echo(prompt) {
  let hash = 0xcbf29ce484222325n;
  for (const byte of new TextEncoder().encode(prompt)) hash = BigInt.asUintN(64, (hash ^ BigInt(byte)) * 0x100000001b3n);
  return `echo ${hash.toString(16).padStart(16, "0")}: ${[...prompt].slice(0, 200).join("")}`;
}

/** What it says where PARAMETERS are its schema. */
export const fitting = (prompt) => ({ city: echo(prompt), days: 1, unit: "C" });
export const user = (prompt) => [{ role: "user", content: prompt }];
export const equal = (have, wanted) => assert.deepEqual(have, wanted);

export async function ledger(which = "ledger") {
  return (await fetch(place[which])).json();
}

/** Waits until that provider's ledger fulfils `condition`. */
export async function until(condition, which = "ledger") {
  const end = Date.now() + 20_000;
  for (let seen; !condition((seen = await ledger(which))); ) {
    assert(Date.now() < end, `the ledger stays so: ${JSON.stringify(seen)}`);
    await new Promise((go) => setTimeout(go, 10));
  }
}

/** The error that `call` must throw and `is` must know. */
export async function thrown(is, call) {
  let answer;
  try {
    answer = await call();
  } catch (error) {
    assert(is(error), `another error: ${error.stack}`);
    return error;
  }
  throw new Error(`no error, but ${JSON.stringify(answer)}`);
}

/** The same, for which exactly so many requests reach the provider. */
export async function refused(attempts, is, call) {
  const before = (await ledger()).requests;
  const error = await thrown(is, call);
  await until((now) => now.in_flight === 0);
  equal((await ledger()).requests - before, attempts);
  return error;
}

/** `call`, to which no answer comes, gives up in time and leaves nothing in flight. */
export async function timedOut(is, call) {
  const start = Date.now();
  const error = await thrown(is, call);
  assert(Date.now() - start < 5000, `${Date.now() - start} ms`);
  await until((now) => now.in_flight === 0);
  return error;
}

/** The error by which the texts of `pieces` end, none of them wrong. */
export async function cut(is, pieces, prompt) {
  let text = "";
  const error = await thrown(is, async () => {
    for await (const piece of pieces()) text += piece;
  });
  assert(text && echo(prompt).startsWith(text), text);
  return error;
}

/** Within `leave`, a stream from the slow provider is left before its end, and the provider must see that. */
export async function leaving(leave) {
  const before = (await ledger("slow_ledger")).abandoned;
  await leave();
  await until((now) => now.in_flight === 0 && now.abandoned === before + 1, "slow_ledger");
}

export class Row {
  #cells = new Map();
  #notes = new Map();

  constructor(...packages) {
    const version = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;
    this.#say({ versions: Object.fromEntries(packages.map((name) => [name, version(name)])) });
  }

  #say(line) {
    process.stdout.write(`${JSON.stringify(line)}\n`);
  }

  /** A feature and its check; `note` says what a reader of the table must know. */
  cell(feature, check, note = "") {
    this.#cells.set(feature, check);
    this.#notes.set(feature, note);
  }

  /** The client has no such feature. */
  none(feature, reason) {
    this.#say({ feature, state: "none", note: reason });
  }

  async run() {
    for (const [feature, check] of this.#cells) {
      if (place.features.length && !place.features.includes(feature)) continue;
      try {
        // A prompt of its own: the simulator counts attempts by body.
        await check([...process.argv.slice(1).map((it) => it.split("/").at(-1)), feature].join(" "));
        this.#say({ feature, state: "ok", note: this.#notes.get(feature) });
      } catch (error) {
        this.#say({ feature, state: "failed", note: String(error.stack ?? error) });
      }
    }
  }
}
