//! A web service that echoes and redirects, and a port nobody may ever reach.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Serves until the tests end.
pub(crate) struct Service {
    /// Where it is.
    pub(crate) url: String,
    /// Where nobody may go.
    pub(crate) elsewhere: String,
    strayed: Arc<AtomicUsize>,
}

impl Service {
    pub(crate) fn start() -> Self {
        let (url, served) = listen();
        std::thread::spawn(move || {
            for stream in served.incoming().flatten() {
                std::thread::spawn(move || answer(stream));
            }
        });
        let (elsewhere, forbidden) = listen();
        let strayed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&strayed);
        std::thread::spawn(move || {
            for _ in forbidden.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        Self { url, elsewhere, strayed }
    }

    /// How many came where nobody may go.
    pub(crate) fn strayed(&self) -> usize {
        self.strayed.load(Ordering::SeqCst)
    }
}

fn listen() -> (String, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (format!("http://{}", listener.local_addr().unwrap()), listener)
}

/// `/to?URL` and `/again` redirect, everything else sends back what came.
fn answer(mut stream: TcpStream) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 2)?;
        head.push_str(&line);
        if let Some((_, value)) = line.to_lowercase().split_once("content-length: ") {
            length = value.trim().parse().ok()?;
        }
        if reader.buffer().starts_with(b"\r\n") {
            reader.consume(2);
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = head.split(' ').nth(1)?;
    let to = if path == "/again" { Some(path) } else { path.strip_prefix("/to?") };
    let text = format!("{head}{}", String::from_utf8_lossy(&body));
    let start = match to {
        Some(to) => format!("307 Temporary Redirect\r\nlocation: {to}"),
        None => "200 OK".to_owned(),
    };
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 {start}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{text}"
    )
    .ok()
}
