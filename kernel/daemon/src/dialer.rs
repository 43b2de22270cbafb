//! A dialer that asks the daemon where there is one, and does the work itself where there is none.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::event::Event;
use crabbox_kernel::ports::{Address, Dialer, EventSink, HostKey, Stop, Urgency};
use crabbox_schemas::daemon::{DialParams, Dialled, Dialling, method, note};
use crabbox_schemas::error::ErrorCode;
use tokio::time::timeout;

use crate::client::Caller;
use crate::line::{blob, typed};
use crate::remote::{KeptRemote, WarmRemote};

/// What a dial through the daemon may take beyond the caller's patience.
const GRACE: Duration = Duration::from_secs(60);

/// Dials through the daemon if it can, directly if it must. The results are the same.
#[derive(Debug)]
pub struct WarmDialer<D> {
    direct: D,
    daemon: Option<Rc<Caller>>,
}

/// What came of asking the daemon.
enum Asked {
    Remote(KeptRemote),
    Failed(KernelError),
    /// Do without it.
    Bypass(String),
}

impl<D> WarmDialer<D> {
    /// A dialer that knows no daemon.
    pub fn direct(direct: D) -> Self {
        Self { direct, daemon: None }
    }

    /// A dialer that asks this daemon first.
    pub fn through(daemon: Rc<Caller>, direct: D) -> Self {
        Self { direct, daemon: Some(daemon) }
    }
}

async fn ask(
    caller: &Rc<Caller>,
    address: &Address,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Asked {
    let mut client = match caller.connect_or_start().await {
        Ok(client) => client,
        Err(absent) => return Asked::Bypass(absent.to_string()),
    };
    let params = DialParams {
        endpoint: address.endpoint.clone(),
        key: blob(&address.key),
        known_hosts: blob(&address.known_hosts),
        patience_ms: u64::try_from(address.patience.as_millis()).unwrap_or(u64::MAX),
    };
    let tell = |name: &str, params| {
        if let Some(Dialling { stage, message }) =
            (name == note::DIALLING).then(|| typed(params).ok()).flatten()
        {
            events.emit(match stage {
                Some(stage) => Event::BootstrapWaiting { stage, message },
                None => Event::Debug { message },
            });
        }
    };
    let dialled = tokio::select! {
        dialled = timeout(address.patience + GRACE, client.call(method::DIAL, &params, tell)) => dialled,
        wedged = caller.wedged() => return Asked::Bypass(wedged.to_string()),
        () = stop.reaches(Urgency::Gentle) => {
            let what = "interrupted while connecting";
            return Asked::Failed(KernelError::new(ErrorCode::Cancelled, what).at("connect"));
        }
    };
    match dialled {
        Ok(Ok(Ok(Dialled { connection, peer }))) => {
            Asked::Remote(KeptRemote::new(Rc::clone(caller), connection, peer, client))
        }
        // It cannot ask for a passphrase, and may know another agent; its environment is smaller than a program on the
        // way may need.
        Ok(Ok(Err(error))) if error.code == ErrorCode::SshAuth || error.stage == Some("proxy") => {
            Asked::Bypass(error.to_string())
        }
        Ok(Ok(Err(error))) => Asked::Failed(error),
        Ok(Err(error)) => Asked::Bypass(error.to_string()),
        Err(late) => Asked::Bypass(late.to_string()),
    }
}

impl<D: Dialer> Dialer for WarmDialer<D> {
    type Remote = WarmRemote<D::Remote>;

    fn key_pair(&self, dir: &Path, comment: &str) -> Result<String> {
        self.direct.key_pair(dir, comment)
    }

    fn host_key(&self, comment: &str) -> Result<HostKey> {
        self.direct.host_key(comment)
    }

    async fn dial(
        &self,
        address: &Address,
        events: &mut dyn EventSink,
        stop: &Stop,
    ) -> Result<Self::Remote> {
        // A secret that is gone with its connection leads nobody back to it.
        let kept = self.daemon.as_ref().filter(|_| !address.endpoint.user_secret);
        if let Some(caller) = kept {
            match ask(caller, address, events, stop).await {
                Asked::Remote(remote) => return Ok(WarmRemote::Kept(remote)),
                Asked::Failed(error) => return Err(error),
                Asked::Bypass(why) => {
                    let message = format!("connecting without the warm daemon: {why}");
                    events.emit(Event::Debug { message });
                }
            }
        }
        self.direct.dial(address, events, stop).await.map(WarmRemote::Direct)
    }
}
