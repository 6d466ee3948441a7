// Deno in the sandbox: sandbox.deno of the official SDK.

import { describe, test } from "node:test";
import { assert, bytesOf, LIMIT, LONG, shared, until, within } from "./support.mjs";

const sandbox = shared();
const deno = () => sandbox().deno;
const fs = () => sandbox().fs;
const piped = { stdout: "piped", stderr: "piped" };

describe("run", LONG, () => {
  test("inline code is TypeScript by default", LIMIT, async () => {
    const p = await deno().run({ code: "const n: number = 6 * 7; console.log(n, Deno.args);", scriptArgs: ["a", "b c"], ...piped });
    const { status, stdoutText, stderrText } = await p.output();
    assert.equal(status.code, 0, stderrText);
    assert.equal(stdoutText, '42 [ "a", "b c" ]\n');
  });

  test("inline code in other languages", LIMIT, async () => {
    const js = await deno().run({ code: "console.log(typeof require)", extension: "mjs", ...piped });
    assert.equal((await js.output()).stdoutText, "undefined\n");
    const cjs = await deno().run({ code: "console.log(require('node:path').sep)", extension: "cjs", ...piped });
    const out = await cjs.output();
    assert.equal(out.stdoutText, "/\n", out.stderrText);
    const bad = await deno().run({ code: "let x: number = ;", ...piped });
    const { status, stderrText } = await bad.output();
    assert.equal(status.success, false);
    assert.notEqual(stderrText, "");
  });

  test("entrypoint, cwd, env, standard input, exit code", LIMIT, async () => {
    await fs().mkdir("proj", { recursive: true });
    await fs().writeTextFile("proj/dep.ts", "export const name = 'dep';");
    await fs().writeTextFile(
      "proj/main.ts",
      "import { name } from './dep.ts';\nconst text = await new Response(Deno.stdin.readable).text();\n" +
        "console.log(name, Deno.cwd(), Deno.env.get('MODE'), text);\nDeno.exit(9);",
    );
    const p = await deno().run({ entrypoint: "main.ts", cwd: "/home/app/proj", env: { MODE: "x" }, stdin: "piped", ...piped });
    const writer = p.stdin.getWriter();
    await writer.write(new TextEncoder().encode("input"));
    await writer.close();
    const { status, stdoutText, stderrText } = await p.output();
    assert.equal(stdoutText, "dep /home/app/proj x input\n", stderrText);
    assert.equal(status.code, 9);
  });

  test("an entrypoint that isn't there", LIMIT, async () => {
    const err = await deno().run({ entrypoint: "missing.ts", ...piped }).then((p) => p.output(), (e) => e);
    assert.ok(err instanceof Error || !err.status.success);
  });

  test("kill and AbortSignal", LIMIT, async () => {
    const p = await deno().run({ code: "setInterval(() => {}, 1000)", ...piped });
    await p.kill();
    assert.equal((await within(p.status, "the end by kill")).success, false);
    const abort = new AbortController();
    const q = await deno().run({ code: "setInterval(() => {}, 1000)", signal: abort.signal, ...piped });
    abort.abort();
    assert.equal((await within(q.status, "the end by abort")).success, false);
  });
});

describe("HTTP", LONG, () => {
  test("httpReady and fetch", LIMIT, async () => {
    const p = await deno().run({
      code: `Deno.serve({ port: 0 }, async (req) => {
        const url = new URL(req.url);
        if (url.pathname === "/redirect") return Response.redirect(new URL("/there", url), 302);
        if (url.pathname === "/big") return new Response(new Uint8Array(3_000_000));
        return Response.json({ path: url.pathname + url.search, method: req.method, x: req.headers.get("x-test"), body: await req.text() }, { status: 201, headers: { "x-answer": "yes" } });
      });`,
      ...piped,
    });
    try {
      assert.equal(await within(p.httpReady, "httpReady"), true);
      const res = await p.fetch("http://localhost/some/path?q=1", { method: "POST", body: "content", headers: { "x-test": "1" } });
      assert.deepEqual([res.status, res.headers.get("x-answer")], [201, "yes"]);
      assert.deepEqual(await res.json(), { path: "/some/path?q=1", method: "POST", x: "1", body: "content" });
      const other = await p.fetch("https://whatever.invalid/");
      assert.equal((await other.json()).path, "/", "the process answers, whatever host is named");
      const manual = await p.fetch("http://localhost/redirect", { redirect: "manual" });
      assert.equal(manual.status, 302);
      await manual.text();
      const followed = await p.fetch("http://localhost/redirect");
      assert.equal((await followed.json()).path, "/there");
      assert.equal((await bytesOf((await p.fetch("http://localhost/big")).body)).length, 3_000_000);
      const many = await Promise.all(Array.from({ length: 20 }, async (_, i) => (await (await p.fetch(`http://localhost/${i}`)).json()).path));
      assert.deepEqual(many, Array.from({ length: 20 }, (_, i) => `/${i}`));
    } finally {
      await p.kill();
    }
    await p.status;
    await assert.rejects(p.fetch("http://localhost/"), "the process is gone");
  });

  test("httpReady ends with a process that never serves", LIMIT, async () => {
    const p = await deno().run({ code: "console.log('bye')", ...piped });
    const ready = await within(p.httpReady.then((v) => v, (e) => e), "httpReady");
    assert.ok(ready === false || ready instanceof Error, String(ready));
    assert.equal((await p.status).code, 0);
  });
});

test("watch restarts and tells", LIMIT, async () => {
  await fs().writeTextFile("watched.ts", "console.log('one'); setInterval(() => {}, 1000);");
  const p = await deno().run({ entrypoint: "watched.ts", watch: true, ...piped });
  try {
    let restarts = 0;
    p.addEventListener("restart", () => restarts++);
    let text = "";
    const decoder = new TextDecoder();
    (async () => {
      for await (const chunk of p.stdout) text += decoder.decode(chunk, { stream: true });
    })().catch(() => {});
    await until(() => text.includes("one"), "the first run");
    await fs().writeTextFile("watched.ts", "console.log('two'); setInterval(() => {}, 1000);");
    await until(() => text.includes("two"), "the second run");
    await until(() => restarts > 0, "the restart event");
  } finally {
    await p.kill("SIGKILL");
  }
});

describe("eval and repl", LONG, () => {
  test("eval returns values", LIMIT, async () => {
    assert.equal(await deno().eval("const a = 1; const b: number = 2; a + b;"), 3);
    assert.deepEqual(await deno().eval("({ a: [1, 'x', null, true] })"), { a: [1, "x", null, true] });
    assert.equal(await deno().eval("await Promise.resolve('late')"), "late");
    assert.equal(await deno().eval("undefined") ?? null, null);
    await assert.rejects(deno().eval("throw new TypeError('mine')"), /mine/);
    await assert.rejects(deno().eval("this is no code"));
  });

  test("a session keeps its state", LIMIT, async () => {
    const repl = await deno().repl(piped);
    try {
      assert.ok(repl.pid > 1);
      await repl.eval("let count = 1; function add(a: number, b = 10) { count++; return a + b; }");
      assert.equal(await repl.eval("count"), 1);
      assert.equal(await repl.call("add", 1, 2), 3);
      assert.equal(await repl.call("add", 1), 11);
      assert.equal(await repl.eval("count"), 3);
      assert.equal(await repl.call("(a, b) => a * b", 6, 7), 42);
      assert.equal(await repl.call("async (x) => { await null; return x.y; }", { y: [1] }).then(JSON.stringify), "[1]");
      await assert.rejects(repl.eval("throw new RangeError('out of it')"), /out of it/);
      await assert.rejects(repl.call("noSuchFunction"));
      assert.equal(await repl.eval("count"), 3, "errors don't end the session");
      assert.equal(await repl.eval("import { join } from 'node:path'; join('a', 'b')"), "a/b");
    } finally {
      await repl.close();
    }
    await assert.rejects(repl.eval("1"), "the session is closed");
  });

  test("what a session prints is on its streams", LIMIT, async () => {
    const repl = await deno().repl(piped);
    await repl.eval("console.log('printed'); console.error('complained')");
    const reader = repl.stdout.getReader();
    assert.match(new TextDecoder().decode((await within(reader.read(), "output")).value), /printed/);
    await repl.close();
    assert.equal(typeof (await within(repl.status, "the end of the session")).code, "number");
  });

  test("two sessions at once don't share state, and one that dies says so", LIMIT, async () => {
    const [a, b] = await Promise.all([deno().repl(piped), deno().repl(piped)]);
    await a.eval("globalThis.mine = 'a'");
    assert.equal(await b.eval("typeof mine"), "undefined");
    const doomed = a.eval("await new Promise(() => {})");
    await a.kill("SIGKILL");
    await assert.rejects(within(doomed, "the end of a call into a dead session"), (e) => !/took longer/.test(e.message));
    assert.equal(await b.eval("1 + 1"), 2);
    await b.close();
  });

  test("Deno has its permissions and sees the sandbox", LIMIT, async () => {
    assert.equal(await deno().eval("Deno.readTextFileSync('/etc/os-release').includes('Debian')"), true);
    assert.equal(await deno().eval("Deno.cwd()"), "/home/app");
  });
});
