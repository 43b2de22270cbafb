//! The exit statuses of the `crabbox` command.

/// The status of a program that writes into a pipe nobody reads: 128 + `SIGPIPE`.
pub const UNREAD: i32 = 141;

/// Status and meaning; a run passes the command's own status through unchanged.
pub const TABLE: &[(i32, &str)] = &[
    (0, "success"),
    (1, "unclassified failure, a plugin fault, or `doctor` found problems"),
    (2, "wrong usage or configuration, a claim conflict, an unsupported operation"),
    (3, "missing or refused credentials"),
    (4, "not found, ambiguous, or no capacity"),
    (5, "provisioning or bootstrap failed or took too long"),
    (6, "the sync was refused or failed"),
    (7, "the SSH connection failed or broke"),
    (8, "the lease has expired"),
    (124, "`--timeout` ran out and the command was stopped"),
    (130, "interrupted by the user"),
    (
        UNREAD,
        "nobody reads standard output any more, as in `crabbox run -- yes | head -1`, so the command was stopped",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;

    #[test]
    fn every_error_code_has_a_documented_status() {
        for code in ErrorCode::all() {
            assert!(TABLE.iter().any(|row| row.0 == code.exit_status()), "{code:?}");
        }
    }
}
