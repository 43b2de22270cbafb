  # The rest runs after a restart and as the account, since distributions belong to who imported them. Commands that come
  # over SSH are given to bash.exe, which runs them in the distribution.
  $rest = @'
$ErrorActionPreference = 'Stop'
$state = 'C:\ProgramData\crabbox'
try {
  wsl.exe --update --web-download
  $rootfs = "$state\rootfs.tar.gz"
  curl.exe -fsSL --retry 8 -o $rootfs https://cloud-images.ubuntu.com/wsl/releases/24.04/current/ubuntu-noble-wsl-amd64-wsl.rootfs.tar.gz
  wsl.exe --import Crabbox C:\crabbox\wsl $rootfs --version 2
  wsl.exe --set-default Crabbox
  wsl.exe -d Crabbox -u root -- sh -c "apt-get -q update && apt-get -q install -y git rsync curl jq && mkdir -p @ROOT@"
  if ($LASTEXITCODE -ne 0) { throw 'the Linux distribution could not be set up' }
  New-ItemProperty -Force -Path HKLM:\SOFTWARE\OpenSSH -Name DefaultShell -Value C:\Windows\System32\bash.exe -PropertyType String | Out-Null
  New-Item -ItemType File -Force "$state\setup-complete" | Out-Null
} catch {
  [IO.File]::WriteAllText("$state\failed", $_.Exception.Message)
}
Set-Service sshd -StartupType Automatic
Start-Service sshd
Unregister-ScheduledTask -TaskName crabbox-setup -Confirm:$false
'@
  [IO.File]::WriteAllText("$state\wsl.ps1", $rest)
  $run = New-ScheduledTaskAction -Execute 'powershell.exe' -Argument "-ExecutionPolicy Bypass -File $state\wsl.ps1"
  $start = New-ScheduledTaskTrigger -AtStartup
  Register-ScheduledTask -Force -TaskName crabbox-setup -User '@USER@' -Password $plain -RunLevel Highest -Action $run -Trigger $start | Out-Null
  Enable-WindowsOptionalFeature -Online -NoRestart -FeatureName VirtualMachinePlatform, Microsoft-Windows-Subsystem-Linux | Out-Null
  Restart-Computer -Force
