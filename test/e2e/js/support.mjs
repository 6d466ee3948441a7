// What the tests of this directory share.
//
// The server comes from the environment (see ../harness/withserver). Every
// sandbox that a test makes is closed by `use`, also when the test fails.

import assert from "node:assert/strict";
import { after, before } from "node:test";
import { Sandbox } from "@deno/sandbox";
import { Deno } from "@deno/shim-deno";

export { assert, Deno, Sandbox };

/** A host of the fake internet that every test server has. */
export const WEB = process.env.ATOLL_TEST_WEB ?? "web.atoll.test";

/** What reached the fake internet: see ../harness/desk.go. */
export async function upstream(question) {
  return await (await fetch(`${process.env.ATOLL_TEST_DESK}/${question}`)).json();
}

/** By how much longer than usual things may take: emulated microVMs are slow. */
export const SLOWNESS = Number(process.env.ATOLL_TEST_SLOWNESS ?? 1);

/** Time for one test, in milliseconds. */
export const LIMIT = { timeout: 60_000 * SLOWNESS };

/** Time for a test that takes long, or for several, in milliseconds. */
export const LONG = { timeout: 600_000 * SLOWNESS };

/** Time for one thing that a test waits for, in milliseconds. */
const PATIENCE = 45_000 * SLOWNESS;

/** Makes one sandbox for all tests of a file. Returns a getter. */
export function shared(options) {
  let sandbox;
  before(async () => {
    sandbox = await Sandbox.create(options);
  }, LIMIT);
  after(() => sandbox?.close(), LIMIT);
  return () => sandbox;
}

// The SDK writes to the console what it can't put anywhere, such as data that
// arrives for a stream just cancelled.
console.error = console.debug = () => {};

/**
 * Runs a script. Not by `sandbox.sh`: of several options in a row (`.sudo()
 * .noThrow().text()`) version 0.13 of the SDK forgets all but the last.
 */
export async function bash(sandbox, script, options) {
  const child = await sandbox.spawn("bash", { args: ["-c", script], stdout: "piped", stderr: "piped", ...options });
  const { status, stdoutText, stderrText } = await child.output();
  return { code: status.code, stdout: stdoutText, stderr: stderrText };
}

/**
 * A reason for cancelling a stream: the SDK fails on one without. Only endless
 * streams are cancelled here: when the end of a stream crosses its
 * cancellation, the SDK throws inside its WebSocket, which is stuck from then.
 */
export const enough = () => new Error("enough");

/** Runs fn with a sandbox of its own. */
export async function use(options, fn) {
  const sandbox = await Sandbox.create(options);
  try {
    return await fn(sandbox);
  } finally {
    await sandbox.close().catch(() => {});
  }
}

/** Fails if the promise never settles. */
export async function within(promise, what = "the operation") {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${PATIENCE} ms`)), PATIENCE);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Waits until probe returns something true: for states of other machines. */
export async function until(probe, what = "the condition") {
  for (const end = Date.now() + PATIENCE; Date.now() < end;) {
    const value = await probe();
    if (value) return value;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error(`${what} did not come true within ${PATIENCE} ms`);
}

/** All bytes of a stream. */
export async function bytesOf(stream) {
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** All entries of an async iterable. */
export async function all(iterable) {
  const out = [];
  for await (const item of iterable) out.push(item);
  return out;
}

/** Bytes that look different at every offset. */
export function pattern(size) {
  const out = new Uint8Array(size);
  let x = 2463534242;
  for (let i = 0; i < size; i++) {
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    out[i] = x;
  }
  return out;
}

/** Asserts that promise rejects with a class of Deno.errors and a code. */
export async function rejectsWith(promise, name, code) {
  await assert.rejects(promise, (err) => {
    assert.ok(
      err instanceof Deno.errors[name],
      `want Deno.errors.${name}, have ${err?.constructor?.name}: ${err?.message}`,
    );
    if (code !== undefined) assert.equal(err.code, code);
    return true;
  });
}
