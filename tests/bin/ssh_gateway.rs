//! An SSH server that lets in whoever knows a token, which is the user name: `ssh-gateway HOME TOKEN MARK`.
//!
//! It prints its port, and serves until its standard input ends. Commands begin in HOME with MARK in their environment.

use std::io::{self, Read, Write};
use std::process::ExitCode;

use crabbox_box_server::server::{HostKey, Server, Setup};
use crabbox_box_server::{finish, processes, program, session};

fn main() -> ExitCode {
    let args = program::arguments();
    if args.first().is_some_and(|word| word == "--session") {
        return finish(Err(session::run(&args[1..])));
    }
    let words: Vec<String> = args.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let [home, token, mark] = &words[..] else {
        return finish(Err(io::Error::other("it needs a home, a token and a mark")));
    };
    finish(serve(home, token, mark))
}

fn serve(home: &str, token: &str, mark: &str) -> io::Result<()> {
    processes::adopt_orphans()?;
    let (host, nobody) = (HostKey::new()?, HostKey::new()?);
    let (name, value) = mark.split_once('=').unwrap_or((mark, ""));
    let env = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", home),
        ("LANG", "C.UTF-8"),
        (name, value),
    ];
    let setup = Setup {
        host_key: host.private,
        authorized_key: nobody.public,
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        home: home.to_owned(),
        shell: "/bin/sh".to_owned(),
        limits: session::Limits::default(),
        owner: None,
        token: Some(token.to_owned()),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        writeln!(io::stdout(), "{}", listener.local_addr()?.port())?;
        let (server, _changes) = Server::new(setup)?;
        let over = tokio::task::spawn_blocking(|| io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            () = server.accept(&listener) => {}
            _ = over => {}
        }
        server.kill_groups();
        Ok::<_, io::Error>(())
    })?;
    runtime.shutdown_background();
    Ok(())
}
