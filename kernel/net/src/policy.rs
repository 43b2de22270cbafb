//! Where a plugin may send requests: its grants, and how far each of them reaches.

use std::net::IpAddr;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::manifest::HttpGrant;
use url::{Host, Url};

use crate::address::is_public;
use crate::origin::{Origin, Pattern, has_user};

/// A setting that names an URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its value.
    pub url: String,
    /// Whether the user wrote it; otherwise the plugin's author did.
    pub own: bool,
}

/// How far a grant reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Addresses of the public internet.
    Public,
    /// Any address: the user named the host.
    Anywhere,
}

/// What one plugin may reach.
#[derive(Debug, Clone, Default)]
pub(crate) struct Policy(Vec<Allowed>);

#[derive(Debug, Clone)]
struct Allowed {
    pattern: Pattern,
    methods: Vec<String>,
    reach: Reach,
}

impl Policy {
    /// Reads the grants. A grant by a setting that says nothing allows nothing.
    pub(crate) fn new(
        grants: &[HttpGrant],
        setting: impl Fn(&str) -> Option<Setting>,
    ) -> Result<Self, String> {
        let mut allowed = Vec::new();
        for grant in grants {
            let methods = grant.methods.iter().map(|m| m.to_ascii_uppercase()).collect::<Vec<_>>();
            if let Some(origin) = &grant.origin {
                let pattern = Pattern::parse(origin)?;
                allowed.push(Allowed { pattern, methods: methods.clone(), reach: Reach::Public });
            }
            if let Some(said) = grant.setting.as_deref().and_then(&setting) {
                let pattern = Pattern::exactly(named(&said.url)?);
                let reach = if said.own { Reach::Anywhere } else { Reach::Public };
                allowed.push(Allowed { pattern, methods, reach });
            }
        }
        Ok(Self(allowed))
    }

    /// Whether a request may be made, and how far it may reach.
    pub(crate) fn check(&self, method: &str, url: &Url) -> Result<(Origin, Reach), RpcError> {
        let invalid = |what: &str| RpcError::of(ErrorKind::InvalidRequest, what);
        if has_user(url) {
            return Err(invalid("an URL carries no user name or password; credentials go in auth"));
        }
        let origin = Origin::of(url).ok_or_else(|| invalid("only http and https can be asked"))?;
        let fits = |a: &&Allowed| {
            a.pattern.matches(&origin)
                && (a.methods.is_empty() || a.methods.iter().any(|m| m == method))
        };
        let reach = self.0.iter().filter(fits).map(|a| a.reach).fold(None, |best, reach| {
            if best == Some(Reach::Anywhere) { best } else { Some(reach) }
        });
        let reach = reach.ok_or_else(|| denied(method, &origin))?;
        let literal = match url.host() {
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            _ => None,
        };
        match literal {
            Some(address) if reach == Reach::Public && !is_public(address) => {
                Err(private(&address.to_string()))
            }
            _ => Ok((origin, reach)),
        }
    }
}

/// The origin an URL in a setting names.
pub(crate) fn named(url: &str) -> Result<Origin, String> {
    let parsed = Url::parse(url).map_err(|e| format!("{url:?} is no URL: {e}"))?;
    Origin::of(&parsed).ok_or_else(|| format!("{url:?} is no URL of http or https"))
}

fn denied(method: &str, origin: &Origin) -> RpcError {
    let message = format!("the manifest asks for no {method} requests to {origin}");
    RpcError::of(ErrorKind::GrantDenied, message).with(|data| {
        data.hint = Some(
            "its author adds the origin to grants.http, or a setting that names it".to_owned(),
        );
    })
}

/// The refusal of an address that is not the public internet's.
pub(crate) fn private(host: &str) -> RpcError {
    let message = format!("{host} is not an address of the public internet");
    RpcError::of(ErrorKind::GrantDenied, message).with(|data| {
        data.hint = Some(
            "only an address that you name in a setting of your own is reached there".to_owned(),
        );
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(origin: Option<&str>, setting: Option<&str>, methods: &[&str]) -> HttpGrant {
        HttpGrant {
            origin: origin.map(str::to_owned),
            setting: setting.map(str::to_owned),
            methods: methods.iter().map(|&m| m.to_owned()).collect(),
            why: String::new(),
        }
    }

    fn ask(policy: &Policy, method: &str, url: &str) -> Result<Reach, ErrorKind> {
        let answer = policy.check(method, &Url::parse(url).unwrap());
        answer.map(|(_, reach)| reach).map_err(|e| e.data.unwrap().kind)
    }

    #[test]
    fn only_granted_origins_and_methods_are_asked() {
        let grants = [
            grant(Some("https://api.example.dev"), None, &["get"]),
            grant(Some("https://*.blob.example.dev"), None, &[]),
        ];
        let policy = Policy::new(&grants, |_| None).unwrap();
        assert_eq!(ask(&policy, "GET", "https://api.example.dev/x"), Ok(Reach::Public));
        assert_eq!(ask(&policy, "PUT", "https://a.blob.example.dev/x"), Ok(Reach::Public));
        for (method, url, kind) in [
            ("POST", "https://api.example.dev/x", ErrorKind::GrantDenied),
            ("GET", "http://api.example.dev/x", ErrorKind::GrantDenied),
            ("GET", "https://user:pw@api.example.dev/x", ErrorKind::InvalidRequest),
            ("GET", "ftp://api.example.dev/x", ErrorKind::InvalidRequest),
        ] {
            assert_eq!(ask(&policy, method, url), Err(kind), "{method} {url}");
        }
    }

    #[test]
    fn a_private_address_is_reached_only_where_the_user_named_it() {
        let grants = [
            grant(Some("https://169.254.169.254"), None, &[]),
            grant(None, Some("endpoint"), &[]),
            grant(None, Some("default"), &[]),
            grant(None, Some("unset"), &[]),
        ];
        let settings = |name: &str| match name {
            "endpoint" => Some(Setting { url: "http://127.0.0.1:8080/v1".into(), own: true }),
            "default" => Some(Setting { url: "http://10.0.0.1".into(), own: false }),
            _ => None,
        };
        let policy = Policy::new(&grants, settings).unwrap();
        assert_eq!(ask(&policy, "GET", "http://127.0.0.1:8080/other"), Ok(Reach::Anywhere));
        assert_eq!(ask(&policy, "GET", "http://0x7f.1:8080/"), Ok(Reach::Anywhere));
        for url in ["https://169.254.169.254/latest", "http://10.0.0.1/", "http://127.0.0.1:8081/"]
        {
            assert_eq!(ask(&policy, "GET", url), Err(ErrorKind::GrantDenied), "{url}");
        }
    }

    #[test]
    fn a_grant_that_is_no_origin_is_an_error() {
        assert!(Policy::new(&[grant(Some("https://a.dev/path"), None, &[])], |_| None).is_err());
    }
}
