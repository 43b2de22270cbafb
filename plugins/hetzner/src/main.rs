//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_hetzner::plugin().serve_stdio()
}
