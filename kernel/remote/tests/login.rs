//! Logging in as the user's own OpenSSH would: configuration, jump hosts, keys, passphrases, agent, known hosts.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

mod sshd;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crabbox_kernel::error::KernelError;
use crabbox_kernel::ports::{Address, Dialer, Piece, ProcessOutput, Remote, Stop};
use crabbox_remote::{SshDialer, SshRemote, UserSsh};
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::lease::SshAuth;
use sshd::{Sshd, command, user, write};

/// A user's home whose SSH configuration is `config`.
fn home(config: &str) -> (tempfile::TempDir, UserSsh) {
    let home = tempfile::tempdir().unwrap();
    write(&home.path().join(".ssh/config"), config);
    let ssh = UserSsh::new(home.path(), user());
    (home, ssh)
}

/// How the user would say `ssh alias`.
fn alias(name: &str, server: &Sshd) -> Address {
    let mut address = server.address();
    address.endpoint.auth = SshAuth::User;
    (address.endpoint.host, address.endpoint.port) = (name.into(), 0);
    address.endpoint.user.clear();
    address.key = PathBuf::new();
    address
}

/// A configuration that leads the alias `box` to the server.
fn leads_to(server: &Sshd, more: &str) -> String {
    format!("Host box\n  HostName 127.0.0.1\n  Port {}\n  {more}\n", server.port)
}

async fn dial(ssh: UserSsh, address: &Address) -> Result<SshRemote, KernelError> {
    SshDialer::new(ssh).dial(address, &mut Vec::new(), &Stop::never()).await
}

async fn works(remote: &SshRemote) {
    let (_input, mut output) = remote.start("exit 6", None).await.unwrap();
    assert!(matches!(output.next().await.unwrap(), Piece::Exited(exit) if exit.code == 6));
}

/// A prompt that gives these answers in turn and remembers the questions.
type Asked = Arc<Mutex<Vec<String>>>;

fn prompt(ssh: &mut UserSsh, answers: &[&str]) -> Asked {
    let asked = Asked::default();
    let (answers, seen) =
        (answers.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>(), asked.clone());
    ssh.ask = Some(Arc::new(move |question: &str| {
        let mut seen = seen.lock().unwrap();
        seen.push(question.to_owned());
        answers.get(seen.len() - 1).cloned()
    }));
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alias_of_the_users_configuration_leads_to_the_host() {
    let server = Sshd::start();
    let (home, ssh) = home(&leads_to(&server, "IdentityFile %d/.ssh/mine\n  IdentitiesOnly yes"));
    fs::copy(server.path("id"), home.path().join(".ssh/mine")).unwrap();
    let address = alias("box", &server);
    let remote = dial(ssh, &address).await.unwrap();
    works(&remote).await;
    let pins = fs::read_to_string(&address.known_hosts).unwrap();
    assert!(pins.starts_with(&format!("[127.0.0.1]:{} ", server.port)), "{pins}");
    assert!(!home.path().join(".ssh/known_hosts").exists(), "the user's file is not ours to write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn default_keys_of_every_kind_are_tried() {
    for kind in ["ed25519", "ecdsa", "rsa"] {
        let server = Sshd::start();
        server.keygen("user", kind, "");
        server.allow(&["user"]);
        let (home, ssh) = home(&leads_to(&server, ""));
        fs::copy(server.path("user"), home.path().join(".ssh").join(format!("id_{kind}"))).unwrap();
        works(&dial(ssh, &alias("box", &server)).await.expect(kind)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_file_of_the_provider_is_used_alone() {
    let server = Sshd::start();
    let (_home, ssh) = home("");
    let mut address = server.address();
    address.endpoint.auth = SshAuth::KeyFile;
    address.endpoint.key_file = Some(server.path("id").display().to_string());
    works(&dial(ssh.clone(), &address).await.unwrap()).await;
    address.endpoint.key_file = Some("~/.ssh/absent".into());
    let error = dial(ssh, &address).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SshAuth);
    assert!(error.to_string().contains(".ssh/absent: No such file"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_key_asks_for_its_passphrase_once_the_server_wants_it() {
    let server = Sshd::start();
    for name in ["locked", "unwanted"] {
        server.keygen(name, "ed25519", "open sesame");
    }
    server.allow(&["locked"]);
    let files =
        ["unwanted", "locked"].map(|name| format!("IdentityFile {}", server.path(name).display()));
    let (_home, mut ssh) = home(&leads_to(&server, &files.join("\n  ")));
    let asked = prompt(&mut ssh, &["wrong", "open sesame"]);
    let dialer = SshDialer::new(ssh);
    let address = alias("box", &server);
    for _ in 0..2 {
        let remote = dialer.dial(&address, &mut Vec::new(), &Stop::never()).await.unwrap();
        works(&remote).await;
    }
    let question = format!("Passphrase for {}: ", server.path("locked").display());
    assert_eq!(*asked.lock().unwrap(), [question.clone(), question]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_wrong_passphrases_are_enough() {
    let server = Sshd::start();
    server.keygen("locked", "ed25519", "open sesame");
    server.allow(&["locked"]);
    let file = format!("IdentityFile {}", server.path("locked").display());
    let (_home, mut ssh) = home(&leads_to(&server, &file));
    let asked = prompt(&mut ssh, &["a", "b", "c", "open sesame"]);
    let error = dial(ssh.clone(), &alias("box", &server)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::SshAuth);
    assert!(error.to_string().contains("wrong 3 times"), "{error}");
    assert_eq!(asked.lock().unwrap().len(), 3);
    ssh.ask = None;
    let error = dial(ssh, &alias("box", &server)).await.unwrap_err();
    assert!(error.to_string().contains("nobody to ask"), "{error}");
}

/// An agent of its own for one test.
struct Agent(Child, PathBuf);

impl Agent {
    fn with(server: &Sshd, key: &str) -> Self {
        let socket = server.path("agent");
        let mut agent = command("ssh-agent");
        let mut agent =
            agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::piped()).spawn().unwrap();
        // It prints its address once it listens.
        BufReader::new(agent.stdout.take().unwrap()).lines().next().unwrap().unwrap();
        let agent = Self(agent, socket);
        let mut add = command("ssh-add");
        let added = add.arg("-q").arg(server.path(key)).env("SSH_AUTH_SOCK", &agent.1).status();
        assert!(added.unwrap().success());
        agent
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_the_agent_log_in_unless_the_configuration_says_otherwise() {
    for kind in ["ed25519", "rsa"] {
        let server = Sshd::start();
        server.keygen("held", kind, "");
        server.allow(&["held"]);
        let agent = Agent::with(&server, "held");
        let (_home, mut ssh) = home(&leads_to(&server, ""));
        ssh.agent_socket = Some(agent.1.clone());
        works(&dial(ssh, &alias("box", &server)).await.expect(kind)).await;
        let only = format!("IdentitiesOnly yes\n  IdentityFile {}", server.path("id").display());
        let (_home, mut ssh) = home(&leads_to(&server, &only));
        ssh.agent_socket = Some(agent.1.clone());
        assert_eq!(dial(ssh, &alias("box", &server)).await.unwrap_err().code, ErrorCode::SshAuth);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_host_leads_to_a_host_behind_it() {
    let (jump, server) = (Sshd::start(), Sshd::start());
    let config = format!(
        "{}\nHost gate\n  HostName localhost\n  Port {}\n  IdentityFile {}\n",
        leads_to(
            &server,
            &format!("ProxyJump gate\n  IdentityFile {}", server.path("id").display())
        ),
        jump.port,
        jump.path("id").display(),
    );
    let (_home, ssh) = home(&config);
    let address = alias("box", &server);
    let remote = dial(ssh.clone(), &address).await.unwrap();
    works(&remote).await;
    assert_eq!(jump.sessions().len(), 1);
    let pins = fs::read_to_string(&address.known_hosts).unwrap();
    assert!(pins.contains(&format!("[localhost]:{} ", jump.port)), "{pins}");
    assert!(pins.contains(&format!("[127.0.0.1]:{} ", server.port)), "{pins}");
    remote.close().await;
    drop(server);
    let error = dial(ssh, &address).await.unwrap_err();
    assert_eq!((error.code, error.stage), (ErrorCode::SshTcp, Some("tcp")), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_of_the_users_configuration_leads_to_the_host_and_ends_with_the_connection() {
    let server = Sshd::start();
    let pid = server.path("pid-of-the-way");
    let identity = server.path("id");
    // The name is known to the program alone, and quotes are the shell's.
    let config = format!(
        "Host box\n  HostName nowhere.invalid\n  IdentityFile {}\n  ProxyCommand bash -c 'echo $$ $W >{}; \
         exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3 & cat >&3; kill $!' # %h %p %r\n",
        identity.display(),
        pid.display(),
        server.port,
    );
    let (_home, mut ssh) = home(&config);
    ssh.env =
        [("PATH".to_owned(), "/usr/bin:/bin".to_owned()), ("W".to_owned(), "w".to_owned())].into();
    let remote = dial(ssh, &alias("box", &server)).await.unwrap();
    works(&remote).await;
    let noted = fs::read_to_string(&pid).unwrap();
    let (number, word) = noted.trim().split_once(' ').unwrap();
    assert_eq!(word, "w", "it has the user's environment");
    assert!(Path::new("/proc").join(number).exists());
    remote.close().await;
    for _ in 0..200 {
        if !Path::new("/proc").join(number).exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("process {number} is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_leads_nowhere_is_named_with_what_it_said() {
    let server = Sshd::start();
    // The inner shell keeps its output open until it has spoken: the way ends with the program, not before it.
    let speaks = "sh -c 'echo nobody home >&2'";
    for (program, says) in [(speaks, "nobody home"), ("no-such-program-here", "not found")] {
        let (_home, ssh) = home(&format!("Host box\n  ProxyCommand {program}\n"));
        let mut address = alias("box", &server);
        address.patience = Duration::from_secs(3);
        let error = dial(ssh, &address).await.unwrap_err();
        assert_eq!((error.code, error.stage), (ErrorCode::SshTcp, Some("proxy")), "{error}");
        assert!(error.to_string().contains("ProxyCommand"), "{error}");
        assert!(error.causes.iter().any(|cause| cause.contains(says)), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_way_that_cannot_be_gone_is_refused_at_once() {
    let server = Sshd::start();
    let (_home, ssh) = home("Host loop\n  ProxyJump loop\n");
    let error = dial(ssh, &alias("loop", &server)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::Config);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_users_known_hosts_are_believed_hashed_or_not_and_revocation_wins() {
    let server = Sshd::start();
    let file = format!("IdentityFile {}", server.path("id").display());
    let place = format!("[127.0.0.1]:{}", server.port);
    let good = format!("{place} {}", server.public("host_ecdsa"));
    let bad = format!("[127.0.0.?]:{},other {}", server.port, server.public("id"));
    let revoked = format!("@revoked * {}", server.public("host_ecdsa"));
    // The file, whether it is hashed, and whether the host is believed.
    let table = [
        (good.clone(), false, true),
        (good.clone(), true, true),
        (bad.clone(), false, false),
        (format!("{place} {}", server.public("id")), true, false),
        (format!("{good}{revoked}"), false, false),
        (format!("# a comment\n@cert-authority * {}", server.public("id")), false, true),
    ];
    for (text, hash, believed) in table {
        let (home, ssh) = home(&leads_to(&server, &file));
        let known = home.path().join(".ssh/known_hosts");
        write(&known, &text);
        if hash {
            let hashed = command("ssh-keygen").args(["-q", "-H", "-f"]).arg(&known).output();
            assert!(hashed.unwrap().status.success());
            assert!(fs::read_to_string(&known).unwrap().starts_with("|1|"));
        }
        let address = alias("box", &server);
        let dialled = dial(ssh, &address).await;
        match dialled {
            Ok(_) => assert!(believed, "{text}"),
            Err(error) => {
                assert!(!believed, "{text}: {error}");
                assert_eq!(error.code, ErrorCode::SshHostKey, "{error}");
            }
        }
        let _ = fs::remove_file(&address.known_hosts);
    }
}
