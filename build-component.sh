#!/usr/bin/env bash
# Builds our providers that are WebAssembly components too, and puts them beside the executables of a profile.
# Usage: ./build-component.sh [debug|release]...    Ends with 3 when nothing here can build them.
# By the toolchain's own target where rustup can add it; else by Debian's compiler, which has the sources of the
# standard library. CRABBOX_COMPONENT_LANE=rustup or debian chooses.
set -euo pipefail
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- debug
out=${CARGO_TARGET_DIR:-target}
sysroot=$(rustc --print sysroot)
libc=/usr/lib/wasm32-wasi

has_target() {
  for target in wasm32-wasip1 wasm32-wasip2; do
    [ -d "$sysroot/lib/rustlib/$target" ] || rustup target add $target >/dev/null 2>&1 || return
  done
}
has_debian() {
  debian_rustc=$(dpkg -L rustc-web 2>/dev/null | grep 'bin/rustc$') && dpkg -s rust-web-src >/dev/null 2>&1 && [ -f $libc/libc.a ]
}

lane=${CRABBOX_COMPONENT_LANE:-}
[ "$lane" = debian ] || ! has_target || lane=rustup
[ "$lane" = rustup ] || ! has_debian || lane=debian
if [ "$lane" != rustup ] && [ "$lane" != debian ]; then
  echo "no components: this toolchain lacks wasm32-wasip1 or wasm32-wasip2; with rustup: rustup target add wasm32-wasip1 wasm32-wasip2; on Debian: apt-get install rustc-web rust-web-src wasi-libc" >&2
  exit 3
fi

# compile CRT ARGS...: `cargo rustc` for the lane's target, with the start file of a library or of a command. A command
# for `module` is linked as the core module it is, as by compilers that know no components.
if [ "$lane" = rustup ]; then
  compile() {
    target=wasm32-wasip2
    [ "$1" != module ] || target=wasm32-wasip1
    built=$out/$target
    shift
    CARGO_TARGET_DIR=$out cargo rustc --quiet --profile guest --target $target "$@"
  }
else
  target=wasm32-wasip1 built=$out/web/wasm32-wasip1
  tools=$sysroot/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
  compile() {
    local crt=$1 linker=$tools/wasm-component-ld
    shift
    [ "$crt" != module ] || crt=crt1-command linker=$tools/rust-lld
    [ "$crt" != crt1-command ] || set -- "$@" -- -Clink-arg=--export=cabi_realloc
    PATH="$tools:$PATH" RUSTC=$debian_rustc RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$out/web \
      CARGO_TARGET_WASM32_WASIP1_LINKER=$linker \
      CARGO_TARGET_WASM32_WASIP1_RUSTFLAGS="-Clink-self-contained=no -Lnative=$libc -Clink-arg=$libc/$crt.o" \
      cargo rustc --quiet --profile guest --target $target -Zbuild-std=std,panic_abort "$@"
  }
fi

# put FILE NAME: the built file, beside the executables of every profile asked for.
put() {
  for profile in "${profiles[@]}"; do
    mkdir -p "$out/$profile"
    cp "$built/guest/$1" "$out/$profile/$2"
  done
}
profiles=("$@")

# Guests for tests: one that tries every door, and a whole provider.
for guest in guest toy; do
  compile module --manifest-path tests/fixtures/wasi-stdio/Cargo.toml --bin wasi-stdio-$guest
  put wasi-stdio-$guest.wasm wasi-module-$guest.wasm
  compile crt1-command --manifest-path tests/fixtures/wasi-stdio/Cargo.toml --bin wasi-stdio-$guest
  put wasi-stdio-$guest.wasm wasi-stdio-$guest.wasm
done
for provider in aws azure blacksmith daytona hetzner islo ssh; do
  compile crt1-reactor --package "crabbox-provider-$provider" --lib --crate-type cdylib
  put "crabbox_provider_$provider.wasm" "crabbox-provider-$provider.wasm"
done
