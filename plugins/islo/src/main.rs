//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_islo::plugin().serve_stdio()
}
