//! What a request sends: made anew for each origin, since secrets in it are bound to theirs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{HttpBody, Part};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::multipart;
use serde_json::Value;

use crate::blob::{Blobs, Sealed};
use crate::origin::Origin;
use crate::vault::Vault;

/// What `application/x-www-form-urlencoded` leaves as it is; everything else may be escaped.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'*');
/// How deep a JSON body is searched for secrets; frames are no deeper.
const DEPTH: usize = 64;

/// A body that is ready to go.
pub(crate) enum Payload {
    Empty,
    Bytes(Bytes, &'static str),
    File(Sealed),
    Parts(Vec<(Part, Option<Sealed>)>),
}

impl Payload {
    /// Puts secrets and blobs where they belong.
    pub(crate) async fn new(
        body: Option<&HttpBody>,
        origin: &Origin,
        vault: &Vault,
        blobs: &Blobs,
    ) -> Result<Self, RpcError> {
        Ok(match body {
            None => Self::Empty,
            Some(HttpBody::Text(text)) => {
                Self::Bytes(text.clone().into(), "text/plain; charset=utf-8")
            }
            Some(HttpBody::B64(b64)) => {
                let bytes = STANDARD.decode(b64).map_err(|_| invalid("b64 is not base64"))?;
                Self::Bytes(bytes.into(), "application/octet-stream")
            }
            Some(HttpBody::Json(value)) => {
                let mut value = value.clone();
                fill(&mut value, origin, vault, DEPTH).await?;
                Self::Bytes(value.to_string().into(), "application/json")
            }
            Some(HttpBody::Form(fields)) => {
                let mut pairs = Vec::new();
                for (name, value) in fields {
                    let value = vault.fill(value, origin).await?;
                    pairs.push(pair(name, value.expose()));
                }
                Self::Bytes(pairs.join("&").into(), "application/x-www-form-urlencoded")
            }
            Some(HttpBody::Blob(name)) => Self::File(blobs.sealed(name)?),
            Some(HttpBody::Multipart(parts)) => Self::Parts(
                parts
                    .iter()
                    .map(|part| {
                        if part.text.is_some() == part.blob.is_some() {
                            return Err(invalid("a part has exactly one of text and blob"));
                        }
                        let blob = part.blob.as_deref().map(|name| blobs.sealed(name));
                        Ok((part.clone(), blob.transpose()?))
                    })
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    /// The media type to send when the plugin names none.
    pub(crate) fn content_type(&self) -> Option<&'static str> {
        match self {
            Self::Empty | Self::Parts(_) => None,
            Self::Bytes(_, kind) => Some(kind),
            Self::File(_) => Some("application/octet-stream"),
        }
    }

    /// Hands the body to a request.
    pub(crate) async fn attach(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::RequestBuilder, RpcError> {
        Ok(match self {
            Self::Empty => request,
            Self::Bytes(bytes, _) => request.body(bytes.clone()),
            Self::File(blob) => request
                .header(http::header::CONTENT_LENGTH, blob.size)
                .body(reqwest::Body::from(open(blob).await?)),
            Self::Parts(parts) => {
                let mut form = multipart::Form::new();
                for (part, blob) in parts {
                    form = form.part(part.name.clone(), one(part, blob.as_ref()).await?);
                }
                request.multipart(form)
            }
        })
    }
}

async fn one(part: &Part, blob: Option<&Sealed>) -> Result<multipart::Part, RpcError> {
    let mut made = match blob {
        Some(blob) => multipart::Part::stream_with_length(open(blob).await?, blob.size),
        None => multipart::Part::text(part.text.clone().unwrap_or_default()),
    };
    if let Some(name) = &part.file_name {
        made = made.file_name(name.clone());
    }
    match &part.content_type {
        Some(kind) => made.mime_str(kind).map_err(|_| invalid("contentType is no media type")),
        None => Ok(made),
    }
}

async fn open(blob: &Sealed) -> Result<tokio::fs::File, RpcError> {
    crate::blob::open_plain(&blob.path)
        .map(tokio::fs::File::from_std)
        .map_err(|e| RpcError::of(ErrorKind::Internal, format!("cannot read a blob: {e}")))
}

/// `name=value` of a form.
pub(crate) fn pair(name: &str, value: &str) -> String {
    format!("{}={}", utf8_percent_encode(name, FORM), utf8_percent_encode(value, FORM))
}

/// Replaces every `{"$secret": handle}` by the secret's text.
async fn fill(
    value: &mut Value,
    origin: &Origin,
    vault: &Vault,
    depth: usize,
) -> Result<(), RpcError> {
    if depth == 0 {
        return Err(invalid("a body is nested too deep"));
    }
    match value {
        Value::Object(members) => {
            let handle = members.get("$secret").and_then(Value::as_str);
            if let (1, Some(handle)) = (members.len(), handle) {
                let secret = vault.inject(handle, origin).await?;
                *value = Value::from(secret.expose());
                return Ok(());
            }
            for member in members.values_mut() {
                Box::pin(fill(member, origin, vault, depth - 1)).await?;
            }
        }
        Value::Array(items) => {
            for item in items {
                Box::pin(fill(item, origin, vault, depth - 1)).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn invalid(message: &str) -> RpcError {
    RpcError::of(ErrorKind::InvalidRequest, message)
}
