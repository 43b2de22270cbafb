#!/usr/bin/env bash
# Builds what runs inside boxes as static programs - the helper, and the SSH server for containers - and puts them
# beside the executables of a profile, where crabbox looks for them.
# Usage: ./build-helper.sh [debug|release]...
set -euo pipefail
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- debug
out=${CARGO_TARGET_DIR:-target}
case "$(uname -m)" in arm64) own=aarch64 ;; *) own=$(uname -m) ;; esac

# A compiler for C that makes programs for Linux on this kind of processor.
compiler() {
  if [ "$(uname -s)" = Linux ] && [ "$1" = "$own" ]; then
    echo "${CC:-cc}"
  else
    command -v "$1-linux-musl-gcc" || command -v "$1-linux-gnu-gcc"
  fi
}

# build MACHINE CC PROFILE...: for boxes with this kind of processor, with this compiler for C.
build() {
  local machine=$1 cc=$2 target flags
  shift 2
  # musl makes the smaller program; where its standard library cannot be had, glibc is linked in instead.
  target=$machine-unknown-linux-musl
  if ! ls "$(rustc --print sysroot)/lib/rustlib/$target" >/dev/null 2>&1; then
    rustup target add "$target" >/dev/null 2>&1 || target=$machine-unknown-linux-gnu
  fi
  export "CC_${target//-/_}=$cc"
  flags=CARGO_TARGET_$(tr 'a-z-' 'A-Z_' <<<"$target")
  export "${flags}_RUSTFLAGS=-C target-feature=+crt-static" "${flags}_LINKER=$cc"
  place crabbox-helper helper "$@"
  # Containers have this machine's processor.
  [ "$machine" != "$own" ] || place crabbox-box-server dist "$@"
}

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

for machine in x86_64 aarch64; do
  if cc=$(compiler "$machine"); then
    build "$machine" "$cc" "$@"
  else
    echo "boxes with $machine will be worked with sh and tar: install $machine-linux-musl-gcc or $machine-linux-gnu-gcc to build a helper for them" >&2
  fi
done
