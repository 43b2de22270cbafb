//! Origins, and the patterns of them that grants are written in.

use std::fmt;

use url::Url;

/// Scheme, host and port of an URL, as browsers compare them. A WebSocket has the origin of its handshake.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    scheme: &'static str,
    host: String,
    port: u16,
}

/// One origin, or every host that differs from it in one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    origin: Origin,
    /// Which label of the host may be any.
    any: Option<usize>,
}

impl Origin {
    /// The origin of an URL; none for schemes without hosts that we can ask.
    pub fn of(url: &Url) -> Option<Self> {
        let scheme = match url.scheme() {
            "http" | "ws" => "http",
            "https" | "wss" => "https",
            _ => return None,
        };
        let host = url.host_str().filter(|host| !host.is_empty())?.to_owned();
        Some(Self { scheme, host, port: url.port_or_known_default()? })
    }

    /// Reads an origin that is written alone: nothing may follow the port.
    pub fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|e| format!("{text:?} is no origin: {e}"))?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || text.ends_with('/') || has_user(&url) || text.contains(['\\', '*']) {
            return Err(format!("{text:?} is no origin: write scheme, host and port only"));
        }
        Self::of(&url).ok_or_else(|| format!("{text:?} is no origin of http or https"))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.host)?;
        let usual = if self.scheme == "https" { 443 } else { 80 };
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Pattern {
    /// Reads `https://api.example.dev`, `https://*.example.dev` or `https://api.*.example.dev`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let host = text.split_once("://").map_or(text, |(_, rest)| rest);
        let any = host.split('.').position(|label| label == "*");
        let Some(at) = any else { return Ok(Self::exactly(Origin::parse(text)?)) };
        let origin = Origin::parse(&text.replacen('*', "any", 1))?;
        let domain = origin.host.split('.').count() >= at + 3
            && !origin.host.ends_with(|c: char| c.is_ascii_digit());
        if !domain {
            return Err(format!(
                "{text:?}: a wildcard stands below a domain of two labels or more"
            ));
        }
        Ok(Self { origin, any })
    }

    /// Exactly this origin.
    pub fn exactly(origin: Origin) -> Self {
        Self { origin, any: None }
    }

    /// No origin at all: no URL has an empty host.
    pub(crate) fn nowhere() -> Self {
        Self::exactly(Origin { scheme: "https", host: String::new(), port: 0 })
    }

    /// Whether this host is meant, whatever is asked of it.
    pub(crate) fn names(&self, host: &str) -> bool {
        self.matches(&Origin { host: host.to_ascii_lowercase(), ..self.origin.clone() })
    }

    /// Whether the origin is meant.
    pub fn matches(&self, origin: &Origin) -> bool {
        let wanted = &self.origin;
        if (wanted.scheme, wanted.port) != (origin.scheme, origin.port) {
            return false;
        }
        let Some(any) = self.any else { return origin.host == wanted.host };
        let fits = |(n, (wanted, label)): (usize, (&str, &str))| match n == any {
            true => !label.is_empty(),
            false => label == wanted,
        };
        origin.host.split('.').count() == wanted.host.split('.').count()
            && wanted.host.split('.').zip(origin.host.split('.')).enumerate().all(fits)
    }
}

/// Whether an URL carries a user name or a password.
pub(crate) fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(pattern: &str, url: &str) -> bool {
        let origin = Url::parse(url).ok().and_then(|url| Origin::of(&url));
        origin.is_some_and(|origin| Pattern::parse(pattern).unwrap().matches(&origin))
    }

    #[test]
    fn a_pattern_means_its_origin_however_that_is_written() {
        let grant = "https://api.example.dev";
        for url in [
            "https://api.example.dev/v1?x=1#y",
            "https://API.EXAMPLE.DEV:443/",
            "https:\\\\api.example.dev\\v1",
            "wss://api.example.dev/socket",
            "https://user@api.example.dev/", // refused elsewhere, but it is that host
        ] {
            assert!(matches(grant, url), "{url}");
        }
        for url in [
            "http://api.example.dev/",
            "https://api.example.dev:8443/",
            "https://api.example.dev.evil.test/",
            "https://evil.test/https://api.example.dev/",
            "https://api.example.dev@evil.test/",
            "https://api.example.dev%2eevil.test/",
            "https://api.example.dev./",
            "https://xapi.example.dev/",
            "file:///api.example.dev",
        ] {
            assert!(!matches(grant, url), "{url}");
        }
    }

    #[test]
    fn a_wildcard_is_one_label() {
        let grant = "https://*.example.dev:8443";
        assert!(matches(grant, "https://eu.example.dev:8443/"));
        for url in [
            "https://example.dev:8443/",
            "https://a.b.example.dev:8443/",
            "https://.example.dev:8443/",
            "https://euexample.dev:8443/",
            "https://eu.example.dev/",
        ] {
            assert!(!matches(grant, url), "{url}");
        }
        let inner = "https://ec2.*.example.dev";
        assert!(matches(inner, "https://ec2.eu-west-1.example.dev/"));
        for url in [
            "https://ec2.example.dev/",
            "https://ec2.a.b.example.dev/",
            "https://ec2..example.dev/",
            "https://s3.eu-west-1.example.dev/",
        ] {
            assert!(!matches(inner, url), "{url}");
        }
    }

    #[test]
    fn what_is_no_origin_is_no_pattern() {
        for text in [
            "https://*",
            "https://*.dev",
            "https://*.1.2.3.4",
            "https://a.*.dev",
            "https://*.*.example.dev",
            "https://a*.example.dev",
            "https://a.example.dev/",
            "https://a.example.dev/path",
            "https://me@a.example.dev",
            "ftp://a.example.dev",
            "a.example.dev",
            "",
        ] {
            assert!(Pattern::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// The judge is the url crate: a pattern and an URL match exactly when their origins are one.
        #[test]
        fn origins_are_compared_as_browsers_compare_them(
            scheme in "(https?|HTTPS|wss?)",
            user in "(|a@|a:b@|api\\.example\\.dev@)",
            host in "([a-cA-C]\\.example\\.dev|example\\.dev|a\\.example\\.dev\\.|127\\.0\\.0\\.1|0x7f\\.1|\\[::1\\]|bücher\\.example\\.dev|a%2eexample\\.dev)",
            port in "(|:|:80|:443|:8443|:0443)",
            tail in "(|/|/a@b|\\?x=https://a\\.example\\.dev|#f|\\\\x)",
            granted in "https?://([a-c]\\.example\\.dev|example\\.dev|127\\.0\\.0\\.1|\\[::1\\])(|:80|:443|:8443)",
        ) {
            let text = format!("{scheme}://{user}{host}{port}{tail}");
            if let Ok(url) = Url::parse(&text) {
                let mut http = url.clone();
                if let "ws" | "wss" = url.scheme() {
                    http = Url::parse(&text.replacen("ws", "http", 1)).unwrap();
                }
                let judge = http.origin() == Url::parse(&granted).unwrap().origin();
                prop_assert_eq!(matches(&granted, &text), judge, "{} against {}", text, granted);
                let below = http.domain().and_then(|d| d.strip_suffix(".example.dev"))
                    .is_some_and(|label| !label.contains('.'));
                let judge = below && http.scheme() == "https" && http.port_or_known_default() == Some(443);
                prop_assert_eq!(matches("https://*.example.dev", &text), judge, "{}", text);
            }
        }
    }
}
