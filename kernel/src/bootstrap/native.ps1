  Set-Service sshd -StartupType Automatic
  Start-Service sshd
  New-Item -ItemType File -Force "$state\setup-complete" | Out-Null
