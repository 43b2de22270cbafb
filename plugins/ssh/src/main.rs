//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_ssh::plugin().serve_stdio()
}
