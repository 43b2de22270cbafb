//! A connection whose processes follow a script, in time held in hand.

#![expect(clippy::unwrap_used, reason = "a fake that cannot play its part fails the test")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use crabbox_kernel::error::Result;
use crabbox_kernel::event::Stream;
use crabbox_kernel::ports::{Exit, Piece, ProcessInput, ProcessOutput, Pty, Remote};
use crabbox_schemas::error::ErrorCode;
use tokio::sync::watch;

/// What a process does next.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Prints.
    Print(Stream, &'static [u8]),
    /// Takes its time.
    Wait(Duration),
    /// Goes on until it is killed, by this command or a harder one.
    UntilKilled(&'static str),
    /// Ends.
    Exit(i32),
    /// The connection breaks.
    Cut,
    /// Nothing ever again.
    Hang,
}

/// The connection.
pub(crate) struct Script {
    /// Steps of the command called `main`; any other command exits with 0 at once, after `others`.
    pub(crate) main: Vec<Step>,
    /// How long other commands take.
    pub(crate) others: Duration,
    /// Every command that was started, with the time in milliseconds.
    pub(crate) started: RefCell<Vec<(String, u128)>>,
    /// What was written to `main`, and whether its input was ended.
    pub(crate) typed: Rc<RefCell<Vec<u8>>>,
    pub(crate) ended: Rc<Cell<bool>>,
    /// Sizes the terminal was told.
    pub(crate) sizes: Rc<RefCell<Vec<(u32, u32)>>>,
    /// Writing fails.
    pub(crate) deaf: bool,
    kills: watch::Sender<Vec<String>>,
    from: tokio::time::Instant,
}

impl Script {
    pub(crate) fn new(main: Vec<Step>) -> Self {
        Self {
            main,
            others: Duration::ZERO,
            started: RefCell::default(),
            typed: Rc::default(),
            ended: Rc::default(),
            sizes: Rc::default(),
            deaf: false,
            kills: watch::channel(Vec::new()).0,
            from: tokio::time::Instant::now(),
        }
    }

    /// Commands in the order they were started.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.started.borrow().iter().map(|s| s.0.clone()).collect()
    }
}

pub(crate) struct Input {
    typed: Rc<RefCell<Vec<u8>>>,
    ended: Rc<Cell<bool>>,
    sizes: Rc<RefCell<Vec<(u32, u32)>>>,
    deaf: bool,
}

pub(crate) struct Output {
    steps: VecDeque<Step>,
    kills: watch::Receiver<Vec<String>>,
}

impl Remote for Script {
    type Input = Input;
    type Output = Output;

    async fn start(&self, command: &str, _: Option<&Pty>) -> Result<(Input, Output)> {
        self.started.borrow_mut().push((command.to_owned(), self.from.elapsed().as_millis()));
        let main = command == "main";
        let steps = if main {
            self.main.clone()
        } else {
            self.kills.send_modify(|kills| kills.push(command.to_owned()));
            vec![Step::Wait(self.others), Step::Exit(0)]
        };
        let of_main =
            |typed: &Rc<RefCell<Vec<u8>>>| if main { typed.clone() } else { Rc::default() };
        let input = Input {
            typed: of_main(&self.typed),
            ended: if main { self.ended.clone() } else { Rc::default() },
            sizes: self.sizes.clone(),
            deaf: self.deaf && main,
        };
        Ok((input, Output { steps: steps.into(), kills: self.kills.subscribe() }))
    }

    fn peer(&self) -> &str {
        "script"
    }

    async fn close(self) {}
}

impl ProcessInput for Input {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        if self.deaf {
            return Err(super::error(ErrorCode::ConnectionLost, None));
        }
        self.typed.borrow_mut().extend_from_slice(&data);
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        self.ended.set(true);
        Ok(())
    }

    async fn signal(&mut self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn resize(&mut self, columns: u32, rows: u32) -> Result<()> {
        self.sizes.borrow_mut().push((columns, rows));
        Ok(())
    }
}

impl ProcessOutput for Output {
    async fn next(&mut self) -> Result<Piece> {
        loop {
            match self.steps.pop_front() {
                Some(Step::Print(stream, text)) => {
                    return Ok(Piece::Data(stream, Bytes::from_static(text)));
                }
                Some(Step::Wait(time)) => {
                    self.steps.push_front(Step::Wait(Duration::ZERO));
                    tokio::time::sleep(time).await;
                    self.steps.pop_front();
                }
                Some(Step::UntilKilled(by)) => {
                    self.steps.push_front(Step::UntilKilled(by));
                    let fits = |kills: &Vec<String>| kills.iter().any(|k| k == by);
                    self.kills.wait_for(fits).await.unwrap();
                    self.steps.pop_front();
                }
                Some(Step::Exit(code)) => return Ok(Piece::Exited(Exit { code, signal: None })),
                Some(Step::Cut) => return Err(super::error(ErrorCode::ConnectionLost, None)),
                Some(Step::Hang) | None => std::future::pending().await,
            }
        }
    }
}
