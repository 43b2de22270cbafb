# Read by crabbox-setup when the lease asked for an editor server: the program alone. Nothing is started, so nothing
# listens.
if ! command -v code-server >/dev/null; then
  say "installing code-server"
  again timeout 300 curl -fsSL -o "$state/code.sh" https://code-server.dev/install.sh &&
    again timeout 600 sh "$state/code.sh" --method=standalone --prefix=/usr/local
  rm -f "$state/code.sh"
fi
command -v code-server >/dev/null || fail "cannot install code-server"
