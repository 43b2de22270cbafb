#!/usr/bin/env bash
# Builds the box helper as a static program and puts it beside the executables of a profile, where crabbox looks for it.
# Usage: ./build-helper.sh [debug|release]...
set -euo pipefail
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- debug
machine=$(uname -m)
out=${CARGO_TARGET_DIR:-target}

# musl makes the smaller program; where its standard library cannot be had, glibc is linked in instead.
target=$machine-unknown-linux-musl
if ! ls "$(rustc --print sysroot)/lib/rustlib/$target" >/dev/null 2>&1; then
  rustup target add "$target" >/dev/null 2>&1 || target=$machine-unknown-linux-gnu
fi
export "CC_${target//-/_}=${CC:-cc}"
flags="CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")_RUSTFLAGS"
export "$flags=-C target-feature=+crt-static"
cargo build --quiet --package crabbox-helper --profile helper --target "$target"
for profile in "$@"; do
  mkdir -p "$out/$profile"
  # A running helper must not be written into: put the new one in its place at once.
  cp "$out/$target/helper/crabbox-helper" "$out/$profile/.crabbox-helper.new"
  mv "$out/$profile/.crabbox-helper.new" "$out/$profile/crabbox-helper-linux-$machine"
done
