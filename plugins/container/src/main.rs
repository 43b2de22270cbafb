//! `crabbox-provider-container`: the program the kernel starts.

fn main() -> std::process::ExitCode {
    crabbox_provider_container::plugin(&programs()).serve_stdio()
}

/// The folder of crabbox's programs, where the box's server lies.
fn programs() -> std::path::PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.parent().map(Into::into).unwrap_or_default()
}
