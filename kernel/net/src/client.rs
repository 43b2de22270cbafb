//! The two HTTP clients: one that reaches only the public internet, one for hosts the user named.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, RpcError};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::Policy as Redirects;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::OnceCell;

use crate::address::is_public;
use crate::policy::Reach;

/// How long one address may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(20);
/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(60);

/// Finds the addresses of a host name.
pub type Lookup = Arc<dyn Fn(String) -> Looking + Send + Sync>;
/// Addresses on their way.
pub type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Both clients, made when first needed.
pub(crate) struct Clients {
    /// Certificates trusted beside the system's.
    roots: Vec<CertificateDer<'static>>,
    lookup: Lookup,
    public: OnceCell<reqwest::Client>,
    anywhere: OnceCell<reqwest::Client>,
}

/// Why a name leads nowhere.
#[derive(Debug)]
pub(crate) enum Astray {
    /// All its addresses are private ones.
    Private(String),
    /// It has none.
    Unknown(String, io::Error),
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private(host) => write!(f, "{host} has only private addresses"),
            Self::Unknown(host, _) => write!(f, "cannot find the address of {host}"),
        }
    }
}

impl Error for Astray {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Private(_) => None,
            Self::Unknown(_, error) => Some(error),
        }
    }
}

impl Clients {
    pub(crate) fn new(roots: Vec<CertificateDer<'static>>, lookup: Option<Lookup>) -> Self {
        let lookup = lookup.unwrap_or_else(|| Arc::new(|host| Box::pin(look(host))));
        Self { roots, lookup, public: OnceCell::new(), anywhere: OnceCell::new() }
    }

    /// The client for what a grant reaches. They share no connections.
    pub(crate) async fn get(&self, reach: Reach) -> Result<&reqwest::Client, RpcError> {
        let cell = match reach {
            Reach::Public => &self.public,
            Reach::Anywhere => &self.anywhere,
        };
        cell.get_or_try_init(async || self.build(reach)).await.map_err(|e| {
            let message = format!("cannot set up HTTP: {}", e.source().unwrap_or(&e));
            RpcError::of(ErrorKind::Internal, message)
        })
    }

    fn build(&self, reach: Reach) -> reqwest::Result<reqwest::Client> {
        reqwest::Client::builder()
            .tls_backend_preconfigured(tls(&self.roots))
            .dns_resolver(Guard { reach, lookup: Arc::clone(&self.lookup) })
            .redirect(Redirects::none())
            .referer(false)
            .no_proxy()
            .http1_only()
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .user_agent(concat!("crabbox/", env!("CARGO_PKG_VERSION")))
            .build()
    }
}

/// Trusts the system's certificates and a few more. On a machine without any, servers are refused one by one.
fn tls(extra: &[CertificateDer<'static>]) -> ClientConfig {
    let ring: Arc<CryptoProvider> = Arc::new(default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&ring))
        .with_safe_default_protocol_versions()
        .expect("ring knows the protocol versions rustls speaks by default");
    let system =
        rustls_platform_verifier::Verifier::new_with_extra_roots(extra.iter().cloned(), ring);
    match system {
        Ok(verifier) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth(),
        Err(error) => {
            tracing::warn!(%error, "the system's certificates cannot be read");
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(extra.iter().cloned());
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    }
}

async fn look(host: String) -> io::Result<Vec<IpAddr>> {
    Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
}

/// Looks names up, and gives out only addresses that may be connected to: what was checked is what is used.
struct Guard {
    reach: Reach,
    lookup: Lookup,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let (looking, reach) = ((self.lookup)(host.clone()), self.reach);
        Box::pin(async move {
            let found = match looking.await {
                Ok(found) if !found.is_empty() => found,
                Ok(_) => {
                    let none = io::Error::new(io::ErrorKind::NotFound, "it has no address");
                    return Err(Astray::Unknown(host, none).into());
                }
                Err(error) => return Err(Astray::Unknown(host, error).into()),
            };
            let allowed: Vec<_> = found
                .into_iter()
                .filter(|&address| reach == Reach::Anywhere || is_public(address))
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            match allowed.is_empty() {
                true => Err(Astray::Private(host).into()),
                false => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}
