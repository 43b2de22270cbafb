# Read by crabbox-setup when the lease asked for a desktop: a display, a light desktop on it, and a VNC server that only
# the machine itself reaches, with a password of its own.
say "installing a desktop"
command -v apt-get >/dev/null || fail "a desktop is only installed where there is apt-get"
again timeout 300 apt-get $apt update && again timeout 900 apt-get $apt install -y --no-install-recommends \
  xvfb x11vnc dbus xfce4-session xfwm4 xfce4-panel xfdesktop4 xfce4-settings xfce4-terminal fonts-dejavu-core xauth ||
  fail "cannot install a desktop"
password=$state/vnc.password
[ -s "$password" ] || (umask 077 && head -c 6 /dev/urandom | base64 >"$password") || fail "cannot make a password"
chown @USER@ "$password"
unit() {
  cat >"/etc/systemd/system/crabbox-$1.service" <<END
[Unit]
Description=The desktop of a crabbox lease: $1
StartLimitIntervalSec=0
$3

[Service]
User=@USER@
Environment=DISPLAY=:99
WorkingDirectory=~
ExecStart=$2
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
END
}
on_display="Requires=crabbox-xvfb.service
After=crabbox-xvfb.service"
unit xvfb "/usr/bin/Xvfb :99 -screen 0 1920x1080x24 -nolisten tcp" ""
unit desktop "/usr/bin/dbus-run-session -- /usr/bin/xfce4-session" "$on_display"
unit x11vnc "/usr/bin/x11vnc -display :99 -localhost -no6 -rfbport 5900 -passwdfile $password -forever -shared \
-noxdamage -q" "$on_display"
systemctl daemon-reload
systemctl enable --now crabbox-xvfb crabbox-desktop crabbox-x11vnc || fail "the desktop does not start"
