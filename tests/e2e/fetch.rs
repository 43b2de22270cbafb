//! Plugins from elsewhere: a web address with a digest, and a real OCI registry, both on this machine.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crabbox_tests::{Ended, Room, Running, eventually};
use sha2::{Digest, Sha256};

const SOON: Duration = Duration::from_secs(20);

fn run(room: &Room, words: &[&str]) -> Ended {
    room.crabbox(room.path(), words.iter().copied()).run()
}

/// A package of a template, and its digest.
fn package(room: &Room) -> (PathBuf, String) {
    let folder = room.template("python", "rack");
    let path = room.at("rack.cbxplugin");
    let words =
        ["plugin", "pack", "--json", "-o", path.to_str().unwrap(), folder.to_str().unwrap()];
    let packed = run(room, &words).expect(0).json();
    (path, packed["digest"].as_str().unwrap().to_owned())
}

/// Installs and agrees as the refusal says; the text of the whole conversation.
fn install(room: &Room, words: &[&str]) -> Ended {
    let refused = run(room, &[&["plugin", "install", "--json"], words].concat()).expect(2);
    let hint = refused.json()["error"]["hint"].as_str().unwrap().to_owned();
    let agreed = hint.strip_prefix("to agree: crabbox ").unwrap();
    run(room, &agreed.split(' ').collect::<Vec<_>>()).expect(0)
}

fn works(room: &Room) {
    let repo = room.repo("app");
    let words = ["run", "-q", "--provider", "rack", "--", "cat", "hello.txt"];
    assert_eq!(room.crabbox(&repo, words).run().expect(0).out(), "hello\n");
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn listens(port: u16) {
    eventually("a server listens", SOON, || {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
    });
}

/// Serves a folder of the room.
fn web(room: &Room, folder: &Path) -> (Running, String) {
    let port = free_port();
    let words =
        ["-m", "http.server", "--bind", "127.0.0.1", "--directory", folder.to_str().unwrap()];
    let server = room.call("python3").args(words).arg(port.to_string()).start();
    listens(port);
    (server, format!("http://127.0.0.1:{port}"))
}

#[test]
fn a_web_address_gives_the_bytes_that_were_asked_for_or_nothing() {
    let room = Room::new();
    let (path, digest) = package(&room);
    let www = room.at("www");
    fs::create_dir(&www).unwrap();
    fs::copy(&path, www.join("rack.cbxplugin")).unwrap();
    let (_server, address) = web(&room, &www);
    let url = format!("{address}/rack.cbxplugin");
    let unsaid = run(&room, &["plugin", "install", &url]).expect(2);
    let _ = unsaid.says(&["nothing says which bytes", "--digest sha256:"]);
    let other = format!("sha256:{}", "0".repeat(64));
    let wrong = run(&room, &["plugin", "install", &url, "--digest", &other]).expect(2);
    let _ = wrong.says(&["it has the digest", &digest]);
    let gone = run(&room, &["plugin", "install", &format!("{url}x"), "--digest", &digest]);
    assert!(gone.code != 0 && gone.err().contains("404"), "{gone}");
    let _ = install(&room, &[&url, "--digest", &digest]);
    works(&room);
    let info = run(&room, &["plugin", "info", "rack", "--json"]).expect(0).json();
    assert_eq!(info["source"], format!("{url}#{digest}"));
    let fixed = run(&room, &["plugin", "update", "example.dev/rack"]);
    assert!(fixed.code != 0 && fixed.err().contains("never changes"), "{fixed}");
}

#[test]
fn what_has_the_digest_but_is_no_package_installs_nothing() {
    let room = Room::new();
    let www = room.at("www");
    fs::create_dir(&www).unwrap();
    fs::write(www.join("page.cbxplugin"), "<html>").unwrap();
    let (_server, address) = web(&room, &www);
    let digest = sha256(b"<html>");
    let url = format!("{address}/page.cbxplugin");
    let ended = run(&room, &["plugin", "install", &url, "--digest", &digest]).expect(2);
    let _ = ended.says(&["no usable plugin package"]);
    assert_eq!(run(&room, &["plugin", "path"]).expect(0).out().lines().count(), 1);
    assert!(!room.at("data/crabbox/plugins/crabbox.lock").exists());
}

/// A registry as companies run it (the distribution project's), with or without a login.
struct Registry {
    server: Running,
    port: u16,
}

impl Registry {
    fn start(room: &Room, login: bool) -> Self {
        let port = free_port();
        let auth = match login {
            true => format!(
                "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
                room.at("htpasswd").display()
            ),
            false => String::new(),
        };
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '127.0.0.1:{port}'}}\n{auth}",
            room.at("registry").display()
        );
        fs::write(room.at("registry.yml"), config).unwrap();
        let call = room.call("docker-registry").arg("serve").arg(room.at("registry.yml"));
        let server = call.env("OTEL_TRACES_EXPORTER", "none").start();
        listens(port);
        Self { server, port }
    }

    fn name(&self, tag: &str) -> String {
        format!("oci://127.0.0.1:{}/plugins/rack:{tag}", self.port)
    }

    /// The password it made for the user `docker`, from its log.
    fn password(&self) -> String {
        self.server.says("password=");
        let log = self.server.stderr();
        let rest = log.split("password=").nth(1).unwrap();
        rest.split_whitespace().next().unwrap().trim_matches('"').to_owned()
    }

    /// One request; the answer's head.
    fn ask(&self, method: &str, path: &str, head: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let port = self.port;
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\nContent-Length: {length}\r\n{head}\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn push_blob(&self, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let begun = self.ask("POST", "/v2/plugins/rack/blobs/uploads/", "", b"");
        let line = begun.lines().find(|line| line.starts_with("Location: ")).expect("a location");
        let location = line.trim_start_matches("Location: ").trim();
        let path = location.split_once(&format!(":{}", self.port)).unwrap().1;
        let put = self.ask("PUT", &format!("{path}&digest={digest}"), "", bytes);
        assert!(put.starts_with("HTTP/1.1 201"), "{put}");
        digest
    }

    /// Publishes a package under a tag, as `oras push` would.
    fn push(&self, tag: &str, package: &[u8], kind: &str) {
        let layer = self.push_blob(package);
        let config = self.push_blob(b"{}");
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.crabbox.plugin.v1",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2},
            "layers": [{"mediaType": kind, "digest": layer, "size": package.len()}],
        });
        let head = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        let path = format!("/v2/plugins/rack/manifests/{tag}");
        let put = self.ask("PUT", &path, head, manifest.to_string().as_bytes());
        assert!(put.starts_with("HTTP/1.1 201"), "{put}");
    }
}

fn sha256(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

const PACKAGE: &str = "application/vnd.crabbox.plugin.v1.tar+zstd";

#[test]
fn a_registry_gives_a_plugin_by_its_tag_and_its_update() {
    let room = Room::new();
    let (path, _) = package(&room);
    let registry = Registry::start(&room, false);
    registry.push("1", &fs::read(path).unwrap(), PACKAGE);
    registry.push("page", b"<html>", "text/html");
    let absent = run(&room, &["plugin", "install", &registry.name("9")]).expect(4);
    let _ = absent.says(&["there is no oci://"]);
    let other = run(&room, &["plugin", "install", &registry.name("page")]).expect(2);
    let _ = other.says(&["none of its layers is a"]);
    let _ = install(&room, &[&registry.name("1")]);
    works(&room);
    let manifest = room.at("rack/crabbox-plugin.toml");
    let newer = fs::read_to_string(&manifest).unwrap().replace("0.1.0", "0.2.0");
    fs::write(&manifest, newer).unwrap();
    let packed = room.at("newer.cbxplugin");
    let folder = room.at("rack");
    let words = ["plugin", "pack", "-o", packed.to_str().unwrap(), folder.to_str().unwrap()];
    let _ = run(&room, &words).expect(0);
    registry.push("1", &fs::read(packed).unwrap(), PACKAGE);
    let updated = run(&room, &["plugin", "update", "example.dev/rack"]).expect(0);
    assert!(updated.out().contains("0.2.0"), "{updated}");
}

#[test]
fn a_registry_with_a_login_takes_the_one_other_tools_keep() {
    let room = Room::new();
    let registry = Registry::start(&room, true);
    let stranger = run(&room, &["plugin", "install", &registry.name("1")]);
    assert!(stranger.code != 0 && stranger.err().contains("who asks"), "{stranger}");
    let login = base64(format!("docker:{}", registry.password()).as_bytes());
    let config = serde_json::json!({
        "auths": {format!("127.0.0.1:{}", registry.port): {"auth": login}},
    });
    fs::create_dir_all(room.at("home/.docker")).unwrap();
    fs::write(room.at("home/.docker/config.json"), config.to_string()).unwrap();
    let known = run(&room, &["plugin", "install", &registry.name("1")]).expect(4);
    let _ = known.says(&["there is no oci://"]);
}

/// Base64, for one header.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        let word = word << (8 * (3 - three.len()));
        for at in 0..4 {
            let letter = LETTERS[(word >> (18 - 6 * at) & 63) as usize];
            text.push(if at > three.len() { '=' } else { char::from(letter) });
        }
    }
    text
}
