// Much at once, in one process of Node.

import { test } from "node:test";
import { assert, bytesOf, LIMIT, LONG, pattern, Sandbox, use } from "./support.mjs";

test("two sandboxes stream at the same time and don't mix", LONG, () =>
  use({}, (a) =>
    use({}, async (b) => {
      // The SDK keeps the streams of all its sandboxes in one table, by their
      // number alone: two servers that both counted from 0 would mix.
      const stream = async (sandbox, mark, i) => {
        const child = await sandbox.spawn("bash", { args: ["-c", `for n in $(seq 200); do echo ${mark}-${i}-$n; done; head -c 200000 /dev/zero | tr '\\0' ${mark}`], stdout: "piped", stderr: "piped" });
        const { stdoutText } = await child.output();
        const lines = stdoutText.split("\n");
        assert.equal(lines.length, 201);
        assert.ok(lines.slice(0, 200).every((line, n) => line === `${mark}-${i}-${n + 1}`), `${mark}-${i}: foreign lines`);
        assert.equal(lines[200], mark.repeat(200_000));
      };
      const echo = async (sandbox, seed) => {
        const data = pattern(200_000 + seed);
        const child = await sandbox.spawn("cat", { stdin: "piped", stdout: "piped", stderr: "piped" });
        const [back] = await Promise.all([bytesOf(child.stdout), new Blob([data]).stream().pipeTo(child.stdin)]);
        assert.deepEqual(back, data);
      };
      const work = [];
      for (let i = 0; i < 8; i++) work.push(stream(a, "a", i), stream(b, "b", i), echo(a, i), echo(b, i + 100));
      await Promise.all(work);
    })));

test("50 calls at once on one connection", LIMIT, () =>
  use({}, async (sandbox) => {
    const results = await Promise.all(Array.from({ length: 50 }, async (_, i) => {
      switch (i % 5) {
        case 0:
          return await sandbox.sh`echo ${i}`.text() === `${i}\n`;
        case 1:
          await sandbox.fs.writeTextFile(`f${i}`, String(i));
          return await sandbox.fs.readTextFile(`f${i}`) === String(i);
        case 2:
          await sandbox.env.set(`V${i}`, String(i));
          return await sandbox.env.get(`V${i}`) === String(i);
        case 3:
          return await sandbox.fs.stat("missing").then(() => false, (e) => e.code === "ENOENT");
        default:
          return (await sandbox.sh`exit ${i}`.noThrow()).status.code === i;
      }
    }));
    assert.deepEqual(results.indexOf(false), -1);
  }));

test("10 sandboxes at once", LONG, async () => {
  const made = await Promise.allSettled(Array.from({ length: 10 }, () => Sandbox.create()));
  try {
    assert.deepEqual(made.filter((r) => r.status === "rejected").map((r) => String(r.reason)), []);
    assert.equal(new Set(made.map((r) => r.value.id)).size, 10);
    const answers = await Promise.all(made.map((r, i) => r.value.sh`echo ${i}`.text()));
    assert.deepEqual(answers, made.map((_, i) => `${i}\n`));
  } finally {
    await Promise.all(made.map((r) => r.value?.close()));
  }
});

test("1,000 small calls in a row", LIMIT, () =>
  use({}, async (sandbox) => {
    await sandbox.env.set("N", "n");
    for (let i = 0; i < 1000; i++) assert.equal(await sandbox.env.get("N"), "n");
  }));

test("a large output with a reader that is slower than the writer", LONG, () =>
  use({}, async (sandbox) => {
    const child = await sandbox.spawn("head", { args: ["-c", "100000000", "/dev/zero"], stdout: "piped", stderr: "piped" });
    let size = 0;
    let chunks = 0;
    for await (const chunk of child.stdout) {
      size += chunk.length;
      if (++chunks % 50 === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    }
    assert.equal(size, 100_000_000);
    assert.equal((await child.status).code, 0);
  }));
