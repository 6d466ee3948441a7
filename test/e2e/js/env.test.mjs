// Environment variables: sandbox.env of the official SDK.

import { test } from "node:test";
import { assert, bash, LIMIT, shared, use } from "./support.mjs";

const sandbox = shared({ env: { GIVEN: "at create", EMPTY: "" } });

test("get, set, delete, toObject", LIMIT, async () => {
  const { env } = sandbox();
  assert.equal(await env.get("GIVEN"), "at create");
  assert.equal(await env.get("EMPTY"), "");
  assert.equal(await env.get("MISSING") ?? null, null);
  await env.set("LATER", "ümläut = and \"quotes\"\n");
  assert.equal(await env.get("LATER"), "ümläut = and \"quotes\"\n");
  const object = await env.toObject();
  assert.equal(object.LATER, "ümläut = and \"quotes\"\n");
  assert.equal(object.HOME, "/home/app");
  await env.delete("LATER");
  assert.equal((await env.toObject()).LATER, undefined);
  await env.delete("NEVER_WAS");
});

test("processes see it, their own variables win, clearEnv clears", LIMIT, async () => {
  await sandbox().env.set("SEEN", "1");
  assert.equal(await sandbox().sh`echo -n $SEEN-$GIVEN`.text(), "1-at create");
  assert.equal((await bash(sandbox(), "echo -n $SEEN", { env: { SEEN: "2" } })).stdout, "2");
  const child = await sandbox().spawn("/usr/bin/env", { clearEnv: true, env: { ONLY: "this" }, stdout: "piped", stderr: "piped" });
  const { stdoutText } = await child.output();
  assert.ok(stdoutText.includes("ONLY=this"), stdoutText);
  assert.ok(!stdoutText.includes("SEEN"), stdoutText);
});

test("the base environment", LIMIT, async () => {
  const env = await sandbox().env.toObject();
  assert.match(env.PATH, /\/usr\/bin/);
  assert.equal(await sandbox().sh`whoami`.text(), "app\n");
  assert.equal(await sandbox().sh`pwd`.text(), "/home/app\n");
  assert.equal(await sandbox().sh`id -u`.text(), "1000\n");
});

test("bad names are refused", LIMIT, async () => {
  for (const name of ["", "A=B", "A\0B"]) {
    await assert.rejects(sandbox().env.set(name, "x"), `name ${JSON.stringify(name)}`);
  }
  await assert.rejects(sandbox().env.set("NUL", "a\0b"));
  assert.equal(await sandbox().env.get("GIVEN"), "at create");
});

test("sandboxes don't share it", LIMIT, async () => {
  await sandbox().env.set("PRIVATE", "x");
  await use({}, async (other) => assert.equal(await other.env.get("PRIVATE") ?? null, null));
});
