//! Pseudo terminals.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use russh::Pty;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{
    ControlModes, InputModes, LocalModes, OptionalActions, OutputModes, SpecialCodeIndex, Winsize,
    tcgetattr, tcsetattr, tcsetwinsize,
};

/// What the client asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) term: String,
    pub(crate) size: Winsize,
    pub(crate) modes: Vec<(Pty, u32)>,
}

/// A size in cells and pixels; what does not fit counts as unknown.
pub(crate) fn size(columns: u32, rows: u32, width: u32, height: u32) -> Winsize {
    let short = |number: u32| u16::try_from(number).unwrap_or_default();
    Winsize {
        ws_row: short(rows),
        ws_col: short(columns),
        ws_xpixel: short(width),
        ws_ypixel: short(height),
    }
}

/// Makes a terminal: the server's end, which never blocks, and the command's.
pub(crate) fn open(request: &Request) -> io::Result<(OwnedFd, File)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
    rustix::io::fcntl_setfd(&ours, rustix::io::FdFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let theirs = File::from(rustix::fs::open(&name, flags, rustix::fs::Mode::empty())?);
    set_modes(&theirs, &request.modes)?;
    tcsetwinsize(&theirs, request.size)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, theirs))
}

/// Tells the command about a new size.
pub(crate) fn resize(terminal: &OwnedFd, size: Winsize) {
    // A terminal that is gone needs no size.
    let _ = tcsetwinsize(terminal, size);
}

/// How one mode of the protocol changes a terminal.
enum Mode {
    Key(SpecialCodeIndex),
    Input(InputModes),
    Local(LocalModes),
    Output(OutputModes),
    Control(ControlModes),
}

/// The modes both sides know; the others stay as the system has them.
fn mode(name: Pty) -> Option<Mode> {
    Some(match name {
        Pty::VINTR => Mode::Key(SpecialCodeIndex::VINTR),
        Pty::VQUIT => Mode::Key(SpecialCodeIndex::VQUIT),
        Pty::VERASE => Mode::Key(SpecialCodeIndex::VERASE),
        Pty::VKILL => Mode::Key(SpecialCodeIndex::VKILL),
        Pty::VEOF => Mode::Key(SpecialCodeIndex::VEOF),
        Pty::VEOL => Mode::Key(SpecialCodeIndex::VEOL),
        Pty::VEOL2 => Mode::Key(SpecialCodeIndex::VEOL2),
        Pty::VSTART => Mode::Key(SpecialCodeIndex::VSTART),
        Pty::VSTOP => Mode::Key(SpecialCodeIndex::VSTOP),
        Pty::VSUSP => Mode::Key(SpecialCodeIndex::VSUSP),
        Pty::VREPRINT => Mode::Key(SpecialCodeIndex::VREPRINT),
        Pty::VWERASE => Mode::Key(SpecialCodeIndex::VWERASE),
        Pty::VLNEXT => Mode::Key(SpecialCodeIndex::VLNEXT),
        Pty::IGNPAR => Mode::Input(InputModes::IGNPAR),
        Pty::PARMRK => Mode::Input(InputModes::PARMRK),
        Pty::INPCK => Mode::Input(InputModes::INPCK),
        Pty::ISTRIP => Mode::Input(InputModes::ISTRIP),
        Pty::INLCR => Mode::Input(InputModes::INLCR),
        Pty::IGNCR => Mode::Input(InputModes::IGNCR),
        Pty::ICRNL => Mode::Input(InputModes::ICRNL),
        Pty::IXON => Mode::Input(InputModes::IXON),
        Pty::IXANY => Mode::Input(InputModes::IXANY),
        Pty::IXOFF => Mode::Input(InputModes::IXOFF),
        Pty::IMAXBEL => Mode::Input(InputModes::IMAXBEL),
        Pty::ISIG => Mode::Local(LocalModes::ISIG),
        Pty::ICANON => Mode::Local(LocalModes::ICANON),
        Pty::ECHO => Mode::Local(LocalModes::ECHO),
        Pty::ECHOE => Mode::Local(LocalModes::ECHOE),
        Pty::ECHOK => Mode::Local(LocalModes::ECHOK),
        Pty::ECHONL => Mode::Local(LocalModes::ECHONL),
        Pty::NOFLSH => Mode::Local(LocalModes::NOFLSH),
        Pty::TOSTOP => Mode::Local(LocalModes::TOSTOP),
        Pty::IEXTEN => Mode::Local(LocalModes::IEXTEN),
        Pty::ECHOCTL => Mode::Local(LocalModes::ECHOCTL),
        Pty::ECHOKE => Mode::Local(LocalModes::ECHOKE),
        Pty::OPOST => Mode::Output(OutputModes::OPOST),
        Pty::ONLCR => Mode::Output(OutputModes::ONLCR),
        Pty::OCRNL => Mode::Output(OutputModes::OCRNL),
        Pty::ONOCR => Mode::Output(OutputModes::ONOCR),
        Pty::ONLRET => Mode::Output(OutputModes::ONLRET),
        Pty::PARENB => Mode::Control(ControlModes::PARENB),
        Pty::PARODD => Mode::Control(ControlModes::PARODD),
        _ => return None,
    })
}

fn set_modes(terminal: impl AsFd, modes: &[(Pty, u32)]) -> io::Result<()> {
    let mut attributes = tcgetattr(&terminal)?;
    for &(name, value) in modes {
        match mode(name) {
            Some(Mode::Key(key)) => {
                attributes.special_codes[key] = u8::try_from(value).unwrap_or_default();
            }
            Some(Mode::Input(flag)) => attributes.input_modes.set(flag, value != 0),
            Some(Mode::Local(flag)) => attributes.local_modes.set(flag, value != 0),
            Some(Mode::Output(flag)) => attributes.output_modes.set(flag, value != 0),
            Some(Mode::Control(flag)) => attributes.control_modes.set(flag, value != 0),
            None => {}
        }
    }
    Ok(tcsetattr(&terminal, OptionalActions::Now, &attributes)?)
}
