//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_daytona::plugin().serve_stdio()
}
