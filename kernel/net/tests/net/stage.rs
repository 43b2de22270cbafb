//! A session's way out with its grants, its secrets and a folder for blobs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crabbox_net::{Blobs, Lookup, Net, Options, Secret, Setting, Source};
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::manifest::{Grants, HttpGrant, SecretGrant, SecretMode};
use crabbox_schemas::plugin::{HttpParams, HttpResult};

use crate::server::Server;

/// The secret that must never be seen again.
pub(crate) const CANARY: &str = "canary-7f3a/9+x";
/// 2015-08-30T12:36:00Z.
pub(crate) const NOW_MS: u64 = 1_440_938_160_000;

pub(crate) struct Stage {
    pub(crate) net: Net,
    pub(crate) blobs: Blobs,
    _dir: tempfile::TempDir,
}

/// What a stage is set up with.
#[derive(Default)]
pub(crate) struct Setup {
    /// URLs the user named in settings `own0`, `own1` …
    pub(crate) own: Vec<String>,
    /// Origins the manifest names.
    pub(crate) origins: Vec<String>,
    /// Where the secret `token` may go; everywhere without.
    pub(crate) to: Vec<String>,
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) lookup: Option<Lookup>,
}

impl Stage {
    /// A session that may ask this server, because the user named it.
    pub(crate) fn for_server(server: &Server) -> Self {
        Self::new(Setup { own: vec![server.url("/")], ..Setup::default() })
    }

    pub(crate) fn new(setup: Setup) -> Self {
        let grant = |origin, setting| HttpGrant { origin, setting, ..HttpGrant::default() };
        let own = (0..setup.own.len()).map(|n| grant(None, Some(format!("own{n}"))));
        let http = own.chain(setup.origins.into_iter().map(|o| grant(Some(o), None))).collect();
        let secrets = [("token", SecretMode::Inject), ("id", SecretMode::Reveal)]
            .map(|(name, mode)| SecretGrant {
                name: name.to_owned(),
                env: vec![],
                mode,
                to: setup.to.clone(),
                file: None,
                chain: None,
            })
            .into();
        let settings: BTreeMap<_, _> =
            setup.own.into_iter().enumerate().map(|(n, url)| (format!("own{n}"), url)).collect();
        let source: Source = Arc::new(|name| {
            let value = match name {
                "token" => Some(CANARY.to_owned()),
                "id" => Some("client-one".to_owned()),
                _ => None,
            };
            Box::pin(std::future::ready(Ok(value.map(Secret::new))))
        });
        let net = Net::new(Options {
            grants: Grants { http, secrets, ..Grants::default() },
            setting: Arc::new(move |name| {
                settings.get(name).map(|url| Setting { url: url.clone(), own: true })
            }),
            source,
            now_ms: Arc::new(|| NOW_MS),
            roots: setup.roots,
            lookup: setup.lookup,
        })
        .unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { net, blobs: Blobs::new(dir.path()), _dir: dir }
    }

    pub(crate) async fn http(&self, params: HttpParams) -> Result<HttpResult, RpcError> {
        self.net.http(params, &self.blobs).await
    }

    pub(crate) async fn get(&self, url: &str) -> Result<HttpResult, RpcError> {
        self.http(HttpParams::new("GET", url)).await
    }

    /// Asks for what must be refused.
    pub(crate) async fn refused(&self, params: HttpParams) -> (ErrorKind, String) {
        let error = self.http(params).await.expect_err("an answer that must not come");
        let shown = serde_json::to_string(&error).unwrap();
        assert!(!shown.contains(CANARY), "{shown}");
        (error.data.expect("a kind").kind, shown)
    }
}
