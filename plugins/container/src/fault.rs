//! What a runtime complains about, as failures the kernel can act on.

use std::io;
use std::time::Duration;

use crabbox_plugin_sdk::{ExecResult, Failure};

/// What an answer of a registry that asks for a pause means without a number.
const PAUSE: Duration = Duration::from_secs(60);

/// What a complaint holds, in lower case, and what it means.
type Row = (&'static [&'static str], fn(String) -> Failure);

const TABLE: &[Row] = &[
    (
        &[
            "cannot connect to the docker daemon",
            "error during connect",
            "cannot connect to podman",
        ],
        |what| {
            Failure::transient(what)
                .hint("start it, or choose the other runtime with `--container-runtime`")
        },
    ),
    (&["permission denied while trying to connect", "got permission denied"], |what| {
        Failure::permission(what).hint("join the group that may use Docker, or use rootless Podman")
    }),
    (&["toomanyrequests", "rate limit"], |what| {
        Failure::rate_limited(what, PAUSE).hint("log in to the registry, or pull the image by hand")
    }),
    (&["unauthorized", "authentication required", "no basic auth credentials"], |what| {
        Failure::auth(what).hint("log in to the image's registry with the runtime's `login`")
    }),
    (
        &[
            "manifest unknown",
            "pull access denied",
            "repository does not exist",
            "name unknown",
            "no such image",
            "image not known",
            "short-name",
            "invalid reference format",
        ],
        |what| {
            Failure::invalid_config("/image", what)
                .hint("set container.image to an image that can be pulled, with its registry")
        },
    ),
    (
        &["connection refused", "no such host", "i/o timeout", "handshake timeout", "unreachable"],
        |what| {
            Failure::transient(what)
                .hint("try again, or set container.image to an image that is on this machine")
        },
    ),
    (&["network not found", "unable to find network"], |what| {
        Failure::invalid_config("/network", what)
            .hint("make the network first, or set container.network to `bridge`")
    }),
    (&["is already in use", "already exists"], Failure::conflict),
    (&["no space left on device"], |what| {
        Failure::quota(what).hint("free space: the runtime's `system prune` removes unused images")
    }),
    (&["exec format error"], |what| {
        Failure::unsupported(what).hint("use an image for this machine's processor")
    }),
    (&["no such container", "no container with"], Failure::not_found),
];

/// What a tool's failure means; `what` could not be done.
pub(crate) fn of(what: &str, result: &ExecResult) -> Failure {
    let said = result.stderr.trim();
    let lower = said.to_lowercase();
    // Docker tells of a network like this: `network x not found`.
    let lower = match (lower.contains("network "), lower.contains(" not found")) {
        (true, true) => format!("{lower} network not found"),
        _ => lower,
    };
    let row = TABLE.iter().find(|(words, _)| words.iter().any(|word| lower.contains(word)));
    let make = row.map_or(Failure::transient as fn(String) -> Failure, |row| row.1);
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    // The first error is the cause; what follows only tells what else did not work then.
    let cause = lines().find(|line| line.starts_with("Error")).or(lines().next_back());
    let cause = cause.map_or_else(|| format!("status {}", result.exit_code), str::to_owned);
    make(format!("cannot {what}")).because(&io::Error::other(cause))
}
