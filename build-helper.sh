#!/usr/bin/env bash
# Builds what runs inside boxes as static programs - the helper, and the SSH server for containers - and puts them
# beside the executables of a profile, where crabbox looks for them.
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
place() { # package, profile it is built with, profiles it is put beside
  local package=$1 built=$2
  shift 2
  cargo build --quiet --package "$package" --profile "$built" --target "$target"
  for profile in "$@"; do
    mkdir -p "$out/$profile"
    # One that runs must not be written into: put the new one in its place at once.
    cp "$out/$target/$built/$package" "$out/$profile/.$package.new"
    mv "$out/$profile/.$package.new" "$out/$profile/$package-linux-$machine"
  done
}

place crabbox-helper helper "$@"
place crabbox-box-server dist "$@"
