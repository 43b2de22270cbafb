#!/bin/sh
# Succeeds once this machine is a crabbox box; else says how far it is. Status 99 means that it never will be.
state=/var/lib/crabbox
if [ -e "$state/failed" ]; then
  echo "setting up failed: $(cat "$state/failed")"
  tail -n 3 "$state/setup.output" 2>/dev/null
  exit 99
fi
if [ ! -e "$state/bootstrapped" ]; then
  echo "still $(tail -n 1 "$state/setup.log" 2>/dev/null || echo starting)"
  exit 1
fi
prove() {
  what=$1
  shift
  "$@" >/dev/null 2>&1 || { echo "$what is missing"; exit 1; }
}
for tool in git rsync curl jq; do
  prove "$tool" command -v "$tool"
done
@PROOFS@
[ -w @ROOT@ ] || { echo "cannot write" @ROOT@; exit 1; }
