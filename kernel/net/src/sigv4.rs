//! AWS Signature Version 4, with the signing done by AWS's own crate.

use std::error::Error;
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{
    PayloadChecksumKind, PercentEncodingMode, SignableBody, SignableRequest, SigningParams,
    SigningSettings, UriPathNormalizationMode, sign,
};
use aws_sigv4::sign::v4;
use crabbox_schemas::error::{ErrorKind, RpcError};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::body::Payload;
use crate::vault::Secret;

/// The keys of one account.
pub(crate) struct Keys {
    pub(crate) access: Secret,
    pub(crate) secret: Secret,
    pub(crate) session: Option<Secret>,
}

impl Keys {
    /// Reads what a `credential_process` prints.
    pub(crate) fn read(document: &str) -> Option<Self> {
        let document: Value = serde_json::from_str(document).ok()?;
        let text = |name: &str| {
            let text = document.get(name)?.as_str().filter(|text| !text.is_empty())?;
            Some(Secret::new(text.to_owned()))
        };
        Some(Self {
            access: text("AccessKeyId")?,
            secret: text("SecretAccessKey")?,
            session: text("SessionToken"),
        })
    }
}

/// What a signature is about.
pub(crate) struct Scope<'a> {
    pub(crate) service: &'a str,
    pub(crate) region: &'a str,
    /// Time since 1970.
    pub(crate) now: Duration,
}

/// Adds the fields that prove who asks.
pub(crate) fn authorize(
    method: &str,
    url: &str,
    headers: &mut HeaderMap,
    payload: &Payload,
    keys: &Keys,
    scope: &Scope<'_>,
) -> Result<(), RpcError> {
    let body = match payload {
        Payload::Empty => SignableBody::Bytes(&[]),
        Payload::Bytes(bytes, _) => SignableBody::Bytes(bytes),
        Payload::File(blob) => match &blob.sha256 {
            Some(sha256) => SignableBody::Precomputed(sha256.clone()),
            None => SignableBody::UnsignedPayload,
        },
        Payload::Parts(_) => SignableBody::UnsignedPayload,
    };
    let fields: Vec<(String, String)> = headers
        .iter()
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.to_owned())))
        .collect();
    let fields = fields.iter().map(|(name, value)| (&**name, &**value));
    let signed = signature(method, url, fields, body, keys, scope)
        .map_err(|e| RpcError::of(ErrorKind::InvalidRequest, format!("cannot sign: {e}")))?;
    for (name, value) in signed {
        let invalid = || RpcError::of(ErrorKind::Internal, "a signature is no header");
        let name = HeaderName::try_from(name).map_err(|_| invalid())?;
        let mut value = HeaderValue::try_from(value).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(())
}

fn signature<'a>(
    method: &'a str,
    url: &'a str,
    headers: impl Iterator<Item = (&'a str, &'a str)>,
    body: SignableBody<'a>,
    keys: &Keys,
    scope: &Scope<'_>,
) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let session = keys.session.as_ref().map(|token| token.expose().to_owned());
    let (access, secret) = (keys.access.expose(), keys.secret.expose());
    let identity = Credentials::new(access, secret, session, None, "crabbox").into();
    let mut settings = SigningSettings::default();
    if scope.service == "s3" {
        // This one service signs paths as they are, and wants the hash of the body.
        settings.payload_checksum_kind = PayloadChecksumKind::XAmzSha256;
        settings.percent_encoding_mode = PercentEncodingMode::Single;
        settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
    }
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(scope.region)
        .name(scope.service)
        .time(UNIX_EPOCH + scope.now)
        .settings(settings)
        .build()
        .map(SigningParams::from)?;
    let request = SignableRequest::new(method, url, headers, body)?;
    let (instructions, _) = sign(request, &params)?.into_parts();
    Ok(instructions.headers().map(|(n, v)| (n.to_owned(), v.to_owned())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const EXAMPLE_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    /// 2015-08-30T12:36:00Z, the moment of every published example.
    const THEN: Duration = Duration::from_secs(1_440_938_160);

    fn signed(method: &str, url: &str, payload: &Payload, session: Option<&str>) -> HeaderMap {
        let keys = Keys {
            access: Secret::new("AKIDEXAMPLE".into()),
            secret: Secret::new(EXAMPLE_SECRET.into()),
            session: session.map(|token| Secret::new(token.into())),
        };
        let mut headers = HeaderMap::new();
        if let Some(kind) = payload.content_type() {
            headers.insert("content-type", HeaderValue::from_static(kind));
        }
        let scope = Scope { service: "service", region: "us-east-1", now: THEN };
        authorize(method, url, &mut headers, payload, &keys, &scope).unwrap();
        headers
    }

    fn ends_with(headers: &HeaderMap, signature: &str) {
        let authorization = headers["authorization"].to_str().unwrap();
        assert!(authorization.ends_with(&format!("Signature={signature}")), "{authorization}");
        assert!(
            authorization
                .contains("Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request")
        );
        assert_eq!(headers["x-amz-date"], "20150830T123600Z");
    }

    /// From the test suite AWS publishes for signers: get-vanilla, get-vanilla-query-order-key-case, post-vanilla,
    /// get-vanilla-with-session-token, post-x-www-form-urlencoded.
    #[test]
    fn requests_are_signed_as_awss_published_examples_are() {
        let url = "https://example.amazonaws.com/";
        ends_with(
            &signed("GET", url, &Payload::Empty, None),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        );
        ends_with(
            &signed("GET", &format!("{url}?Param2=value2&Param1=value1"), &Payload::Empty, None),
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        );
        ends_with(
            &signed("POST", url, &Payload::Empty, None),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        );
        let token = "6e86291e8372ff2a2260956d9b8aae1d763fbf315fa00fa31553b73ebf194267";
        ends_with(
            &signed("GET", url, &Payload::Empty, Some(token)),
            "07ec1639c89043aa0e3e2de82b96708f198cceab042d4a97044c66dd9f74e7f8",
        );
        let form = Bytes::from_static(b"Param1=value1");
        let payload = Payload::Bytes(form, "application/x-www-form-urlencoded");
        ends_with(
            &signed("POST", url, &payload, None),
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        );
    }
}
