#!/bin/bash
# Makes a fresh Mac a crabbox box: started once as root by whatever runs user data on its image.
set -u
state=/var/db/crabbox
root=@ROOT@
mkdir -p "$state"

# Before all else: whatever happens later, the machine ends with its lease.
left=$((@ENDS_AT@ - $(date +%s)))
shutdown -h "+$((left > 60 ? (left + 59) / 60 : 1))" >/dev/null 2>&1 || echo "nothing would end the machine" >"$state/failed"

umask 077
cat >/etc/ssh/ssh_host_ed25519_key <<'END'
@HOST_KEY@END
umask 022
echo @HOST_KEY_PUBLIC@ >/etc/ssh/ssh_host_ed25519_key.pub
mkdir -p /etc/ssh/sshd_config.d
printf 'HostKey /etc/ssh/ssh_host_ed25519_key\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n' \
  >/etc/ssh/sshd_config.d/001-crabbox.conf

home=$(dscl . -read /Users/@USER@ NFSHomeDirectory | awk '{print $2}')
mkdir -p "$home/.ssh" "$root"
grep -qxF @AUTHORIZED_KEY@ "$home/.ssh/authorized_keys" 2>/dev/null || echo @AUTHORIZED_KEY@ >>"$home/.ssh/authorized_keys"
chmod 700 "$home/.ssh"
chmod 600 "$home/.ssh/authorized_keys"
chown -R @USER@ "$home/.ssh" "$root"

mkdir -p /usr/local/bin
cat >/usr/local/bin/crabbox-ready <<'END'
#!/bin/sh
# Succeeds once this Mac is a crabbox box; status 99 means that it never will be.
state=/var/db/crabbox
[ ! -e "$state/failed" ] || { cat "$state/failed"; exit 99; }
[ -e "$state/bootstrapped" ] || { echo "still setting up"; exit 1; }
for tool in tar rsync curl; do
  command -v "$tool" >/dev/null || { echo "$tool is missing"; exit 1; }
done
[ -w @ROOT@ ] || { echo "cannot write" @ROOT@; exit 1; }
END
chmod 755 /usr/local/bin/crabbox-ready
touch "$state/bootstrapped"
