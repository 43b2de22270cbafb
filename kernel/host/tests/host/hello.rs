//! The first exchange: who speaks what, and who is who.

use std::time::Duration;

use crabbox_kernel::ports::Provider;
use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::plugin::ProviderKind;
use serde_json::json;

use crate::stage::{Stage, told};

#[tokio::test(flavor = "multi_thread")]
async fn an_open_session_knows_its_provider_and_hands_over_its_settings() {
    let stage = Stage::new();
    let session = stage.open(json!({"token": "env:SCRIPTED_TOKEN", "color": "red"})).await.unwrap();
    let about = session.about();
    assert_eq!((&*about.provider, about.kind), ("scripted", ProviderKind::SshLease));
    let plugin = session.pin().unwrap();
    assert_eq!(plugin.id, "example.dev/scripted");
    assert_eq!(plugin.digest.len(), "sha256:".len() + 64);
    assert_eq!(session.doctor().await.unwrap()[0].id, "script");
    let hello = &stage.calls()[0]["params"];
    assert_eq!(hello["instance"]["config"]["token"], json!({"$secret": "token"}));
    assert_eq!(hello["instance"]["user"]["login"], "me");
    assert_eq!(hello["protocols"], json!(["1.0"]));
    session.close().await;
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_that_does_not_agree_is_refused_and_nothing_is_left_running() {
    for (hello, code, words) in [
        ("wrong-version", ErrorCode::PluginFault, "protocol 7.1, offered was 1.0"),
        ("wrong-plugin", ErrorCode::PluginFault, "says it is example.dev/other 1.0.0"),
        ("wrong-kind", ErrorCode::PluginFault, "its manifest says scripted"),
        ("needy", ErrorCode::Unsupported, "does not offer: teleport"),
        ("refuse", ErrorCode::Auth, "no credentials; log in first"),
        ("banner", ErrorCode::PluginFault, "printed on stdout instead of speaking"),
        ("exit-before-hello", ErrorCode::PluginFault, "before it said hello (exit code 3)"),
    ] {
        let stage = Stage::new();
        let error = stage.refused(json!({"hello": hello})).await;
        assert_eq!(error.code, code, "{hello}");
        assert!(told(&error).contains(words), "{hello}: {}", told(&error));
        stage.nobody_is_left().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_end_shows_the_last_words_and_a_banner_is_quoted() {
    let stage = Stage::new();
    let error = stage.refused(json!({"hello": "exit-before-hello"})).await;
    assert_eq!(error.causes, ["stderr: cannot load the moon"]);
    let error = stage.refused(json!({"hello": "banner"})).await;
    assert!(error.message.contains("Welcome to Scripted 1.0!"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_says_nothing_is_given_up() {
    let mut stage = Stage::new();
    stage.timeouts.handshake = Duration::from_millis(200);
    let error = stage.refused(json!({"hello": "stall"})).await;
    assert_eq!(error.code, ErrorCode::PluginFault);
    assert!(error.message.contains("did not say hello within 200ms"), "{error}");
    stage.nobody_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_program_is_an_error_that_names_it() {
    let stage = Stage::new();
    std::fs::remove_file(stage.dir.path().join("bin/provider-scripted")).unwrap();
    let error = stage.refused(json!({})).await;
    assert!(told(&error).contains("bin/provider-scripted"), "{}", told(&error));
    assert!(told(&error).contains("build the whole workspace"), "{}", told(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plugin_sees_only_the_environment_it_was_granted() {
    let stage = Stage::new();
    let session = stage.open(json!({})).await.unwrap();
    let seen: Vec<String> = std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| {
            let folder = stage.dir.path().canonicalize().unwrap();
            std::fs::read_link(e.path().join("cwd")).is_ok_and(|d| d.starts_with(folder))
        })
        .filter_map(|e| std::fs::read_to_string(e.path().join("environ")).ok())
        .collect();
    for environ in &seen {
        let mut names: Vec<_> =
            environ.split('\0').filter_map(|v| Some(v.split_once('=')?.0)).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "CRABBOX_PLUGIN",
                "CRABBOX_PROTOCOLS",
                "CRABBOX_STATE_DIR",
                "HOME",
                "LANG",
                "LC_ALL",
                "PATH",
                "PYTHONDONTWRITEBYTECODE",
                "SCRIPTED_GRANTED",
                "TMPDIR",
                "TZ"
            ]
        );
    }
    assert!(!cfg!(target_os = "linux") || seen.len() == 1, "one process: {seen:?}");
    session.close().await;
}
