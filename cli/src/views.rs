//! Leases as documents: what `status`, `inspect`, `list` and `warmup --json` print.

use std::path::Path;
use std::time::Duration;

use crabbox_kernel::lease::network::Inside;
use crabbox_kernel::ports::Clock;
use crabbox_kernel::state::write_atomic;
use crabbox_kernel::time::{format_duration, parse_instant, rfc3339};
use crabbox_schemas::SCHEMA_VERSION;
use crabbox_schemas::claim::Claim;
use crabbox_schemas::helper::BoxStat;
use crabbox_schemas::lease::{Lease, SshAuth, SshEndpoint};
use crabbox_schemas::view::{ListEntry, StatusView, TailscaleView, Telemetry};

use crate::context::Context;

/// A lease as `status --json` shows it. `ready` is left to whoever looked.
pub(crate) fn status(
    ctx: &Context,
    lease: &Lease,
    provider: &str,
    claim: Option<&Claim>,
) -> StatusView {
    let label = |name: &str| lease.labels.get(name).cloned().unwrap_or_default();
    let instant = |name: &str| parse_instant(&label(name)).map(rfc3339).unwrap_or_default();
    let ssh = lease.ssh.clone().unwrap_or_default();
    let touched = parse_instant(&label("last_touched_at"));
    let idle = touched.map(|at| Duration::from_secs(ctx.clock.now_ms().saturating_sub(at) / 1000));
    let limit = label("idle_timeout_secs").parse().ok().or(claim.map(|c| c.idle_timeout_seconds));
    let inside = Inside::of(&ctx.state, lease);
    let made_inside = label("tailscale") == "true" || inside.address.is_some();
    let dialled_inside = ctx.network().host(&ctx.state, lease).is_ok_and(|host| host.is_some());
    StatusView {
        schema_version: SCHEMA_VERSION,
        id: lease.lease_id.to_string(),
        slug: lease.slug.clone(),
        provider: provider.to_owned(),
        target: if label("target").is_empty() { "linux".to_owned() } else { label("target") },
        state: lease.status.clone(),
        server_id: lease.cloud_id.clone(),
        server_type: lease.server_type.clone(),
        host: ssh.host.clone(),
        has_host: !ssh.host.is_empty(),
        ssh_host: ssh.host,
        ssh_user: if ssh.user_secret { "<redacted>".to_owned() } else { ssh.user },
        ssh_port: if ssh.port == 0 { String::new() } else { ssh.port.to_string() },
        ssh_fallback_ports: ssh.fallback_ports.iter().map(u16::to_string).collect(),
        ssh_key: key_of(ctx, lease),
        last_touched_at: instant("last_touched_at"),
        idle_for: idle.map(format_duration).unwrap_or_default(),
        idle_timeout: limit
            .map(|secs| format_duration(Duration::from_secs(secs)))
            .unwrap_or_default(),
        expires_at: instant("expires_at"),
        labels: lease.labels.clone(),
        ready: false,
        work_root: lease.work_root.clone().unwrap_or_default(),
        network: if dialled_inside { "tailscale" } else { "public" }.to_owned(),
        tailscale: made_inside.then(|| TailscaleView {
            enabled: true,
            ipv4: inside.address.map(|address| address.to_string()),
            dialled: inside.dialled,
        }),
        transport: None,
        helper: None,
        telemetry: None,
        ssh_command: None,
        claim: None,
    }
}

/// The private key file for a lease, empty when the user's own SSH setup decides.
pub(crate) fn key_of(ctx: &Context, lease: &Lease) -> String {
    match lease.ssh.as_ref().map(|ssh| (ssh.auth, ssh.key_file.clone())) {
        Some((SshAuth::KernelKey, _)) => {
            ctx.state.keys(&lease.lease_id).join("id_ed25519").to_string_lossy().into_owned()
        }
        Some((SshAuth::KeyFile, Some(file))) => file,
        _ => String::new(),
    }
}

/// What a box's helper says of it, as documents show it.
pub(crate) fn telemetry(stat: &BoxStat, now_ms: u64) -> Telemetry {
    let percent = |used: u64, total: u64| match total {
        0 => 0.0,
        total => (used as f64 * 1000.0 / total as f64).round() / 10.0,
    };
    let memory = stat.memory_bytes.saturating_sub(stat.memory_free_bytes);
    let disk = stat.disk_bytes.saturating_sub(stat.disk_free_bytes);
    Telemetry {
        captured_at: rfc3339(now_ms),
        source: "helper".to_owned(),
        load1: stat.load[0],
        load5: stat.load[1],
        load15: stat.load[2],
        memory_used_bytes: memory,
        memory_total_bytes: stat.memory_bytes,
        memory_percent: percent(memory, stat.memory_bytes),
        disk_used_bytes: disk,
        disk_total_bytes: stat.disk_bytes,
        disk_percent: percent(disk, stat.disk_bytes),
        uptime_seconds: stat.uptime_secs,
    }
}

/// A lease as `list --json` shows it.
pub(crate) fn entry(lease: &Lease, provider: &str, claimed: bool) -> ListEntry {
    ListEntry {
        schema_version: SCHEMA_VERSION,
        id: lease.lease_id.to_string(),
        slug: lease.slug.clone(),
        name: lease.name.clone(),
        status: lease.status.clone(),
        provider: provider.to_owned(),
        cloud_id: lease.cloud_id.clone(),
        cloud_id_compat: lease.cloud_id.clone(),
        provider_compat: provider.to_owned(),
        server_type: lease.server_type.clone(),
        host: lease.ssh.as_ref().map(|s| s.host.clone()).unwrap_or_default(),
        labels: lease.labels.clone(),
        orphan: !claimed,
    }
}

/// An OpenSSH command line that reaches a lease.
pub(crate) fn ssh_command(ctx: &Context, lease: &Lease, show_secret: bool) -> String {
    let Some(ssh) = &mut lease.ssh.clone() else { return String::new() };
    if let Ok(Some(host)) = ctx.network().host(&ctx.state, lease) {
        ssh.host = host;
    }
    let mut words = vec!["ssh".to_owned()];
    let known = ctx.state.keys(&lease.lease_id).join("known_hosts");
    if ssh.auth == SshAuth::KernelKey {
        words.extend([
            "-i".to_owned(),
            key_of(ctx, lease),
            "-o".to_owned(),
            "IdentitiesOnly=yes".to_owned(),
        ]);
        words.extend(["-o".to_owned(), format!("UserKnownHostsFile={}", known.display())]);
        let strict = if pinned(&known, ssh) { "yes" } else { "accept-new" };
        words.extend(["-o".to_owned(), format!("StrictHostKeyChecking={strict}")]);
    } else {
        if let Some(key) = &ssh.key_file {
            words.extend(["-i".to_owned(), key.clone()]);
        }
        if known.is_file() {
            let files = format!("UserKnownHostsFile=\"{}\" ~/.ssh/known_hosts", known.display());
            words.extend(["-o".to_owned(), files]);
        }
    }
    if ssh.port != 0 {
        words.extend(["-p".to_owned(), ssh.port.to_string()]);
    }
    let user = if ssh.user_secret && !show_secret { "<redacted>" } else { &ssh.user };
    words.push(if user.is_empty() { ssh.host.clone() } else { format!("{user}@{}", ssh.host) });
    crabbox_kernel::shell::join(&words)
}

/// Whether OpenSSH knows what host keys to expect: the provider announced them and they are written down, or
/// an earlier connection did so.
fn pinned(known_hosts: &Path, ssh: &SshEndpoint) -> bool {
    if ssh.host_keys.is_empty() {
        return known_hosts.is_file();
    }
    let ports = std::iter::once(&ssh.port).chain(&ssh.fallback_ports);
    let names: Vec<String> = ports
        .map(|port| match port {
            0 | 22 => ssh.host.clone(),
            port => format!("[{}]:{port}", ssh.host),
        })
        .collect();
    let names = names.join(",");
    let keys = ssh.host_keys.iter().filter(|key| !key.contains('\n'));
    let lines: String = keys.map(|key| format!("{names} {key}\n")).collect();
    write_atomic(known_hosts, lines.as_bytes()).is_ok()
}
