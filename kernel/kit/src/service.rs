//! The world outside as a cassette has it: services, tools, people. Grants are kept to as the kernel keeps them.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crabbox_net::{Net, Options, Origin, Secret, Setting};
use crabbox_schemas::error::{ErrorKind, RpcError};
use crabbox_schemas::plugin::{
    ExecOpened, ExecParams, ExecRead, ExecReadParams, HttpCloseParams, HttpParams, HttpReadParams,
    PromptParams, PromptResult, SecretText, WsOpenParams, WsOpened, WsRecvParams, callback,
};
use crabbox_wire::payload::MAX_CHUNK;
use futures_util::FutureExt;
use serde_json::{Value, json};

use crate::bench::{Bench, Tape};
use crate::host::{Answer, CANARY, done, read};

/// What the plugin can reach.
pub(crate) struct Service {
    net: Net,
    tools: Vec<String>,
    tape: Option<Tape>,
    processes: HashMap<String, VecDeque<ExecRead>>,
    /// What was used so far.
    pub(crate) used: Used,
    /// Requests that were answered, each as method and address.
    pub(crate) asked: Vec<String>,
    /// The same, and tools that were run: everything after which a plugin may die.
    pub(crate) turns: Vec<String>,
    /// Those of them that may have changed something.
    pub(crate) changes: Vec<String>,
    /// How every request is answered instead.
    pub(crate) instead: Option<Answer>,
}

/// What was used of the grants.
#[derive(Debug, Default)]
pub(crate) struct Used {
    pub(crate) origins: Vec<Origin>,
    pub(crate) tools: BTreeSet<String>,
    pub(crate) secrets: BTreeSet<String>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("asked", &self.asked).finish_non_exhaustive()
    }
}

impl Service {
    /// The error says which grant makes no sense.
    pub(crate) fn new(bench: &Bench<'_>) -> Result<Self, String> {
        let subject = bench.subject;
        let (entry, config) = (subject.entry.clone(), subject.config.clone());
        let canary = || Ok(Some(Secret::new(CANARY.to_owned())));
        let net = Net::new(Options {
            grants: entry.manifest.grants.clone(),
            setting: Arc::new(move |name| {
                let (url, own) = entry.url_setting(&config, name)?;
                Some(Setting { url, own })
            }),
            source: Arc::new(move |_| Box::pin(std::future::ready(canary()))),
            now_ms: Arc::new(|| 0),
            roots: Vec::new(),
            lookup: None,
        })?;
        Ok(Self {
            net,
            tools: crabbox_plugins::programs(&subject.entry, &subject.config),
            tape: bench.tape.clone(),
            processes: HashMap::new(),
            used: Used::default(),
            asked: Vec::new(),
            turns: Vec::new(),
            changes: Vec::new(),
            instead: None,
        })
    }

    /// Whether a recording answers for the world outside.
    pub(crate) fn is_recorded(&self) -> bool {
        self.tape.is_some()
    }

    pub(crate) fn answer(&mut self, method: &str, params: &Value) -> Answer {
        match method {
            callback::HTTP | callback::HTTP_OPEN => self.request(method, &read(params)?),
            callback::HTTP_READ => {
                done(self.tape(method)?.borrow_mut().read(&read::<HttpReadParams>(params)?)?)
            }
            callback::HTTP_CLOSE => {
                let params: HttpCloseParams = read(params)?;
                self.tape(method)?.borrow_mut().close(&params.stream);
                Ok(json!({}))
            }
            callback::WS_OPEN => self.socket(&read(params)?),
            callback::WS_RECV => {
                let params: WsRecvParams = read(params)?;
                done(self.tape(method)?.borrow_mut().receive(&params.socket)?)
            }
            callback::EXEC | callback::EXEC_OPEN => self.tool(method, &read(params)?),
            callback::EXEC_READ => {
                let params: ExecReadParams = read(params)?;
                let pieces = self.processes.get_mut(&params.process).ok_or_else(|| {
                    RpcError::of(ErrorKind::NotFound, "no process of that name is open")
                })?;
                done(pieces.pop_front().unwrap_or_default())
            }
            callback::WS_SEND | callback::WS_CLOSE | callback::EXEC_WRITE | callback::EXEC_KILL => {
                Ok(json!({}))
            }
            callback::PROMPT => {
                let question: PromptParams = read(params)?;
                let unsupported = || unsupported("nobody is there to answer");
                let tape = self.tape.as_ref().ok_or_else(unsupported)?;
                let answer = tape.borrow_mut().prompt(&question).map_err(|_| unsupported())?;
                done(PromptResult { answer })
            }
            _ => {
                let message = format!("this crabbox has no callback {method}");
                Err(RpcError { code: -32601, message, data: None })
            }
        }
    }

    fn tape(&self, method: &str) -> Result<&Tape, RpcError> {
        let what = || unsupported(&format!("the kit answers {method} from a cassette: --cassette"));
        self.tape.as_ref().ok_or_else(what)
    }

    fn request(&mut self, method: &str, params: &HttpParams) -> Answer {
        self.judge(params)?;
        let verb = params.method.to_ascii_uppercase();
        let asked = format!("{verb} {}", params.url);
        self.turns.push(asked.clone());
        self.asked.push(asked.clone());
        if let Some(answer) = &self.instead {
            return answer.clone();
        }
        let mut tape = self.tape(method)?.borrow_mut();
        let answer = match method {
            callback::HTTP => tape.http(params).and_then(done),
            _ => tape.open(params).and_then(done),
        };
        // A token that is got for a key changes nothing.
        let reads = matches!(&*verb, "GET" | "HEAD") || !params.capture.is_empty();
        if !reads && !tape.only_read() {
            drop(tape);
            self.changes.push(asked);
        }
        answer
    }

    /// Refuses what the kernel would.
    fn judge(&mut self, params: &HttpParams) -> Result<(), RpcError> {
        // The canary is at hand, so nothing has to be waited for.
        let judged = self.net.judge(params).now_or_never();
        let (origin, secrets) =
            judged.unwrap_or_else(|| Err(unsupported("the kit cannot judge this request")))?;
        self.used.origins.push(origin);
        self.used.secrets.extend(secrets);
        Ok(())
    }

    fn socket(&mut self, params: &WsOpenParams) -> Answer {
        let asked = HttpParams { auth: params.auth.clone(), ..HttpParams::new("GET", &params.url) };
        self.judge(&asked)?;
        let socket = self.tape(callback::WS_OPEN)?.borrow_mut().socket(&params.url)?;
        done(WsOpened { socket, protocol: None })
    }

    fn tool(&mut self, method: &str, params: &ExecParams) -> Answer {
        if !self.tools.contains(&params.tool) {
            let message = format!("the manifest asks for no tool called {}", params.tool);
            return Err(RpcError::of(ErrorKind::GrantDenied, message));
        }
        self.used.tools.insert(params.tool.clone());
        self.turns.push(format!("{} {}", params.tool, params.args.join(" ")));
        let lent = params.env.values().filter_map(|value| match value {
            SecretText::Secret(name) => Some(name.clone()),
            SecretText::Plain(_) => None,
        });
        self.used.secrets.extend(lent);
        let ran = self.tape(method)?.borrow_mut().exec(params)?;
        if method == callback::EXEC {
            return done(ran);
        }
        let mut pieces: VecDeque<_> = [("stdout", ran.stdout), ("stderr", ran.stderr)]
            .iter()
            .flat_map(|(ch, text)| parts(text).map(|part| said(ch, part)).collect::<Vec<_>>())
            .collect();
        pieces.push_back(ExecRead { exit_code: Some(ran.exit_code), ..ExecRead::default() });
        let process = format!("x{}", self.processes.len() + 1);
        self.processes.insert(process.clone(), pieces);
        done(ExecOpened { process })
    }
}

fn said(ch: &str, text: &str) -> ExecRead {
    ExecRead { ch: Some(ch.to_owned()), text: Some(text.to_owned()), ..ExecRead::default() }
}

/// A text in pieces that fit into a frame.
fn parts(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let (part, rest) = text.split_at(text.floor_char_boundary(MAX_CHUNK));
        text = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn unsupported(message: &str) -> RpcError {
    RpcError::of(ErrorKind::Unsupported, message)
}
