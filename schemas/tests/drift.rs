//! The committed JSON Schemas equal what the types generate; `BLESS=1` rewrites them.

#![recursion_limit = "256"] // the tables are long

use std::fs;
use std::path::Path;

use crabbox_schemas::{
    claim, config, daemon, deed, error, event, helper, journal, lock, manifest, plugin, run, view,
};
use schemars::{JsonSchema, SchemaGenerator, schema_for};
use serde_json::{Value, json};

/// Every committed document by name.
fn documents() -> Vec<(&'static str, Value)> {
    vec![
        ("config", one::<config::ConfigFile>()),
        ("plugin-manifest", one::<manifest::Manifest>()),
        ("plugin-lock", one::<lock::Lock>()),
        ("plugin-protocol", protocol()),
        ("box-channel", box_channel()),
        ("daemon", one::<daemon::DaemonView>()),
        ("daemon-socket", daemon_socket()),
        ("event", one::<event::RunEvent>()),
        ("run", one::<run::RunRecord>()),
        ("timing", one::<run::Timing>()),
        ("lease-handle", one::<run::LeaseHandle>()),
        ("failure", one::<error::FailureDocument>()),
        ("claim", one::<claim::Claim>()),
        ("journal", one::<journal::TrailLine>()),
        ("status", one::<view::StatusView>()),
        ("list", one::<Vec<view::ListEntry>>()),
        ("claims", one::<view::ClaimsView>()),
        ("sizes", one::<view::SizesView>()),
        ("doctor", one::<view::DoctorView>()),
        ("results", one::<run::TestResults>()),
        ("plugin-list", one::<view::PluginList>()),
        ("plugin-verify", one::<view::PluginStates>()),
        ("plugin-info", one::<view::PluginInfo>()),
        ("sync-plan", one::<view::SyncPlanView>()),
        ("stop", one::<deed::StopView>()),
        ("cleanup", one::<deed::CleanupView>()),
        ("init", one::<deed::InitView>()),
        ("connect", one::<deed::ConnectView>()),
        ("logs", one::<deed::LogsView>()),
        ("daemon-stop", one::<deed::DaemonStopView>()),
        ("version", one::<deed::VersionView>()),
        ("path", one::<deed::PathView>()),
        ("config-show", one::<deed::ConfigView>()),
        ("providers", one::<deed::ProvidersView>()),
        ("provider", one::<deed::ProviderView>()),
        ("plugin-new", one::<deed::PluginNewView>()),
        ("plugin-pack", one::<deed::PluginPackView>()),
        ("plugin-install", one::<deed::PluginInstallView>()),
        ("plugin-remove", one::<deed::PluginRemoveView>()),
        ("plugin-gc", one::<deed::PluginGcView>()),
        ("plugin-trust", one::<deed::PluginTrustView>()),
        ("plugin-imports", one::<deed::PluginImportsView>()),
        ("plugin-test", one::<deed::PluginTestView>()),
    ]
}

fn one<T: JsonSchema>() -> Value {
    json!(schema_for!(T))
}

/// One document for the whole plugin protocol: params and result of each method, event and callback.
fn protocol() -> Value {
    let mut generator = SchemaGenerator::default();
    let g = &mut generator;
    let table = [
        ("methods", methods(g)),
        ("events", events(g)),
        ("callbacks", callbacks(g)),
        ("error", json!(g.subschema_for::<error::RpcError>())),
    ];
    let mut root = serde_json::Map::new();
    root.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    root.insert("title".to_owned(), "crabbox provider protocol 1".into());
    root.insert("protocols".to_owned(), json!(plugin::PROTOCOLS));
    root.extend(table.map(|(name, value)| (name.to_owned(), value)));
    root.insert("$defs".to_owned(), generator.take_definitions(true).into());
    root.into()
}

/// One document for the box channel: params and result of each method and notification.
fn box_channel() -> Value {
    use helper::{self as h, method as m, note as n};
    let mut generator = SchemaGenerator::default();
    let g = &mut generator;
    let methods = json!({
        m::FLIGHT: call::<h::FlightParams, h::FlightResult>(g),
        m::FEED: call::<h::FeedParams, h::Feed>(g),
        m::RUN_ATTACH: call::<h::AttachParams, h::RunState>(g),
        m::RUN_SIGNAL: call::<h::SignalParams, h::SignalResult>(g),
        m::RUN_LIST: call::<h::RunsParams, h::RunsResult>(g),
        m::RUN_FORGET: call::<h::RunsParams, Nothing>(g),
        m::BOX_STAT: call::<h::RunsParams, h::BoxStat>(g),
    });
    let notes = json!({
        n::HELLO: note::<h::Hello>(g),
        n::CREDIT: note::<h::Grant>(g),
        n::CANCEL: note::<h::CancelParams>(g),
        n::SESSION_END: note::<Nothing>(g),
        n::WAITING: note::<h::Waiting>(g),
        n::NEED: note::<h::Need>(g),
        n::STARTED: note::<h::Started>(g),
        n::EXITED: note::<h::Exited>(g),
        n::GAP: note::<h::Gap>(g),
        n::STALLED: note::<h::Stalled>(g),
        n::RESIZE: note::<h::ResizeParams>(g),
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "crabbox box channel 1",
        "methods": methods,
        "notes": notes,
        "$defs": generator.take_definitions(true),
    })
}

/// One document for the warm daemon's socket.
fn daemon_socket() -> Value {
    use daemon::{self as d, Answer, method as m, note as n};
    let mut generator = SchemaGenerator::default();
    let g = &mut generator;
    let methods = json!({
        m::DIAL: call::<d::DialParams, Answer<d::Dialled>>(g),
        m::START: call::<d::StartParams, Answer<Nothing>>(g),
        m::HELPER: call::<d::HelperParams, Answer<d::HelperKept>>(g),
        m::CHANGES: call::<d::ChangesParams, Answer<d::Changes>>(g),
        m::STATUS: call::<Nothing, Answer<d::DaemonView>>(g),
        m::PING: call::<Nothing, Answer<Nothing>>(g),
        m::RETIRE: call::<Nothing, Answer<Nothing>>(g),
        m::STOP: call::<Nothing, Answer<Nothing>>(g),
    });
    let notes = json!({
        n::HELLO: note::<d::Hello>(g),
        n::DIALLING: note::<d::Dialling>(g),
        n::SCANNED: note::<d::Scanned>(g),
        n::SIGNAL: note::<d::Signal>(g),
        n::RESIZE: note::<d::Resize>(g),
        n::EXITED: note::<d::Exited>(g),
        n::LOST: note::<d::Lost>(g),
    });
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "crabbox daemon socket",
        "methods": methods,
        "notes": notes,
        "$defs": generator.take_definitions(true),
    })
}

/// The answer of calls that only say that it is done: `{}`.
type Nothing = serde_json::Map<String, Value>;

fn call<P: JsonSchema, R: JsonSchema>(g: &mut SchemaGenerator) -> Value {
    json!({"params": g.subschema_for::<P>(), "result": g.subschema_for::<R>()})
}

fn note<P: JsonSchema>(g: &mut SchemaGenerator) -> Value {
    json!({"params": g.subschema_for::<P>()})
}

fn methods(g: &mut SchemaGenerator) -> Value {
    use plugin::{self as p, method as m};
    json!({
        m::INITIALIZE: call::<p::InitializeParams, p::InitializeResult>(g),
        m::SHUTDOWN: call::<p::BareParams, Nothing>(g),
        m::PING: call::<p::BareParams, Nothing>(g),
        m::CONFIG_VALIDATE: call::<p::BareParams, Nothing>(g),
        m::DOCTOR: call::<p::BareParams, p::DoctorResult>(g),
        m::LEASE_ACQUIRE: call::<p::AcquireParams, p::LeaseResult>(g),
        m::LEASE_RESOLVE: call::<p::ResolveParams, p::LeaseResult>(g),
        m::LEASE_LIST: call::<p::ListParams, p::ListResult>(g),
        m::LEASE_RELEASE: call::<p::ReleaseParams, p::ReleaseResult>(g),
        m::LEASE_TOUCH: call::<p::TouchParams, p::LeaseResult>(g),
        m::RUN_WARMUP: call::<p::AcquireParams, p::LeaseResult>(g),
        m::RUN_START: call::<p::RunStartParams, p::RunStartResult>(g),
        m::RUN_LIST: call::<p::ListParams, p::ListResult>(g),
        m::RUN_STATUS: call::<p::ResolveParams, p::LeaseResult>(g),
        m::RUN_STOP: call::<p::ReleaseParams, p::ReleaseResult>(g),
        m::CATALOG_SIZES: call::<p::CatalogParams, p::CatalogResult>(g),
        m::CATALOG_REGIONS: call::<p::CatalogParams, p::CatalogResult>(g),
        m::PRICING_QUOTE: call::<p::QuoteParams, p::QuoteResult>(g),
        m::EVIDENCE_COLLECT: call::<p::EvidenceParams, p::EvidenceResult>(g),
        m::ACCESS_GRANT: call::<p::AccessParams, p::AccessResult>(g),
        m::ACCESS_REVOKE: call::<p::AccessParams, Nothing>(g),
        m::CANCEL: note::<p::CancelParams>(g),
        m::CREDIT: note::<p::CreditParams>(g),
    })
}

fn events(g: &mut SchemaGenerator) -> Value {
    use plugin::{self as p, event as e};
    json!({
        e::LOG: note::<p::LogEvent>(g),
        e::PROGRESS: note::<p::ProgressEvent>(g),
        e::ATTEMPT: note::<p::AttemptEvent>(g),
        e::OUTPUT: note::<p::OutputEvent>(g),
        e::GAP: note::<p::GapEvent>(g),
        e::USAGE: note::<p::UsageEvent>(g),
    })
}

fn callbacks(g: &mut SchemaGenerator) -> Value {
    use plugin::{self as p, callback as c};
    json!({
        c::RESOURCE_RECORD: call::<p::ResourceParams, Nothing>(g),
        c::RESOURCE_FORGET: call::<p::ResourceParams, Nothing>(g),
        c::SECRET_REVEAL: call::<p::SecretParams, p::SecretResult>(g),
        c::KV_GET: call::<p::KvParams, p::KvResult>(g),
        c::KV_PUT: call::<p::KvParams, p::KvResult>(g),
        c::KV_DELETE: call::<p::KvParams, p::KvResult>(g),
        c::KV_LIST: call::<p::KvParams, p::KvResult>(g),
        c::SLEEP: call::<p::SleepParams, p::SleepResult>(g),
        c::EXEC: call::<p::ExecParams, p::ExecResult>(g),
        c::EXEC_OPEN: call::<p::ExecParams, p::ExecOpened>(g),
        c::EXEC_READ: call::<p::ExecReadParams, p::ExecRead>(g),
        c::EXEC_WRITE: call::<p::ExecWriteParams, Nothing>(g),
        c::EXEC_KILL: call::<p::ExecKillParams, Nothing>(g),
        c::HTTP: call::<p::HttpParams, p::HttpResult>(g),
        c::HTTP_OPEN: call::<p::HttpParams, p::HttpOpened>(g),
        c::HTTP_READ: call::<p::HttpReadParams, p::HttpRead>(g),
        c::HTTP_CLOSE: call::<p::HttpCloseParams, Nothing>(g),
        c::WS_OPEN: call::<p::WsOpenParams, p::WsOpened>(g),
        c::WS_SEND: call::<p::WsSendParams, Nothing>(g),
        c::WS_RECV: call::<p::WsRecvParams, p::WsMessage>(g),
        c::WS_CLOSE: call::<p::WsCloseParams, Nothing>(g),
        c::BLOB_CREATE: call::<p::BlobParams, p::BlobFacts>(g),
        c::BLOB_WRITE: call::<p::BlobWriteParams, Nothing>(g),
        c::BLOB_SEAL: call::<p::BlobParams, p::BlobFacts>(g),
        c::BLOB_READ: call::<p::BlobReadParams, p::BlobBytes>(g),
        c::BLOB_DROP: call::<p::BlobParams, Nothing>(g),
        c::PROMPT: call::<p::PromptParams, p::PromptResult>(g),
    })
}

/// `BLESS=1` was given.
#[expect(clippy::disallowed_methods, reason = "a test run is told by its environment to rewrite")]
fn blessing() -> bool {
    std::env::var_os("BLESS").is_some_and(|value| value == "1")
}

#[test]
fn the_committed_schemas_are_what_the_types_say() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, schema) in documents() {
        let path = dir.join(format!("{name}.schema.json"));
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if blessing() {
            fs::write(&path, text).unwrap();
            continue;
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is out of date; run `BLESS=1 cargo test -p crabbox-schemas`",
            path.display()
        );
    }
}

#[test]
fn no_committed_schema_is_without_a_type() {
    let names: Vec<String> =
        documents().iter().map(|(name, _)| format!("{name}.schema.json")).collect();
    for entry in fs::read_dir(env!("CARGO_MANIFEST_DIR")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        assert!(!file.ends_with(".schema.json") || names.contains(&file), "{file}");
    }
}

#[test]
fn every_schema_resolves_its_own_references() {
    for (name, schema) in documents() {
        let mut todo = vec![&schema];
        while let Some(value) = todo.pop() {
            match value {
                Value::Object(map) => {
                    if let Some(Value::String(to)) = map.get("$ref") {
                        let pointer = to.strip_prefix('#').unwrap();
                        assert!(schema.pointer(pointer).is_some(), "{name}: {to}");
                    }
                    todo.extend(map.values());
                }
                Value::Array(items) => todo.extend(items),
                _ => {}
            }
        }
    }
}
