//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_azure::plugin().serve_stdio()
}
