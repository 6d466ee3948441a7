// Life of sandboxes: Sandbox and Client of the official SDK.

import { describe, test } from "node:test";
import { Client, ConnectionClosedError, ConnectionEstablishmentError, InvalidMemoryError, InvalidTimeoutError, InvalidTokenError, SandboxKillError } from "@deno/sandbox";
import { assert, LIMIT, LONG, Sandbox, SLOWNESS, until, use, within } from "./support.mjs";

const listed = async (id, options) => (await new Client().sandboxes.list(options)).find((s) => s.id === id);

/** A sandbox that ends by itself, after some seconds, or more where starting it takes that long. */
async function brief(seconds) {
  for (;; seconds *= 2) {
    try {
      return await Sandbox.create({ timeout: `${seconds}s` });
    } catch (err) {
      if (err.code !== "SANDBOX_STOPPED") throw err;
    }
  }
}

const unique = () => Math.random().toString(36).slice(2);

describe("create", LONG, () => {
  test("ids, close, list", LIMIT, async () => {
    const sandbox = await Sandbox.create();
    assert.match(sandbox.id, /^sbx_ord_[0-9a-hjkmnp-z]{20}$/);
    const entry = await listed(sandbox.id);
    assert.deepEqual([entry.status, entry.region, entry.stoppedAt], ["running", "ord", null]);
    assert.ok(Math.abs(entry.createdAt - Date.now()) < 60_000);
    await sandbox.close();
    await sandbox.closed;
    const stopped = await until(async () => {
      const e = await listed(sandbox.id);
      return e.status === "stopped" ? e : undefined;
    }, "the end of the session");
    assert.ok(stopped.stoppedAt instanceof Date);
    await assert.rejects(sandbox.env.get("HOME"), ConnectionClosedError);
  });

  test("`await using`", LIMIT, async () => {
    let id;
    {
      await using sandbox = await Sandbox.create();
      id = sandbox.id;
      assert.equal(await sandbox.sh`echo hi`.text(), "hi\n");
    }
    await until(async () => (await listed(id)).status === "stopped", "the end of the session");
  });

  test("memory", LIMIT, async () => {
    for (const [memory, mib] of [["768MiB", 768], ["2GiB", 2048]]) {
      await use({ memory }, async (sandbox) => {
        const total = Number(await sandbox.sh`awk '/^MemTotal/ {print int($2/1024)}' /proc/meminfo`.text());
        assert.ok(total >= mib * 0.9 && total <= mib + 128, `asked for ${mib} MiB, the guest sees ${total}`);
      });
    }
    await assert.rejects(Sandbox.create({ memory: "1MiB" }), InvalidMemoryError);
  });

  test("labels", LIMIT, async () => {
    const mark = unique();
    await use({ labels: { mark, kind: "a" } }, (a) =>
      use({ labels: { mark, kind: "b ü=&" } }, async (b) => {
        const ids = async (labels) => (await new Client().sandboxes.list({ labels })).map((s) => s.id).sort();
        assert.deepEqual(await ids({ mark }), [a.id, b.id].sort());
        assert.deepEqual(await ids({ mark, kind: "b ü=&" }), [b.id]);
        assert.deepEqual(await ids({ mark, kind: "none" }), []);
      }));
  });

  test("what is refused, and how", LIMIT, async () => {
    const refused = (options, code) =>
      assert.rejects(Sandbox.create(options), (err) => {
        assert.ok(err instanceof ConnectionEstablishmentError, String(err));
        assert.equal(err.code, code);
        assert.equal(err.status, code === "NOT_SUPPORTED_YET" ? err.status : 400);
        assert.ok(err.traceId, "a trace id");
        return true;
      });
    await refused({ labels: Object.fromEntries([1, 2, 3, 4, 5, 6].map((n) => [`k${n}`, "v"])) }, "INVALID_LABELS");
    await refused({ labels: { ["k".repeat(65)]: "v" } }, "INVALID_LABELS");
    await refused({ labels: { k: "v".repeat(129) } }, "INVALID_LABELS");
    await refused({ root: "vol-1" }, "NOT_SUPPORTED_YET");
    await refused({ volumes: { "/data": "vol-1" } }, "NOT_SUPPORTED_YET");
    await refused({ allowNet: ["two words"] }, "INVALID_ALLOW_NET");
    await refused({ secrets: { KEY: { hosts: [], value: "v" } } }, "INVALID_SECRETS");
    await refused({ allowNet: ["example.com"], secrets: { KEY: { hosts: ["api.example.org"], value: "v" } } }, "SECRET_HOST_EXCLUDED");
    await assert.rejects(Sandbox.create({ timeout: "soon" }), InvalidTimeoutError);
    await assert.rejects(Sandbox.create({ token: "ddo_wrong" }), InvalidTokenError);
  });

  test("ssh and port are refused and leave nothing running", LIMIT, async () => {
    const mark = unique();
    await assert.rejects(Sandbox.create({ port: 8000, labels: { mark } }));
    await assert.rejects(Sandbox.create({ ssh: true, labels: { mark } }));
    await until(async () => (await new Client().sandboxes.list({ labels: { mark } })).every((s) => s.status === "stopped"), "no sandbox left");
  });
});

describe("connect", LONG, () => {
  test("a second client shares files and processes, and leaves without ending", LIMIT, () =>
    use({}, async (first) => {
      const second = await Sandbox.connect(first.id);
      assert.equal(second.id, first.id);
      await second.fs.writeTextFile("shared", "by second");
      assert.equal(await first.fs.readTextFile("shared"), "by second");
      await second.env.set("FROM", "second");
      const seen = await first.env.get("FROM") ?? null;
      assert.ok(seen === "second" || seen === null);
      await second.close();
      assert.equal(await first.sh`cat shared`.text(), "by second");
    }));

  test("the end of the primary client ends the others", LIMIT, async () => {
    const first = await Sandbox.create();
    const second = await Sandbox.connect({ id: first.id });
    await first.close();
    await within(second.closed, "the second client's end");
    await assert.rejects(second.env.get("HOME"), ConnectionClosedError);
  });

  test("unknown and stopped sandboxes", LIMIT, async () => {
    const notFound = (id) =>
      assert.rejects(Sandbox.connect(id), (err) => {
        assert.ok(err instanceof ConnectionEstablishmentError);
        assert.equal(err.status, 404);
        return true;
      });
    await notFound("sbx_ord_00000000000000000000");
    assert.throws(() => Sandbox.connect("nonsense"), TypeError);
    const sandbox = await Sandbox.create();
    await sandbox.kill();
    await notFound(sandbox.id);
  });
});

describe("lifetime", LONG, () => {
  test("a duration outlives its client", LIMIT, async () => {
    const first = await Sandbox.create({ timeout: "10m" });
    await first.fs.writeTextFile("kept", "yes");
    await first.close();
    const again = await Sandbox.connect(first.id);
    assert.equal(await again.fs.readTextFile("kept"), "yes");
    await again.kill();
    assert.equal((await listed(first.id)).status, "stopped");
  });

  test("a duration ends, with a reason", LIMIT, async () => {
    const sandbox = await brief(2);
    const sleeping = sandbox.spawn("sleep", { args: ["1000"], stdout: "null", stderr: "null" }).then((p) => p.status);
    await assert.rejects(within(sleeping, "the timeout"), (err) => {
      assert.ok(err instanceof ConnectionClosedError, String(err));
      assert.deepEqual([err.code, err.reason], [1001, "sandbox timeout"]);
      return true;
    });
    await within(sandbox.closed, "closed");
    assert.equal((await listed(sandbox.id)).status, "stopped");
  });

  test("extendTimeout, at most 30 minutes", LIMIT, async () => {
    const seconds = Math.max(10, 3 * SLOWNESS); // enough to extend them, however slow everything is
    const sandbox = await Sandbox.create({ timeout: `${seconds}s` });
    const created = Date.now();
    try {
      const before = Date.now();
      const granted = await sandbox.extendTimeout("10m");
      assert.ok(granted - 600_000 >= before && granted - 600_000 <= Date.now(), `granted ${granted}`);
      const most = await sandbox.extendTimeout("300m").catch((e) => e);
      assert.ok(most instanceof Error || most - Date.now() <= 30 * 60_000 + 5_000, `granted ${most}`);
      await new Promise((resolve) => setTimeout(resolve, created + seconds * 1000 + 500 - Date.now()));
      assert.equal(await sandbox.sh`echo alive`.text(), "alive\n");
    } finally {
      await sandbox.kill();
    }
  });

  test("kill", LIMIT, async () => {
    const sandbox = await Sandbox.create({ timeout: "10m" });
    const call = assert.rejects(sandbox.sh`sleep 1000`.result(), ConnectionClosedError);
    await within(sandbox.kill(), "kill");
    await call;
    assert.equal((await listed(sandbox.id)).status, "stopped");
    await sandbox.kill().catch((err) => assert.ok(err instanceof SandboxKillError)); // twice is no accident
  });
});

test("exposeHttp and exposeSsh are refused with a sentence", LIMIT, () =>
  use({}, async (sandbox) => {
    for (const call of [() => sandbox.exposeHttp({ port: 80 }), () => sandbox.exposeSsh(), () => sandbox.exposeVscode("/home/app")]) {
      await assert.rejects(within(call(), "the refusal"), (e) => !/took longer/.test(e.message));
    }
    assert.equal(await sandbox.sh`echo on`.text(), "on\n");
  }));
