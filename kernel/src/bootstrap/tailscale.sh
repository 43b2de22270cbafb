# Read by crabbox-setup when the lease shall join a tailnet: the program alone. The key comes later, over SSH.
if ! command -v tailscale >/dev/null; then
  say "installing tailscale"
  again timeout 300 curl -fsSL -o "$state/tailscale.sh" https://tailscale.com/install.sh &&
    again timeout 600 sh "$state/tailscale.sh"
  rm -f "$state/tailscale.sh"
fi
command -v tailscale >/dev/null || fail "cannot install tailscale"
systemctl enable --now tailscaled || fail "tailscaled does not start"
