#!/bin/sh
# Joins a tailnet as $1 with the tags $2. The key is read from standard input; it is in no argument, and in a file only in
# memory and only until it was used. With `--exit` as $1 the box reaches everything else through the node $2 from then on,
# and its own network too if $3 is `true`.
set -u
if [ "$1" = --exit ]; then
  exec timeout 120 tailscale set --exit-node="$2" --exit-node-allow-lan-access="$3" >&2
fi
umask 077
state=/var/lib/crabbox
key=$(mktemp /run/crabbox-key-XXXXXX) || exit 1
trap 'rm -f "$key"' EXIT
trap 'exit 1' HUP INT TERM
cat >"$key"
timeout 120 tailscale up --auth-key="file:$key" --hostname="$1" --advertise-tags="$2" >&2 || exit 1
rm -f "$key"
left=120
until address=$(tailscale ip -4 2>/dev/null | head -n 1) && [ -n "$address" ]; do
  [ "$left" -gt 0 ] || { echo "it has no address after two minutes" >&2; exit 1; }
  left=$((left - 1))
  sleep 1
done
umask 022
echo "$address" >"$state/tailscale-ipv4"
echo "$1" >"$state/tailscale-hostname"
echo "$address"
