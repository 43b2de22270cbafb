//! Messages of OpenSSH's multiplexing protocol: a length, a type, and a body of numbers and strings.

use std::io::{Error, ErrorKind, Result};

use bytes::{Buf, BufMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The one version there is.
const VERSION: u32 = 4;
/// The largest message a master takes or makes.
const LARGEST: usize = 256 << 10;
/// Instead of a character that ends the session when it is typed.
const NO_ESCAPE: u32 = u32::MAX;

const HELLO: u32 = 0x0000_0001;
const NEW_SESSION: u32 = 0x1000_0002;
const ALIVE_CHECK: u32 = 0x1000_0004;
const PERMISSION_DENIED: u32 = 0x8000_0002;
const FAILURE: u32 = 0x8000_0003;
const EXIT_MESSAGE: u32 = 0x8000_0004;
const ALIVE: u32 = 0x8000_0005;
const SESSION_OPENED: u32 = 0x8000_0006;

/// What a master says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Hello,
    /// It is there, as this process.
    Alive(u32),
    Opened,
    /// It does not do it; nothing was started.
    Refused(String),
    Exit(u32),
    /// Something that changes nothing for us.
    Other,
}

/// The first message of either side.
pub(super) fn hello() -> Vec<u8> {
    message(HELLO, |body| body.put_u32(VERSION))
}

/// Asks whether the master is there.
pub(super) fn alive_check() -> Vec<u8> {
    message(ALIVE_CHECK, |body| body.put_u32(0))
}

/// Asks for a process without terminal, X11 or agent; its three files follow. `None` when the command is too long.
pub(super) fn new_session(command: &str) -> Option<Vec<u8>> {
    let asked = message(NEW_SESSION, |body| {
        body.put_u32(0); // number of the request
        string(body, ""); // reserved
        for _wanted in ["terminal", "X11", "agent", "subsystem"] {
            body.put_u32(0);
        }
        body.put_u32(NO_ESCAPE);
        string(body, ""); // kind of terminal
        string(body, command);
    });
    (asked.len() <= LARGEST).then_some(asked)
}

fn message(kind: u32, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut text = vec![0; 4];
    text.put_u32(kind);
    body(&mut text);
    let length = u32::try_from(text.len() - 4).unwrap_or(u32::MAX);
    text[..4].copy_from_slice(&length.to_be_bytes());
    text
}

fn string(body: &mut Vec<u8>, text: &str) {
    body.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    body.put_slice(text.as_bytes());
}

/// The next message; not to be given up half way.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Said> {
    let length = from.read_u32().await? as usize;
    if !(4..=LARGEST).contains(&length) {
        return Err(nonsense());
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body).await?;
    understand(&body)
}

fn understand(mut body: &[u8]) -> Result<Said> {
    let kind = number(&mut body)?;
    let value = number(&mut body)?; // a version, or the number of a request or a session
    Ok(match kind {
        HELLO if value == VERSION => Said::Hello,
        HELLO => {
            let why = format!("it speaks version {value} of the multiplexing protocol");
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        ALIVE => Said::Alive(number(&mut body)?),
        SESSION_OPENED => Said::Opened,
        PERMISSION_DENIED | FAILURE => {
            let length = number(&mut body)? as usize;
            let why = body.get(..length).ok_or_else(nonsense)?;
            Said::Refused(String::from_utf8_lossy(why).into_owned())
        }
        EXIT_MESSAGE => Said::Exit(number(&mut body)?),
        _ => Said::Other,
    })
}

fn number(body: &mut &[u8]) -> Result<u32> {
    body.try_get_u32().map_err(|_| nonsense())
}

fn nonsense() -> Error {
    Error::new(ErrorKind::InvalidData, "it does not speak the multiplexing protocol")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard(kind: u32, numbers: &[u32], text: &[u8]) -> Result<Said> {
        let text = message(kind, |body| {
            numbers.iter().for_each(|n| body.put_u32(*n));
            body.put_slice(text);
        });
        read(&mut &text[..]).await
    }

    #[tokio::test]
    async fn what_a_master_says_is_understood() {
        assert_eq!(read(&mut &hello()[..]).await.unwrap(), Said::Hello);
        assert_eq!(heard(ALIVE, &[0, 4711], b"").await.unwrap(), Said::Alive(4711));
        assert_eq!(heard(SESSION_OPENED, &[0, 2], b"").await.unwrap(), Said::Opened);
        assert_eq!(heard(EXIT_MESSAGE, &[2, 7], b"").await.unwrap(), Said::Exit(7));
        assert_eq!(heard(FAILURE, &[0, 2], b"no").await.unwrap(), Said::Refused("no".into()));
        assert_eq!(heard(0x8000_0008, &[2], b"").await.unwrap(), Said::Other);
    }

    #[tokio::test]
    async fn what_is_no_message_is_an_error() {
        assert!(heard(HELLO, &[3], b"").await.is_err(), "another version");
        assert!(heard(FAILURE, &[0, 9], b"no").await.is_err(), "a string that is cut");
        assert!(heard(EXIT_MESSAGE, &[2], b"").await.is_err(), "a number that is missing");
        assert!(read(&mut &[0, 0, 0, 2, 1, 1][..]).await.is_err(), "no type");
        assert!(read(&mut &[0xff; 64][..]).await.is_err(), "larger than any");
        assert!(read(&mut &b"SSH-2.0-x\r\n"[..]).await.is_err(), "another protocol");
    }

    #[test]
    fn a_session_is_asked_for_as_the_protocol_has_it() {
        let mut asked = &new_session("true").unwrap()[..];
        assert_eq!(asked.get_u32() as usize, asked.len());
        let numbers: Vec<u32> = (0..10).map(|_| asked.get_u32()).collect();
        assert_eq!(numbers, [NEW_SESSION, 0, 0, 0, 0, 0, 0, NO_ESCAPE, 0, 4]);
        assert_eq!(asked, b"true");
        assert_eq!(new_session(&"x".repeat(LARGEST)), None);
    }
}
