//! Words that may appear only in one place: provider names, printing, the environment, the clock, processes.

use crate::{is_test, report, rust_files, without_tests};

/// Names of providers, which the kernel must not know.
const PROVIDERS: &[&str] = &["hetzner", "aws", "azure", "daytona", "islo", "blacksmith", "hcloud"];

/// Provider names that are also plain words: forbidden only as a whole string.
const PROVIDER_STRINGS: &[&str] = &["\"local\"", "\"static\"", "\"static-ssh\"", "\"runner-host\""];

#[test]
fn the_kernel_knows_no_providers_name() {
    let mut broken = Vec::new();
    for (path, text) in rust_files()
        .into_iter()
        .filter(|(path, _)| path.starts_with("kernel/src/") && !is_test(path))
    {
        for (number, line) in without_tests(&text).lines().enumerate() {
            let lower = line.to_lowercase();
            let mut words = lower.split(|c: char| !c.is_ascii_alphanumeric());
            if words.any(|word| PROVIDERS.contains(&word))
                || PROVIDER_STRINGS.iter().any(|s| line.contains(s))
            {
                broken.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report(&broken, "the kernel learns providers from manifests; it never branches on a name");
}

/// A way to touch the world, what to do instead, and the files that may: one a crate.
struct Door {
    words: &'static [&'static str],
    instead: &'static str,
    files: &'static [&'static str],
}

const DOORS: &[Door] = &[
    Door {
        words: &["println!(", "eprintln!(", "print!(", "eprint!(", "dbg!("],
        instead: "emit an event; only the terminal prints",
        files: &["cli/src/terminal.rs", "cli/src/lib.rs", "bench/src/main.rs"],
    },
    Door {
        words: &[
            "env::var",
            "env::vars",
            "env::args",
            "env::set_var",
            "env::current_dir",
            "env::temp_dir",
        ],
        instead: "the environment is read once, in cli/src/start.rs, and passed down",
        files: &[
            "bench/src/main.rs",
            "cli/src/start.rs",
            "kernel/helper/src/program.rs",
            "plugin-sdk/src/serve.rs",
            "runners/native/src/main.rs",
            "runners/wasm/src/main.rs",
            "runners/wasm-compile/src/main.rs",
            "plugins/box-server/src/program.rs",
            "plugins/external/src/main.rs",
            "plugins/local/src/surroundings.rs",
        ],
    },
    Door {
        words: &["SystemTime::now("],
        instead: "ask the Clock port",
        files: &["cli/src/clock.rs", "kernel/helper/src/clock.rs"],
    },
    Door {
        words: &["Command::new("],
        instead: "children start in one named file a crate",
        files: &[
            "kernel/helper/src/program.rs",
            "bench/src/launch.rs",
            "cli/src/tools.rs",
            "kernel/src/sync/git.rs",
            "kernel/host/src/spawn.rs",
            "kernel/remote/src/proxy.rs",
            "kernel/kit/src/peer.rs",
            "kernel/kit/src/tools.rs",
            "plugin-sdk/src/testkit/peer.rs",
            "runners/wasm/src/main.rs",
            "plugins/box-server/src/program.rs",
        ],
    },
];

#[test]
fn only_named_files_print_read_the_environment_ask_the_time_or_start_processes() {
    let mut broken = Vec::new();
    for (path, text) in rust_files().into_iter().filter(|(path, _)| !is_test(path)) {
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for door in DOORS.iter().filter(|door| !door.files.contains(&path.as_str())) {
                if door.words.iter().any(|word| names(code, word)) {
                    broken.push(format!(
                        "{path}:{}: {}\n    {}",
                        number + 1,
                        line.trim(),
                        door.instead
                    ));
                }
            }
        }
    }
    report(&broken, "the files that may are listed in tests/tidy/words.rs");
}

/// Whether the code uses `word` as a word of its own: `print!(` is not in `eprint!(`.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word)
        .any(|(at, _)| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

#[test]
fn nothing_is_named_after_a_junk_drawer() {
    const BANNED: &[&str] =
        &["utils", "util", "helpers", "common", "misc", "manager", "types", "imp", "base", "core"];
    let files = rust_files();
    let parts = files.iter().flat_map(|(path, _)| {
        path.trim_end_matches(".rs").split('/').map(move |part| (path, part))
    });
    let broken: Vec<String> =
        parts.filter(|(_, part)| BANNED.contains(part)).map(|(path, _)| path.clone()).collect();
    report(&broken, "name a file after what it holds");
}
