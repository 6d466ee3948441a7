#!/usr/bin/env bash
# Starts a server on a free port and a data directory of its own, runs a few
# calls of the official JavaScript SDK against it, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."

data=$(mktemp -d /tmp/atoll-demo.XXXXXX)
server=
ok=

finish() {
	if [ -n "$server" ]; then
		kill -TERM "$server" 2>/dev/null || true
		wait "$server" 2>/dev/null || true
	fi
	if [ -z "$ok" ]; then
		echo >&2
		echo "The demo failed. The server's last lines were:" >&2
		tail -n 20 "$data/server.log" >&2 || true
	fi
	rm -rf "$data"
}
trap finish EXIT
trap 'exit 130' INT TERM

echo "== start a server"
bin/atoll serve --data-dir "$data" --image-dir "$ATOLL_IMAGE_DIR" --listen 127.0.0.1:0 >"$data/server.log" 2>&1 &
server=$!

# The server writes its address when it listens.
healthy() {
	exports=$(bin/atoll env --shell sh --data-dir "$data" 2>/dev/null) || return 1
	eval "$exports"
	curl --silent --fail --noproxy '*' --max-time 2 --output /dev/null "$DENO_DEPLOY_ENDPOINT/healthz"
}
deadline=$((SECONDS + 30))
unset DENO_DEPLOY_ORG
until healthy; do
	kill -0 "$server" 2>/dev/null || { echo "the server ended" >&2; exit 1; }
	[ $SECONDS -lt $deadline ] || { echo "the server is not healthy after 30 s" >&2; exit 1; }
	sleep 0.1
done
echo "   $(bin/atoll version), at $DENO_DEPLOY_ENDPOINT"

echo "== run code in a sandbox, with the official SDK (@deno/sandbox on Node)"
NO_PROXY='*' no_proxy='*' timeout 120 node test/e2e/js/demo.mjs

echo "== stop the server"
kill -TERM "$server"
wait "$server" || { echo "the server stopped with an error" >&2; exit 1; }
server=
left=$(find "$data/sandboxes" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)
[ "$left" = 0 ] || { echo "$left sandboxes were left behind" >&2; exit 1; }
ok=yes

cat <<'END'

SUCCESS: real code ran in a real sandbox, and nothing of it is left.

Next:  bin/atoll serve             a server that stays
       eval "$(bin/atoll env)"     points the official SDKs at it
END
