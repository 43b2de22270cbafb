//! Port forwarding, both ways.

use std::io;
use std::path::PathBuf;

use bytes::Bytes;
use russh::server::{ChannelOpenHandle, Handle, Msg};
use russh::{Channel, ChannelMsg, ChannelOpenFailure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::inflow;

/// Bytes read from a socket at once.
const CHUNK: usize = 32 * 1024;

/// `-L`: connects where the client says and passes bytes.
pub(crate) async fn connect(
    channel: Channel<Msg>,
    host: String,
    port: u32,
    reply: ChannelOpenHandle,
    folder: PathBuf,
) {
    let Ok(port) = u16::try_from(port) else {
        return reply.reject(ChannelOpenFailure::ConnectFailed).await;
    };
    match TcpStream::connect((host.as_str(), port)).await {
        Ok(socket) => {
            reply.accept().await;
            pass(channel, socket, folder).await;
        }
        Err(_) => reply.reject(ChannelOpenFailure::ConnectFailed).await,
    }
}

/// `-R`: listens inside the box and hands each connection to the client.
pub(crate) async fn listen(
    address: &str,
    port: u16,
    client: Handle,
    folder: PathBuf,
) -> io::Result<(u16, JoinHandle<()>)> {
    let host = match address {
        "" | "*" | "localhost" => "127.0.0.1",
        other => other,
    };
    let listener = TcpListener::bind((host, port)).await?;
    let bound = listener.local_addr()?.port();
    let address = address.to_owned();
    let task = tokio::spawn(async move {
        while let Ok((socket, peer)) = listener.accept().await {
            let (client, address, folder) = (client.clone(), address.clone(), folder.clone());
            tokio::spawn(async move {
                let from = (peer.ip().to_string(), u32::from(peer.port()));
                let opened = client
                    .channel_open_forwarded_tcpip(address, u32::from(bound), from.0, from.1)
                    .await;
                if let Ok(channel) = opened {
                    pass(channel, socket, folder).await;
                }
            });
        }
    });
    Ok((bound, task))
}

/// Passes bytes both ways until both ends are done. The queue between the client and the socket keeps
/// a slow socket from holding up the other channels of the connection.
async fn pass(channel: Channel<Msg>, socket: TcpStream, folder: PathBuf) {
    let (mut from_client, to_client) = channel.split();
    let (mut from_socket, mut to_socket) = socket.into_split();
    let (queue, mut queued) = inflow::queue(folder);
    let inward = async {
        while let Some(data) = queued.pop().await {
            if to_socket.write_all(&data).await.is_err() {
                break;
            }
        }
        let _ = to_socket.shutdown().await;
    };
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count @ 1..) = from_socket.read(&mut buffer).await {
            let data = Bytes::copy_from_slice(&buffer[..count]);
            if to_client.data_bytes(data).await.is_err() {
                break;
            }
        }
        let _ = to_client.eof().await;
    };
    let client = async {
        let mut queue = Some(queue);
        loop {
            match from_client.wait().await {
                Some(ChannelMsg::Data { data }) => {
                    let lost = queue.as_ref().is_some_and(|queue| queue.push(data).is_err());
                    if lost {
                        return;
                    }
                }
                Some(ChannelMsg::Eof) => queue = None,
                Some(ChannelMsg::Close) | None => return,
                Some(_) => {}
            }
        }
    };
    tokio::select! {
        _ = async { tokio::join!(inward, outward) } => {}
        () = client => {}
    }
    let _ = to_client.close().await;
}
