//! As much of HTTP/1.1 as clients of an API speak.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

/// Most bytes of a body.
const BODY: usize = 1 << 20;

pub(crate) struct Request {
    pub(crate) method: String,
    /// Without `/v1`, which proxies leave out.
    pub(crate) path: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) token: String,
    pub(crate) text: String,
    pub(crate) body: Value,
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Value>,
    /// The work is done and nobody hears of it.
    pub(crate) lost: bool,
}

impl Reply {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self { status, headers: Vec::new(), body: Some(body), lost: false }
    }

    pub(crate) fn nothing() -> Self {
        Self { status: 204, headers: Vec::new(), body: None, lost: false }
    }
}

/// Answers one connection until it ends.
pub(crate) fn serve(stream: &TcpStream, answer: impl Fn(&Request) -> Reply) {
    let mut reader = BufReader::new(stream);
    while let Some(request) = read(&mut reader) {
        let reply = answer(&request);
        if reply.lost || write(stream, &reply).is_err() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let (method, rest) = line.split_once(' ')?;
    let target = rest.split(' ').next()?.to_owned();
    let method = method.to_owned();
    let (mut length, mut token) = (0, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
        let Some((name, value)) = header.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().ok().filter(|n| *n <= BODY)?,
            "authorization" => value.trim().trim_start_matches("Bearer ").clone_into(&mut token),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let text = String::from_utf8(body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    Some(Request {
        method,
        path: path.strip_prefix("/v1").unwrap_or(path).to_owned(),
        query: query.map(|(name, value)| (decode(name), decode(value))).collect(),
        token,
        body: serde_json::from_str(&text).unwrap_or_default(),
        text,
    })
}

#[expect(clippy::disallowed_methods, reason = "a service has a clock of its own")]
fn write(mut stream: &TcpStream, reply: &Reply) -> std::io::Result<()> {
    let body = reply.body.as_ref().map(Value::to_string).unwrap_or_default();
    let now = httpdate::fmt_http_date(std::time::SystemTime::now());
    let mut head = format!(
        "HTTP/1.1 {} Answer\r\ndate: {now}\r\ncontent-length: {}\r\n",
        reply.status,
        body.len()
    );
    if reply.body.is_some() {
        head.push_str("content-type: application/json\r\n");
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n{body}").as_bytes())
}

fn decode(text: &str) -> String {
    let bytes = text.replace('+', " ").into_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
