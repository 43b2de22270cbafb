//! `initialize`: version, identity and needs are compared with the manifest before anything is asked.

use std::time::Duration;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_kernel::ports::Stop;
use crabbox_kernel::time::format_duration;
use crabbox_plugins::hide_secrets;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::plugin::{
    CallContext, InitializeParams, InitializeResult, Instance, PROTOCOLS, Peer, method,
};
use std::sync::Arc;

use crate::broker::Broker;
use crate::call::{Call, Hands, call};
use crate::fault::{broken, one_line};
use crate::link::Link;
use crate::session::OpenOptions;

/// Bounds and identity of a call.
pub(crate) fn context(deadline: Duration, grace: Duration, idem: &str) -> CallContext {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let (deadline_ms, grace_ms) = (ms(deadline), ms(grace));
    CallContext { deadline_ms, grace_ms, idem: idem.to_owned(), dry_run: false }
}

/// Introduces the kernel and checks what the plugin says of itself; the methods it answers.
pub(crate) async fn shake(link: &Arc<Link>, options: &OpenOptions<'_>) -> Result<Vec<String>> {
    let entry = &*options.entry;
    let interactive = options.prompt.is_some();
    let params = InitializeParams {
        protocols: PROTOCOLS.iter().map(|&version| version.to_owned()).collect(),
        kernel: Peer { name: "crabbox".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        interactive,
        limits: options.limits,
        callbacks: Broker::groups(interactive),
        instance: Instance {
            provider: entry.provider.name.clone(),
            config: hide_secrets(entry.flags(), &options.config),
            user: options.user.clone(),
        },
    };
    let initialize = Call {
        method: method::INITIALIZE,
        params: serde_json::to_value(params).map_err(|e| internal(&e))?,
        deadline: options.timeouts.handshake,
        grace: Duration::ZERO,
        mutating: false,
        stop: &Stop::never(),
    };
    let result = call(link, initialize, Hands::default()).await;
    let result = result.map_err(|error| stalled(error, link, options))?;
    let said: InitializeResult = serde_json::from_value(result)
        .map_err(|e| broken(&link.provider, format!("its hello cannot be read ({e})")))?;
    agree(&said, options).map_err(|what| broken(&link.provider, what))?;
    needs(&said, options)?;
    link.greet();
    Ok(said.methods)
}

/// A plugin that never answers is told apart from one that answers badly.
fn stalled(error: KernelError, link: &Link, options: &OpenOptions<'_>) -> KernelError {
    if !error.message.contains("did not answer the cancel") {
        return error;
    }
    let limit = format_duration(options.timeouts.handshake);
    KernelError::new(
        ErrorCode::PluginFault,
        format!("the {} plugin did not say hello within {limit}", link.provider),
    )
    .hint("run again with --debug to see what it printed")
}

/// Whether the hello agrees with what was offered and with the manifest.
fn agree(said: &InitializeResult, options: &OpenOptions<'_>) -> Result<(), String> {
    let entry = &*options.entry;
    let manifest = &entry.manifest;
    if !PROTOCOLS.contains(&&*said.protocol) {
        let chosen = one_line(&said.protocol);
        return Err(format!("it chose protocol {chosen}, offered was {}", PROTOCOLS.join(", ")));
    }
    if (&said.plugin.id, &said.plugin.version) != (&manifest.id, &manifest.version) {
        return Err(format!(
            "it says it is {} {}, its manifest says {} {}",
            one_line(&said.plugin.id),
            one_line(&said.plugin.version),
            manifest.id,
            manifest.version
        ));
    }
    if said.provider.name != entry.provider.name || said.provider.kind != entry.provider.kind {
        return Err(format!(
            "it offers provider {} ({:?}), its manifest says {} ({:?})",
            one_line(&said.provider.name),
            said.provider.kind,
            entry.provider.name,
            entry.provider.kind
        ));
    }
    Ok(())
}

fn needs(said: &InitializeResult, options: &OpenOptions<'_>) -> Result<()> {
    let served = Broker::groups(options.prompt.is_some());
    let missing: Vec<_> =
        said.requires.iter().filter(|need| !served.contains(need)).map(|n| one_line(n)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(KernelError::new(
        ErrorCode::Unsupported,
        format!(
            "the {} plugin needs what this crabbox does not offer: {}",
            options.entry.provider.name,
            missing.join(", ")
        ),
    )
    .hint("update crabbox; a prompt needs a terminal"))
}

fn internal(error: &serde_json::Error) -> KernelError {
    KernelError::new(ErrorCode::Internal, "cannot encode a call").because(error)
}
