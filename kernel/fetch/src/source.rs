//! How a place to get a package from is written.

use std::fmt;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use oci_client::Reference;
use url::{Host, Url};

/// Where a package is to be got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `https://host/name.cbxplugin`, and the digest of the bytes that are wanted: `sha256:` and hex.
    Web {
        /// The address, without a fragment.
        url: Url,
        /// `sha256:` and hex.
        digest: String,
    },
    /// `oci://registry/repository:tag` or `…@sha256:…`.
    Registry(Reference),
}

impl Source {
    /// Whether it gives the same bytes for ever.
    pub fn is_fixed(&self) -> bool {
        match self {
            Self::Web { .. } => true,
            Self::Registry(reference) => reference.digest().is_some(),
        }
    }

    /// Reads a source. `None` when it is the path of a file or folder. The digest of a web address may be given apart, or
    /// as its fragment (`…#sha256:…`), which is how it is written down.
    pub fn parse(text: &str, digest: Option<&str>) -> Result<Option<Self>> {
        if let Some(reference) = text.strip_prefix("oci://") {
            if digest.is_some() {
                return Err(usage("a registry's package has its digest in its name", OCI));
            }
            return match reference.parse() {
                Ok(reference) => Ok(Some(Self::Registry(reference))),
                Err(error) => Err(usage(&format!("{text} names no package"), OCI).because(&error)),
            };
        }
        match (text.split_once("://"), digest) {
            (Some(_), _) => web(text, digest).map(Some),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(usage("a digest is for web addresses", "leave --digest out")),
        }
    }
}

const OCI: &str = "write oci://registry/repository:tag, or …@sha256:… for one that never changes";
const DIGEST: &str = "its publisher says it, and `crabbox plugin pack` prints it";

fn web(text: &str, digest: Option<&str>) -> Result<Source> {
    let mut url: Url = text
        .parse()
        .map_err(|e| usage(&format!("{text} is no address"), "begin with https://").because(&e))?;
    let written = url.fragment().map(str::to_owned);
    url.set_fragment(None);
    let plain = url.scheme() == "http" && is_here(&url);
    if url.scheme() != "https" && !plain {
        return Err(usage(&format!("plugins are not got over {}", url.scheme()), "use https://"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            "an address with a password in it would be written down",
            "leave it out",
        ));
    }
    let digest = digest.map(str::to_owned).or(written).ok_or_else(|| {
        let hint = format!("add --digest sha256:…; {DIGEST}");
        usage(&format!("nothing says which bytes {url} should have"), &hint)
    })?;
    match digest.strip_prefix("sha256:").or_else(|| digest.strip_prefix("sha256=")) {
        Some(hex) if hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()) => {
            Ok(Source::Web { url, digest: format!("sha256:{}", hex.to_ascii_lowercase()) })
        }
        _ => Err(usage(&format!("{digest} is no digest: sha256: and 64 hex digits"), DIGEST)),
    }
}

/// Whether an address leads to this machine and nowhere else.
pub(crate) fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn usage(what: &str, hint: &str) -> KernelError {
    KernelError::new(ErrorCode::Usage, what).hint(hint)
}

impl fmt::Display for Source {
    /// As the lock says it, and as it can be given again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Web { url, digest } => write!(f, "{url}#{digest}"),
            Self::Registry(reference) => write!(f, "oci://{reference}"),
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn read(text: &str) -> String {
        match Source::parse(text, None) {
            Ok(source) => source.map_or("a path".to_owned(), |source| source.to_string()),
            Err(error) => error.message,
        }
    }

    #[test]
    fn a_path_is_a_path() {
        for path in ["./rack", "rack.cbxplugin", "/opt/oci/rack", "C:rack"] {
            assert_eq!(read(path), "a path");
        }
    }

    #[test]
    fn an_address_has_a_digest_and_reads_as_it_is_written() {
        let written = format!("https://example.dev/rack-1.cbxplugin#sha256:{HEX}");
        assert_eq!(read(&written), written);
        let apart =
            Source::parse("https://example.dev/rack-1.cbxplugin", Some(&format!("sha256:{HEX}")));
        assert_eq!(apart.unwrap().unwrap().to_string(), written);
        assert_eq!(
            read("https://example.dev/r"),
            "nothing says which bytes https://example.dev/r should have"
        );
        assert!(read("https://example.dev/r#sha256:abc").contains("is no digest"));
    }

    #[test]
    fn nothing_is_got_in_plain_text_except_from_this_machine() {
        assert_eq!(
            read(&format!("http://example.dev/r#sha256:{HEX}")),
            "plugins are not got over http"
        );
        assert_eq!(
            read(&format!("ftp://example.dev/r#sha256:{HEX}")),
            "plugins are not got over ftp"
        );
        assert_eq!(read(&format!("file:///r#sha256:{HEX}")), "plugins are not got over file");
        assert!(read(&format!("http://127.0.0.1:80/r#sha256:{HEX}")).starts_with("http://"));
        assert!(
            read(&format!("http://localhost.example.dev/r#sha256:{HEX}")).starts_with("plugins")
        );
        assert!(read(&format!("https://me:pw@example.dev/r#sha256:{HEX}")).contains("password"));
    }

    #[test]
    fn a_registry_is_named_with_a_tag_or_a_digest() {
        assert_eq!(read("oci://ghcr.io/example/rack:1.4"), "oci://ghcr.io/example/rack:1.4");
        let fixed = format!("oci://ghcr.io/example/rack@sha256:{HEX}");
        assert_eq!(read(&fixed), fixed);
        assert!(read("oci://ghcr.io/UPPER/rack").contains("names no package"));
    }
}
