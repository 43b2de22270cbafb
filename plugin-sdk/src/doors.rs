//! Everything a provider can ask of the host or tell it, each a type of its own: a component imports only what it uses.

use crabbox_schemas::plugin::{
    AttemptEvent, BlobBytes, BlobFacts, BlobParams, BlobReadParams, BlobWriteParams,
    ExecKillParams, ExecOpened, ExecParams, ExecRead, ExecReadParams, ExecResult, ExecWriteParams,
    GapEvent, HttpCloseParams, HttpOpened, HttpParams, HttpRead, HttpReadParams, HttpResult,
    KvParams, KvResult, LogEvent, ProgressEvent, PromptParams, PromptResult, ResourceParams,
    SecretParams, SecretResult, SleepParams, SleepResult, UsageEvent, WsCloseParams, WsMessage,
    WsOpenParams, WsOpened, WsRecvParams, WsSendParams, callback, event,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A callback.
pub(crate) trait Door {
    const NAME: &'static str;
    type Params: Serialize;
    type Answer: DeserializeOwned;

    /// The function a component imports for it.
    #[cfg(target_family = "wasm")]
    fn import(params: &str) -> Result<String, crate::component::RpcError>;
}

/// An event.
pub(crate) trait Event: Serialize {
    #[cfg_attr(target_family = "wasm", expect(dead_code, reason = "a component imports functions"))]
    const NAME: &'static str;

    /// The function a component imports for it.
    #[cfg(target_family = "wasm")]
    fn import(event: &str);
}

macro_rules! doors {
    ($($door:ident = $name:ident, $interface:ident::$function:ident: $params:ty => $answer:ty;)*) => {
        $(pub(crate) struct $door;

        impl Door for $door {
            const NAME: &'static str = callback::$name;
            type Params = $params;
            type Answer = $answer;

            #[cfg(target_family = "wasm")]
            fn import(params: &str) -> Result<String, crate::component::RpcError> {
                crate::component::host::$interface::$function(params)
            }
        })*

        /// Interface, function and callback.
        #[cfg(feature = "relay")]
        pub const CALLBACKS: &[(&str, &str, &str)] =
            &[$((stringify!($interface), stringify!($function), callback::$name)),*];
    };
}

macro_rules! events {
    ($($event:ident = $name:ident, $interface:ident::$function:ident;)*) => {
        $(impl Event for $event {
            const NAME: &'static str = event::$name;

            #[cfg(target_family = "wasm")]
            fn import(event: &str) {
                crate::component::host::$interface::$function(event);
            }
        })*

        /// Interface, function and event.
        #[cfg(feature = "relay")]
        pub const EVENTS: &[(&str, &str, &str)] =
            &[$((stringify!($interface), stringify!($function), event::$name)),*];
    };
}

doors! {
    Sleep = SLEEP, control::sleep: SleepParams => SleepResult;
    Record = RESOURCE_RECORD, journal::note: ResourceParams => Value;
    Forget = RESOURCE_FORGET, journal::forget: ResourceParams => Value;
    Reveal = SECRET_REVEAL, reveal::reveal: SecretParams => SecretResult;
    KvGet = KV_GET, kv::get: KvParams => KvResult;
    KvPut = KV_PUT, kv::put: KvParams => KvResult;
    KvDelete = KV_DELETE, kv::delete: KvParams => KvResult;
    KvList = KV_LIST, kv::list: KvParams => KvResult;
    BlobCreate = BLOB_CREATE, blob::create: BlobParams => BlobFacts;
    BlobWrite = BLOB_WRITE, blob::write: BlobWriteParams => Value;
    BlobSeal = BLOB_SEAL, blob::seal: BlobParams => BlobFacts;
    BlobRead = BLOB_READ, blob::read: BlobReadParams => BlobBytes;
    BlobDrop = BLOB_DROP, blob::drop: BlobParams => Value;
    HttpSend = HTTP, http::send: HttpParams => HttpResult;
    HttpOpen = HTTP_OPEN, http::open: HttpParams => HttpOpened;
    HttpReadOn = HTTP_READ, http::read: HttpReadParams => HttpRead;
    HttpClose = HTTP_CLOSE, http::close: HttpCloseParams => Value;
    WsOpen = WS_OPEN, ws::open: WsOpenParams => WsOpened;
    WsSend = WS_SEND, ws::send: WsSendParams => Value;
    WsRecv = WS_RECV, ws::recv: WsRecvParams => WsMessage;
    WsClose = WS_CLOSE, ws::close: WsCloseParams => Value;
    ExecRun = EXEC, exec::run: ExecParams => ExecResult;
    ExecOpen = EXEC_OPEN, exec::open: ExecParams => ExecOpened;
    ExecReadOn = EXEC_READ, exec::read: ExecReadParams => ExecRead;
    ExecWrite = EXEC_WRITE, exec::write: ExecWriteParams => Value;
    ExecKill = EXEC_KILL, exec::kill: ExecKillParams => Value;
    Ask = PROMPT, prompt::ask: PromptParams => PromptResult;
}

events! {
    LogEvent = LOG, log::emit;
    ProgressEvent = PROGRESS, progress::report;
    AttemptEvent = ATTEMPT, progress::attempt;
    UsageEvent = USAGE, progress::usage;
    GapEvent = GAP, output::gap;
}
