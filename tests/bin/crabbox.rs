//! The real `crabbox`, under a second name, so that Cargo builds it before the tests that run it.

fn main() -> std::process::ExitCode {
    crabbox_cli::main()
}
