//! A command killed at any moment: what is left is found and finished, whatever the provider did.

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::future::Future;
use std::pin::pin;
use std::task::Poll;

use crabbox_kernel::error::Result;
use crabbox_kernel::lease::{Held, reap};
use crabbox_kernel::ports::{EventSink, Stop, Urgency};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::lease::ReleaseOutcome;
use proptest::prelude::*;
use tokio::task::yield_now;

use fakes::{Act, Room, one_shot};

/// Runs a future until its `n`th stop, then drops it: what a kill does to a command.
async fn killed_at<T>(n: usize, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    for _ in 0..n {
        let step = std::future::poll_fn(|cx| {
            Poll::Ready(match work.as_mut().poll(cx) {
                Poll::Ready(done) => Some(done),
                Poll::Pending => None,
            })
        })
        .await;
        if step.is_some() {
            return step;
        }
        yield_now().await;
    }
    None
}

fn fault() -> impl Strategy<Value = Option<(&'static str, Act)>> {
    let code = prop_oneof![
        Just(ErrorCode::Transient),
        Just(ErrorCode::ProviderTimeout),
        Just(ErrorCode::PluginFault),
        Just(ErrorCode::NotFound),
    ];
    // An outcome of `not-started` is believed, so only a provider that lies would pair it with a deed.
    let act = prop_oneof![
        code.clone().prop_map(|code| Act::Refuse(code, Some(Outcome::NotStarted))),
        code.clone().prop_map(|code| Act::Refuse(code, None)),
        code.prop_map(|code| Act::DoThenFail(code, Outcome::Uncertain)),
        Just(Act::DoThenStall),
        Just(Act::Stall),
        Just(Act::OtherLease),
        Just(Act::Pending),
    ];
    let method = prop_oneof![Just("acquire"), Just("resolve"), Just("release"), Just("touch")];
    let sane = |(method, act): (&'static str, Act)| {
        let refused = matches!(act, Act::Refuse(..));
        let lies = method == "release" && matches!(act, Act::Refuse(ErrorCode::NotFound, _));
        let fits = match method {
            "acquire" => !matches!(act, Act::Pending),
            "resolve" => refused || matches!(act, Act::OtherLease),
            "release" => refused || matches!(act, Act::DoThenFail(..) | Act::Pending),
            _ => refused,
        };
        (fits && !lies).then_some((method, act))
    };
    proptest::option::of((method, act)).prop_map(move |fault| fault.and_then(sane))
}

async fn work(
    room: &Room,
    stop_after: usize,
    raise: &tokio::sync::watch::Sender<Urgency>,
) -> Result<()> {
    for n in 0..6 {
        assert!(!room.traces().is_empty(), "work goes on only with a trail and a claim");
        if n == stop_after {
            raise.send_replace(Urgency::Gentle);
        }
        yield_now().await;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_of_a_one_off_lease_is_left_after_a_kill_and_a_cleanup(
        kill in 0usize..30,
        kill_cleanup in 0usize..8,
        faults in proptest::collection::vec(fault(), 0..3),
        stop_after in 0usize..12,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let room = Room::new();
            for (method, act) in faults.iter().flatten() {
                room.toy.will(method, *act);
            }
            let (raise, stop) = Stop::new();
            let ask = one_shot();
            let working = async |_: &Held, _: &mut dyn EventSink| work(&room, stop_after, &raise).await;
            killed_at(kill, room.lease(&ask, &stop, None, working)).await;
            for open in reap::open(&room.state) {
                killed_at(kill_cleanup, reap::finish(&room.bench(), open)).await;
            }
            // Faults pass: some later cleanup is the last one that is needed.
            for _ in 0..5 {
                for open in reap::open(&room.state) {
                    let _ = reap::finish(&room.bench(), open).await;
                }
            }
            prop_assert!(room.toy.boxes.borrow().is_empty(), "a box is left");
            prop_assert_eq!(room.traces(), Vec::<String>::new());
            prop_assert!(room.toy.count("acquire") <= 1);
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_without_any_note_but_the_intent_is_found_by_its_label() {
    let room = Room::new();
    room.toy.will("acquire", Act::DoThenStall);
    let (ask, stop) = (one_shot(), Stop::never());
    let idle = async |_: &Held, _: &mut dyn EventSink| Ok(());
    let made = killed_at(3, room.lease(&ask, &stop, None, idle)).await;
    assert!(made.is_none() && room.toy.boxes.borrow().len() == 1, "killed before it was recorded");
    let mut open = reap::open(&room.state);
    assert_eq!(open[0].reason, "its acquire was interrupted");
    let done = reap::finish(&room.bench(), open.remove(0)).await;
    assert_eq!(done, Ok(ReleaseOutcome::Released));
    assert_eq!(room.traces(), Vec::<String>::new());
}
