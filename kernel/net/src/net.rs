//! Requests and sockets of one session: the policy, the secrets and the pace they share.

use std::sync::Arc;
use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::manifest::Grants;
use crabbox_schemas::plugin::{HttpOpened, HttpParams, HttpResult, WsOpenParams, WsOpened};
use rustls::pki_types::CertificateDer;
use tokio::time::Instant;

use crate::answer::passed_on;
use crate::blob::Blobs;
use crate::client::{Clients, Lookup};
use crate::oauth::Tokens;
use crate::pace::Pace;
use crate::policy::{Policy, Setting};
use crate::send::Gate;
use crate::stream::Stream;
use crate::vault::{Source, Vault};
use crate::ws::{self, Socket};

/// How long an answer may take, when the plugin does not say.
const PATIENCE: Duration = Duration::from_secs(60);
/// The same for a WebSocket's handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// The longest it may say.
const MOST_PATIENCE: Duration = Duration::from_secs(3600);
/// Most bytes of an answer, when the plugin does not say, and at all.
const SMALL: u64 = 512 * 1024;
const LARGE: u64 = 8 << 20;

/// Finds a setting that names an URL.
pub type Settings = Arc<dyn Fn(&str) -> Option<Setting> + Send + Sync>;

/// What a session's requests draw on.
pub struct Options {
    /// What the user granted.
    pub grants: Grants,
    /// Which URLs settings name.
    pub setting: Settings,
    /// Finds secrets.
    pub source: Source,
    /// Milliseconds since 1970.
    pub now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Certificates (DER) trusted beside the system's.
    pub roots: Vec<Vec<u8>>,
    /// Finds addresses; the system's way without.
    pub lookup: Option<Lookup>,
}

/// Makes requests on behalf of one plugin.
pub struct Net {
    pub(crate) policy: Policy,
    pub(crate) vault: Arc<Vault>,
    pub(crate) pace: Pace,
    pub(crate) tokens: Tokens,
    pub(crate) clients: Clients,
    pub(crate) now_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Net {
    /// Reads the grants; the error says which of them makes no sense. Nothing is set up before it is needed.
    pub fn new(options: Options) -> Result<Self, String> {
        let Options { grants, setting, source, now_ms, roots, lookup } = options;
        let roots = roots.into_iter().map(CertificateDer::from).collect();
        Ok(Self {
            policy: Policy::new(&grants.http, &*setting)?,
            vault: Arc::new(Vault::new(&grants.secrets, &*setting, source)?),
            pace: Pace::default(),
            tokens: Tokens::default(),
            clients: Clients::new(roots, lookup),
            now_ms,
        })
    }

    /// The secrets of the session.
    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    /// `host/http`.
    pub async fn http(&self, params: HttpParams, blobs: &Blobs) -> Result<HttpResult, RpcError> {
        if params.into_blob && !params.capture.is_empty() {
            return Err(invalid("nothing can be captured from an answer that goes into a blob"));
        }
        let gate = Gate { blobs, deadline: deadline(params.timeout_ms, PATIENCE), handshake: None };
        let landed = self.send(&params, &gate).await?;
        match params.into_blob {
            true => self.store(landed, params.max_response.unwrap_or(u64::MAX), &gate).await,
            false => {
                let most = params.max_response.unwrap_or(SMALL).min(LARGE);
                let most = usize::try_from(most).unwrap_or(usize::MAX);
                self.digest(&params, landed, most, &gate).await
            }
        }
    }

    /// `host/http.open`; the caller names the stream.
    pub async fn open(
        &self,
        params: HttpParams,
        blobs: &Blobs,
    ) -> Result<(Stream, HttpOpened), RpcError> {
        if params.into_blob || !params.capture.is_empty() || params.max_response.is_some() {
            return Err(invalid("capture, intoBlob and maxResponse are for whole answers"));
        }
        let gate = Gate { blobs, deadline: deadline(params.timeout_ms, PATIENCE), handshake: None };
        let landed = self.send(&params, &gate).await?;
        let opened = HttpOpened {
            stream: String::new(),
            status: landed.response.status().as_u16(),
            headers: passed_on(landed.response.headers(), &self.vault.redactor()),
        };
        Ok((Stream::new(landed), opened))
    }

    /// `host/ws.open`; the caller names the socket.
    pub async fn websocket(
        &self,
        params: WsOpenParams,
        blobs: &Blobs,
    ) -> Result<(Socket, WsOpened), RpcError> {
        let deadline = deadline(params.timeout_ms, HANDSHAKE);
        ws::open(self, params, blobs, deadline).await
    }
}

fn deadline(said: Option<u64>, otherwise: Duration) -> Instant {
    Instant::now() + said.map_or(otherwise, Duration::from_millis).min(MOST_PATIENCE)
}

fn invalid(message: &str) -> RpcError {
    RpcError::of(ErrorKind::InvalidRequest, message)
}
