//! Loads a provider that is a library and moves the lines between it and the kernel. It reads none of them.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use crabbox_native::{NativeRef, Opaque, RSlice, Sink, SinkKind, load};
use crabbox_plugin_sdk::Failure;
use crabbox_plugin_sdk::relay::serve_process;

/// Exit status of a wrong command line (EX_USAGE).
const USAGE_STATUS: u8 = 64;
/// Bytes taken from the kernel at a time.
const READ_AT_ONCE: usize = 64 * 1024;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    let (Some(file), None) = (words.next(), words.next()) else {
        let _ = writeln!(std::io::stderr(), "usage: crabbox-native-runner LIBRARY");
        return ExitCode::from(USAGE_STATUS);
    };
    serve_process(|input, output| serve(Path::new(&file), input, output))
}

/// Moves bytes until the kernel closes its end and the library has had its last say.
fn serve(file: &Path, mut input: File, output: File) -> Result<(), Failure> {
    let library = loaded(file)?;
    let sink = Sink { to: Opaque::<SinkKind>::from_value(Mutex::new(output)), write };
    let session = library.open()(sink);
    let mut bytes = vec![0; READ_AT_ONCE];
    let ended = loop {
        match input.read(&mut bytes) {
            Ok(0) => break Ok(()),
            Ok(count) => library.feed()(&session, RSlice::from_slice(&bytes[..count])),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                break Err(Failure::internal("cannot read from the kernel").because(&error));
            }
        }
    };
    let said = library.close()(session).into_option();
    said.map_or(ended, |wrong| Err(Failure::internal(wrong.as_str())))
}

fn loaded(file: &Path) -> Result<NativeRef, Failure> {
    let refused = |why: &dyn std::error::Error| {
        Failure::unsupported(format!("{} cannot be loaded", file.display()))
            .because(why)
            .hint("the library and crabbox-native-runner must be of one release")
    };
    let library = load(file).map_err(|error| refused(&error))?;
    match library.protocol() {
        1 => Ok(library),
        other => Err(Failure::unsupported(format!(
            "{} speaks protocol {other}, and this runner speaks 1",
            file.display()
        ))),
    }
}

extern "C" fn write(to: &Opaque<SinkKind>, lines: RSlice<'_, u8>) -> bool {
    let Ok(output) = to.downcast_as::<Mutex<File>>() else { return false };
    let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
    output.write_all(lines.as_slice()).is_ok()
}
