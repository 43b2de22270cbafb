//! A package in an OCI registry: an artifact whose layers are the package and, perhaps, its signature.
//!
//! The library checks every blob against its digest in the manifest (OCI Distribution Specification 1.1).

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use docker_credential::DockerCredential;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{OciDescriptor, OciManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use url::Url;

use crate::source::is_here;
use crate::{AGENT, CONNECT, LARGEST, LARGEST_SIGNATURE, SILENCE};
use crate::{save, signature_of, unreachable, unusable};

/// The layer that is the package.
const PACKAGE: &str = "application/vnd.crabbox.plugin.v1.tar+zstd";
/// The layer that is its minisign signature.
const SIGNATURE: &str = "application/vnd.crabbox.plugin.signature.v1";

pub(crate) async fn fetch(reference: &Reference, package: &Path) -> Result<()> {
    let what = format!("oci://{reference}");
    let client = Client::try_from(config(reference)).map_err(|e| failed(&what, &e))?;
    let auth = login(reference);
    let (manifest, _) =
        client.pull_manifest(reference, &auth).await.map_err(|e| failed(&what, &e))?;
    let OciManifest::Image(manifest) = manifest else {
        return Err(unusable(&what, "it is an index of several; name one of them by its digest"));
    };
    let of = |kind: &str| manifest.layers.iter().find(|layer| layer.media_type == kind);
    let layer =
        of(PACKAGE).ok_or_else(|| unusable(&what, format!("none of its layers is a {PACKAGE}")))?;
    pull(&client, reference, layer, LARGEST, package).await?;
    match of(SIGNATURE) {
        Some(layer) => {
            pull(&client, reference, layer, LARGEST_SIGNATURE, &signature_of(package)).await
        }
        None => Ok(()),
    }
}

fn config(reference: &Reference) -> ClientConfig {
    let registry = reference.resolve_registry().to_owned();
    let here = Url::parse(&format!("http://{registry}")).is_ok_and(|url| is_here(&url));
    let protocol = match here {
        true => ClientProtocol::HttpsExcept(vec![registry]),
        false => ClientProtocol::Https,
    };
    ClientConfig {
        protocol,
        connect_timeout: Some(CONNECT),
        read_timeout: Some(SILENCE),
        user_agent: AGENT,
        ..ClientConfig::default()
    }
}

/// What `docker login` or `podman login` left for this registry; nobody without.
fn login(reference: &Reference) -> RegistryAuth {
    let registry = reference.resolve_registry();
    let known = docker_credential::get_credential(registry)
        .or_else(|_| docker_credential::get_podman_credential(registry));
    match known {
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            RegistryAuth::Basic(user, password)
        }
        Ok(DockerCredential::IdentityToken(token)) => RegistryAuth::Bearer(token),
        Err(_) => RegistryAuth::Anonymous,
    }
}

/// Gets one layer, checked against its digest.
async fn pull(
    client: &Client,
    reference: &Reference,
    layer: &OciDescriptor,
    most: u64,
    to: &Path,
) -> Result<()> {
    let what = format!("oci://{reference}");
    let blob = client.pull_blob_stream(reference, layer).await.map_err(|e| failed(&what, &e))?;
    save(blob, &what, most, to).await
}

fn failed(what: &str, error: &OciDistributionError) -> KernelError {
    use OciDistributionError as E;
    let of = |code, text: &str, hint: &str| {
        KernelError::new(code, format!("{what}: {text}")).because(error).hint(hint)
    };
    match error {
        E::AuthenticationFailure(_) | E::UnauthorizedError { .. } => of(
            ErrorCode::Auth,
            "the registry wants to know who asks",
            "log in with `docker login` or `podman login`",
        ),
        E::ImageManifestNotFoundError(_) => absent(what, error),
        E::RegistryError { envelope, .. } => match envelope.errors.first().map(|e| &e.code) {
            Some(OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown) => absent(what, error),
            Some(OciErrorCode::Denied) => of(
                ErrorCode::Permission,
                "the registry refuses",
                "ask its owner for the right to pull",
            ),
            _ => unreachable(what, error),
        },
        E::DigestError(_) => unusable(what, error),
        _ => unreachable(what, error),
    }
}

fn absent(what: &str, error: &OciDistributionError) -> KernelError {
    KernelError::new(ErrorCode::NotFound, format!("there is no {what}"))
        .because(error)
        .hint("check the name and the tag")
}
