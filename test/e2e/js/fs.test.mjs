// Files by path: sandbox.fs of the official SDK.

import { mkdtemp, mkdir, readFile, readlink, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { pathToFileURL } from "node:url";
import { all, assert, LIMIT, LONG, pattern, rejectsWith, shared } from "./support.mjs";

const sandbox = shared();
const fs = () => sandbox().fs;

describe("content", LONG, () => {
  test("text: write, read, overwrite, append", LIMIT, async () => {
    await fs().writeTextFile("t.txt", "one\n");
    await fs().writeTextFile("t.txt", "two\n", { append: true });
    assert.equal(await fs().readTextFile("t.txt"), "one\ntwo\n");
    await fs().writeTextFile("t.txt", "three");
    assert.equal(await fs().readTextFile("/home/app/t.txt"), "three", "relative paths start at /home/app");
  });

  test("bytes: every value survives", LIMIT, async () => {
    const data = Uint8Array.from({ length: 256 }, (_, i) => i);
    await fs().writeFile("bytes.bin", data);
    assert.deepEqual(new Uint8Array(await fs().readFile("bytes.bin")), data);
  });

  test("empty files", LIMIT, async () => {
    await fs().writeFile("empty", new Uint8Array());
    assert.equal((await fs().readFile("empty")).length, 0);
    assert.equal(await fs().readTextFile("empty"), "");
    assert.equal((await fs().stat("empty")).size, 0);
  });

  test("streams as content", LIMIT, async () => {
    const bytes = pattern(300_000);
    await fs().writeFile("s.bin", new Blob([bytes]).stream());
    assert.deepEqual(new Uint8Array(await fs().readFile("s.bin")), bytes);
    const text = new ReadableStream({
      start(c) {
        for (let i = 0; i < 100; i++) c.enqueue(`zeile ${i} ü\n`);
        c.close();
      },
    });
    await fs().writeTextFile("s.txt", text);
    const back = await fs().readTextFile("s.txt");
    assert.equal(back.split("\n").length, 101);
    assert.ok(back.endsWith("zeile 99 ü\n"));
  });

  test("a stream that fails fails the write", LIMIT, async () => {
    const broken = new ReadableStream({
      start(c) {
        c.enqueue(new Uint8Array(10));
        c.error(new TypeError("source broke"));
      },
    });
    await assert.rejects(fs().writeFile("broken.bin", broken));
  });

  test("options: create, createNew, mode", LIMIT, async () => {
    await rejectsWith(fs().writeTextFile("nope.txt", "x", { create: false }), "NotFound", "ENOENT");
    await fs().writeTextFile("new.txt", "x", { createNew: true, mode: 0o600 });
    assert.equal((await fs().stat("new.txt")).mode & 0o777, 0o600);
    await rejectsWith(fs().writeTextFile("new.txt", "y", { createNew: true }), "AlreadyExists", "EEXIST");
    assert.equal(await fs().readTextFile("new.txt"), "x");
  });

  test("URL paths", LIMIT, async () => {
    await fs().writeTextFile(pathToFileURL("/home/app/url.txt"), "by url");
    assert.equal(await fs().readTextFile(pathToFileURL("/home/app/url.txt")), "by url");
  });

  test("Unicode, blanks and odd names", LIMIT, async () => {
    await fs().mkdir("odd", { recursive: true });
    const names = ["ünï çödé", "日本語.txt", "🦀", "a\nb", "-rf", "quo'te\"s", "$HOME", "*"];
    for (const name of names) {
      await fs().writeTextFile(`odd/${name}`, name);
      assert.equal(await fs().readTextFile(`odd/${name}`), name);
    }
    assert.deepEqual((await all(fs().readDir("odd"))).map((e) => e.name).sort(), [...names].sort());
    await fs().remove("odd", { recursive: true });
  });

  test("text that is not UTF-8 does not hang or break the connection", LIMIT, async () => {
    await fs().writeFile("latin", Uint8Array.from([0x61, 0xff, 0x62]));
    const text = await fs().readTextFile("latin").catch((e) => e);
    assert.ok(text instanceof Error || text === "a\ufffdb", String(text));
    assert.equal(await fs().readTextFile("t.txt"), "three");
  });

  test("50 MB in both directions", LONG, async () => {
    const data = pattern(50_000_000);
    await fs().writeFile("big.bin", data);
    assert.equal((await fs().stat("big.bin")).size, data.length);
    const back = await fs().readFile("big.bin");
    assert.equal(Buffer.compare(Buffer.from(back), Buffer.from(data)), 0);
    await fs().remove("big.bin");
  });

  test("a file too large for one message is refused with a sentence", LIMIT, async () => {
    await sandbox().sh`truncate -s 500M huge.bin`;
    await assert.rejects(fs().readFile("huge.bin"), (err) => {
      assert.match(err.message, /at most .* fit into one message/);
      return true;
    });
    assert.equal((await fs().stat("huge.bin")).size, 500 * 1024 * 1024, "the connection goes on");
    await fs().remove("huge.bin");
  });

  test("abort ends a read and a write", LIMIT, async () => {
    const write = new AbortController();
    const never = new ReadableStream({ start: (c) => c.enqueue(new Uint8Array(10)) });
    const writing = fs().writeFile("aborted.bin", never, { signal: write.signal });
    setTimeout(() => write.abort(), 50);
    await assert.rejects(writing);

    await sandbox().sh`mkfifo -m 666 fifo`;
    const read = new AbortController();
    const reading = fs().readFile("fifo", { signal: read.signal });
    setTimeout(() => read.abort(), 50);
    await assert.rejects(reading);
    assert.equal(await fs().readTextFile("t.txt"), "three");
  });
});

describe("directories", LONG, () => {
  test("mkdir, readDir, remove", LIMIT, async () => {
    await rejectsWith(fs().mkdir("a/b/c"), "NotFound", "ENOENT");
    await fs().mkdir("a/b/c", { recursive: true });
    await fs().mkdir("a/b/c", { recursive: true });
    await rejectsWith(fs().mkdir("a"), "AlreadyExists", "EEXIST");
    await fs().mkdir("a/private", { mode: 0o700 });
    assert.equal((await fs().stat("a/private")).mode & 0o777, 0o700);
    await fs().writeTextFile("a/file", "");
    await fs().symlink("file", "a/link");
    const entries = (await all(fs().readDir("a"))).sort((x, y) => x.name < y.name ? -1 : 1);
    assert.deepEqual(entries.map((e) => [e.name, e.isFile, e.isDirectory, e.isSymlink]), [
      ["b", false, true, false],
      ["file", true, false, false],
      ["link", false, false, true],
      ["private", false, true, false],
    ]);
    await assert.rejects(fs().remove("a"), (e) => e.code === "ENOTEMPTY");
    await fs().remove("a/file");
    await fs().remove("a", { recursive: true });
    await rejectsWith(fs().stat("a"), "NotFound", "ENOENT");
    await rejectsWith(all(fs().readDir("a")), "NotFound", "ENOENT");
    await rejectsWith(fs().remove("a"), "NotFound", "ENOENT");
  });

  test("readDir of a file, a file below a file", LIMIT, async () => {
    await fs().writeTextFile("plain", "");
    await assert.rejects(all(fs().readDir("plain")), (e) => e.code === "ENOTDIR");
    await assert.rejects(fs().readFile("plain/x"), (e) => e.code === "ENOTDIR");
    await assert.rejects(fs().readFile("/home/app"), (e) => e.code === "EISDIR");
  });

  test("walk", LIMIT, async () => {
    await fs().mkdir("w/sub/deep", { recursive: true });
    for (const f of ["w/a.ts", "w/b.js", "w/sub/c.ts", "w/sub/deep/d.ts"]) await fs().writeTextFile(f, f);
    await fs().symlink("sub", "w/ln");
    const paths = async (options) =>
      (await all(fs().walk("w", options))).map((e) => e.path.replace(/^\/home\/app\//, "")).sort();
    assert.deepEqual(await paths(), ["w", "w/a.ts", "w/b.js", "w/ln", "w/sub", "w/sub/c.ts", "w/sub/deep", "w/sub/deep/d.ts"]);
    assert.deepEqual(await paths({ includeDirs: false, exts: [".ts"] }), ["w/a.ts", "w/sub/c.ts", "w/sub/deep/d.ts"]);
    assert.deepEqual(await paths({ maxDepth: 1, includeSymlinks: false }), ["w", "w/a.ts", "w/b.js", "w/sub"]);
    assert.deepEqual(await paths({ includeDirs: false, match: [/[ab]\.(ts|js)$/] }), ["w/a.ts", "w/b.js"]);
    assert.deepEqual(await paths({ skip: [/sub/, /ln/] }), ["w", "w/a.ts", "w/b.js"]);
    assert.ok((await paths({ followSymlinks: true, includeDirs: false })).length >= 5);
    const entry = (await all(fs().walk("w", { exts: [".js"], includeDirs: false })))[0];
    assert.deepEqual([entry.name, entry.isFile, entry.isDirectory, entry.isSymlink], ["b.js", true, false, false]);
    await rejectsWith(all(fs().walk("missing")), "NotFound", "ENOENT");
  });

  test("walk of thousands of files", LIMIT, async () => {
    await sandbox().sh`mkdir -p many && cd many && seq 3000 | xargs touch`;
    assert.equal((await all(fs().walk("many", { includeDirs: false }))).length, 3000);
    assert.equal((await all(fs().readDir("many"))).length, 3000);
  });

  test("expandGlob", LIMIT, async () => {
    await fs().mkdir("g/x/y", { recursive: true });
    for (const f of ["g/1.md", "g/2.txt", "g/x/3.md", "g/x/y/4.md", "g/X.MD"]) await fs().writeTextFile(f, "");
    const names = async (glob, options) =>
      (await all(fs().expandGlob(glob, options))).map((e) => e.path.replace(/^\/home\/app\//, "")).sort();
    assert.deepEqual(await names("g/*.md"), ["g/1.md"]);
    assert.deepEqual(await names("g/**/*.md"), ["g/1.md", "g/x/3.md", "g/x/y/4.md"]);
    assert.deepEqual(await names("**/*.md", { root: "/home/app/g", exclude: ["x/y/**"] }), ["g/1.md", "g/x/3.md"]);
    assert.deepEqual(await names("g/*", { includeDirs: false }), ["g/1.md", "g/2.txt", "g/X.MD"]);
    assert.deepEqual(await names("g/*.md", { caseInsensitive: true }), ["g/1.md", "g/X.MD"]);
    assert.deepEqual(await names("g/@(1|2).*"), ["g/1.md", "g/2.txt"]);
    assert.deepEqual(await names("g/nothing*"), []);
  });

  test("temporary files and directories", LIMIT, async () => {
    const dir = await fs().makeTempDir({ prefix: "p-", suffix: "-s", dir: "/home/app" });
    assert.match(dir, /^\/home\/app\/p-.+-s$/);
    assert.ok((await fs().stat(dir)).isDirectory);
    const file = await fs().makeTempFile({ dir, suffix: ".txt" });
    assert.ok(file.startsWith(dir + "/") && file.endsWith(".txt"));
    const plain = await fs().makeTempFile();
    assert.match(plain, /^\/tmp\//);
    assert.notEqual(plain, await fs().makeTempFile());
    assert.equal((await fs().stat(plain)).mode & 0o777, 0o600);
    await rejectsWith(fs().makeTempFile({ dir: "/missing" }), "NotFound", "ENOENT");
  });
});

describe("attributes and names", LONG, () => {
  test("stat and lstat", LIMIT, async () => {
    const before = Date.now();
    await fs().writeTextFile("st", "12345");
    const info = await fs().stat("st");
    assert.deepEqual([info.isFile, info.isDirectory, info.isSymlink, info.size, info.uid, info.nlink], [true, false, false, 5, 1000, 1]);
    assert.ok(info.mtime instanceof Date && Math.abs(info.mtime - before) < 60_000, `mtime ${info.mtime}`);
    await fs().symlink("st", "st-link");
    assert.equal((await fs().stat("st-link")).isSymlink, false);
    assert.equal((await fs().lstat("st-link")).isSymlink, true);
    assert.equal((await fs().stat("/dev/null")).isCharDevice, true);
    await rejectsWith(fs().stat("missing"), "NotFound", "ENOENT");
    await rejectsWith(fs().lstat("missing"), "NotFound", "ENOENT");
  });

  test("chmod and chown", LIMIT, async () => {
    await fs().writeTextFile("mode", "");
    await fs().chmod("mode", 0o4751);
    assert.equal((await fs().stat("mode")).mode & 0o7777, 0o4751);
    await fs().chown("mode", 1000, 1000);
    await fs().chown("mode", null, null);
    await rejectsWith(fs().chown("mode", 0, 0), "PermissionDenied", "EPERM");
    await rejectsWith(fs().chmod("missing", 0o600), "NotFound", "ENOENT");
  });

  test("umask holds for what follows", LIMIT, async () => {
    const old = await fs().umask();
    assert.equal(await fs().umask(0o077), old);
    try {
      assert.equal(await fs().umask(), 0o077);
      await fs().writeTextFile("masked", "");
      assert.equal((await fs().stat("masked")).mode & 0o777, 0o600);
    } finally {
      await fs().umask(old);
    }
  });

  test("utime", LIMIT, async () => {
    await fs().writeTextFile("ut", "");
    await fs().utime("ut", new Date("2001-02-03T04:05:06Z"), 1_600_000_000_000);
    const info = await fs().stat("ut");
    assert.equal(info.atime.toISOString(), "2001-02-03T04:05:06.000Z");
    assert.equal(info.mtime.getTime(), 1_600_000_000_000);
    await rejectsWith(fs().utime("missing", new Date(), new Date()), "NotFound", "ENOENT");
  });

  test("truncate", LIMIT, async () => {
    await fs().writeTextFile("tr", "0123456789");
    await fs().truncate("tr", 4);
    assert.equal(await fs().readTextFile("tr"), "0123");
    await fs().truncate("tr", 8);
    assert.equal((await fs().stat("tr")).size, 8);
    await fs().truncate("tr");
    assert.equal((await fs().stat("tr")).size, 0);
  });

  test("rename and copyFile", LIMIT, async () => {
    await fs().writeTextFile("src", "content", { mode: 0o640 });
    await fs().copyFile("src", "copy");
    await fs().rename("src", "moved");
    assert.equal(await fs().readTextFile("copy"), "content");
    assert.equal(await fs().readTextFile("moved"), "content");
    await rejectsWith(fs().stat("src"), "NotFound", "ENOENT");
    await rejectsWith(fs().rename("src", "x"), "NotFound", "ENOENT");
    await rejectsWith(fs().copyFile("src", "x"), "NotFound", "ENOENT");
  });

  test("links", LIMIT, async () => {
    await fs().writeTextFile("target", "t");
    await fs().link("target", "hard");
    assert.equal((await fs().stat("target")).nlink, 2);
    await fs().symlink("./target", "soft");
    assert.equal(await fs().readLink("soft"), "./target");
    assert.equal(await fs().realPath("soft"), "/home/app/target");
    await fs().symlink("loop", "loop");
    await assert.rejects(fs().readFile("loop"), (e) => e.code === "ELOOP");
    await fs().symlink("gone", "dangling");
    await rejectsWith(fs().realPath("dangling"), "NotFound", "ENOENT");
    await rejectsWith(fs().symlink("x", "target"), "AlreadyExists", "EEXIST");
    await assert.rejects(fs().readLink("target"), (e) => e.code === "EINVAL");
  });

  test("the API has the rights of the user app, no more", LIMIT, async () => {
    await rejectsWith(fs().writeTextFile("/etc/hacked", "x"), "PermissionDenied", "EACCES");
    await rejectsWith(fs().readFile("/etc/shadow"), "PermissionDenied", "EACCES");
    await rejectsWith(fs().mkdir("/usr/x"), "PermissionDenied", "EACCES");
    await rejectsWith(fs().remove("/etc/passwd"), "PermissionDenied", "EACCES");
    await sandbox().sh`touch /etc/by-root`.sudo();
    assert.equal((await fs().stat("/etc/by-root")).uid, 0);
    assert.equal((await fs().stat("/home/app")).uid, 1000);
  });

  test("hostile paths", LIMIT, async () => {
    await assert.rejects(fs().readFile("a\0b"));
    await assert.rejects(fs().readFile(""));
    await assert.rejects(fs().readFile("x".repeat(5000)), (e) => e.code === "ENAMETOOLONG");
    assert.equal((await fs().stat("/")).isDirectory, true);
    assert.equal((await fs().stat("../../../../..")).isDirectory, true);
  });
});

describe("upload and download", LONG, () => {
  test("files and trees", LIMIT, async () => {
    const local = await mkdtemp(join(tmpdir(), "atoll-js-"));
    try {
      await mkdir(join(local, "tree/sub"), { recursive: true });
      const blob = pattern(200_000);
      await writeFile(join(local, "tree/blob.bin"), blob);
      await writeFile(join(local, "tree/sub/ü.txt"), "inner");
      await symlink("blob.bin", join(local, "tree/link"));
      await fs().mkdir("up");
      await fs().upload(join(local, "tree"), "up");
      assert.equal(await fs().readTextFile("up/tree/sub/ü.txt"), "inner");
      assert.equal(await fs().realPath("up/tree/link"), "/home/app/up/tree/blob.bin");
      await fs().upload(join(local, "tree/blob.bin"), "up/one.bin");
      assert.deepEqual(new Uint8Array(await fs().readFile("up/one.bin")), blob);

      await mkdir(join(local, "down"));
      await fs().download("up/tree", join(local, "down"));
      assert.deepEqual(new Uint8Array(await readFile(join(local, "down/tree/blob.bin"))), blob);
      assert.equal(await readFile(join(local, "down/tree/sub/ü.txt"), "utf8"), "inner");
      assert.equal(await readlink(join(local, "down/tree/link")), "blob.bin");
      await fs().download("up/one.bin", join(local, "one.bin"));
      assert.deepEqual(new Uint8Array(await readFile(join(local, "one.bin"))), blob);
      await rejectsWith(fs().download("missing", join(local, "x")), "NotFound", "ENOENT");
    } finally {
      await rm(local, { recursive: true });
    }
  });
});
