//! The plugin's process.

fn main() -> std::process::ExitCode {
    crabbox_provider_aws::plugin().serve_stdio()
}
