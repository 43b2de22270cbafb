//! Turns an answer into what a plugin gets of it: bounded, tokens cut out, secrets taken out.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{Capture, HttpParams, HttpResult};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::net::Net;
use crate::origin::{Origin, Pattern};
use crate::redact::{RedactStream, Redactor};
use crate::send::{Gate, Landed};

/// Header fields that stay here.
const KEPT: &[&str] = &["set-cookie", "set-cookie2"];
/// Most bytes of all header fields that are passed on.
const MOST_HEADERS: usize = 64 * 1024;

impl Net {
    /// Reads a small answer whole.
    pub(crate) async fn digest(
        &self,
        params: &HttpParams,
        landed: Landed,
        most: usize,
        gate: &Gate<'_>,
    ) -> Result<HttpResult, RpcError> {
        let status = landed.response.status();
        let headers = landed.response.headers().clone();
        let body = landed.whole(most, gate.deadline, self).await?;
        let json = match !params.capture.is_empty() || is_json(&headers) {
            true => serde_json::from_slice::<Value>(&body).ok(),
            false => None,
        };
        let mut result = HttpResult { status: status.as_u16(), ..HttpResult::default() };
        match json {
            Some(mut document) => {
                for capture in &params.capture {
                    self.cut(&mut document, capture, &params.url)?;
                }
                self.vault.redactor().json(&mut document);
                result.json = Some(document);
            }
            None if !params.capture.is_empty() && status.is_success() => {
                return Err(RpcError::of(
                    ErrorKind::Internal,
                    "the answer to capture from is not JSON",
                ));
            }
            None => match String::from_utf8(body.into()) {
                Ok(text) => result.text = Some(self.vault.redactor().text(&text).into_owned()),
                Err(bytes) => {
                    let clean = self.vault.redactor().bytes(bytes.into_bytes());
                    result.b64 = Some(STANDARD.encode(clean));
                }
            },
        }
        result.headers = passed_on(&headers, &self.vault.redactor());
        Ok(result)
    }

    /// Reads a large answer into a new blob.
    pub(crate) async fn store(
        &self,
        mut landed: Landed,
        most: u64,
        gate: &Gate<'_>,
    ) -> Result<HttpResult, RpcError> {
        let redactor = self.vault.redactor();
        let status = landed.response.status().as_u16();
        let headers = passed_on(landed.response.headers(), &redactor);
        let name = gate.blobs.create()?;
        let (mut stream, mut read) = (RedactStream::default(), 0);
        let written = async {
            while let Some(piece) = landed.piece(gate.deadline, self).await? {
                read += piece.len() as u64;
                if read > most {
                    let message = format!("the answer is larger than {most} bytes");
                    return Err(RpcError::of(ErrorKind::Quota, message));
                }
                gate.blobs.write(&name, &stream.feed(&redactor, &piece))?;
            }
            gate.blobs.write(&name, &stream.end(&redactor))?;
            gate.blobs.seal(&name).await
        };
        let written = written.await;
        if let Err(error) = written {
            gate.blobs.remove(&name);
            return Err(error);
        }
        Ok(HttpResult { status, headers, blob: Some(name), ..HttpResult::default() })
    }

    /// Puts a handle where a token stood.
    fn cut(&self, document: &mut Value, capture: &Capture, asked: &str) -> Result<(), RpcError> {
        let Some(place) = document.pointer_mut(&capture.pointer) else { return Ok(()) };
        let Value::String(token) = place else { return Ok(()) };
        let invalid = |what: String| RpcError::of(ErrorKind::InvalidRequest, what);
        let to = match &capture.to[..] {
            [] => {
                let url = url::Url::parse(asked).map_err(|e| invalid(e.to_string()))?;
                Origin::of(&url).map(Pattern::exactly).into_iter().collect()
            }
            origins => origins
                .iter()
                .map(|o| Pattern::parse(o))
                .collect::<Result<_, _>>()
                .map_err(invalid)?,
        };
        let ttl = capture.ttl_ms.map(Duration::from_millis);
        let handle = self.vault.capture(std::mem::take(token), to, ttl);
        *place = json!({ "$secret": handle });
        Ok(())
    }
}

/// Header fields as a plugin sees them.
pub(crate) fn passed_on(headers: &HeaderMap, redactor: &Redactor) -> BTreeMap<String, String> {
    let (mut out, mut size) = (BTreeMap::<String, String>::new(), 0);
    for (name, value) in headers {
        size += name.as_str().len() + value.len();
        if KEPT.contains(&name.as_str()) || size > MOST_HEADERS {
            continue;
        }
        let value = String::from_utf8_lossy(value.as_bytes());
        let value = redactor.text(&value);
        out.entry(name.as_str().to_owned())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    out
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json"
        || kind.ends_with("+json")
        || kind.starts_with("application/x-amz-json-")
}
