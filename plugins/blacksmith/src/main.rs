//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_blacksmith::plugin().serve_stdio()
}
