// sandbox.fetch of the official SDK, towards the fake internet.

import { test } from "node:test";
import { assert, bytesOf, enough, LIMIT, shared, WEB, within } from "./support.mjs";

const sandbox = shared();
const web = `http://${WEB}`;

test("GET", LIMIT, async () => {
  const res = await sandbox().fetch(`${web}/hello`);
  assert.deepEqual([res.status, res.statusText, res.ok], [200, "OK", true]);
  assert.equal(await res.text(), "hello from outside\n");
});

test("method, headers and body arrive", LIMIT, async () => {
  const res = await sandbox().fetch(`${web}/echo?a=1`, { method: "PUT", headers: { "X-Mine": "value", "Content-Type": "text/x" }, body: "grüße" });
  const seen = await res.json();
  assert.deepEqual([seen.method, seen.query, seen.headers["x-mine"], seen.headers["content-type"], seen.body], ["PUT", "a=1", "value", "text/x", "grüße"]);
  assert.equal(seen.host, WEB);
});

test("a large body in each direction", LIMIT, async () => {
  const res = await sandbox().fetch(`${web}/bytes/5000000`);
  assert.equal((await bytesOf(res.body)).length, 5_000_000);
  const up = await sandbox().fetch(`${web}/echo`, { method: "POST", body: "x".repeat(1_000_000) });
  assert.equal((await up.json()).body.length, 1_000_000);
});

test("redirects", LIMIT, async () => {
  assert.equal(await (await sandbox().fetch(`${web}/redirect`)).text(), "hello from outside\n");
  const manual = await sandbox().fetch(`${web}/redirect`, { redirect: "manual" });
  assert.deepEqual([manual.status, manual.headers.get("location")], [302, "/hello"]);
  await manual.text();
  await assert.rejects(sandbox().fetch(`${web}/loop`), TypeError);
});

test("status codes", LIMIT, async () => {
  for (const code of [204, 304, 404, 500]) {
    const res = await sandbox().fetch(`${web}/status/${code}`);
    assert.equal(res.status, code);
    await res.text();
  }
});

test("HTTPS with the operator's root", LIMIT, async () => {
  const seen = await (await sandbox().fetch(`https://${WEB}/echo`)).json();
  assert.equal(seen.tls, true);
  await assert.rejects(sandbox().fetch("https://untrusted.atoll.test/hello"), TypeError);
});

test("what can't be reached fails as fetch fails", LIMIT, async () => {
  for (const url of ["http://missing.atoll.test/", "http://127.0.0.1:1/", "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", `http://${WEB}:81/`]) {
    await assert.rejects(within(sandbox().fetch(url), url), TypeError, url);
  }
});

test("abort", LIMIT, async () => {
  const abort = new AbortController();
  const hanging = sandbox().fetch(`${web}/hang`, { signal: abort.signal });
  setTimeout(() => abort.abort(), 100);
  await assert.rejects(within(hanging, "the abort"), (e) => !/took longer/.test(e.message));
});

test("a body that is not read to its end", LIMIT, async () => {
  const res = await sandbox().fetch(`${web}/endless`);
  const reader = res.body.getReader();
  await reader.read();
  await reader.cancel(enough());
  assert.equal(await sandbox().sh`echo on`.text(), "on\n");
});
