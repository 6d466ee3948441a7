// Paused sandboxes as the official SDK meets them, which knows nothing of it.

import { describe, test } from "node:test";
import { Client, ConnectionClosedError } from "@deno/sandbox";
import { assert, bash, LIMIT, LONG, Sandbox, use, within } from "./support.mjs";

const endpoint = process.env.DENO_SANDBOX_ENDPOINT;

async function post(id, verb, body) {
  const resp = await fetch(`${endpoint}/api/v3/sandbox/${id}/${verb}`, {
    method: "POST",
    headers: { Authorization: `Bearer ${process.env.DENO_DEPLOY_TOKEN}` },
    body: body && JSON.stringify(body),
  });
  assert.equal(resp.status, 200);
  return await resp.json();
}

const listed = async (id) => (await new Client().sandboxes.list()).find((s) => s.id === id);

describe("paused", LONG, () => {
  test("in memory: the connection goes on", LIMIT, async () => {
    await use({}, async (sandbox) => {
      await sandbox.fs.writeTextFile("note", "hello");
      const child = await sandbox.spawn("sleep", { args: ["2"] });
      assert.equal((await post(sandbox.id, "pause")).power, "paused");
      const entry = await listed(sandbox.id);
      assert.deepEqual([entry.status, entry.power], ["running", "paused"]);
      assert.equal(await sandbox.fs.readTextFile("note"), "hello");
      assert.equal((await listed(sandbox.id)).power, "running");
      assert.equal((await child.status).code, 0);
    });
  });

  test("to disk: the connection ends, and another one resumes", LIMIT, async () => {
    const first = await Sandbox.create();
    await first.fs.writeTextFile("note", "hello");
    const waiting = assert.rejects(bash(first, "sleep 60"), (err) => err instanceof ConnectionClosedError && err.message.includes("sandbox paused"));
    assert.equal((await post(first.id, "pause", { to_disk: true })).power, "suspended");
    await within(first.closed, "the end of the connection");
    await waiting;
    assert.equal((await listed(first.id)).status, "running");
    const second = await Sandbox.connect(first.id);
    assert.equal(await second.fs.readTextFile("note"), "hello");
    await second.close();
  });

  test("forks", LIMIT, async () => {
    await use({}, async (sandbox) => {
      await sandbox.fs.writeTextFile("note", "hello");
      const children = await post(sandbox.id, "fork", { count: 2 });
      assert.equal(children.length, 2);
      for (const { id } of children) {
        const child = await Sandbox.connect(id);
        assert.equal(await child.fs.readTextFile("note"), "hello");
        await child.fs.writeTextFile("note", id);
        await child.close();
      }
      assert.equal(await sandbox.fs.readTextFile("note"), "hello");
    });
  });
});
