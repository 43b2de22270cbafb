//! Daytona's API: requests that the host authorises, and what refusals mean.

use std::time::Duration;

use crabbox_plugin_sdk::{Call, ErrorKind, Failure, HttpRequest, Repeat, Reply};
use serde::de::DeserializeOwned;

use crate::config::Config;

/// What to wait when Daytona asks to slow down and does not say for how long.
const SLOW_DOWN: Duration = Duration::from_secs(2);

/// What words of a refusal mean that its status does not say.
const WORDS: &[(&[&str], ErrorKind)] = &[
    (&["suspended", "credit", "billing", "payment"], ErrorKind::Billing),
    (&["limit exceeded", "quota", "maximum allowed", "concurrent"], ErrorKind::Quota),
    (&["no available runner", "no runner", "capacity"], ErrorKind::Capacity),
];

/// Daytona, as one call sees it.
#[derive(Clone, Copy)]
pub(crate) struct Api<'a> {
    pub(crate) config: &'a Config,
    pub(crate) call: &'a Call,
}

impl<'a> Api<'a> {
    /// A request with the key, and with the organization a JWT is for.
    pub(crate) fn request(&self, method: &str, url: &str) -> HttpRequest<'a> {
        let request = self.call.http(method, url).bearer(self.config.credential());
        match &self.config.organization_id {
            Some(id) => request.header("x-daytona-organization-id", id),
            None => request,
        }
    }

    /// The control API's address without a path.
    pub(crate) fn origin(&self) -> &'a str {
        let url = self.config.api_url.as_str();
        let host = url.find("://").map_or(0, |at| at + 3);
        url[host..].find('/').map_or(url, |end| &url[..host + end])
    }

    /// Asks the control API, again while that may help.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        repeat: Repeat,
        fill: impl Fn(HttpRequest<'a>) -> HttpRequest<'a>,
    ) -> Result<Reply, Failure> {
        self.send(method, &format!("{}{path}", self.config.api_url), repeat, fill)
    }

    pub(crate) fn send(
        &self,
        method: &str,
        url: &str,
        repeat: Repeat,
        fill: impl Fn(HttpRequest<'a>) -> HttpRequest<'a>,
    ) -> Result<Reply, Failure> {
        let once = || fill(self.request(method, url)).send().and_then(Reply::ok).map_err(refused);
        self.call.steadily(repeat, once)
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask("GET", path, Repeat::Safe, |request| request)?.json()
    }
}

/// What a refusal means: Daytona says with words what others say with a status.
fn refused(failure: Failure) -> Failure {
    let said = failure.message().to_ascii_lowercase();
    let refusal = matches!(
        failure.kind(),
        ErrorKind::InvalidRequest
            | ErrorKind::Permission
            | ErrorKind::Conflict
            | ErrorKind::Transient
    );
    let words =
        WORDS.iter().find(|(words, _)| refusal && words.iter().any(|word| said.contains(word)));
    let kind = words.map_or(failure.kind(), |(_, kind)| *kind);
    let told = match kind == failure.kind() {
        true => failure,
        false => {
            let wait = failure.data().retry_after_ms.map(Duration::from_millis);
            let told = Failure::new(kind, failure.message());
            wait.into_iter().fold(told, Failure::retry_after)
        }
    };
    let hint = match kind {
        ErrorKind::Auth => {
            "set DAYTONA_API_KEY, or daytona.apiKey in your own configuration, to a valid key"
        }
        ErrorKind::Permission => "the key needs the rights write:sandboxes and delete:sandboxes",
        ErrorKind::Billing => "look at the organization's credits at Daytona",
        ErrorKind::Quota => "stop sandboxes (`crabbox list`), or use a smaller snapshot",
        ErrorKind::Capacity => "try again later, or in another region with daytona.target",
        ErrorKind::RateLimited if told.data().retry_after_ms.is_none() => {
            return told.retry_after(SLOW_DOWN);
        }
        _ => return told,
    };
    if told.data().hint.is_some() { told } else { told.hint(hint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_refusal_say_what_its_status_does_not() {
        for (kind, said, expected) in [
            (
                ErrorKind::Permission,
                "Organization is suspended: Depleted credits",
                ErrorKind::Billing,
            ),
            (
                ErrorKind::Permission,
                "Total CPU limit exceeded. Maximum allowed: 10.",
                ErrorKind::Quota,
            ),
            (ErrorKind::InvalidRequest, "No available runners", ErrorKind::Capacity),
            (ErrorKind::Permission, "Forbidden resource", ErrorKind::Permission),
            (ErrorKind::NotFound, "no sandbox quota", ErrorKind::NotFound),
        ] {
            assert_eq!(refused(Failure::new(kind, said)).kind(), expected, "{said}");
        }
        let slow = refused(Failure::new(ErrorKind::RateLimited, "slow down"));
        assert_eq!(slow.data().retry_after_ms, Some(2000));
    }
}
