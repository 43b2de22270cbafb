//! Starts crabbox.

fn main() -> std::process::ExitCode {
    crabbox_cli::main()
}
