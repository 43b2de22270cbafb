#!/usr/bin/env bash
# Builds our providers that are WebAssembly components too, and puts them beside the executables of a profile.
# Usage: ./build-component.sh [debug|release]...    Ends with 3 when this toolchain cannot build them.
set -euo pipefail
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- debug
out=${CARGO_TARGET_DIR:-target}
target=wasm32-wasip2

if ! ls "$(rustc --print sysroot)/lib/rustlib/$target" >/dev/null 2>&1; then
  rustup target add "$target" >/dev/null 2>&1 || {
    echo "no components: this toolchain lacks $target; with rustup: rustup target add $target" >&2
    exit 3
  }
fi
# A guest for tests, in plain Rust.
mkdir -p "$out/$target"
rustc --edition 2024 --target "$target" -O -C panic=abort -C strip=symbols -o "$out/$target/wasi-stdio-guest.wasm" tests/fixtures/wasi-stdio/main.rs
for provider in aws hetzner islo ssh; do
  cargo rustc --quiet --package "crabbox-provider-$provider" --lib --profile guest --target "$target" --crate-type cdylib
  for profile in "$@"; do
    mkdir -p "$out/$profile"
    cp "$out/$target/wasi-stdio-guest.wasm" "$out/$profile/"
    cp "$out/$target/guest/crabbox_provider_$provider.wasm" "$out/$profile/crabbox-provider-$provider.wasm"
  done
done
