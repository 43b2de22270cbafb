//! Commands of the toy runner that show one group of callbacks each.

use std::io::{Read, Write};
use std::time::Duration;

use crabbox_plugin_sdk::*;
use serde_json::json;

const API: &str = "https://api.example.dev/v1";
const WAIT: Duration = Duration::from_secs(30);

pub(super) fn show(
    call: &Call,
    what: &str,
    rest: &[&str],
    output: &Output<'_>,
) -> Result<(), Failure> {
    match (what, rest) {
        ("make", [name]) => make(call, name, output),
        ("login", []) => login(call),
        ("signed", []) => signed(call),
        ("follow", []) => follow(call, output),
        ("chat", []) => chat(call, output),
        ("upload", []) => upload(call),
        ("download", []) => download(call, output),
        ("vendor", []) => vendor(call, output),
        ("ask", []) => ask(call, output),
        _ => Err(Failure::unsupported("the runner knows no such command")),
    }
}

fn make(call: &Call, name: &str, output: &Output<'_>) -> Result<(), Failure> {
    let request = call.http("POST", format!("{API}/servers")).header("x-request-id", call.idem());
    let reply = request.bearer("token").json(&json!({ "name": name })).send()?.ok()?;
    let id = &reply.json::<serde_json::Value>()?["id"];
    output.write(Channel::Stdout, format!("{id}\n").as_bytes())
}

fn login(call: &Call) -> Result<(), Failure> {
    let body = json!({"client": "toy", "key": secret("token")});
    let reply =
        call.http("POST", format!("{API}/login")).json(&body).capture("/session").send()?.ok()?;
    let session = reply.captured("/session").ok_or_else(|| Failure::auth("no session"))?;
    call.http("DELETE", format!("{API}/servers/7")).bearer(session).send()?.ok().map(drop)
}

fn signed(call: &Call) -> Result<(), Failure> {
    let sigv4 = Sigv4Auth {
        access_key: "access-key".into(),
        secret_key: "secret-key".into(),
        service: "ec2".into(),
        region: "eu-central-1".into(),
        ..Sigv4Auth::default()
    };
    let form = [("Action", SecretText::Plain("DescribeInstances".into()))];
    let url = "https://ec2.eu-central-1.amazonaws.com/";
    call.http("POST", url).auth(HttpAuth::Sigv4(sigv4)).form(form).send()?.ok()?;
    let oauth2 = Oauth2Auth {
        token_url: "https://login.example.dev/token".into(),
        client_id: SecretText::Plain("toy".into()),
        client_secret: "token".into(),
        scope: Some("machines".into()),
    };
    call.http("GET", format!("{API}/me")).auth(HttpAuth::Oauth2(oauth2)).send()?.ok().map(drop)
}

fn follow(call: &Call, output: &Output<'_>) -> Result<(), Failure> {
    let mut stream = call.http("GET", format!("{API}/logs")).bearer("token").open()?;
    loop {
        match stream.event(WAIT)? {
            Next::Item(event) => output.write(Channel::Stdout, event.data.as_bytes())?,
            Next::Quiet => call.check()?,
            Next::End => return Ok(()),
        }
    }
}

fn chat(call: &Call, output: &Output<'_>) -> Result<(), Failure> {
    let mut socket =
        call.websocket("wss://api.example.dev/exec", Some(HttpAuth::Bearer("token".into())))?;
    socket.send_text("uname")?;
    loop {
        match socket.recv(WAIT)? {
            Next::Item(Message::Text(text)) => output.write(Channel::Stdout, text.as_bytes())?,
            Next::Item(Message::Binary(bytes)) => output.write(Channel::Stderr, &bytes)?,
            Next::Quiet => call.check()?,
            Next::End => return Ok(()),
        }
    }
}

fn upload(call: &Call) -> Result<(), Failure> {
    let mut blob = call.create_blob()?;
    blob.write_all(b"a large tree").map_err(|e| Failure::internal("cannot write").because(&e))?;
    let facts = blob.seal()?;
    let part = Part {
        name: "tree".into(),
        text: None,
        blob: Some(facts.blob.clone()),
        file_name: Some("tree.tar".into()),
        content_type: Some("application/x-tar".into()),
    };
    call.http("POST", format!("{API}/trees")).bearer("token").multipart(vec![part]).send()?.ok()?;
    call.drop_blob(&facts.blob)
}

fn download(call: &Call, output: &Output<'_>) -> Result<(), Failure> {
    let reply =
        call.http("GET", format!("{API}/artifact")).bearer("token").into_blob().send()?.ok()?;
    let mut text = String::new();
    let mut blob = call.read_blob(reply.blob().unwrap_or_default());
    blob.read_to_string(&mut text).map_err(|e| Failure::transient("cannot read").because(&e))?;
    output.write(Channel::Stdout, text.as_bytes())
}

fn vendor(call: &Call, output: &Output<'_>) -> Result<(), Failure> {
    let mut tool = call.tool("toyctl").args(["attach"]).secret_env("TOY_KEY", "tool-key").open()?;
    tool.write(b"whoami\n")?;
    tool.end_input()?;
    loop {
        match tool.read(WAIT)? {
            Next::Item((channel, bytes)) => output.write(channel, &bytes)?,
            Next::Quiet => call.check()?,
            Next::End => return Ok(()),
        }
    }
}

fn ask(call: &Call, output: &Output<'_>) -> Result<(), Failure> {
    let region = call.choose("where", &["north", "south"])?;
    call.device_code("log in", "https://example.dev/device", "ABCD-1234")?;
    if call.confirm("make it")? {
        output.write(Channel::Stdout, region.as_bytes())?;
    }
    Ok(())
}
