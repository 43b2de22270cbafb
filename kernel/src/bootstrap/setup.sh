#!/bin/sh
# Makes a fresh machine a crabbox box. Started once by cloud-init; `crabbox-ready` tells how far it is.
set -u
state=/var/lib/crabbox
mkdir -p "$state"

say() {
  echo "$*" >>"$state/setup.log"
}

fail() {
  say "$*"
  echo "$*" >"$state/failed"
  exit 1
}

# Up to eight times, after longer and longer pauses.
again() {
  try=1
  until "$@" >>"$state/setup.output" 2>&1; do
    [ "$try" -lt 8 ] || return 1
    say "failed $try times: $*"
    # What was cut short would stand in the way of every later try.
    ! command -v dpkg >/dev/null || timeout 600 dpkg --configure -a >>"$state/setup.output" 2>&1
    sleep $((try * 3))
    try=$((try + 1))
  done
}

# Before all else: whatever happens later, the machine ends with its lease.
say "arming the end of the lease"
systemctl daemon-reload
systemctl enable --now crabbox-expiry.timer || fail "nothing would end the machine with its lease"

# Sockets read the ports only when they are made anew.
say "starting the SSH server"
if systemctl is-active --quiet ssh.socket; then systemctl restart ssh.socket; fi
systemctl restart ssh || systemctl restart sshd || fail "the SSH server does not start"

group=$(id -gn @USER@) || fail "there is no user" @USER@
install -d -o @USER@ -g "$group" @ROOT@ /var/cache/crabbox /var/cache/crabbox/git /var/cache/crabbox/npm \
  /var/cache/crabbox/pnpm || fail "cannot make the work root" @ROOT@

export DEBIAN_FRONTEND=noninteractive
apt="-q -o Acquire::Retries=8 -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 -o DPkg::Lock::Timeout=60"
missing=
for tool in git rsync curl jq; do
  command -v "$tool" >/dev/null || missing="$missing $tool"
done
if [ -n "$missing" ]; then
  say "installing$missing"
  if command -v apt-get >/dev/null; then
    again timeout 300 apt-get $apt update || fail "cannot update the lists of packages"
    again timeout 300 apt-get $apt install -y --no-install-recommends ca-certificates $missing ||
      fail "cannot install$missing"
  elif command -v dnf >/dev/null; then
    again timeout 300 dnf install -y $missing || fail "cannot install$missing"
  else
    fail "cannot install$missing: neither apt-get nor dnf is here"
  fi
fi
for part in @PARTS@; do
  . "$part"
done
touch "$state/bootstrapped"
say "ready"
