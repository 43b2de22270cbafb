//! `crabbox-provider-external`: the program the kernel starts.

fn main() -> std::process::ExitCode {
    crabbox_provider_external::plugin(variable).serve_stdio()
}

/// A variable of the user, for `{{env.NAME}}`.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place where this program reads its environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
