//! Hosts behind a program of the user's: `ProxyCommand` in their SSH configuration.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{Context, Poll};
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::hop::tokens;
use crate::wire::Below;

/// How much of what a program says on its standard error is kept.
const SAID: usize = 4096;
/// How long the last of it may take once the program is gone: somebody else may hold the pipe.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// A way that a program makes: what it reads and writes is the connection. Dropping it ends the program.
pub(crate) struct Piped {
    stdin: ChildStdin,
    stdout: ChildStdout,
    child: Child,
}

/// The command for a host, as OpenSSH would make it: `%h`, `%n`, `%p` and `%r` are replaced. A shell reads it, so names
/// that mean something to one are refused.
pub(crate) fn command(text: &str, [host, alias, port, user]: [&str; 4]) -> Result<String> {
    let harmless = |c: char| c.is_alphanumeric() || "._-:@%+,=[]".contains(c);
    for name in [host, alias, user] {
        if name.starts_with('-') || !name.chars().all(harmless) {
            let what =
                format!("{name:?} cannot be handed to a ProxyCommand: a shell would read it");
            return Err(KernelError::new(ErrorCode::Config, what)
                .at("config")
                .hint("use names of letters, digits, dots and dashes"));
        }
    }
    Ok(tokens(text, &[('h', host), ('n', alias), ('p', port), ('r', user)]))
}

/// Starts the program. It is in a group of its own: an interrupt at the terminal is for the command on the box.
pub(crate) fn start(command: &str, env: &BTreeMap<String, String>) -> io::Result<(Piped, Said)> {
    let mut shell = tokio::process::Command::new("/bin/sh");
    shell.args(["-c", &format!("exec {command}")]).env_clear().envs(env);
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = shell.process_group(0).kill_on_drop(true).spawn()?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::Error::other("a child without pipes"));
    };
    Ok((Piped { stdin, stdout, child }, Said(tokio::spawn(listen(stderr)))))
}

/// What the program says on its standard error, for whoever wants to know why there is no way.
pub(crate) struct Said(JoinHandle<Vec<u8>>);

impl Said {
    /// Its last line, once the program has ended.
    pub(crate) async fn last(self) -> Option<String> {
        let said = timeout(LAST_WORDS, self.0).await.ok()?.ok()?;
        let text = String::from_utf8_lossy(&said);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty());
        line.map(str::to_owned)
    }
}

/// The end of what is said.
async fn listen(mut stderr: ChildStderr) -> Vec<u8> {
    let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
    while let Ok(n @ 1..) = stderr.read(&mut buffer).await {
        said.extend_from_slice(&buffer[..n]);
        let over = said.len().saturating_sub(SAID);
        said.drain(..over);
    }
    said
}

impl Drop for Piped {
    fn drop(&mut self) {
        // Not reaped yet, so the number is still its own.
        let leader = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        if let Some(leader) = leader {
            let _ = rustix::process::kill_process_group(leader, Signal::HUP);
        }
    }
}

impl AsyncRead for Piped {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdout).poll_read(cx, to)
    }
}

impl AsyncWrite for Piped {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stdin).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stdin).poll_shutdown(cx)
    }
}

impl Below for Piped {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_names_its_host_and_nothing_else() {
        let made = command("nc -x p %h %p # %n %r 100%%", ["10.0.0.7", "box", "2222", "me"]);
        assert_eq!(made.unwrap(), "nc -x p 10.0.0.7 2222 # box me 100%");
        for host in ["a;touch owned", "$(id)", "-oX", "a b", "a'b", "`id`", "a|b", "a\nb"] {
            let error = command("nc %h %p", [host, "box", "22", "me"]).unwrap_err();
            assert_eq!(error.code, ErrorCode::Config, "{host}");
            assert!(command("nc x", ["h", "box", "22", host]).is_err(), "{host}");
        }
    }
}
