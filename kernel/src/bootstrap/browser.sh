# Read by crabbox-setup when the lease asked for a browser: Chrome where there is one, else Chromium; without questions,
# and found as `crabbox-browser`, which is what commands are told in CHROME_BIN and BROWSER.
browser() {
  for browser in google-chrome-stable google-chrome chromium chromium-browser; do
    command -v "$browser" && return
  done
  return 1
}

if ! browser >/dev/null; then
  say "installing a browser"
  if command -v apt-get >/dev/null && [ "$(uname -m)" = x86_64 ]; then
    deb=$state/chrome.deb
    again timeout 300 curl -fsSL -o "$deb" https://dl.google.com/linux/direct/google-chrome-stable_current_amd64.deb &&
      again timeout 300 apt-get $apt update && again timeout 600 apt-get $apt install -y "$deb"
    rm -f "$deb"
  fi
  if browser >/dev/null; then
    :
  elif command -v apt-get >/dev/null; then
    again timeout 300 apt-get $apt update && again timeout 600 apt-get $apt install -y chromium
  else
    again timeout 600 dnf install -y chromium
  fi
fi
path=$(browser) || fail "cannot install a browser"
printf '#!/bin/sh\nexec %s --no-first-run --no-default-browser-check "$@"\n' "$path" >/usr/local/bin/crabbox-browser
chmod 0755 /usr/local/bin/crabbox-browser
