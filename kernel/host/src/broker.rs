//! Serves the callbacks: each by its method's name, none of them waiting for the plugin.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crabbox_net::{Blobs, Net};
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{
    BlobBytes, BlobFacts, BlobParams, BlobReadParams, BlobWriteParams, ExecKillParams, ExecOpened,
    ExecParams, ExecReadParams, ExecWriteParams, HttpCloseParams, HttpReadParams, KvParams,
    PromptParams, PromptResult, SecretParams, SecretResult, SleepParams, SleepResult,
    WsCloseParams, WsRecvParams, WsSendParams, callback,
};
use crabbox_wire::payload::{self, MAX_CHUNK};
use rustix::process::Signal;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::doors::{Door, Doors};
use crate::exec::Tools;
use crate::fault::{METHOD_NOT_FOUND, one_line, refuse};
use crate::kv::Store;

/// Asks the person; `None` when they would not answer. Runs on a thread that may block.
pub type Prompt = Arc<dyn Fn(&PromptParams) -> Option<String> + Send + Sync>;

/// Milliseconds since 1970, from the caller's clock.
pub type NowMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Longest sleep a plugin may ask for, and longest wait for something to come; calls end earlier anyway.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// How long something may take to come, when the plugin does not say.
const WAIT: Duration = Duration::from_secs(60);

/// What the callbacks draw on.
pub(crate) struct Broker {
    pub(crate) net: Net,
    pub(crate) blobs: Blobs,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) store: Store,
    pub(crate) tools: Tools,
}

type Answer = Result<Value, RpcError>;

impl Broker {
    /// The callback groups it serves.
    pub(crate) fn groups(interactive: bool) -> Vec<String> {
        let always = [
            "resource",
            "secret",
            "kv",
            "sleep",
            "exec",
            "exec.open",
            "http",
            "http.open",
            "ws",
            "blob",
        ];
        always.into_iter().chain(interactive.then_some("prompt")).map(str::to_owned).collect()
    }

    /// Answers one callback of the call that has these doors open.
    pub(crate) async fn answer(&self, doors: &Doors, method: &str, params: Value) -> Answer {
        match method {
            callback::SECRET_REVEAL => {
                let params: SecretParams = read(params)?;
                let secret = self.net.vault().reveal(&params.name).await?;
                done(SecretResult { value: secret.expose().to_owned() })
            }
            callback::KV_GET | callback::KV_PUT | callback::KV_DELETE | callback::KV_LIST => {
                let params: KvParams = read(params)?;
                self.keeps_no_secret(&params)?;
                done(self.store.answer(method, params)?)
            }
            callback::SLEEP => {
                let params: SleepParams = read(params)?;
                tokio::time::sleep(Duration::from_millis(params.ms).min(MAX_WAIT)).await;
                done(SleepResult { woken: "time".to_owned() })
            }
            callback::PROMPT => done(self.ask(read(params)?).await?),
            callback::HTTP => done(self.net.http(read(params)?, &self.blobs).await?),
            _ if method.starts_with("host/http.") => self.stream(doors, method, params).await,
            _ if method.starts_with("host/ws.") => self.socket(doors, method, params).await,
            _ if method.starts_with("host/exec") => self.tool(doors, method, params).await,
            _ if method.starts_with("host/blob.") => self.blob(method, params).await,
            _ => Err(unknown(method)),
        }
    }

    /// What is kept is on disk, and a secret belongs there only where the user put it.
    fn keeps_no_secret(&self, params: &KvParams) -> Result<(), RpcError> {
        let redactor = self.net.vault().redactor();
        let texts = [Some(&params.key), params.value.as_ref()];
        match texts.into_iter().flatten().any(|text| redactor.finds(text)) {
            true => {
                let message = "a secret is not kept among the values; ask for it again instead";
                Err(refuse(ErrorKind::GrantDenied, message))
            }
            false => Ok(()),
        }
    }

    async fn stream(&self, doors: &Doors, method: &str, params: Value) -> Answer {
        match method {
            callback::HTTP_OPEN => {
                doors.room()?;
                let (stream, mut opened) = self.net.open(read(params)?, &self.blobs).await?;
                opened.stream = doors.add(Door::Stream(Arc::new(tokio::sync::Mutex::new(stream))));
                done(opened)
            }
            callback::HTTP_READ => {
                let params: HttpReadParams = read(params)?;
                let stream = doors.stream(&params.stream)?;
                let mut stream = stream.lock().await;
                done(stream.read(&self.net, params.events, wait(params.timeout_ms)).await?)
            }
            callback::HTTP_CLOSE => {
                let params: HttpCloseParams = read(params)?;
                doors.close(&params.stream);
                Ok(json!({}))
            }
            _ => Err(unknown(method)),
        }
    }

    async fn socket(&self, doors: &Doors, method: &str, params: Value) -> Answer {
        match method {
            callback::WS_OPEN => {
                doors.room()?;
                let (socket, mut opened) = self.net.websocket(read(params)?, &self.blobs).await?;
                opened.socket = doors.add(Door::Socket(Arc::new(socket)));
                done(opened)
            }
            callback::WS_SEND => {
                let params: WsSendParams = read(params)?;
                doors.socket(&params.socket)?.send(params.text, params.b64).await?;
                Ok(json!({}))
            }
            callback::WS_RECV => {
                let params: WsRecvParams = read(params)?;
                done(doors.socket(&params.socket)?.recv(wait(params.timeout_ms)).await)
            }
            callback::WS_CLOSE => {
                let params: WsCloseParams = read(params)?;
                if let Ok(socket) = doors.socket(&params.socket) {
                    socket.close().await;
                }
                doors.close(&params.socket);
                Ok(json!({}))
            }
            _ => Err(unknown(method)),
        }
    }

    async fn tool(&self, doors: &Doors, method: &str, params: Value) -> Answer {
        let vault = self.net.vault();
        match method {
            callback::EXEC => done(self.tools.run(vault, read(params)?).await?),
            callback::EXEC_OPEN => {
                doors.room()?;
                let params: ExecParams = read(params)?;
                let process = self.tools.open(vault, params).await?;
                done(ExecOpened { process: doors.add(Door::Process(Arc::new(process))) })
            }
            callback::EXEC_READ => {
                let params: ExecReadParams = read(params)?;
                done(doors.process(&params.process)?.read(wait(params.timeout_ms)).await)
            }
            callback::EXEC_WRITE => {
                let params: ExecWriteParams = read(params)?;
                doors.process(&params.process)?.write(params).await?;
                Ok(json!({}))
            }
            callback::EXEC_KILL => {
                let params: ExecKillParams = read(params)?;
                let grace = Duration::from_millis(params.grace_ms).min(MAX_WAIT);
                let signal = if params.interrupt { Signal::INT } else { Signal::TERM };
                doors.process(&params.process)?.kill(signal, grace);
                Ok(json!({}))
            }
            _ => Err(unknown(method)),
        }
    }

    async fn blob(&self, method: &str, params: Value) -> Answer {
        match method {
            callback::BLOB_CREATE => {
                let blob = self.blobs.create()?;
                done(BlobFacts { blob, size: 0, sha256: None })
            }
            callback::BLOB_WRITE => {
                let params: BlobWriteParams = read(params)?;
                let bytes = payload::unpack(params.text, params.b64)
                    .map_err(|what| refuse(ErrorKind::InvalidRequest, what))?;
                self.blobs.write(&params.blob, &bytes)?;
                Ok(json!({}))
            }
            callback::BLOB_SEAL => done(self.blobs.seal(&named(params)?).await?),
            callback::BLOB_READ => {
                let params: BlobReadParams = read(params)?;
                let max = usize::try_from(params.max).unwrap_or(usize::MAX).min(MAX_CHUNK);
                let bytes = self.blobs.read(&params.blob, params.off, max)?;
                let (text, b64) = match bytes.is_empty() {
                    true => (None, None),
                    false => payload::pack(&bytes),
                };
                done(BlobBytes { text, b64 })
            }
            callback::BLOB_DROP => {
                self.blobs.remove(&named(params)?);
                Ok(json!({}))
            }
            _ => Err(unknown(method)),
        }
    }

    async fn ask(&self, mut params: PromptParams) -> Result<PromptResult, RpcError> {
        let secure = |url: &String| url.starts_with("https://") && !url.contains(char::is_control);
        let led = matches!(&*params.kind, "open-url" | "device-code");
        if led != params.url.as_ref().is_some_and(secure) {
            let message = "open-url and device-code name an https page, other questions none";
            return Err(refuse(ErrorKind::InvalidRequest, message));
        }
        params.message = one_line(&params.message);
        params.code = params.code.map(|code| one_line(&code));
        params.choices.iter_mut().for_each(|choice| *choice = one_line(choice));
        let Some(prompt) = self.prompt.clone() else {
            return Err(refuse(ErrorKind::Unsupported, "nobody is there to answer"));
        };
        let answer = tokio::task::spawn_blocking(move || prompt(&params)).await.ok().flatten();
        let answer =
            answer.ok_or_else(|| refuse(ErrorKind::Cancelled, "the person did not answer"))?;
        Ok(PromptResult { answer })
    }
}

fn wait(said: Option<u64>) -> Duration {
    said.map_or(WAIT, Duration::from_millis).min(MAX_WAIT)
}

/// The blob a callback is about.
fn named(params: Value) -> Result<String, RpcError> {
    let params: BlobParams = read(params)?;
    params.blob.ok_or_else(|| refuse(ErrorKind::InvalidRequest, "no blob is named"))
}

fn unknown(method: &str) -> RpcError {
    let message = format!("this crabbox has no callback {method}");
    RpcError { code: METHOD_NOT_FOUND, message, data: None }
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params).map_err(|e| refuse(ErrorKind::InvalidRequest, e.to_string()))
}

fn done(result: impl Serialize) -> Answer {
    serde_json::to_value(result).map_err(|e| refuse(ErrorKind::Internal, e.to_string()))
}

/// The folder that is the plugin's own, below the one all plugins share.
pub(crate) fn private_folder(plugins: &std::path::Path, id: &str) -> PathBuf {
    plugins.join(id.replace('/', "-"))
}
