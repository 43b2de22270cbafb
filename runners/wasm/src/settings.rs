//! What the host says on the command line: which guest, and what it was granted.

use std::path::PathBuf;

/// How it is called.
pub const USAGE: &str = "crabbox-wasm-runner [--command] [--memory-mib N] [--allow POWER]... [--env NAME]... [--fuel N] FILE.wasm";

/// Memory of a guest when nobody says, and the most anybody may say, in MiB.
const MEMORY: (usize, usize) = (64, 512);

/// One guest and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The WebAssembly file.
    pub file: PathBuf,
    /// Whether it is a WASI command that speaks the protocol itself.
    pub command: bool,
    /// Bytes of memory one instance may have.
    pub memory: usize,
    /// Powers that were granted: `exec`, `files`, `http`, `reveal`, `ws`.
    pub allow: Vec<String>,
    /// Environment variables that were granted and are set.
    pub env: Vec<(String, String)>,
    /// Units of work one call may take, for tests that must end at the same place every time.
    pub fuel: Option<u64>,
}

impl Settings {
    /// Reads the arguments; the error is for people.
    pub fn parse(
        words: impl IntoIterator<Item = String>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let mut settings = Self {
            file: PathBuf::new(),
            command: false,
            memory: MEMORY.0 << 20,
            allow: Vec::new(),
            env: Vec::new(),
            fuel: None,
        };
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match &*word {
                "--command" => settings.command = true,
                "--memory-mib" => settings.memory = memory(&value()?)?,
                "--allow" => settings.allow.push(value()?),
                "--env" => {
                    let name = value()?;
                    settings.env.extend(env(&name).map(|value| (name, value)));
                }
                "--fuel" => settings.fuel = Some(number(&value()?)?),
                _ if word.starts_with("--") => return Err(format!("there is no option {word}")),
                _ if settings.file.as_os_str().is_empty() => settings.file = word.into(),
                _ => return Err(format!("one file, not also {word}")),
            }
        }
        match settings.file.as_os_str().is_empty() {
            true => Err("no file was named".to_owned()),
            false => Ok(settings),
        }
    }

    pub(crate) fn allows(&self, power: &str) -> bool {
        self.allow.iter().any(|allowed| allowed == power)
    }
}

fn memory(word: &str) -> Result<usize, String> {
    let mib = usize::try_from(number(word)?).unwrap_or(usize::MAX);
    match mib {
        1.. if mib <= MEMORY.1 => Ok(mib << 20),
        _ => Err(format!("{word} MiB of memory is not between 1 and {}", MEMORY.1)),
    }
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|error| format!("{word:?} is no number: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &str) -> Result<Settings, String> {
        Settings::parse(words.split_whitespace().map(str::to_owned), |_| None)
    }

    #[test]
    fn memory_has_a_default_and_a_most() {
        assert_eq!(parse("x.wasm").unwrap().memory, 64 << 20);
        assert_eq!(parse("--memory-mib 512 x.wasm").unwrap().memory, 512 << 20);
        for wrong in
            ["--memory-mib 0 x", "--memory-mib 513 x", "--memory-mib much x", "x y", "", "--x y"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
