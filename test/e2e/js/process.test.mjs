// Commands: sandbox.spawn and sandbox.sh of the official SDK.

import { describe, test } from "node:test";
import { KillController, SandboxCommandError } from "@deno/sandbox";
import { assert, bash, bytesOf, enough, LIMIT, LONG, pattern, rejectsWith, shared, until, within } from "./support.mjs";

const sandbox = shared();
const piped = { stdin: "piped", stdout: "piped", stderr: "piped" };

async function gone(pid) {
  await until(async () => (await bash(sandbox(), `kill -0 ${pid}`)).code !== 0, `the end of process ${pid}`);
}

describe("spawn", LONG, () => {
  test("output, arguments, status", LIMIT, async () => {
    const child = await sandbox().spawn("printf", { args: ["%s|", "a b", "", "ü"], stdout: "piped", stderr: "piped" });
    assert.ok(child.pid > 1);
    const { status, stdoutText, stderrText } = await child.output();
    assert.deepEqual([status.success, status.code, status.signal, status.oom], [true, 0, null, false]);
    assert.deepEqual([stdoutText, stderrText], ["a b||ü|", ""]);
    assert.equal(child.stdin, null);
  });

  test("exit codes and standard error", LIMIT, async () => {
    const child = await sandbox().spawn("bash", { args: ["-c", "echo out; echo err >&2; exit 42"], stdout: "piped", stderr: "piped" });
    const { status, stdoutText, stderrText } = await child.output();
    assert.deepEqual([status.success, status.code, stdoutText, stderrText], [false, 42, "out\n", "err\n"]);
  });

  test("a command that isn't there, a directory, a file without permission", LIMIT, async () => {
    await rejectsWith(sandbox().spawn("no-such-command"), "NotFound", "ENOENT");
    await rejectsWith(sandbox().spawn("/home/app"), "PermissionDenied", "EACCES");
    await rejectsWith(sandbox().spawn("/etc/passwd"), "PermissionDenied", "EACCES");
    await rejectsWith(sandbox().spawn("true", { cwd: "/missing" }), "NotFound", "ENOENT");
  });

  test("cwd and env", LIMIT, async () => {
    const child = await sandbox().spawn("bash", { args: ["-c", "pwd; echo $A-$HOME"], cwd: "/tmp", env: { A: "1" }, stdout: "piped", stderr: "piped" });
    assert.equal((await child.output()).stdoutText, "/tmp\n1-/home/app\n");
  });

  test("null output", LIMIT, async () => {
    const child = await sandbox().spawn("echo", { args: ["x"], stdout: "null", stderr: "null" });
    assert.equal(child.stdout, null);
    assert.equal((await child.status).code, 0);
  });

  test("standard input is a stream in both directions", LIMIT, async () => {
    const child = await sandbox().spawn("cat", piped);
    const writer = child.stdin.getWriter();
    const reader = child.stdout.getReader();
    for (const word of ["one", "two", "three"]) {
      await writer.write(new TextEncoder().encode(word));
      const { value } = await within(reader.read(), "the echo of cat");
      assert.equal(new TextDecoder().decode(value), word);
    }
    await writer.close();
    assert.equal((await within(reader.read(), "end of output")).done, true);
    assert.equal((await child.status).code, 0);
  });

  test("5 MB through cat, unchanged", LIMIT, async () => {
    const data = pattern(5_000_000);
    const child = await sandbox().spawn("cat", piped);
    const [back] = await Promise.all([bytesOf(child.stdout), new Blob([data]).stream().pipeTo(child.stdin)]);
    assert.equal(Buffer.compare(Buffer.from(back), Buffer.from(data)), 0);
  });

  test("input that nobody reads does not stick", LIMIT, async () => {
    const child = await sandbox().spawn("true", piped);
    const writer = child.stdin.getWriter();
    assert.equal((await within(child.status, "the end of true")).code, 0);
    await writer.write(new Uint8Array(100_000)).catch(() => {});
    await writer.close().catch(() => {});
    assert.equal(await sandbox().sh`echo alive`.text(), "alive\n");
  });

  test("5 MB on standard output and standard error at the same time", LIMIT, async () => {
    const child = await sandbox().spawn("bash", { args: ["-c", "head -c 5000000 /dev/zero & head -c 5000000 /dev/zero >&2; wait"], stdout: "piped", stderr: "piped" });
    const { stdout, stderr } = await child.output();
    assert.deepEqual([stdout.length, stderr.length], [5_000_000, 5_000_000]);
  });

  test("a slow reader does not hold up other calls", LIMIT, async () => {
    const child = await sandbox().spawn("head", { args: ["-c", "60000000", "/dev/zero"], stdout: "piped", stderr: "piped" });
    const reader = child.stdout.getReader();
    let size = (await reader.read()).value.length;
    for (let i = 0; i < 5; i++) {
      assert.equal(await within(sandbox().env.get("HOME"), "a call beside a stream that nobody reads"), "/home/app");
    }
    for (;;) {
      const { value, done } = await within(reader.read(), "the rest");
      if (done) break;
      size += value.length;
    }
    assert.equal(size, 60_000_000);
  });

  test("cancelling the output lets the process end", LIMIT, async () => {
    const child = await sandbox().spawn("yes", { stdout: "piped", stderr: "piped" });
    const reader = child.stdout.getReader();
    await reader.read();
    await reader.cancel(enough());
    assert.equal((await within(child.status, "the end of yes")).success, false);
  });

  test("kill with signals", LIMIT, async () => {
    for (const [signal, code] of [[undefined, 143], ["SIGKILL", 137], ["SIGINT", 130], ["SIGHUP", 129]]) {
      const child = await sandbox().spawn("sleep", { args: ["1000"], stdout: "piped", stderr: "piped" });
      await child.kill(signal);
      const status = await within(child.status, `the end by ${signal}`);
      assert.deepEqual([status.success, status.code, status.signal], [false, code, signal ?? "SIGTERM"]);
    }
  });

  test("a handled signal, a stopped process, an unknown signal", LIMIT, async () => {
    const child = await sandbox().spawn("bash", { args: ["-c", "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done"], stdout: "piped", stderr: "piped" });
    const reader = child.stdout.getReader();
    await reader.read();
    await assert.rejects(child.kill("SIGNOTHING"));
    await child.kill("SIGUSR1");
    assert.equal(new TextDecoder().decode((await reader.read()).value), "got\n");
    assert.equal((await child.status).code, 3);
    await child.kill(); // of what has ended is no error
  });

  test("kill takes the children along", LIMIT, async () => {
    const child = await sandbox().spawn("bash", { args: ["-c", "sleep 1234 & echo $!; wait"], stdout: "piped", stderr: "piped" });
    const pid = new TextDecoder().decode((await child.stdout.getReader().read()).value).trim();
    await child.kill();
    await child.status;
    await gone(pid);
  });

  test("AbortSignal kills", LIMIT, async () => {
    const abort = new AbortController();
    const child = await sandbox().spawn("sleep", { args: ["1000"], signal: abort.signal, stdout: "piped", stderr: "piped" });
    abort.abort();
    assert.equal((await within(child.status, "the end by abort")).signal, "SIGTERM");
  });

  test("`await using` kills", LIMIT, async () => {
    let pid;
    {
      await using child = await sandbox().spawn("sleep", { args: ["1000"], stdout: "piped", stderr: "piped" });
      pid = child.pid;
    }
    await gone(pid);
  });

  test("a daemon that keeps the output open does not hold up the status", LIMIT, async () => {
    const child = await sandbox().spawn("bash", { args: ["-c", "sleep 1000 & exit 0"], stdout: "piped", stderr: "piped" });
    assert.equal((await within(child.status, "the status")).code, 0);
    await child.kill().catch(() => {});
  });

  test("orphans are reaped", LIMIT, async () => {
    await sandbox().sh`for i in $(seq 50); do (sleep 0.05 &) ; done`;
    await until(async () => (await bash(sandbox(), "ps -eo stat= | grep -c ^Z")).stdout.trim() === "0", "an end of zombies");
  });
});

describe("sh", LONG, () => {
  test("templates escape what is put in", LIMIT, async () => {
    const nasty = `a'b"c $(whoami) ; rm -rf / \\ *`;
    assert.equal(await sandbox().sh`echo -n ${nasty}`.text(), nasty);
    assert.equal(await sandbox().sh`printf '%s,' ${["x y", "z", ""]}`.text(), "x y,z,,");
    assert.equal(await sandbox().sh`echo ${1} ${true}`.text(), "1 true\n");
  });

  test("pipes, json, result", LIMIT, async () => {
    assert.equal(await sandbox().sh`seq 5 | tail -1`.text(), "5\n");
    assert.deepEqual(await sandbox().sh`echo '{"a": [1, 2]}'`.json(), { a: [1, 2] });
    await assert.rejects(sandbox().sh`echo nojson`.json(), /Failed to parse JSON/);
    const result = await sandbox().sh`echo o`.stdout("piped").result();
    assert.deepEqual([result.stdoutText, result.status.code], ["o\n", 0]);
    assert.equal((await sandbox().sh`echo e >&2`.stderr("piped").result()).stderrText, "e\n");
  });

  test("failures throw, noThrow doesn't", LIMIT, async () => {
    await assert.rejects(sandbox().sh`exit 7`.result(), (err) => {
      assert.ok(err instanceof SandboxCommandError);
      assert.equal(err.code, 7);
      return true;
    });
    assert.equal((await sandbox().sh`exit 7`.noThrow()).status.code, 7);
  });

  // One option per command only: see bash in support.mjs.
  test("cwd, env, sudo, signal", LIMIT, async () => {
    await sandbox().sh`touch here`.cwd("/tmp");
    assert.equal(await sandbox().sh`ls /tmp/here`.text(), "/tmp/here\n");
    await sandbox().sh`test "$X" = y`.env("X", "y");
    await sandbox().sh`touch /etc/x`.sudo();
    assert.equal((await sandbox().fs.stat("/etc/x")).uid, 0);
    assert.notEqual((await bash(sandbox(), "touch /etc/y")).code, 0);
    assert.equal((await bash(sandbox(), "sudo whoami")).stdout, "root\n");
  });

  test("KillController and AbortSignal", LIMIT, async () => {
    // The SDK misses a signal that comes while it spawns.
    const fails = async (command, kill, code) => {
      const { spawn } = command;
      let spawned;
      command.spawn = () => spawned = spawn.call(command);
      const failing = assert.rejects(within(command.result(), "the end"), (err) => err.code === code || assert.fail(`code ${err.code}: ${err.message}`));
      await spawned;
      kill();
      await failing;
    };
    const killer = new KillController();
    await fails(sandbox().sh`sleep 1000`.signal(killer.signal), () => killer.kill("SIGKILL"), 137);
    const abort = new AbortController();
    await fails(sandbox().sh`sleep 1000`.signal(abort.signal), () => abort.abort(), 143);
  });

  test("what the image promises", LIMIT, async () => {
    const tools = ["bash", "deno", "node", "npm", "npx", "python3", "pip3", "gcc", "make", "git", "curl", "wget", "jq", "rg", "unzip", "xz", "ps", "ip", "ssh", "sudo"];
    const missing = await sandbox().sh`for t in ${tools}; do command -v $t >/dev/null || echo $t; done`.text();
    assert.equal(missing, "");
    assert.match(await sandbox().sh`. /etc/os-release; echo $ID-$VERSION_ID`.text(), /^debian-13/);
    assert.match(await sandbox().sh`node --version`.text(), /^v24\./);
    assert.equal(await sandbox().sh`python3 -c 'import venv, ssl, json; print("ok")'`.text(), "ok\n");
    assert.equal(await sandbox().sh`printf 'int main(){return 5;}' > m.c && gcc -o m m.c && ./m; echo $?`.text(), "5\n");
  });
});
