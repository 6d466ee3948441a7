// Open files: FsFile of the official SDK.

import { test } from "node:test";
import { SeekMode } from "@deno/sandbox";
import { assert, bash, bytesOf, LIMIT, pattern, rejectsWith, Sandbox, shared, until } from "./support.mjs";

const sandbox = shared();
const fs = () => sandbox().fs;
const encode = (s) => new TextEncoder().encode(s);

test("create, write, seek, read, stat, truncate, close", LIMIT, async () => {
  const file = await fs().create("f");
  assert.equal(await file.write(encode("hello world")), 11);
  assert.equal(await file.seek(6, SeekMode.Start), 6);
  const buffer = new Uint8Array(100);
  assert.equal(await file.read(buffer), 5);
  assert.equal(new TextDecoder().decode(buffer.subarray(0, 5)), "world");
  assert.equal(await file.read(buffer), null, "end of file");
  assert.equal(await file.seek(-5, SeekMode.End), 6);
  assert.equal(await file.seek(-2, SeekMode.Current), 4);
  assert.equal(await file.seek(2n, SeekMode.Start), 2);
  await file.truncate(3);
  assert.equal((await file.stat()).size, 3);
  await file.truncate();
  assert.equal((await file.stat()).size, 0);
  await file.sync();
  await file.syncData();
  await file.utime(new Date(1000), new Date(2000));
  assert.equal((await file.stat()).mtime.getTime(), 2000);
  await file.close();
  await file.close(); // the SDK makes it idempotent
  await assert.rejects(file.write(encode("x")));
  await assert.rejects(file.stat());
});

test("open modes", LIMIT, async () => {
  await rejectsWith(fs().open("missing"), "NotFound", "ENOENT");
  await fs().writeTextFile("m", "abc");
  const read = await fs().open("m");
  await assert.rejects(read.write(encode("x")), "a file opened for reading can't be written");
  await read.close();
  const append = await fs().open("m", { append: true });
  await append.write(encode("def"));
  await append.close();
  assert.equal(await fs().readTextFile("m"), "abcdef");
  const truncated = await fs().open("m", { write: true, truncate: true });
  await truncated.close();
  assert.equal((await fs().stat("m")).size, 0);
  const fresh = await fs().open("fresh", { write: true, createNew: true, mode: 0o600 });
  await fresh.close();
  assert.equal((await fs().stat("fresh")).mode & 0o777, 0o600);
  await rejectsWith(fs().open("fresh", { write: true, createNew: true }), "AlreadyExists", "EEXIST");
  const both = await fs().open("both", { read: true, write: true, create: true });
  await both.write(encode("rw"));
  await both.seek(0, SeekMode.Start);
  assert.equal(await both.read(new Uint8Array(2)), 2);
  await both.close();
});

test("readable and writable", LIMIT, async () => {
  const data = pattern(1_000_000);
  const out = await fs().create("stream.bin");
  await new Blob([data]).stream().pipeTo(out.writable);
  await out.close();
  const input = await fs().open("stream.bin");
  assert.deepEqual(await bytesOf(input.readable), data);
  await input.close();
});

test("`await using` closes", LIMIT, async () => {
  let kept;
  {
    await using file = await fs().create("using");
    kept = file;
  }
  await assert.rejects(kept.stat());
});

test("locks exclude each other across connections and end with them", LIMIT, async () => {
  await fs().writeTextFile("lock", "");
  const mine = await fs().open("lock", { read: true, write: true });
  await mine.lock(true);
  const second = await Sandbox.connect(sandbox().id);
  try {
    const other = await second.fs.open("lock", { read: true, write: true });
    let got = false;
    const waiting = other.lock(true).then(() => (got = true));
    await second.env.get("HOME"); // the waiting lock doesn't hold up the connection
    assert.equal(got, false, "the lock was granted twice");
    await mine.unlock();
    await waiting;
    const again = mine.lock(true);
    await second.close(); // frees its handles
    await again;
    await mine.unlock();
    await mine.lock(false);
    await mine.close();
  } finally {
    await second.close().catch(() => {});
  }
});

test("handles belong to their connection and are freed with it", LIMIT, async () => {
  const second = await Sandbox.connect(sandbox().id);
  for (let i = 0; i < 20; i++) await second.fs.open("/etc/passwd");
  const open = async () => Number((await bash(sandbox(), "sudo sh -c 'ls -l /proc/[0-9]*/fd' 2>/dev/null | grep -c /etc/passwd")).stdout);
  assert.ok(await open() >= 20, "the handles are open in the guest");
  await second.close();
  await until(async () => await open() === 0, "closing the handles of a gone client");
});
