// Allow-lists and secrets: allowNet and secrets of the official SDK.
//
// Guests reach the fake internet only, and what counts is what arrived there,
// which `upstream` tells. Policy and audit have no call in the SDK: their
// requests are made by hand.

import { before, describe, test } from "node:test";
import { ConnectionEstablishmentError } from "@deno/sandbox";
import { assert, bash, LIMIT, LONG, Sandbox, shared, upstream, until, use, WEB, within } from "./support.mjs";

const API = "api.atoll.test", EVIL = "evil.atoll.test";
const PLACEHOLDER = /^DENO_SECRET_PLACEHOLDER_\w{16,}$/;
const unique = () => Math.random().toString(36).slice(2);
const arrived = (target) => upstream(`requests?target=${encodeURIComponent(target)}`);

/** The programs by which guests reach out: each returns what its script printed, with the status of an answer behind it. */
const clients = {
  "sandbox.fetch": async (sandbox, url, name) => {
    const res = await sandbox.fetch(url, { headers: { authorization: `Bearer ${await sandbox.env.get(name)}` } });
    return `${await res.text()} ${res.status}`;
  },
  "deno.eval": (sandbox, url, name) => sandbox.deno.eval(denoFetch(url, name)),
  "deno.repl": async (sandbox, url, name) => {
    const repl = await sandbox.deno.repl({ stdout: "null", stderr: "null" });
    try {
      return await repl.eval(denoFetch(url, name));
    } finally {
      await repl.close();
    }
  },
  "deno.run": async (sandbox, url, name) => {
    const p = await sandbox.deno.run({ code: `console.log(${denoFetch(url, name)})`, stdout: "piped", stderr: "piped" });
    return (await p.output()).stdoutText;
  },
  "sandbox.sh": (sandbox, url, name) => sandbox.sh`sh -c ${curling(url, name)}`.noThrow().text(),
  node: script((url, name) => `timeout 60 node -e '
    fetch("${url}", {headers: {authorization: "Bearer " + process.env.${name}}}).then(async (r) => console.log(await r.text(), r.status), (e) => console.log(e.cause.message))'`),
  python: script((url, name) => `timeout 60 python3 -c '
import os, urllib.request as u
r = u.urlopen(u.Request("${url}", headers={"Authorization": "Bearer " + os.environ["${name}"]}), timeout=60); print(r.read().decode(), r.status)'`),
  curl: script(curling),
  git: script((url, name) => `GIT_TERMINAL_PROMPT=0 timeout 60 git -c http.extraHeader="Authorization: Bearer $${name}" ls-remote ${url}`),
};

function curling(url, name) {
  return `curl -sS -m 60 -w " %{http_code}" -H "Authorization: Bearer $${name}" ${url}`;
}

const denoFetch = (url, name) =>
  `await fetch("${url}", {headers: {authorization: "Bearer " + Deno.env.get("${name}")}}).then(async (r) => await r.text() + " " + r.status, (e) => e.message)`;

function script(of) {
  return async (sandbox, url, name) => {
    const { stdout, stderr } = await bash(sandbox, of(url, name));
    return stdout + stderr;
  };
}

/** A request to the server that the SDK has no call for. */
async function ask(method, path, body) {
  const res = await fetch(`${process.env.DENO_SANDBOX_ENDPOINT}/api/v3/sandbox/${path}`, {
    method,
    headers: { authorization: `Bearer ${process.env.DENO_DEPLOY_TOKEN}` },
    body: body && JSON.stringify(body),
  });
  return { status: res.status, text: await res.text() };
}

const curl = async (sandbox, ...args) => await bash(sandbox, `curl -sS -m 60 ${args.join(" ")}`);

describe("allowNet", LONG, () => {
  const sandbox = shared({ allowNet: [API, `${WEB}:80`, "*.wild.atoll.test", "93.184.215.14/31:80", "[2606:2800:21f:cb07::20]:80"], env: { NONE: "x" } });

  for (const [name, client] of Object.entries(clients)) {
    test(`${name}: a host in the list, and one that isn't`, LIMIT, async () => {
      const mark = unique();
      const there = await client(sandbox(), `http://${API}/${mark}`, "NONE");
      const [request] = await arrived(mark);
      assert.equal(request?.host, API, there);
      await client(sandbox(), `http://${EVIL}/${mark}`, "NONE").then((text) => assert.doesNotMatch(text, / 200$/), () => {});
      await client(sandbox(), `https://${EVIL}/${mark}`, "NONE").then((text) => assert.doesNotMatch(text, / 200$/), () => {});
      assert.deepEqual(await upstream("reached?at=evil"), []);
    });
  }

  test("wildcards, ports, ranges and addresses", LIMIT, async () => {
    const port = (host, number) => `timeout 60 bash -c 'exec 3<>/dev/tcp/${host}/${number}' 2>/dev/null && echo -n y || echo -n n`;
    const { stdout } = await bash(sandbox(), [
      [WEB, 80], [WEB, 443], // an entry with a port
      ["a.wild.atoll.test", 80], ["a.b.wild.atoll.test", 9999], ["wild.atoll.test", 80], ["badwild.atoll.test", 80], // a star
      ["93.184.215.15", 80], ["93.184.215.14", 443], ["93.184.215.20", 80], // a range
      ["2606:2800:21f:cb07::20", 80], ["2606:2800:21f:cb07::20", 8443], ["2606:2800:21f:cb07::14", 80], // an address
    ].map(([host, number]) => port(host, number)).join("; "));
    assert.equal(stdout, "ynyynn" + "nnn" + "ynn"); // nothing listens at the range's second address
    assert.match((await curl(sandbox(), "http://93.184.215.14/hello")).stdout, /hello from outside/);
  });

  test("a refused host is refused, not kept waiting, and the audit says why", LIMIT, async () => {
    assert.match((await bash(sandbox(), `dig ${EVIL}`)).stdout, /status: REFUSED/);
    const { code, stderr } = await curl(sandbox(), `http://${EVIL}/`);
    assert.notEqual(code, 0);
    assert.match(stderr, /Could not resolve host/);
    const record = await until(async () => (await audit(sandbox())).find((r) => r.name === EVIL && r.decision === "refuse"));
    assert.match(record.rule, /allow-list/);
  });

  test("[] reaches nothing", LIMIT, () =>
    use({ allowNet: [], env: { NONE: "x" } }, async (sandbox) => {
      for (const url of [`http://${WEB}/hello`, `http://93.184.215.14/hello`, `https://${API}/`]) {
        assert.notEqual((await curl(sandbox, url)).code, 0, url);
        await assert.rejects(sandbox.fetch(url), TypeError);
        assert.doesNotMatch(await clients["deno.eval"](sandbox, url, "NONE"), / 200$/);
      }
      assert.equal(await sandbox.sh`echo still here`.text(), "still here\n");
    }));

  test("the policy of a live sandbox is read and replaced", LIMIT, () =>
    use({ allowNet: [WEB] }, async (sandbox) => {
      const policy = async () => JSON.parse((await ask("GET", `${sandbox.id}/network`)).text);
      assert.deepEqual(await policy(), { allow_net: [WEB], strict: false });
      assert.equal((await curl(sandbox, `http://${API}/`)).code, 6);
      const { status, text } = await ask("PATCH", sandbox.id, { allow_net: [API.toUpperCase()] });
      assert.deepEqual([status, JSON.parse(text).network], [200, { allow_net: [API], strict: false }]);
      assert.equal((await curl(sandbox, `http://${API}/`)).stdout, "ok\n");
      assert.notEqual((await curl(sandbox, `http://${WEB}/hello`)).code, 0);
      const bad = await ask("PATCH", sandbox.id, { allow_net: [API, "a b"] });
      assert.deepEqual([bad.status, JSON.parse(bad.text).code], [400, "INVALID_ALLOW_NET"]);
      assert.match(bad.text, /allow_net\[1\]/);
      assert.deepEqual((await policy()).allow_net, [API]);
      await ask("PATCH", sandbox.id, { allow_net: null });
      assert.equal((await curl(sandbox, `http://${WEB}/hello`)).stdout, "hello from outside\n");
    }));
});

const audit = async (sandbox) => (await ask("GET", `${sandbox.id}/audit`)).text.trim().split("\n").filter(Boolean).map(JSON.parse);

describe("secrets", LONG, () => {
  const value = (name) => `sk_${name.toLowerCase()}_${unique()}${unique()}`;
  const values = Object.fromEntries(["KEY", "HEADER", "READER", "OWN", "HOOK"].map((name) => [name, value(name)]));
  const sandbox = shared({
    allowNet: ["*.atoll.test"],
    secrets: {
      KEY: { hosts: [API, "untrusted.atoll.test"], value: values.KEY },
      HEADER: { hosts: [API], value: values.HEADER, in: ["header"] },
      READER: { hosts: [API], value: values.READER, methods: ["GET"], paths: ["/v1/**"] },
      OWN: { hosts: ["exclusive.atoll.test"], value: values.OWN, exclusive: true },
      HOOK: { hosts: ["sign.atoll.test"], value: values.HOOK, sign: { type: "hmac", header: "X-Signature", prefix: "sha256=" } },
    },
  });
  const holes = {};
  before(async () => {
    for (const name in values) holes[name] = await sandbox().env.get(name);
  }, LIMIT);

  test("the environment holds placeholders, which differ between sandboxes", LIMIT, async () => {
    for (const hole of Object.values(holes)) assert.match(hole, PLACEHOLDER);
    assert.equal(new Set(Object.values(holes)).size, 5);
    await use({ secrets: { KEY: { hosts: [API], value: values.KEY } } }, async (other) => {
      const hole = await other.env.get("KEY");
      assert.match(hole, PLACEHOLDER);
      assert.notEqual(hole, holes.KEY);
    });
  });

  test("every kind of process has them", LIMIT, async () => {
    const p = await sandbox().spawn("printenv", { args: ["KEY"], stdout: "piped", stderr: "piped" });
    assert.equal((await p.output()).stdoutText, holes.KEY + "\n");
    assert.equal(await sandbox().sh`echo $KEY`.text(), holes.KEY + "\n");
    assert.equal(await sandbox().deno.eval(`Deno.env.get("KEY")`), holes.KEY);
    const repl = await sandbox().deno.repl({ stdout: "null", stderr: "null" });
    assert.equal(await repl.eval(`Deno.env.get("KEY")`), holes.KEY);
    await repl.close();
    assert.equal((await sandbox().env.toObject()).KEY, holes.KEY);
  });

  for (const [name, client] of Object.entries(clients)) {
    test(`${name}: the value arrives`, LIMIT, async () => {
      const mark = unique();
      const said = await client(sandbox(), `https://${API}/${mark}`, "KEY");
      const [request] = await arrived(mark);
      assert.equal(request?.header.authorization, `Bearer ${values.KEY}`, said);
    });
  }

  test("HTTP/2 from Deno stays HTTP/2", LIMIT, async () => {
    const mark = unique();
    await clients["deno.eval"](sandbox(), `https://${API}/${mark}`, "KEY");
    assert.deepEqual((await arrived(mark)).map((r) => r.proto), ["HTTP/2.0"]);
  });

  test("Basic credentials, query and JSON", LIMIT, async () => {
    const mark = unique();
    await curl(sandbox(), `-u "me:$KEY" --json '{"key": "'$KEY'"}' "https://${API}/${mark}?key=$KEY"`);
    const [request] = await arrived(mark);
    assert.equal(request.header.authorization, "Basic " + btoa("me:" + values.KEY));
    assert.equal(request.target, `/${mark}?key=${values.KEY}`);
    assert.equal(request.body, `{"key": "${values.KEY}"}`);
    const body = unique();
    await sandbox().fetch(`https://${API}/${body}`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify({ key: holes.KEY }) });
    assert.equal((await arrived(body))[0].body, JSON.stringify({ key: values.KEY }));
  });

  test("it comes back as the placeholder: JSON, gzip, base64, headers", LIMIT, async () => {
    const reflect = (as, ...args) => curl(sandbox(), ...args, `-H "X-Value: $KEY" "https://${API}/reflect?as=${as}"`);
    assert.deepEqual(JSON.parse((await reflect("json")).stdout), { key: `begin ${holes.KEY} end\n` });
    assert.equal((await reflect("gzip", "--compressed")).stdout, `begin ${holes.KEY} end\n`);
    assert.equal(atob((await reflect("base64")).stdout.trim()), `begin ${holes.KEY} end\n`);
    assert.match((await reflect("header", "-i")).stdout, new RegExp(`x-reflected: ${holes.KEY}`, "i"));
    const res = await sandbox().fetch(`https://${API}/reflect?as=gzip`, { headers: { "x-value": holes.KEY } });
    assert.equal(await res.text(), `begin ${holes.KEY} end\n`);
  });

  test("server-sent events come as they are sent", LIMIT, async () => {
    // The next one is sent when the program says that it has the last one.
    const js = (key, of) => `
      const r = await fetch("https://${API}/events?of=${of}", {headers: {"x-value": ${key}}}), decoder = new TextDecoder();
      let text = "", heard = 0;
      for await (const part of r.body) {
        text += decoder.decode(part);
        for (; heard < text.split("\\n\\n").length - 1; heard++) await (await fetch("https://${API}/heard?of=${of}")).text();
      }
      console.log(text);`;
    const said = await Promise.all([
      bash(sandbox(), `timeout 60 deno eval '${js(`Deno.env.get("KEY")`, unique())}'`),
      bash(sandbox(), `timeout 60 node --input-type=module -e '${js("process.env.KEY", unique())}'`),
    ]);
    for (const { stdout, stderr } of said) assert.equal(stdout, `data: ${holes.KEY}\n\n`.repeat(3) + "\n", stderr);
  });

  test("WebSocket text from Deno and Node", LIMIT, async () => {
    const talk = (key) => `
      const ws = new WebSocket("wss://${API}/ws");
      ws.onopen = () => ws.send("from ${key} " + ${key}); ws.onmessage = (m) => { console.log(m.data); ws.close(); }; ws.onerror = (e) => console.log("error", e.message);`;
    for (const [run, key] of [["deno eval", "Deno.env.get(`KEY`)"], ["node -e", "process.env.KEY"]]) {
      const { stdout, stderr } = await bash(sandbox(), `timeout 60 ${run} '${talk(key)}'`);
      assert.equal(stdout, `from ${key} ${holes.KEY}\n`, stderr);
      assert.ok((await upstream("reached?at=api")).includes(`message ${JSON.stringify(`from ${key} ${values.KEY}`)}`), key);
    }
  });

  test("in, methods, paths, exclusive and sign", LIMIT, async () => {
    const mark = unique();
    await curl(sandbox(), `-H "X-A: $HEADER" "https://${API}/${mark}in?a=$HEADER"`);
    const [limited] = await arrived(`${mark}in`);
    assert.deepEqual([limited.header["x-a"], limited.target], [values.HEADER, `/${mark}in?a=${holes.HEADER}`]);
    for (const [method, path, sees] of [["GET", "/v1/a/b", true], ["GET", "/v2/a", false], ["POST", "/v1/a", false]]) {
      const here = `${path}?${unique()}`;
      await curl(sandbox(), `-X ${method} -H "X-A: $READER" "https://${API}${here}"`);
      assert.equal((await arrived(here))[0].header["x-a"], (sees ? values : holes).READER, `${method} ${path}`);
    }
    const rival = await curl(sandbox(), `-w " %{http_code}" -H "Authorization: Bearer mine" https://exclusive.atoll.test/${mark}rival`);
    assert.match(rival.stdout, /SECRET_EXCLUSIVE.* 403$/s);
    assert.deepEqual(await arrived(`${mark}rival`), []);
    await curl(sandbox(), `-H "Authorization: Bearer $OWN" https://exclusive.atoll.test/${mark}own`);
    assert.equal((await arrived(`${mark}own`))[0].header.authorization, `Bearer ${values.OWN}`);
    await curl(sandbox(), `--json '{}' https://sign.atoll.test/${mark}sign`);
    const key = await crypto.subtle.importKey("raw", new TextEncoder().encode(values.HOOK), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
    const mac = await crypto.subtle.sign("HMAC", key, new TextEncoder().encode("{}"));
    assert.equal((await arrived(`${mark}sign`))[0].header["x-signature"], "sha256=" + Buffer.from(mac).toString("hex"));
  });

  test("what is refused says why", LIMIT, async () => {
    const refused = async (url, code, status) => {
      const res = await sandbox().fetch(url, { headers: { "x-a": holes.KEY } });
      const body = await res.json();
      assert.deepEqual([res.status, res.headers.get("x-atoll-refused"), body.code], [status, code, code]);
      assert.ok(body.message && body.host && body.rule, JSON.stringify(body));
    };
    const mark = unique();
    await refused(`http://${API}/${mark}`, "SECRET_NEEDS_TLS", 403);
    await refused(`https://untrusted.atoll.test/${mark}`, "UPSTREAM_UNTRUSTED", 502);
    assert.deepEqual(await arrived(mark), []);
  });

  test("to another host the placeholder leaves as it is", LIMIT, async () => {
    const mark = unique();
    await curl(sandbox(), `-H "X-A: $KEY" https://tenant.atoll.test/${mark}`);
    assert.equal((await arrived(mark))[0].header["x-a"], holes.KEY);
  });

  test("the audit names the secret and has no value", LIMIT, async () => {
    const mark = unique();
    await curl(sandbox(), `-H "X-A: $KEY" "https://${API}/${mark}?key=$KEY"`);
    const record = await until(async () => (await audit(sandbox())).find((r) => r.path === `/${mark}`));
    assert.deepEqual([record.kind, record.name, record.status, record.decision, record.secrets], ["request", API, 200, "allow", ["KEY"]]);
    const { text } = await ask("GET", `${sandbox().id}/audit`);
    for (const v of Object.values(values)) assert.ok(!text.includes(v));
    const policy = await ask("GET", `${sandbox().id}/network`);
    assert.deepEqual(JSON.parse(policy.text).secrets.find((s) => s.name === "KEY").hosts, [API, "untrusted.atoll.test"]);
    for (const v of Object.values(values)) assert.ok(!policy.text.includes(v));
  });

  test("whatever the tests did, no process of the guest has a value", LIMIT, async () => {
    const { stdout } = await bash(sandbox(), "sudo sh -c 'cat /proc/*/environ /proc/*/cmdline' 2>/dev/null | tr '\\0' '\\n'");
    assert.ok(stdout.includes(holes.KEY), "it would be seen");
    for (const v of Object.values(values)) assert.ok(!stdout.includes(v), "a value is in the guest");
  });
});

test("sandboxes one after the other each trust their own gateway", LONG, async () => {
  for (let i = 0; i < 4; i++) {
    const value = unique() + unique(), mark = unique();
    await use({ secrets: { KEY: { hosts: [API], value } } }, async (sandbox) => {
      const said = await Promise.all(["sandbox.fetch", "deno.eval", "node", "python", "curl"].map((name) => clients[name](sandbox, `https://${API}/${mark}/${name}`, "KEY")));
      const seen = (await arrived(mark)).map((r) => r.header.authorization);
      assert.deepEqual(seen, Array(5).fill(`Bearer ${value}`), said.join("\n"));
    });
  }
});

test("what is refused at create, and how", LIMIT, async () => {
  const value = "hunter2-" + unique();
  const secret = (more) => ({ secrets: { KEY: { hosts: [API], value, ...more } } });
  const refused = (options, code, field) =>
    assert.rejects(within(Sandbox.create(options)), (err) => {
      assert.ok(err instanceof ConnectionEstablishmentError, String(err));
      assert.deepEqual([err.status, err.code], [400, code], err.message);
      assert.ok(err.message.includes(field), `${field} is not in ${err.message}`);
      assert.ok(!err.message.includes(value), err.message);
      assert.ok(err.traceId);
      return true;
    });
  for (const bad of ["", " ", "two words", "*", "*.", "a.*.example.com", "http://example.com", "example.com/path", "example.com:0", "example.com:99999", "example.com:", "1.2.3", "1.2.3.4/33", "[::1", "2001:db8::1]:80", "-a.example", "a..example", `${"a".repeat(64)}.example`]) {
    await refused({ allowNet: ["example.com", bad] }, "INVALID_ALLOW_NET", "allow_net[1]");
  }
  await refused({ allowNet: Array.from({ length: 1001 }, (_, i) => `h${i}.example`) }, "INVALID_ALLOW_NET", "allow_net");
  await refused(secret({ hosts: [] }), "INVALID_SECRETS", "secrets.KEY.hosts");
  await refused(secret({ hosts: [""] }), "INVALID_SECRETS", "secrets.KEY.hosts[0]");
  await refused(secret({ hosts: ["10.0.0.0/8"] }), "INVALID_SECRETS", "secrets.KEY.hosts[0]");
  await refused(secret({ hosts: undefined }), "INVALID_SECRETS", "secrets.KEY.hosts");
  await refused(secret({ hosts: Array.from({ length: 65 }, (_, i) => `h${i}.example`) }), "INVALID_SECRETS", "secrets.KEY.hosts");
  await refused(secret({ value: "" }), "INVALID_SECRETS", "secrets.KEY.value");
  await refused(secret({ value: value + "\n" }), "INVALID_SECRETS", "secrets.KEY.value");
  await refused(secret({ value: value + "\r\nX-Evil: 1" }), "INVALID_SECRETS", "secrets.KEY.value");
  await refused(secret({ value: value + "x".repeat(16 << 10) }), "INVALID_SECRETS", "secrets.KEY.value");
  await refused({ secrets: { "A B": { hosts: [API], value } } }, "INVALID_SECRETS", "A B");
  await refused({ secrets: Object.fromEntries(Array.from({ length: 65 }, (_, i) => [`KEY${i}`, { hosts: [API], value }])) }, "INVALID_SECRETS", "secrets");
  await refused(secret({ in: ["everywhere"] }), "INVALID_SECRETS", "secrets.KEY.in");
  await refused(secret({ methods: ["G E T"] }), "INVALID_SECRETS", "secrets.KEY.methods");
  await refused(secret({ paths: ["no-slash"] }), "INVALID_SECRETS", "secrets.KEY.paths");
  await refused(secret({ sign: { type: "rot13" } }), "INVALID_SECRETS", "secrets.KEY.sign");
  await refused({ allowNet: [], ...secret() }, "SECRET_HOST_EXCLUDED", "secrets.KEY.hosts[0]");
  await refused({ allowNet: ["*.example.com"], ...secret() }, "SECRET_HOST_EXCLUDED", "secrets.KEY.hosts[0]");
  await refused({ allowNet: [`${API}:80`], ...secret({ hosts: [`${API}:443`] }) }, "SECRET_HOST_EXCLUDED", "secrets.KEY.hosts[0]");
  for (const count of [4, 20]) {
    const secrets = Object.fromEntries(Array.from({ length: count }, (_, i) => [`KEY${i}`, { hosts: [API], value: value + "x".repeat(16_000) }]));
    await refused({ secrets }, "INVALID_SANDBOX_CONFIG", "secrets");
  }
});
