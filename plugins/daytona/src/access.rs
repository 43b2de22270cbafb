//! Shells over SSH: a token that lasts a while is the user name at Daytona's gateway. It is never seen here.

use crabbox_plugin_sdk::sandbox::{own, standing};
use crabbox_plugin_sdk::{AccessParams, AccessResult, Failure, Repeat, SshEndpoint};

use crate::api::Api;
use crate::sandboxes::path;

/// Asks for a token, which the host keeps for the gateway.
pub(crate) fn grant(api: Api<'_>, params: &AccessParams) -> Result<AccessResult, Failure> {
    let (config, lease) = (api.config, &params.lease);
    let sandbox = api.wake(standing(&api, lease)?, &lease.lease_id)?;
    let url = format!("{}/ssh-access", path(&sandbox.id));
    let gateway = format!("https://{}", config.ssh_gateway_host);
    let origins = [gateway.as_str(), api.origin()];
    let reply = api.ask("POST", &url, Repeat::Safe, |request| {
        let request = request.query("expiresInMinutes", config.ssh_access_minutes);
        request.json(&serde_json::json!({})).capture_for("/token", origins)
    })?;
    let command = reply.value().and_then(|answer| answer["sshCommand"].as_str());
    let (host, port) = place(command.unwrap_or_default(), &config.ssh_gateway_host)?;
    let user = reply
        .captured("/token")
        .map(str::to_owned)
        .ok_or_else(|| Failure::transient("Daytona granted access over SSH and named no token"))?;
    let ssh = SshEndpoint { user, user_secret: true, host, port, ..SshEndpoint::default() };
    Ok(AccessResult { ssh, expires_in_ms: u64::from(config.ssh_access_minutes) * 60_000 })
}

/// Ends this access to a sandbox, or all of it.
pub(crate) fn revoke(api: Api<'_>, params: &AccessParams) -> Result<(), Failure> {
    let lease = &params.lease;
    let Some(sandbox) = own(&api, &lease.cloud_id, &lease.lease_id)? else { return Ok(()) };
    let url = format!("{}/ssh-access", path(&sandbox.id));
    let user = params.user.as_deref();
    api.ask("DELETE", &url, Repeat::Safe, |request| match user {
        Some(token) => request.query_secret("token", token),
        None => request,
    })
    .map(drop)
}

/// Host and port of `ssh [-p PORT] USER@HOST`. Another host than the gateway that the user named gets no token.
fn place(command: &str, gateway: &str) -> Result<(String, u16), Failure> {
    let strange = || Failure::transient("Daytona names no SSH address that can be understood");
    let mut words = command.split_whitespace().skip_while(|word| *word == "ssh");
    let (mut port, mut host) = (22, gateway);
    while let Some(word) = words.next() {
        match word {
            "-p" => port = words.next().and_then(|port| port.parse().ok()).ok_or_else(strange)?,
            _ if word.starts_with('-') => return Err(strange()),
            address => host = address.rsplit_once('@').ok_or_else(strange)?.1,
        }
    }
    if host != gateway {
        let what = format!("Daytona's SSH gateway is {host}, not {gateway}");
        return Err(Failure::precondition(what).hint(format!(
            "set daytona.sshGatewayHost to {host}, if you trust it with your boxes"
        )));
    }
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_taken_from_the_command_and_only_for_the_users_gateway() {
        let place = |command: &str| place(command, "ssh.app.daytona.io").ok();
        let here = |port| Some(("ssh.app.daytona.io".to_owned(), port));
        assert_eq!(place("ssh [redacted]@ssh.app.daytona.io"), here(22));
        assert_eq!(place("ssh -p 2222 x@ssh.app.daytona.io"), here(2222));
        assert_eq!(place(""), here(22));
        for other in [
            "ssh x@evil.test",
            "ssh -o ProxyCommand=x x@ssh.app.daytona.io",
            "ssh -p no x@y",
            "ssh host",
        ] {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
