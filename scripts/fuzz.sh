#!/usr/bin/env bash
# Runs every fuzz target on some inputs: fuzz.sh [COUNTx or TIME], by default 2000x. What breaks one is left in its testdata/fuzz.
# A count and not a time: at the end of a short time Go's fuzzer may call its own deadline a failure.
set -euo pipefail
cd "$(dirname "$0")/.."
amount=${1:-2000x}
status=0
count=0
while IFS=: read -r file line; do
  name=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]*).*/\1/' <<<"$line")
  count=$((count + 1))
  # Minimising what was found takes a minute by default, and tells no more than what was found.
  if ! out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "$amount" -fuzzminimizetime 1x "./$(dirname "$file")" 2>&1); then
    printf '%s\n' "$out"
    status=1
  else
    printf '✓  %s %s, %s inputs\n' "$(dirname "$file")" "$name" "$(sed -nE 's/.*execs: ([0-9]+).*/\1/p' <<<"$out" | tail -1)"
  fi
done < <(git grep -E '^func Fuzz[A-Za-z0-9_]*\(' -- '*_test.go')
[ "$count" -gt 0 ] || { echo "no fuzz target was found"; exit 1; }
exit $status
