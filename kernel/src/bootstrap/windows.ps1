# Makes a fresh Windows machine a crabbox box: run once as an administrator by whatever runs user data on its image.
$ErrorActionPreference = 'Stop'
$state = 'C:\ProgramData\crabbox'
$ssh = 'C:\ProgramData\ssh'
New-Item -ItemType Directory -Force $state, $ssh | Out-Null

try {
  # Before all else: whatever happens later, the machine ends with its lease.
  $ends = [DateTimeOffset]::FromUnixTimeSeconds(@ENDS_AT@).LocalDateTime
  $stop = New-ScheduledTaskAction -Execute 'shutdown.exe' -Argument '/s /f /t 0'
  $when = New-ScheduledTaskTrigger -Once -At $ends
  $late = New-ScheduledTaskSettingsSet -StartWhenAvailable
  Register-ScheduledTask -Force -TaskName crabbox-expiry -User SYSTEM -Action $stop -Trigger $when -Settings $late | Out-Null

  # The account's password is known to nobody: it logs in with the lease's key.
  if (-not (Get-LocalUser -Name '@USER@' -ErrorAction SilentlyContinue)) {
    $bytes = New-Object byte[] 24
    [Security.Cryptography.RandomNumberGenerator]::Create().GetBytes($bytes)
    $plain = 'Cb1!' + [Convert]::ToBase64String($bytes)
    $password = ConvertTo-SecureString $plain -AsPlainText -Force
    New-LocalUser -Name '@USER@' -Password $password -PasswordNeverExpires | Out-Null
    Add-LocalGroupMember -SID 'S-1-5-32-544' -Member '@USER@'
  }

  if (-not (Get-Service sshd -ErrorAction SilentlyContinue)) {
    Add-WindowsCapability -Online -Name OpenSSH.Server~~~~0.0.1.0 | Out-Null
  }
  Stop-Service sshd -ErrorAction SilentlyContinue
  function Write-Private($path, $text) {
    [IO.File]::WriteAllText($path, $text)
    icacls.exe $path /inheritance:r /grant '*S-1-5-32-544:F' /grant '*S-1-5-18:F' | Out-Null
  }
  $key = @'
@HOST_KEY@'@
  Write-Private "$ssh\ssh_host_ed25519_key" ($key.Replace("`r", '').TrimEnd("`n") + "`n")
  [IO.File]::WriteAllText("$ssh\ssh_host_ed25519_key.pub", "@HOST_KEY_PUBLIC@`n")
  Write-Private "$ssh\administrators_authorized_keys" "@AUTHORIZED_KEY@`n"
  $config = @'
@PORTS@HostKey __PROGRAMDATA__/ssh/ssh_host_ed25519_key
PubkeyAuthentication yes
PasswordAuthentication no
Subsystem sftp sftp-server.exe
Match Group administrators
  AuthorizedKeysFile __PROGRAMDATA__/ssh/administrators_authorized_keys
'@
  [IO.File]::WriteAllText("$ssh\sshd_config", $config)
  foreach ($port in @PORT_LIST@) {
    Remove-NetFirewallRule -Name "crabbox-ssh-$port" -ErrorAction SilentlyContinue
    New-NetFirewallRule -Name "crabbox-ssh-$port" -DisplayName "crabbox SSH $port" -Direction Inbound -Protocol TCP -LocalPort $port -Action Allow | Out-Null
  }
  New-Item -ItemType Directory -Force 'C:\crabbox' | Out-Null
@FINISH@
} catch {
  [IO.File]::WriteAllText("$state\failed", $_.Exception.Message)
  throw
}
