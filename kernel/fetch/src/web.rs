//! A package at a web address, checked against the digest that was asked for.

use std::path::Path;

use crabbox_kernel::error::{KernelError, Result};
use crabbox_schemas::error::ErrorCode;
use futures_util::TryStreamExt;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest, Sha256};
use url::Url;

use crate::source::is_here;
use crate::{AGENT, CONNECT, LARGEST, LARGEST_SIGNATURE, SILENCE};
use crate::{save, signature_of, unreachable, unusable};

/// Most redirects of one request.
const HOPS: usize = 5;
/// How servers say that there is no such file; some storage services say it with 403.
const ABSENT: [StatusCode; 3] = [StatusCode::NOT_FOUND, StatusCode::GONE, StatusCode::FORBIDDEN];

pub(crate) async fn fetch(url: &Url, digest: &str, package: &Path) -> Result<()> {
    let client = Client::builder()
        .connect_timeout(CONNECT)
        .read_timeout(SILENCE)
        .redirect(Policy::custom(follow))
        .referer(false)
        .user_agent(AGENT)
        .build()
        .map_err(|e| unreachable(url.as_str(), &e))?;
    let answer = get(&client, url).await?;
    if !answer.status().is_success() {
        let error = KernelError::new(
            ErrorCode::NotFound,
            format!("{url} answered with {}", answer.status()),
        );
        return Err(error.hint("check the address"));
    }
    let mut hash = Sha256::new();
    let body = answer.bytes_stream().inspect_ok(|chunk| hash.update(chunk));
    save(body, url.as_str(), LARGEST, package).await?;
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    let came = format!("sha256:{hex}");
    if came != digest {
        return Err(unusable(url.as_str(), format!("it has the digest {came}, not {digest}")));
    }
    let mut beside = url.clone();
    beside.set_path(&format!("{}.minisig", url.path()));
    let answer = get(&client, &beside).await?;
    match answer.status() {
        status if status.is_success() => {
            let to = signature_of(package);
            save(answer.bytes_stream(), beside.as_str(), LARGEST_SIGNATURE, &to).await
        }
        status if ABSENT.contains(&status) => Ok(()),
        status => Err(unusable(beside.as_str(), format!("the server answered with {status}"))),
    }
}

/// A redirect may lead anywhere that is encrypted: the digest decides.
fn follow(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let from_here = attempt.previous().iter().all(is_here);
    match attempt.url().scheme() {
        _ if attempt.previous().len() > HOPS => attempt.error("too many redirects"),
        "https" => attempt.follow(),
        "http" if from_here && is_here(attempt.url()) => attempt.follow(),
        _ => attempt.error("a redirect leads to a place that is not encrypted"),
    }
}

async fn get(client: &Client, url: &Url) -> Result<Response> {
    client.get(url.clone()).send().await.map_err(|e| unreachable(url.as_str(), &e))
}
