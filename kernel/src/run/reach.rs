//! The one connection to a box: where it is, and what to do when it does not answer where it was.

use std::path::PathBuf;
use std::time::Duration;

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::{Lease, SshAuth};
use crabbox_schemas::plugin::Purpose;

use crate::error::{KernelError, Result};
use crate::lease::adopt::ask_again;
use crate::lease::network::Network;
use crate::lease::tailnet::Tailnet;
use crate::lease::{Bench, Held};
use crate::ports::{Address, Clock, Dialer, EventSink, Provider, Query, Remote, Stop};
use crate::state::State;

/// How long a fresh box may take until it answers, one that was used before, and a host of the user's own,
/// which is there or is not.
const FRESH_PATIENCE: Duration = Duration::from_secs(20 * 60);
const USED_PATIENCE: Duration = Duration::from_secs(2 * 60);
const OWN_PATIENCE: Duration = Duration::from_secs(15);
/// How long a box that was taken as known may be silent before its provider is asked about it.
const DOUBT: Duration = Duration::from_secs(2);
/// How long its provider may take to say.
const ASKING: Duration = Duration::from_secs(10);

/// A connection, and the lease as it was reached.
pub struct Reached<R> {
    /// The connection.
    pub remote: R,
    /// The lease, perhaps with a newer address than the one in hand.
    pub lease: Lease,
}

/// Connects to a box in hand; a new one joins the user's tailnet, where it shall. One that was taken as known may have
/// moved or ended since: when it does not answer, its provider is asked, and a new address is tried once.
pub async fn reach<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Reached<D::Remote>> {
    let lease = held.lease.clone();
    if let Some(tailnet) = &held.tailnet {
        let remote = join(bench, tailnet, &lease, events, stop).await?;
        return Ok(Reached { remote, lease });
    }
    if !held.known {
        let remote = connect(bench, &lease, held.reused, events, stop).await?;
        return Ok(Reached { remote, lease });
    }
    let mut address = address(bench.state, bench.network, &lease, true)?;
    address.endpoint.ready_check = None; // it was ready when it was used before
    seek(bench, held, &address, events, stop).await
}

/// Has a new box join the tailnet, and dials it there from then on where the user wants that.
async fn join<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    tailnet: &Tailnet,
    lease: &Lease,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<D::Remote> {
    let outside = connect_by(bench, Network::Public, lease, false, events, stop).await?;
    let place = tailnet.join(&outside, lease, bench.clock, events, stop).await?;
    bench.network.note(bench.state, lease, place)?;
    if bench.network != Network::Tailscale {
        return Ok(outside);
    }
    outside.close().await;
    let inside = connect(bench, lease, true, events, stop).await.map_err(|error| {
        let what = format!("{} is in the tailnet and does not answer there at {place}", lease.slug);
        match error.code {
            ErrorCode::Cancelled => error,
            code => KernelError::new(code, what)
                .because(&error)
                .at("connect")
                .hint("this machine must be in the tailnet, and its rules must let it in"),
        }
    })?;
    tailnet.leave_by_exit(&inside, lease, bench.clock, stop).await?;
    Ok(inside)
}

/// Connects to a box at the address it had, unless its provider knows better.
pub(super) async fn seek<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
    address: &Address,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<Reached<D::Remote>> {
    let in_doubt = async {
        bench.clock.sleep(DOUBT).await;
        match news(bench, held).await {
            Some(news) => news,
            None => std::future::pending().await,
        }
    };
    let now = tokio::select! {
        biased;
        dialled = bench.dialer.dial(address, events, stop) => match dialled {
            Ok(remote) => return Ok(Reached { remote, lease: held.lease.clone() }),
            Err(error) if error.code == ErrorCode::Cancelled => return Err(error.at("connect")),
            Err(error) => match news(bench, held).await {
                Some(news) => news?,
                None => return Err(error.at("connect")),
            },
        },
        news = in_doubt => news?,
    };
    let remote = connect(bench, &now, true, events, stop).await?;
    Ok(Reached { remote, lease: now })
}

/// What the provider knows better of a box than its claim: that it is gone, or where it is now. `None` when it
/// says the same, or cannot say.
async fn news<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    held: &Held,
) -> Option<Result<Lease>> {
    let asked = tokio::select! {
        asked = ask_again(bench, held) => asked,
        () = bench.clock.sleep(ASKING) => return None,
    };
    match asked {
        Ok(now) => (now.ssh != held.lease.ssh).then_some(Ok(now)),
        Err(error) if matches!(error.code, ErrorCode::NotFound | ErrorCode::LeaseExpired) => {
            Some(Err(error))
        }
        Err(error) => {
            tracing::debug!(%error, "the provider cannot say what became of the box");
            None
        }
    }
}

/// Opens the one connection to a box.
pub async fn connect<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    used: bool,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<D::Remote> {
    connect_by(bench, bench.network, lease, used, events, stop).await
}

async fn connect_by<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    network: Network,
    lease: &Lease,
    used: bool,
    events: &mut dyn EventSink,
    stop: &Stop,
) -> Result<D::Remote> {
    let address = address(bench.state, network, lease, used)?;
    let ours = bench.state.host_key(&lease.lease_id).is_file();
    bench.dialer.dial(&address, events, stop).await.map_err(|error| {
        let error = error.at("connect");
        if ours && !used { never_usable(lease, error) } else { error }
    })
}

/// A machine that we set up and that never answered as a box should: how far it came is the cause.
fn never_usable(lease: &Lease, error: KernelError) -> KernelError {
    let far = matches!(
        error.code,
        ErrorCode::SshDns
            | ErrorCode::SshTcp
            | ErrorCode::SshBanner
            | ErrorCode::SshAuth
            | ErrorCode::SshReady
    );
    if !far {
        return error;
    }
    let what = format!("{} was made and never became usable", lease.slug);
    let hint = error.hint.clone().unwrap_or_default();
    KernelError {
        stage: error.stage,
        ..KernelError::new(ErrorCode::Bootstrap, what).because(&error)
    }
    .hint(hint)
}

/// How to reach a lease.
pub fn address(state: &State, network: Network, lease: &Lease, used: bool) -> Result<Address> {
    let Some(mut endpoint) = lease.ssh.clone() else {
        return Err(KernelError::new(
            ErrorCode::Unsupported,
            format!(
                "lease {} has no SSH endpoint: its provider runs commands itself",
                lease.lease_id
            ),
        )
        .hint(format!("`crabbox run --id {} -- COMMAND` runs one", lease.slug)));
    };
    if let Some(host) = network.host(state, lease)? {
        endpoint.host = host;
    }
    let keys = state.keys(&lease.lease_id);
    // Of a key that we made nobody else can say what it is.
    if let Ok(line) = std::fs::read_to_string(state.host_key(&lease.lease_id)) {
        endpoint.host_keys = vec![line.trim().to_owned()];
    }
    let key = match (&endpoint.auth, &endpoint.key_file) {
        (SshAuth::KeyFile, Some(file)) => PathBuf::from(file),
        _ => keys.join("id_ed25519"),
    };
    let patience = match endpoint.auth {
        SshAuth::User | SshAuth::KeyFile => OWN_PATIENCE,
        SshAuth::KernelKey if used => USED_PATIENCE,
        SshAuth::KernelKey => FRESH_PATIENCE,
    };
    Ok(Address { endpoint, key, known_hosts: keys.join("known_hosts"), patience })
}

/// Why the connection broke, when the provider knows: the lease has ended.
pub(super) async fn explain<P: Provider, D: Dialer, C: Clock>(
    bench: &Bench<'_, P, D, C>,
    lease: &Lease,
    error: KernelError,
) -> KernelError {
    if error.code != ErrorCode::ConnectionLost {
        return error;
    }
    let id = lease.lease_id.to_string();
    let query =
        Query { id, known: Some(lease.clone()), resources: Vec::new(), purpose: Purpose::Status };
    match bench.provider.resolve(&query).await {
        Ok(None) => ended(lease, &error),
        _ => error,
    }
}

/// The error for a lease that ended and took the connection with it.
pub(super) fn ended(lease: &Lease, cause: &KernelError) -> KernelError {
    let what = format!("lease {} ended while it was in use", lease.lease_id);
    KernelError {
        outcome: cause.outcome,
        ..KernelError::new(ErrorCode::LeaseExpired, what)
            .because(cause)
            .hint("it was stopped, or its --ttl or --idle-timeout ran out; lease a new box")
    }
}
