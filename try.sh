#!/usr/bin/env bash
# Builds crabbox and does the main job once: this checkout, dirty as it is, is sent to a box on this machine and tested there.
# Another command can be given: ./try.sh sh -c 'ls && git status'
set -euo pipefail
cd "$(dirname "$0")"
command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }
[ $# -gt 0 ] || set -- cargo test -p crabbox-schemas
cargo build -p crabbox-cli -p crabbox-provider-local
./build-helper.sh debug
exec target/debug/crabbox run --provider local --timing-json -- "$@"
