//! TLS: servers prove who they are, by the system's certificates or one the test brings.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_net::Lookup;
use crabbox_schemas::error::ErrorKind;
use crabbox_schemas::plugin::{HttpAuth, HttpParams, WsOpenParams};
use futures_util::{SinkExt, StreamExt};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::server::{json, serve};
use crate::stage::{Setup, Stage};

/// What a server for `api.example.dev` proves itself with, and the certificate of the authority that vouches for it.
fn proof() -> (TlsAcceptor, Vec<u8>) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(vec![]).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["api.example.dev".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), root.der().to_vec())
}

async fn server() -> (u16, Vec<u8>) {
    let (acceptor, root) = proof();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, &Mutex::default(), &|_| json(200, r#"{"ok":true}"#)).await;
                }
            });
        }
    });
    (port, root)
}

fn here() -> Option<Lookup> {
    Some(Arc::new(|_| Box::pin(std::future::ready(Ok(vec!["127.0.0.1".parse().unwrap()])))))
}

#[tokio::test]
async fn a_server_is_believed_when_a_trusted_authority_vouches_for_its_name_and_not_otherwise() {
    let (port, root) = server().await;
    let url = format!("https://api.example.dev:{port}/");
    let own = vec![url.clone()];
    let stage = Stage::new(Setup {
        own: own.clone(),
        roots: vec![root.clone()],
        lookup: here(),
        ..Setup::default()
    });
    assert_eq!(stage.get(&url).await.unwrap().status, 200);
    let stranger = Stage::new(Setup { own, lookup: here(), ..Setup::default() });
    let (kind, told) = stranger.refused(HttpParams::new("GET", &url)).await;
    assert_eq!(kind, ErrorKind::Transient);
    assert!(
        told.contains("CA certificates") && told.contains("\"outcome\":\"not-started\""),
        "{told}"
    );
    let other = format!("https://other.example.dev:{port}/");
    let stage = Stage::new(Setup {
        own: vec![other.clone()],
        roots: vec![root],
        lookup: here(),
        ..Setup::default()
    });
    let (_, told) = stage.refused(HttpParams::new("GET", &other)).await;
    assert!(told.contains("CA certificates"), "{told}");
}

#[tokio::test]
async fn a_websocket_over_tls_proves_itself_the_same_way() {
    let (acceptor, root) = proof();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let mut socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                if !message.is_text() || socket.send(message).await.is_err() {
                    break;
                }
            }
        }
    });
    let own = vec![format!("https://api.example.dev:{port}/")];
    let params = WsOpenParams {
        call: 0,
        url: format!("wss://api.example.dev:{port}/logs"),
        headers: Default::default(),
        auth: Some(HttpAuth::Bearer("token".into())),
        protocols: vec![],
        timeout_ms: None,
    };
    let stranger = Stage::new(Setup { own: own.clone(), lookup: here(), ..Setup::default() });
    assert!(stranger.net.websocket(params.clone(), &stranger.blobs).await.is_err());
    let stage = Stage::new(Setup { own, roots: vec![root], lookup: here(), ..Setup::default() });
    let (socket, _) = stage.net.websocket(params, &stage.blobs).await.unwrap();
    socket.send(Some("hello".into()), None).await.unwrap();
    assert_eq!(socket.recv(Duration::from_secs(10)).await.text.as_deref(), Some("hello"));
}
