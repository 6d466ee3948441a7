// What `make demo` shows: the official SDK, unmodified, on this server.
import { Sandbox } from "@deno/sandbox";
import assert from "node:assert/strict";

let last = performance.now();

// show prints one result and how long it took to come.
function show(what, result) {
  const ms = performance.now() - last;
  const text = String(result).trim().replaceAll("\n", "\n" + " ".repeat(34));
  console.log(`   ${what.padEnd(18)}${ms.toFixed(0).padStart(7)} ms   ${text}`);
  last = performance.now();
}

const sandbox = await Sandbox.create();
try {
  show("create", sandbox.id);

  const who = await sandbox.sh`echo "$(whoami) in $(pwd)"`.text();
  show("sh", who);
  assert.equal(who.trim(), "app in /home/app");

  const kernel = await sandbox.sh`. /etc/os-release; echo "$PRETTY_NAME, kernel $(uname -r), $(nproc) CPUs"`.text();
  show("uname", kernel);

  const sum = await sandbox.deno.eval(`[1, 2, 3].map((n) => n ** 2).reduce((a, b) => a + b)`);
  show("deno.eval", `1² + 2² + 3² = ${sum}`);
  assert.equal(sum, 14);

  await sandbox.fs.writeTextFile("primes.py", "print([n for n in range(2, 40) if all(n % d for d in range(2, n))])\n");
  const primes = await sandbox.sh`python3 primes.py`.text();
  show("file and python", primes);
  assert.match(primes, /^\[2, 3, 5, .*37\]/);

  const names = [];
  for await (const entry of sandbox.fs.readDir("/home/app")) names.push(entry.name);
  assert.ok(names.includes("primes.py"));
  show("fs.readDir", names.sort().join(" "));

  await sandbox.env.set("GREETING", "hello from the environment");
  show("env", await sandbox.sh`echo $GREETING`.text());

  show("sudo", await sandbox.sh`sudo id -un`.text());

  const versions = await sandbox.sh`
    deno --version | head -n 1; echo "node $(node --version), npm $(npm --version)"; python3 --version; git --version; gcc --version | head -n 1`.text();
  show("versions", versions);

  const failing = await sandbox.spawn("cat", { args: ["/no/such/file"], stdout: "piped", stderr: "piped" });
  const failed = await failing.output();
  show("a failing command", `exit ${failed.status.code}: ${failed.stderrText}`);
  assert.equal(failed.status.code, 1);
} finally {
  await sandbox.kill();
}
show("kill", "gone");

// A sandbox that reaches one host, and holds a key for it that it can't read.
const key = "sk-the-real-key";
const closed = await Sandbox.create({ allowNet: ["api.example.com"], secrets: { API_KEY: { hosts: ["api.example.com"], value: key } } });
try {
  show("allowNet, secrets", closed.id);

  const seen = await closed.sh`echo "$API_KEY"`.text();
  show("the key, inside", seen);
  assert.match(seen, /^DENO_SECRET_PLACEHOLDER_/);

  const other = await closed.spawn("curl", { args: ["-sS", "--max-time", "5", "https://example.org/"], stdout: "null", stderr: "piped" });
  const refused = await other.output();
  show("another host", refused.stderrText);
  assert.notEqual(refused.status.code, 0);
} finally {
  await closed.kill();
}
