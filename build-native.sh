#!/usr/bin/env bash
# Builds our providers that are libraries for crabbox-native-runner too, and puts them beside the executables of a profile.
# They are not part of a release. Usage: ./build-native.sh [debug|release]...
set -euo pipefail
cd "$(dirname "$0")"
[ $# -gt 0 ] || set -- debug
out=${CARGO_TARGET_DIR:-target}
for provider in ssh; do
  for profile in "$@"; do
    [ "$profile" = debug ] && cargo=dev || cargo=$profile
    cargo rustc --quiet --package "crabbox-provider-$provider" --lib --profile "$cargo" --features crabbox-plugin-sdk/native --crate-type cdylib
    for library in "$out/$profile/libcrabbox_provider_$provider".{so,dylib}; do
      [ ! -f "$library" ] || cp "$library" "$out/$profile/crabbox-provider-$provider.native"
    done
  done
done
