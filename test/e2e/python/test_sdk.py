"""The official Python SDK against a real server, sync and async.

One suite runs twice: written for the asynchronous client, and through Waited
for the synchronous one, which has the same methods. The server comes from the
environment (see ../harness/withserver).

What version 0.16 of the SDK cannot do, and therefore is not tested here:
 - walk and expand_glob return the number of a stream that nothing can read;
 - the body of what fetch returns has no accessor;
 - download calls a method of its own that no server has;
 - names in env of spawn and of deno.run are turned from a_b into aB, and so
   are the keys of everything else that is sent;
 - keys of returned objects are turned from aB into a_b;
 - messages over 1 MiB are refused: larger files are read in parts;
 - there are no Deno.errors: every failure is an Exception with its text;
 - utime of a path takes texts, utime of a file takes seconds;
 - a refused creation is an exception of websockets: its text has the status,
   its response the code and the message.
"""

import asyncio
import base64
import faulthandler
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
import unittest
import urllib.parse
import urllib.request

from deno_sandbox import AsyncDenoDeploy, DenoDeploy
from deno_sandbox.errors import AuthenticationError, HTTPStatusError, RpcValidationError, UnknownRpcMethod

# By how much longer than usual things may take: emulated microVMs are slow.
SLOWNESS = int(os.environ.get("ATOLL_TEST_SLOWNESS", "1"))
PATIENCE = 60 * SLOWNESS  # seconds for one thing that a test waits for
LIMIT = 2 * PATIENCE  # for one test
SKIP = os.environ.get("ATOLL_TEST_SKIP")  # a regular expression of tests' names; see ../skipped
WEB = os.environ.get("ATOLL_TEST_WEB", "web.atoll.test")
API, EVIL, UNTRUSTED = "api.atoll.test", "evil.atoll.test", "untrusted.atoll.test"


class Waited:
    """Makes what the synchronous client returns look asynchronous."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return wrap(getattr(self._inner, name))


def wrap(value):
    if callable(value) and not isinstance(value, type):

        async def call(*a, **k):
            return wrap(value(*a, **k))

        return call
    if type(value).__module__.startswith("deno_sandbox") or type(value).__name__ == "SyncStreamReader":
        return Waited(value)
    return value


class Manager:
    """The asynchronous form of a synchronous context manager."""

    def __init__(self, inner):
        self._inner = inner

    async def __aenter__(self):
        return Waited(self._inner.__enter__())

    async def __aexit__(self, *exc):
        self._inner.__exit__(None, None, None)


class AsyncClient:
    def __init__(self, options=None):
        self._api = AsyncDenoDeploy(options).sandbox

    def create(self, **k):
        return self._api.create(**k)

    def connect(self, id):
        return self._api.connect(id)

    async def ids(self, labels=None):
        page = await self._api.list(labels=labels)
        return {item["id"]: item for item in page.items}


class SyncClient:
    def __init__(self, options=None):
        self._api = DenoDeploy(options).sandbox

    def create(self, **k):
        return Manager(self._api.create(**k))

    def connect(self, id):
        return Manager(self._api.connect(id))

    async def ids(self, labels=None):
        return {item["id"]: item for item in self._api.list(labels=labels).items}


async def until(probe):
    """Waits until probe returns something true, and returns it."""
    end = time.monotonic() + PATIENCE
    while not (found := await probe()):
        if time.monotonic() > end:
            raise TimeoutError
        await asyncio.sleep(0.02)
    return found


async def run(sb, script, **k):
    """Runs a script; returns its status and output."""
    p = await sb.spawn("bash", args=["-c", script], stdout="piped", stderr="piped", **k)
    out = await p.stdout.read(-1)
    err = await p.stderr.read(-1)
    status = await p.wait()
    return status, out.decode(), err.decode()


class Base:
    """What every test has: a client and a sandbox."""

    Client = None
    options = {}  # of the sandbox

    def setUp(self):
        if SKIP and re.search(SKIP, self.id()):
            self.skipTest("see test/e2e/skipped")
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        self.addCleanup(faulthandler.cancel_dump_traceback_later)

    async def asyncSetUp(self):
        self.client = self.Client()
        self.sb = await self.made(**self.options)

    async def made(self, **options):
        """A sandbox that is closed with the test."""
        manager = self.client.create(**options)
        sb = await manager.__aenter__()
        self.addAsyncCleanup(manager.__aexit__, None, None, None)
        return sb

    async def fails(self, awaitable, *words):
        with self.assertRaises(Exception) as caught:
            await awaitable
        for word in words:
            self.assertIn(word, str(caught.exception))


class Suite(Base):
    """The tests. Subclasses say which client they use."""

    options = {"env": {"GIVEN_NAME": "ü=1"}}

    # paused sandboxes, of which the SDK knows nothing

    async def pause(self, sb, to_disk):
        request = urllib.request.Request(
            f"{os.environ['DENO_SANDBOX_ENDPOINT']}/api/v3/sandbox/{sb.id}/pause",
            json.dumps({"to_disk": to_disk}).encode(),
            {"Authorization": f"Bearer {os.environ['DENO_DEPLOY_TOKEN']}"},
        )
        answer = await asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request)))
        self.assertEqual(answer["power"], "suspended" if to_disk else "paused")

    async def test_call_resumes(self):
        await self.sb.fs.write_text_file("note", "hello")
        await self.pause(self.sb, False)
        self.assertEqual((await self.client.ids())[self.sb.id]["status"], "running")
        self.assertEqual(await self.sb.fs.read_text_file("note"), "hello")

    async def test_connection_resumes(self):
        await self.sb.fs.write_text_file("note", "hello")
        await self.pause(self.sb, True)
        self.assertEqual((await self.client.ids())[self.sb.id]["status"], "running")
        async with self.client.connect(self.sb.id) as again:
            self.assertEqual(await again.fs.read_text_file("note"), "hello")

    # files

    async def test_text_files(self):
        fs = self.sb.fs
        await fs.write_text_file("t.txt", "eins ü 日本\n")
        await fs.write_text_file("t.txt", "zwei", append=True)
        self.assertEqual(await fs.read_text_file("/home/app/t.txt"), "eins ü 日本\nzwei")
        await fs.write_text_file("new", "x", create_new=True, mode=0o600)
        self.assertEqual((await fs.stat("new"))["mode"] & 0o777, 0o600)
        await self.fails(fs.write_text_file("new", "y", create_new=True), "EEXIST", "AlreadyExists")
        await self.fails(fs.write_text_file("nope", "y", create=False), "ENOENT")
        await self.fails(fs.read_text_file("missing"), "NotFound", "ENOENT")
        await self.fails(fs.write_text_file("/etc/x", "y"), "EACCES")

    async def test_binary_files(self):
        fs = self.sb.fs
        data = bytes(range(256)) * 2000
        await fs.write_file("b", data)
        self.assertEqual(await fs.read_file("b"), data)
        await fs.write_file("b", iter([b"a" * 70_000, b"", b"b"]))
        self.assertEqual(await fs.read_file("b"), b"a" * 70_000 + b"b")
        await fs.write_file("empty", b"")
        self.assertEqual(await fs.read_file("empty"), b"")
        await fs.write_file("b", b"!", append=True)
        self.assertTrue((await fs.read_file("b")).endswith(b"b!"))

    async def test_large_files(self):
        fs = self.sb.fs
        data = os.urandom(1 << 20) * 8
        await fs.write_file("large", data)
        self.assertEqual((await fs.stat("large"))["size"], len(data))
        await self.fails(fs.read_file("large"), "fit into one message")
        f = await fs.open("large", read=True)
        back = b""
        while len(back) < len(data):
            back += await f.read(500_000)
        await f.close()
        self.assertEqual(back, data)

    async def test_directories(self):
        fs = self.sb.fs
        await fs.mkdir("d/e/f", recursive=True)
        await fs.write_text_file("d/file", "")
        await fs.symlink("file", "d/link")
        entries = {e["name"]: e for e in await fs.read_dir("d")}
        self.assertEqual(sorted(entries), ["e", "file", "link"])
        self.assertTrue(entries["e"]["is_directory"] and entries["file"]["is_file"] and entries["link"]["is_symlink"])
        await self.fails(fs.remove("d"), "ENOTEMPTY")
        await fs.remove("d", recursive=True)
        await self.fails(fs.read_dir("d"), "ENOENT")
        await self.fails(fs.mkdir("a/b"), "ENOENT")
        await fs.mkdir("private", mode=0o700)
        self.assertEqual((await fs.stat("private"))["mode"] & 0o777, 0o700)
        self.assertIn("stream_id", await fs.walk("private", max_depth=1, exts=[".ts"]))
        self.assertIn("stream_id", await fs.expand_glob("*.txt", root="/home/app"))

    async def test_names_and_links(self):
        fs = self.sb.fs
        await fs.write_text_file("src", "content")
        await fs.copy_file("src", "copy")
        await fs.rename("src", "moved")
        await fs.link("moved", "hard")
        await fs.symlink("./moved", "soft", type="file")
        self.assertEqual((await fs.stat("moved"))["nlink"], 2)
        self.assertEqual(await fs.read_link("soft"), "./moved")
        self.assertEqual(await fs.real_path("soft"), "/home/app/moved")
        self.assertTrue((await fs.lstat("soft"))["is_symlink"])
        self.assertFalse((await fs.stat("soft"))["is_symlink"])
        self.assertEqual(await fs.read_text_file("copy"), "content")
        temp = await fs.make_temp_dir(dir="/home/app", prefix="p-", suffix="-s")
        self.assertRegex(temp, "^/home/app/p-.+-s$")
        self.assertTrue((await fs.make_temp_file(dir=temp)).startswith(temp + "/"))
        self.assertTrue((await fs.make_temp_file()).startswith("/tmp/"))

    async def test_attributes(self):
        fs = self.sb.fs
        await fs.write_text_file("f", "0123456789")
        await fs.chmod("f", 0o640)
        info = await fs.stat("f")
        self.assertEqual((info["mode"] & 0o777, info["size"], info["uid"], info["is_file"]), (0o640, 10, 1000, True))
        await fs.chown("f", 1000, 1000)
        await self.fails(fs.chown("f", 0, 0), "EPERM")
        await fs.truncate("f", 3)
        self.assertEqual(await fs.read_text_file("f"), "012")
        await fs.truncate("f")
        self.assertEqual((await fs.stat("f"))["size"], 0)
        await fs.utime("f", "2001-02-03T04:05:06.000Z", "2002-02-03T04:05:06.000Z")
        self.assertEqual((await fs.stat("f"))["mtime"], "2002-02-03T04:05:06.000Z")
        old = await fs.umask(0o077)
        await fs.write_text_file("masked", "")
        self.assertEqual(await fs.umask(old), 0o077)
        self.assertEqual((await fs.stat("masked"))["mode"] & 0o777, 0o600)

    async def test_open_files(self):
        fs = self.sb.fs
        f = await fs.create("f")
        self.assertEqual(await f.write(b"hello world"), 11)
        self.assertEqual(await f.seek(6, 0), 6)
        self.assertEqual(await f.read(100), b"world")
        self.assertEqual(await f.seek(-5, 2), 6)
        await f.truncate(3)
        self.assertEqual((await f.stat())["size"], 3)
        await f.sync()
        await f.sync_data()
        await f.utime(1000, 2000)
        self.assertEqual((await f.stat())["mtime"], "1970-01-01T00:33:20.000Z")
        await f.lock(True)
        await f.unlock()
        await f.lock(None)
        await f.close()
        await self.fails(f.write(b"x"))
        await self.fails(fs.open("missing"), "ENOENT")
        g = await fs.open("g", write=True, create=True, append=True, mode=0o600)
        await g.write(b"1")
        await g.close()
        self.assertEqual(await fs.read_file("g"), b"1")

    async def test_upload(self):
        with tempfile.TemporaryDirectory() as local:
            os.makedirs(local + "/tree/sub")
            with open(local + "/tree/sub/ü.bin", "wb") as f:
                f.write(bytes(range(256)) * 1000)
            os.symlink("sub", local + "/tree/link")
            await self.sb.fs.upload(local + "/tree", "up")
        self.assertEqual(await self.sb.fs.read_file("up/sub/ü.bin"), bytes(range(256)) * 1000)
        self.assertEqual(await self.sb.fs.read_link("up/link"), "sub")

    # processes

    async def test_commands(self):
        status, out, err = await run(self.sb, "echo out; echo err >&2; exit 3")
        self.assertEqual((status["success"], status["code"], out, err), (False, 3, "out\n", "err\n"))
        status, out, _ = await run(self.sb, "pwd; echo $VALUE", cwd="/tmp", env={"VALUE": "v"})
        self.assertEqual((status["success"], out), (True, "/tmp\nv\n"))
        _, out, _ = await run(self.sb, "sudo whoami; whoami")
        self.assertEqual(out, "root\napp\n")
        await self.fails(self.sb.spawn("no-such-command"), "ENOENT")
        await self.fails(self.sb.spawn("true", cwd="/missing"), "ENOENT")

    async def test_short_output_is_never_lost(self):
        # The SDK drops what arrives before it has dealt with spawn's answer.
        for i in range(50):
            _, out, _ = await asyncio.wait_for(run(self.sb, f"echo {i}"), PATIENCE)
            self.assertEqual(out, f"{i}\n")

    async def test_standard_input(self):
        p = await self.sb.spawn("tr", args=["a-z", "A-Z"], stdin_data=[b"some ", b"text"], stdout="piped", stderr="piped")
        self.assertEqual(await p.stdout.read(-1), b"SOME TEXT")
        self.assertTrue((await p.wait())["success"])

    async def test_large_output(self):
        p = await self.sb.spawn("head", args=["-c", "5000000", "/dev/zero"], stdout="piped", stderr="piped")
        self.assertEqual(len(await p.stdout.read(-1)), 5_000_000)
        self.assertTrue((await p.wait())["success"])

    async def test_lines(self):
        p = await self.sb.spawn("seq", args=["3"], stdout="piped", stderr="piped")
        self.assertEqual([await p.stdout.readline() for _ in range(4)], [b"1\n", b"2\n", b"3\n", b""])
        await p.wait()

    # environment

    async def test_environment(self):
        env = self.sb.env
        self.assertEqual(await env.get("GIVEN_NAME"), "ü=1")
        await env.set("LATER", "x")
        self.assertEqual(await env.get("LATER"), "x")
        _, out, _ = await run(self.sb, "echo $LATER$GIVEN_NAME")
        self.assertEqual(out, "xü=1\n")
        await env.delete("LATER")
        self.assertIsNone(await env.get("LATER"))
        # as_dict breaks the names apart: h_o_m_e. Its values are right.
        self.assertIn("/home/app", (await env.as_dict()).values())

    # Deno

    async def test_deno_run(self):
        deno = self.sb.deno
        p = await deno.run(code="console.log(1 + (1 as number), Deno.args)", script_args=["a"], stdout="piped", stderr="piped")
        self.assertEqual(await p.stdout.read(-1), b'2 [ "a" ]\n')
        self.assertTrue((await p.wait())["success"])
        await self.sb.fs.write_text_file("main.ts", "console.log(await new Response(Deno.stdin.readable).text()); Deno.exit(4)")
        p = await deno.run(entrypoint="main.ts", stdin_data=[b"in"], stdout="piped", stderr="piped")
        self.assertEqual(await p.stdout.read(-1), b"in\n")
        self.assertEqual((await p.wait())["code"], 4)

    async def test_deno_serve(self):
        p = await self.sb.deno.run(
            code="Deno.serve({port: 0}, (r) => new Response(r.url, {status: r.headers.has('x-a') ? 201 : 200, headers: {'x-b': 'c'}}))",
            stdout="piped", stderr="piped")
        self.assertTrue(await p.wait_http_ready())
        res = await p.fetch("http://localhost/path", method="POST", headers={"x-a": "1"})
        self.assertEqual((res.status_code, res.is_success), (201, True))
        self.assertIn(["x-b", "c"], [list(h) for h in res.headers])

    async def test_deno_eval(self):
        self.assertEqual(await self.sb.deno.eval("const a: number = 1; a + 2"), 3)
        self.assertEqual(await self.sb.deno.eval("[1, 'x', null, {a: true}]"), [1, "x", None, {"a": True}])
        await self.fails(self.sb.deno.eval("throw new TypeError('mine')"), "mine")

    async def test_deno_repl(self):
        repl = await self.sb.deno.repl(stdout="piped", stderr="piped")
        await repl.eval("let n = 1; function add(a, b) { n++; return a + b; }")
        self.assertEqual(await repl.call("add", [1, 2]), 3)
        self.assertEqual(await repl.eval("n"), 2)
        await self.fails(repl.eval("nope.nope"), "ReferenceError")
        self.assertEqual(await repl.eval("n"), 2)
        await repl.close()

    # fetch

    async def test_fetch(self):
        res = await self.sb.fetch(f"http://{WEB}/hello")
        self.assertEqual((res.status_code, res.is_success), (200, True))
        res = await self.sb.fetch(f"http://{WEB}/redirect", redirect="manual")
        self.assertTrue(res.status_code == 302 and res.is_redirect)
        res = await self.sb.fetch(f"https://{WEB}/echo", method="POST", headers={"x-a": "b"})
        self.assertEqual(res.status_code, 200)
        await self.fails(self.sb.fetch("http://missing.atoll.test/"), "TypeError")
        await self.fails(self.sb.fetch("http://127.0.0.1/"), "TypeError")

    # sandboxes

    async def test_connect_and_list(self):
        mark = str(time.time())
        async with self.client.create(timeout="10m", labels={"mark": mark, "q'uote": 'a"b ü'}, memory_mb=768) as sb:
            await sb.fs.write_text_file("kept", "yes")
            id = sb.id
        self.assertRegex(id, "^sbx_ord_[0-9a-hjkmnp-z]{20}$")
        async with self.client.connect(id) as sb:
            self.assertEqual(await sb.fs.read_text_file("kept"), "yes")
        found = await self.client.ids({"mark": mark})
        self.assertEqual(list(found), [id])
        self.assertEqual(found[id]["status"], "running")
        self.assertEqual(list(await self.client.ids({"mark": mark, "q'uote": 'a"b ü'})), [id])
        self.assertEqual(await self.client.ids({"mark": mark, "other": "x"}), {})
        async with self.client.connect(id) as sb:
            before = time.time()
            granted = (await sb.extend_timeout(20 * 60)).timestamp() - 20 * 60
            self.assertTrue(before - 1 <= granted <= time.time() + 1, granted)
            await sb.kill()
        self.assertEqual((await self.client.ids({"mark": mark}))[id]["status"], "stopped")
        with self.assertRaises(Exception):
            await self.client.connect(id).__aenter__()

    async def test_session_ends(self):
        async with self.client.create() as sb:
            id = sb.id
            self.assertEqual((await self.client.ids())[id]["status"], "running")

        async def stopped():
            return (await self.client.ids())[id]["status"] == "stopped"

        await until(stopped)

    async def test_refusals(self):
        for options in ({"memory_mb": 1}, {"labels": {"k" * 65: "v"}}, {"timeout": "soon"}, {"region": "xyz"}, {"ssh": True}, {"port": 80},
                        {"root": "v"}, {"volumes": {"/d": "v"}}, {"allow_net": ["two words"]}, {"secrets": {"K": {"hosts": [], "value": "v"}}}):
            with self.assertRaises(Exception, msg=str(options)) as caught:
                await self.client.create(**options).__aenter__()
            self.assertRegex(str(caught.exception), "HTTP (4|5)[0-9][0-9]")
        with self.assertRaises(AuthenticationError):
            await self.Client({"token": "ddo_wrong"}).create().__aenter__()
        with self.assertRaises(HTTPStatusError) as caught:
            await self.Client({"token": "ddo_wrong"}).ids()
        self.assertEqual((caught.exception.status_code, caught.exception.code), (401, "INVALID_TOKEN"))
        with self.assertRaises(HTTPStatusError) as caught:
            await self.sb.expose_http(port=80)
        self.assertEqual(caught.exception.code, "NOT_SUPPORTED_YET")

    async def test_protocol_errors(self):
        with self.assertRaises(RpcValidationError) as caught:
            await self.sb.fs.read_file(5)
        self.assertEqual(caught.exception.errors[0]["path"], ["path"])
        with self.assertRaises(UnknownRpcMethod):
            await self.sb.fs.download("a", "b")


def upstream(question):
    """What reached the fake internet: see ../harness/desk.go."""
    with urllib.request.urlopen(f"{os.environ['ATOLL_TEST_DESK']}/{question}", timeout=60) as res:
        return json.load(res)


def arrived(target):
    return upstream("requests?target=" + urllib.parse.quote(target))


def ask(method, path, body=None):
    """A request to the server that the SDK has no call for: policy and audit."""
    req = urllib.request.Request(
        f"{os.environ['DENO_SANDBOX_ENDPOINT']}/api/v3/sandbox/{path}", method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": "Bearer " + os.environ["DENO_DEPLOY_TOKEN"]})
    with urllib.request.urlopen(req, timeout=60) as res:
        return res.read().decode()


class Network(Base):
    """allow_net and secrets. What counts is what arrived at the fake internet."""

    VALUES = {name: f"sk_{name.lower()}_{secrets.token_hex(12)}" for name in ("KEY", "HEADER", "READER", "OWN", "HOOK")}
    # The SDK's types know hosts and value; other fields pass as they are.
    options = {
        "allow_net": ["*.atoll.test", "93.184.215.14/32:80"],
        "secrets": {
            "KEY": {"hosts": [API, UNTRUSTED], "value": VALUES["KEY"]},
            "HEADER": {"hosts": [API], "value": VALUES["HEADER"], "in": ["header"]},
            "READER": {"hosts": [API], "value": VALUES["READER"], "methods": ["GET"], "paths": ["/v1/**"]},
            "OWN": {"hosts": ["exclusive.atoll.test"], "value": VALUES["OWN"], "exclusive": True},
            "HOOK": {"hosts": ["sign.atoll.test"], "value": VALUES["HOOK"], "sign": {"type": "hmac", "header": "X-Signature", "prefix": "sha256="}},
        },
    }

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.mark = secrets.token_hex(6)
        self.url = f"https://{API}/{self.mark}"

    async def curl(self, args, sb=None):
        status, out, err = await run(sb or self.sb, "curl -sS -m 60 -w ' %{http_code}' " + args)
        return status["code"], out, err

    async def hole(self, name):
        return (await run(self.sb, f"printenv {name}"))[1].strip()

    async def test_list(self):
        sb = await self.made(allow_net=[API, f"{WEB}:80", "93.184.215.14/31:80"])
        code, out, err = await self.curl(f"http://{WEB}/hello", sb)
        self.assertEqual((code, out), (0, "hello from outside\n 200"), err)
        self.assertEqual((await self.curl("http://93.184.215.14/hello", sb))[0], 0)
        await sb.fetch(f"http://{API}/{self.mark}")
        self.assertEqual([r["host"] for r in arrived(self.mark)], [API])
        for url in (f"https://{WEB}/", f"http://{EVIL}/", f"https://{EVIL}/", "http://93.184.215.20/"):
            self.assertNotEqual((await self.curl(url, sb))[0], 0, url)
            await self.fails(sb.fetch(url), "TypeError")
        script = f"""python3 -c 'import urllib.request as u; u.urlopen("http://{EVIL}/", timeout=60)'; timeout 60 git ls-remote https://{EVIL}/x
            timeout 60 node -e 'fetch("http://{EVIL}/")'; timeout 60 deno eval 'await fetch("https://{EVIL}/")'; true"""
        await run(sb, script)
        self.assertEqual(upstream("reached?at=evil"), [])

    async def test_empty_list(self):
        sb = await self.made(allow_net=[])
        for url in (f"http://{WEB}/hello", "http://93.184.215.14/hello"):
            self.assertNotEqual((await self.curl(url, sb))[0], 0, url)
            await self.fails(sb.fetch(url), "TypeError")

    async def test_policy_and_audit(self):
        sb = await self.made(allow_net=[WEB])
        self.assertEqual(json.loads(ask("GET", sb.id + "/network")), {"allow_net": [WEB], "strict": False})
        self.assertEqual((await self.curl(f"http://{API}/", sb))[0], 6)
        self.assertEqual(json.loads(ask("PATCH", sb.id, {"allow_net": [API]}))["network"]["allow_net"], [API])
        self.assertEqual((await self.curl(f"http://{API}/", sb))[1], "ok\n 200")

        async def recorded():
            records = [json.loads(line) for line in ask("GET", sb.id + "/audit").splitlines()]
            return {(r["kind"], r["name"], r["decision"]) for r in records} >= {("name", API, "refuse"), ("connection", API, "allow")}

        await until(recorded)

    async def test_placeholders(self):
        holes = [await self.hole(name) for name in self.VALUES]
        for hole in holes:
            self.assertRegex(hole, "^DENO_SECRET_PLACEHOLDER_[A-Za-z0-9]{16,}$")
        other = await self.made(secrets={"KEY": {"hosts": [API], "value": self.VALUES["KEY"]}})
        holes.append((await run(other, "printenv KEY"))[1].strip())
        self.assertEqual(len(set(holes)), 6)
        self.assertEqual(await self.sb.env.get("KEY"), holes[0])
        self.assertEqual(await self.sb.deno.eval("Deno.env.get('KEY')"), holes[0])
        _, out, _ = await run(self.sb, "sudo sh -c 'cat /proc/*/environ'")
        for value in self.VALUES.values():
            self.assertNotIn(value, out)

    async def test_values_arrive(self):
        hole, value = await self.hole("KEY"), self.VALUES["KEY"]
        await self.sb.fetch(self.url + "/sdk", headers={"X-Key": hole})
        await self.sb.deno.eval(f"await (await fetch('{self.url}/deno', {{headers: {{'X-Key': Deno.env.get('KEY')}}}})).text()")
        await run(self.sb, f"""
            curl -sS -m 60 -H "X-Key: $KEY" {self.url}/curl
            python3 -c 'import os, urllib.request as u; u.urlopen(u.Request("{self.url}/python", headers={{"X-Key": os.environ["KEY"]}}), timeout=60).read()'
            timeout 60 node -e 'fetch("{self.url}/node", {{headers: {{"X-Key": process.env.KEY}}}}).then((r) => r.text())'
            timeout 60 git -c http.extraHeader="X-Key: $KEY" ls-remote {self.url}/git""")
        seen = {r["target"].split("/")[2]: (r["header"].get("x-key"), r["proto"]) for r in arrived(self.mark)}
        self.assertEqual({name: got[0] for name, got in seen.items()}, dict.fromkeys(("sdk", "deno", "curl", "python", "node", "git"), value))
        self.assertEqual(seen["deno"][1], "HTTP/2.0")

    async def test_places(self):
        value = self.VALUES["KEY"]
        await self.curl(f"""-u "me:$KEY" --json '{{"key": "'$KEY'"}}' "{self.url}?key=$KEY" """)
        [request] = arrived(self.mark)
        self.assertEqual(request["header"]["authorization"], "Basic " + base64.b64encode(f"me:{value}".encode()).decode())
        self.assertEqual((request["target"], json.loads(request["body"])), (f"/{self.mark}?key={value}", {"key": value}))

    async def test_redaction(self):
        hole = await self.hole("KEY")
        for way in ("json", "gzip", "sse", "slow"):
            _, out, _ = await self.curl(f"""--compressed -H "X-Value: $KEY" "https://{API}/reflect?as={way}" """)
            self.assertIn(hole, out, way)
            self.assertNotIn(self.VALUES["KEY"], out)

    async def test_other_fields(self):
        await self.curl(f"""-H "X-A: $HEADER" "{self.url}in?a=$HEADER" """)
        [request] = arrived(self.mark + "in")
        self.assertEqual((request["header"]["x-a"], request["target"]), (self.VALUES["HEADER"], f"/{self.mark}in?a={await self.hole('HEADER')}"))
        for method, path, sees in (("GET", "/v1/a", True), ("GET", "/v2/a", False), ("POST", "/v1/a", False)):
            target = f"{path}?{secrets.token_hex(6)}"
            await self.curl(f"""-X {method} -H "X-A: $READER" "https://{API}{target}" """)
            self.assertEqual(arrived(target)[0]["header"]["x-a"], self.VALUES["READER"] if sees else await self.hole("READER"))
        _, out, _ = await self.curl(f"-H 'Authorization: Bearer mine' https://exclusive.atoll.test/{self.mark}rival")
        self.assertIn("SECRET_EXCLUSIVE", out)
        self.assertEqual(arrived(self.mark + "rival"), [])
        await self.curl(f"--json '{{}}' https://sign.atoll.test/{self.mark}sign")
        mac = hmac.new(self.VALUES["HOOK"].encode(), b"{}", hashlib.sha256).hexdigest()
        self.assertEqual(arrived(self.mark + "sign")[0]["header"]["x-signature"], "sha256=" + mac)

    async def test_refused_requests(self):
        for url, status, code in ((f"http://{API}/{self.mark}", 403, "SECRET_NEEDS_TLS"), (f"https://{UNTRUSTED}/{self.mark}", 502, "UPSTREAM_UNTRUSTED")):
            res = await self.sb.fetch(url, headers={"X-Key": await self.hole("KEY")})
            self.assertEqual((res.status_code, dict(res.headers)["x-atoll-refused"]), (status, code))
        self.assertEqual(arrived(self.mark), [])

    async def test_bad_options(self):
        value = "hunter2-" + self.mark
        secret = {"hosts": [API], "value": value}
        for options, code, field in (
            ({"allow_net": ["example.com", "two words"]}, "INVALID_ALLOW_NET", "allow_net[1]"),
            ({"allow_net": ["https://example.com"]}, "INVALID_ALLOW_NET", "allow_net[0]"),
            ({"allow_net": [f"h{i}.example" for i in range(1001)]}, "INVALID_ALLOW_NET", "allow_net"),
            ({"secrets": {"K": {"value": value}}}, "INVALID_SECRETS", "secrets.K.hosts"),
            ({"secrets": {"K": {**secret, "hosts": []}}}, "INVALID_SECRETS", "secrets.K.hosts"),
            ({"secrets": {"K": {**secret, "value": value + "\r\nX: y"}}}, "INVALID_SECRETS", "secrets.K.value"),
            ({"secrets": {"K": {**secret, "value": value + "x" * 16384}}}, "INVALID_SECRETS", "secrets.K.value"),
            ({"secrets": {f"K{i}": secret for i in range(65)}}, "INVALID_SECRETS", "secrets"),
            ({"secrets": {"K": {**secret, "in": ["nowhere"]}}}, "INVALID_SECRETS", "secrets.K.in"),
            ({"allow_net": [], "secrets": {"K": secret}}, "SECRET_HOST_EXCLUDED", "secrets.K.hosts[0]"),
            ({"env": {"K": "v"}, "secrets": {"K": secret}}, "INVALID_SECRETS", "env.K"),
        ):
            with self.assertRaisesRegex(Exception, "HTTP 400") as caught:
                await self.client.create(**options).__aenter__()
            answer = json.loads(caught.exception.response.body)
            self.assertEqual(answer["code"], code, options)
            self.assertIn(field, answer["message"])
            self.assertNotIn(value, answer["message"])


class SyncNetworkTest(Network, unittest.IsolatedAsyncioTestCase):
    Client = SyncClient


class AsyncNetworkTest(Network, unittest.IsolatedAsyncioTestCase):
    Client = AsyncClient


class SyncTest(Suite, unittest.IsolatedAsyncioTestCase):
    Client = SyncClient


class AsyncTest(Suite, unittest.IsolatedAsyncioTestCase):
    Client = AsyncClient

    async def test_many_calls_at_once(self):
        async def one(i):
            if i % 2:
                await self.sb.fs.write_text_file(f"f{i}", str(i))
                return await self.sb.fs.read_text_file(f"f{i}") == str(i)
            return (await run(self.sb, f"echo {i}"))[1] == f"{i}\n"

        self.assertEqual([i for i, ok in enumerate(await asyncio.gather(*map(one, range(50)))) if not ok], [])

    async def test_kill(self):
        p = await self.sb.spawn("sleep", args=["1000"], stdout="piped", stderr="piped")
        await p.kill()
        await asyncio.wait_for(run(self.sb, f"while kill -0 {p.pid} 2>/dev/null; do sleep 0.05; done"), PATIENCE)
        await p.kill()  # of what has ended is no error

    async def test_async_input(self):
        async def pieces():
            for word in (b"a", b"b"):
                await asyncio.sleep(0)
                yield word

        p = await self.sb.spawn("cat", stdin_data=pieces(), stdout="piped", stderr="piped")
        self.assertEqual(await p.stdout.read(-1), b"ab")
        await self.sb.fs.write_file("f", pieces())
        self.assertEqual(await self.sb.fs.read_file("f"), b"ab")


if __name__ == "__main__":
    unittest.main(verbosity=2)
