#!/usr/bin/env bash
# Runs Go tests: gotest.sh <name> <arguments of go test>. Shows one line per
# package and everything of tests that fail, counts, and leaves the count in
# $RESULTS/<name>.
set -uo pipefail
name=$1
shift
mkdir -p "$RESULTS"
rm -f "$RESULTS/$name"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

"$GO" test -v "$@" 2>&1 | tee "$log" | grep --line-buffered -E '^(ok|FAIL|panic:)[[:space:]]|^ *--- FAIL'
code=${PIPESTATUS[0]}
if [ "$code" != 0 ]; then
	echo "== $name: everything that failed"
	# What a test wrote stands before its result.
	awk '/^=== (RUN|CONT|PAUSE|NAME)/ {next}
		/^ *--- (PASS|SKIP)/ {held = ""; next}
		/^ *--- FAIL/ {printf "%s%s\n", held, $0; held = ""; next}
		{held = held $0 "\n"}
		END {printf "%s", held}' "$log"
fi
count() { grep -cE "^ *--- $1" "$log"; }
failed=$(count FAIL)
[ "$code" = 0 ] || [ "$failed" != 0 ] || failed=1 # it did not even build
printf '%-13s %5d passed, %d failed, %d skipped\n' "$name" "$(count PASS)" "$failed" "$(count SKIP)" | tee "$RESULTS/$name"
exit "$code"
