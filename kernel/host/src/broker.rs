//! Serves the callbacks that need no call's hands: secrets, small values, sleep, tools, questions.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::manifest::Grants;
use crabbox_schemas::plugin::{
    KvParams, PromptParams, PromptResult, SecretParams, SecretResult, SleepParams, SleepResult,
    callback,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::exec::Tools;
use crate::fault::{METHOD_NOT_FOUND, refuse};
use crate::kv::Store;

/// Looks a value up by name: a secret, or an environment variable.
pub type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Asks the person; `None` when they would not answer. Runs on a thread that may block.
pub type Prompt = Arc<dyn Fn(&PromptParams) -> Option<String> + Send + Sync>;

/// Milliseconds since 1970, from the caller's clock.
pub type NowMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Longest sleep a plugin may ask for; calls end earlier anyway.
const MAX_SLEEP: Duration = Duration::from_secs(3600);

/// What the callbacks draw on.
pub(crate) struct Broker {
    pub(crate) grants: Grants,
    pub(crate) secrets: Lookup,
    pub(crate) prompt: Option<Prompt>,
    pub(crate) store: Store,
    pub(crate) tools: Tools,
}

impl Broker {
    /// The callback groups it serves.
    pub(crate) fn groups(interactive: bool) -> Vec<String> {
        let always = ["resource", "secret", "kv", "sleep", "exec"];
        always.into_iter().chain(interactive.then_some("prompt")).map(str::to_owned).collect()
    }

    /// Answers one callback.
    pub(crate) async fn answer(&self, method: &str, params: Value) -> Result<Value, RpcError> {
        match method {
            callback::SECRET_REVEAL => done(self.reveal(&read(params)?)?),
            callback::KV_GET | callback::KV_PUT | callback::KV_DELETE | callback::KV_LIST => {
                let params: KvParams = read(params)?;
                done(self.store.answer(method, params)?)
            }
            callback::SLEEP => {
                let params: SleepParams = read(params)?;
                tokio::time::sleep(Duration::from_millis(params.ms).min(MAX_SLEEP)).await;
                done(SleepResult { woken: "time".to_owned() })
            }
            callback::EXEC => done(self.tools.run(&self.grants.exec, read(params)?).await?),
            callback::PROMPT => done(self.ask(read(params)?).await?),
            _ => Err(RpcError {
                code: METHOD_NOT_FOUND,
                message: format!("this crabbox has no callback {method}"),
                data: None,
            }),
        }
    }

    fn reveal(&self, params: &SecretParams) -> Result<SecretResult, RpcError> {
        if !self.grants.secrets.iter().any(|grant| grant.name == params.name) {
            let message = format!("the manifest asks for no secret called {}", params.name);
            return Err(refuse(ErrorKind::GrantDenied, message));
        }
        let value = (self.secrets)(&params.name).ok_or_else(|| {
            refuse(ErrorKind::Auth, format!("the secret {} is not configured", params.name))
        })?;
        Ok(SecretResult { value })
    }

    async fn ask(&self, params: PromptParams) -> Result<PromptResult, RpcError> {
        let Some(prompt) = self.prompt.clone() else {
            return Err(refuse(ErrorKind::Unsupported, "nobody is there to answer"));
        };
        let answer = tokio::task::spawn_blocking(move || prompt(&params)).await.ok().flatten();
        let answer =
            answer.ok_or_else(|| refuse(ErrorKind::Cancelled, "the person did not answer"))?;
        Ok(PromptResult { answer })
    }
}

fn read<T: DeserializeOwned>(params: Value) -> Result<T, RpcError> {
    serde_json::from_value(params).map_err(|e| refuse(ErrorKind::InvalidRequest, e.to_string()))
}

fn done(result: impl Serialize) -> Result<Value, RpcError> {
    serde_json::to_value(result).map_err(|e| refuse(ErrorKind::Internal, e.to_string()))
}

/// The folder that is the plugin's own, below the one all plugins share.
pub(crate) fn private_folder(plugins: &std::path::Path, id: &str) -> PathBuf {
    plugins.join(id.replace('/', "-"))
}
