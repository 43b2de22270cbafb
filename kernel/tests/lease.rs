//! What becomes of a box, whatever happens to the work, the provider or the command.

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use crabbox_kernel::error::Result;
use crabbox_kernel::event::Event;
use crabbox_kernel::lease::lock::{LeaseLock, Patience, lock};
use crabbox_kernel::lease::release::release;
use crabbox_kernel::lease::trail::Trail;
use crabbox_kernel::lease::{Ask, Fate, Held, adopt, reap};
use crabbox_kernel::ports::{Clock, EventSink, Stop, Urgency};
use crabbox_kernel::run::reach::{address, connect};
use crabbox_schemas::error::{ErrorCode, Outcome};
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::lease::ReleaseOutcome;
use crabbox_schemas::plugin::Purpose;

use fakes::{Act, Room, error, existing, new_lease, one_shot, warnings};

const OTHER: &str = "/src/other";

async fn easy(_: &Held, _: &mut dyn EventSink) -> Result<()> {
    Ok(())
}

async fn endless(_: &Held, _: &mut dyn EventSink) -> Result<()> {
    std::future::pending().await
}

/// Finishes everything that interrupted commands left open.
async fn cleanup(room: &Room) -> Vec<Result<ReleaseOutcome>> {
    let mut done = Vec::new();
    for open in reap::open(&room.state) {
        done.push(reap::finish(&room.bench(), open).await);
    }
    done
}

fn gone_everywhere(room: &Room) {
    assert!(room.toy.boxes.borrow().is_empty(), "a box is left");
    assert_eq!(room.traces(), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn the_trail_is_ahead_of_the_world_at_every_step() {
    let room = Room::new();
    let seen: Rc<RefCell<Vec<(String, String)>>> = Rc::default();
    let (journal, notes) = (room.state.journal(), seen.clone());
    *room.toy.watch.borrow_mut() = Some(Box::new(move |call| {
        let id = Trail::ids(&journal);
        let text =
            id.first().map(|id| std::fs::read_to_string(journal.join(format!("{id}.jsonl"))));
        let last = text.map(|t| t.unwrap().lines().last().unwrap().to_owned());
        notes.borrow_mut().push((call.to_owned(), last.unwrap_or_default()));
    }));
    let claims = room.state.claims();
    let (done, events) = room
        .lease(&one_shot(), &Stop::never(), None, async |held, _| {
            assert!(claims.join(format!("{}.json", held.lease.lease_id)).exists(), "claimed");
            Ok(held.lease.lease_id.clone())
        })
        .await;
    let (id, fate) = done.unwrap();
    assert_eq!(fate, Fate::Released);
    let seen = seen.borrow();
    let last = |call: &str| seen.iter().find(|s| s.0 == call).unwrap().1.clone();
    assert_eq!(last("list"), "", "looking for a free name needs no intent");
    assert!(
        last("acquire").contains("\"intent\"") && last("acquire").contains(id.unwrap().as_str())
    );
    assert!(last("recorded").contains("\"resource\""));
    assert!(last("release").contains("\"releasing\""));
    assert!(matches!(&events[..], [
        Event::LeasingStarted { .. },
        Event::LeaseCreated { reused: false, .. },
        Event::Released { outcome, .. },
    ] if outcome == "released"));
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn only_who_makes_bare_machines_is_told_how_they_become_boxes_and_their_host_key_is_known() {
    for (feature, target, told) in [
        ("self-expiring", "linux", false),
        ("cloud-init", "linux", true),
        ("cloud-init", "macos", true),
        ("cloud-init", "windows", true),
    ] {
        let mut room = Room::new();
        room.toy.about.features = vec![feature.to_owned()];
        let mut new = new_lease();
        new.request.target = target.to_owned();
        let state = room.state.clone();
        let expected: &[&str] = if told { &["ssh-ed25519 BBBB"] } else { &[] };
        let looking = async |held: &Held, _: &mut dyn EventSink| {
            let endpoint = address(&state, Default::default(), &held.lease, false)?.endpoint;
            assert_eq!(endpoint.host_keys, expected, "{feature} {target}");
            Ok(())
        };
        let (done, _) = room.lease(&Ask::New(new), &Stop::never(), None, looking).await;
        done.unwrap().0.unwrap();
        let wanted = room.toy.wanted.take().unwrap();
        assert_eq!(wanted.bootstrap.is_some(), told, "{feature} {target}");
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fresh_machine_that_never_answers_is_a_bootstrap_that_failed_and_says_how_far_it_came() {
    for (feature, code) in
        [("self-expiring", ErrorCode::SshReady), ("cloud-init", ErrorCode::Bootstrap)]
    {
        let mut room = Room::new();
        room.toy.about.features = vec![feature.to_owned()];
        room.shell.unreachable.set(Some(ErrorCode::SshReady));
        let bench = room.bench();
        let dialling = async |held: &Held, events: &mut dyn EventSink| {
            connect(&bench, &held.lease, false, events, &Stop::never()).await.map(drop)
        };
        let (done, _) = room.lease(&one_shot(), &Stop::never(), None, dialling).await;
        let failed = done.unwrap().0.unwrap_err();
        assert_eq!((failed.code, failed.code.exit_status() == 5), (code, feature == "cloud-init"));
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn failing_and_interrupted_work_gives_the_box_back() {
    let room = Room::new();
    let failing = async |_: &Held, _: &mut dyn EventSink| -> Result<()> {
        Err(error(ErrorCode::ConnectionLost, None))
    };
    let (done, _) = room.lease(&one_shot(), &Stop::never(), None, failing).await;
    let (outcome, fate) = done.unwrap();
    assert_eq!((outcome.unwrap_err().code, fate), (ErrorCode::ConnectionLost, Fate::Released));
    gone_everywhere(&room);

    let (raise, stop) = Stop::new();
    let stopped = async |_: &Held, _: &mut dyn EventSink| -> Result<()> {
        raise.send(Urgency::Now).unwrap();
        stop.reaches(Urgency::Gentle).await;
        Err(error(ErrorCode::Cancelled, None))
    };
    let (done, _) = room.lease(&one_shot(), &stop, None, stopped).await;
    assert_eq!(done.unwrap().1, Fate::Released);
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_acquire_ends_before_any_work() {
    for act in [Act::Stall, Act::DoThenStall] {
        let room = Room::new();
        let (raise, stop) = Stop::new();
        room.toy.will("acquire", act);
        let ask = one_shot();
        let interrupt = async {
            room.time.sleep(Duration::from_secs(2)).await;
            raise.send(Urgency::Gentle).unwrap();
        };
        let (leased, ()) = tokio::join!(room.lease(&ask, &stop, None, easy), interrupt);
        assert_eq!(leased.0.unwrap_err().code, ErrorCode::Cancelled, "{act:?}");
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_raised_while_acquire_succeeds_starts_no_work_and_releases() {
    let room = Room::new();
    let (raise, stop) = Stop::new();
    *room.toy.watch.borrow_mut() = Some(Box::new(move |call| {
        if call == "recorded" {
            raise.send(Urgency::Gentle).unwrap();
        }
    }));
    let work = async |_: &Held, _: &mut dyn EventSink| -> Result<()> { panic!("work began") };
    let (done, _) = room.lease(&one_shot(), &stop, None, work).await;
    let (outcome, fate) = done.unwrap();
    assert_eq!((outcome.unwrap_err().code, fate), (ErrorCode::Cancelled, Fate::Released));
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_cannot_list_now_delays_nobody_who_wants_to_stop() {
    let room = Room::new();
    let (raise, stop) = Stop::new();
    room.toy.will("list", Act::Stall);
    let ask = one_shot();
    let interrupt = async { raise.send(Urgency::Gentle).unwrap() };
    let (leased, ()) = tokio::join!(room.lease(&ask, &stop, None, easy), interrupt);
    assert_eq!(leased.0.unwrap_err().code, ErrorCode::Cancelled);
    assert_eq!(room.toy.count("acquire"), 0);
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn a_kept_box_stays_and_a_reused_one_is_never_given_back() {
    let room = Room::new();
    let lease = room.kept().await;
    assert_eq!(room.toy.count("release"), 0);
    assert!(reap::open(&room.state).is_empty(), "a kept lease is not open");
    let claim = room.bench().claims().get(&lease.lease_id).unwrap().unwrap();
    assert!(claim.keep);

    let failing = async |held: &Held, _: &mut dyn EventSink| -> Result<()> {
        assert!(held.reused);
        Err(error(ErrorCode::SyncWrite, None))
    };
    for name in [lease.slug.as_str(), lease.lease_id.as_str()] {
        let (done, events) = room.lease(&existing(name), &Stop::never(), None, failing).await;
        let (outcome, fate) = done.unwrap();
        assert_eq!((outcome.unwrap_err().code, fate), (ErrorCode::SyncWrite, Fate::Kept));
        assert!(matches!(events[..], [Event::LeaseCreated { reused: true, .. }]));
    }
    assert_eq!(room.toy.count("release"), 0);
    assert_eq!(room.toy.count("touch ready"), 1, "when it was kept");
    assert_eq!(room.toy.count("resolve Use"), 0, "its claim says all there is to know");
    assert_eq!(room.toy.boxes.borrow().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failed_release_leaves_a_trail_that_cleanup_ends() {
    for act in [
        Act::Refuse(ErrorCode::Transient, Some(Outcome::NotStarted)),
        Act::DoThenFail(ErrorCode::ProviderTimeout, Outcome::Uncertain),
    ] {
        let room = Room::new();
        room.toy.will("release", act);
        let (done, events) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
        assert_eq!(done.unwrap().1, Fate::Stuck);
        assert!(warnings(&events)[0].contains("crabbox cleanup"), "{events:?}");
        let open = reap::open(&room.state);
        assert_eq!(open[0].reason, "its release was interrupted");
        drop(open);
        assert!(cleanup(&room).await[0].is_ok());
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_under_way_is_remembered_until_it_is_done() {
    let room = Room::new();
    room.toy.will("release", Act::Pending);
    let (done, _) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
    assert!(done.is_ok());
    assert_eq!(reap::open(&room.state).len(), 1);
    assert_eq!(cleanup(&room).await, [Ok(ReleaseOutcome::Released)]);
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_at_a_look_was_never_said_to_have_begun() {
    let room = Room::new();
    room.toy.will("acquire", Act::Refuse(ErrorCode::Config, Some(Outcome::NotStarted)));
    let (done, events) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
    assert_eq!(done.unwrap_err().code, ErrorCode::Config);
    assert!(
        !events.iter().any(|event| matches!(event, Event::LeasingStarted { .. })),
        "{events:?}"
    );
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_cannot_list_is_asked_for_a_box_all_the_same_unless_it_does_not_know_us() {
    for (code, acquired) in [(ErrorCode::Transient, 1), (ErrorCode::Auth, 0)] {
        let room = Room::new();
        room.toy.will("list", Act::Refuse(code, None));
        let (done, _) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
        assert_eq!(
            (done.is_ok(), room.toy.count("acquire")),
            (acquired == 1, acquired),
            "{code:?}"
        );
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_certainly_did_nothing_leaves_nothing() {
    for outcome in [Outcome::NotStarted, Outcome::RolledBack] {
        let room = Room::new();
        room.toy.will("acquire", Act::Refuse(ErrorCode::Capacity, Some(outcome)));
        let (done, events) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
        let error = done.unwrap_err();
        assert_eq!((error.code, error.stage), (ErrorCode::Capacity, Some("acquire")));
        assert_eq!(room.toy.count("resolve Reconcile"), 0);
        assert!(warnings(&events).is_empty());
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquire_in_doubt_is_looked_into_and_undone() {
    for act in [
        Act::Refuse(ErrorCode::PluginFault, None),
        Act::DoThenFail(ErrorCode::ProviderTimeout, Outcome::Uncertain),
        Act::DoThenFail(ErrorCode::Bootstrap, Outcome::RolledBack),
        Act::OtherLease,
    ] {
        let room = Room::new();
        room.toy.will("acquire", act);
        let (done, events) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
        assert_eq!(done.unwrap_err().outcome, Some(Outcome::RolledBack), "{act:?}");
        assert_eq!(room.toy.count("resolve Reconcile"), 1, "{act:?}");
        assert!(warnings(&events).is_empty(), "{act:?}");
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_cannot_be_undone_is_said_and_left_to_cleanup() {
    for (method, act) in [
        ("resolve", Act::Refuse(ErrorCode::Transient, None)),
        ("resolve", Act::OtherLease),
        ("release", Act::Refuse(ErrorCode::Permission, None)),
        ("release", Act::Pending),
    ] {
        let room = Room::new();
        room.toy.will("acquire", Act::DoThenFail(ErrorCode::ProviderTimeout, Outcome::Uncertain));
        room.toy.will(method, act);
        let (done, events) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
        assert_eq!(done.unwrap_err().outcome, Some(Outcome::Uncertain), "{method} {act:?}");
        assert!(warnings(&events)[0].contains("crabbox cleanup"));
        assert!(!room.traces().is_empty() && room.toy.boxes.borrow().len() == 1);
        assert_eq!(cleanup(&room).await, [Ok(ReleaseOutcome::Released)]);
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn a_box_that_cannot_be_claimed_is_given_back() {
    let room = Room::new();
    let claims = room.state.claims();
    *room.toy.watch.borrow_mut() = Some(Box::new(move |call| {
        if call == "recorded" {
            std::fs::remove_dir(&claims).unwrap();
            std::fs::write(&claims, "in the way").unwrap();
        } else if call == "resolve" {
            std::fs::remove_file(&claims).unwrap();
        }
    }));
    let (done, _) = room.lease(&one_shot(), &Stop::never(), None, easy).await;
    let error = done.unwrap_err();
    assert_eq!((error.code, error.outcome), (ErrorCode::State, Some(Outcome::RolledBack)));
    gone_everywhere(&room);
}

#[tokio::test(start_paused = true)]
async fn a_host_with_an_id_of_its_own_is_claimed_and_only_forgotten() {
    let room = Room::with_host();
    let id = room.toy.host.as_ref().unwrap().lease_id.clone();
    let work = async |held: &Held, _: &mut dyn EventSink| -> Result<()> {
        assert_eq!(held.lease.lease_id, id);
        assert_eq!(room.traces(), [format!("claims/{id}.json")]);
        Ok(())
    };
    let (done, events) = room.lease(&one_shot(), &Stop::never(), None, work).await;
    assert_eq!(done.unwrap().1, Fate::Released);
    assert!(
        matches!(events.last(), Some(Event::Released { outcome, .. }) if outcome == "retained")
    );
    gone_everywhere(&room);

    room.kept().await;
    let (done, _) = room.lease(&one_shot(), &Stop::never(), None, work).await;
    assert_eq!(done.unwrap().1, Fate::Kept, "a one-off run does not forget a kept host");
    let claim = room.bench().claims().get(&id).unwrap().unwrap();
    assert!(claim.keep);
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_another_checkout_is_refused_unless_reclaimed() {
    for room in [Room::new(), Room::with_host()] {
        let lease = room.kept().await;
        let claims = room.bench().claims();
        let mut claim = claims.get(&lease.lease_id).unwrap().unwrap();
        claim.repo_root = OTHER.into();
        claims.put(&claim).unwrap();
        let ask = |reclaim| match &room.toy.host {
            Some(_) => Ask::New(crabbox_kernel::lease::NewLease { reclaim, ..new_lease() }),
            None => Ask::Existing { name: lease.slug.clone(), reclaim },
        };
        let work = async |_: &Held, _: &mut dyn EventSink| -> Result<()> { panic!("work began") };
        let (done, _) = room.lease(&ask(false), &Stop::never(), None, work).await;
        let refusal = done.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::ClaimConflict);
        assert!(refusal.message.contains(OTHER), "{}", refusal.message);
        assert_eq!(room.toy.count("release"), 0);
        assert_eq!(claims.get(&lease.lease_id).unwrap(), Some(claim), "nothing was changed");

        let (done, _) = room.lease(&ask(true), &Stop::never(), None, easy).await;
        assert_eq!(done.unwrap().1, Fate::Kept);
        assert_eq!(claims.get(&lease.lease_id).unwrap().unwrap().repo_root, "/src/app");
    }
}

#[tokio::test(start_paused = true)]
async fn work_ends_when_the_provider_says_the_lease_is_gone() {
    let room = Room::new();
    room.toy.will("touch", Act::Refuse(ErrorCode::Transient, None));
    room.toy.will("touch", Act::Refuse(ErrorCode::NotFound, None));
    let (done, _) = room.lease(&one_shot(), &Stop::never(), Some("--keep"), endless).await;
    let (outcome, fate) = done.unwrap();
    assert_eq!(outcome.unwrap_err().code, ErrorCode::LeaseExpired);
    assert_eq!(fate, Fate::Released, "what is gone cannot be kept");
    gone_everywhere(&room);
}

async fn take(
    room: &Room,
    patience: u64,
    events: &mut Vec<Event>,
    stop: &Stop,
) -> Result<LeaseLock> {
    let id = LeaseId::mint([1; 6]);
    let patience = Patience(Duration::from_secs(patience));
    lock(&room.state, &id, "run_2", patience, &room.time, events, stop).await
}

#[tokio::test(start_paused = true)]
async fn a_second_run_waits_with_one_notice_or_fails_at_once() {
    let room = Room::new();
    let mut events = Vec::new();
    let first = take(&room, 0, &mut events, &Stop::never()).await.unwrap();
    let busy = take(&room, 0, &mut events, &Stop::never()).await.err().unwrap();
    assert_eq!(busy.code, ErrorCode::Busy);
    assert!(busy.message.contains("run_2") && events.is_empty());
    let late = take(&room, 5, &mut events, &Stop::never()).await.err().unwrap();
    assert_eq!(late.code, ErrorCode::Busy);
    assert!(matches!(&events[..], [Event::Waiting { owner }] if owner == "run_2"));
    let (raise, stop) = Stop::new();
    raise.send(Urgency::Gentle).unwrap();
    let stopped = take(&room, 5, &mut events, &stop).await.err().unwrap();
    assert_eq!(stopped.code, ErrorCode::Cancelled);

    events.clear();
    let free = async {
        room.time.sleep(Duration::from_secs(3)).await;
        drop(first);
    };
    let stop = Stop::never();
    let (second, ()) = tokio::join!(take(&room, 60, &mut events, &stop), free);
    assert!(second.is_ok());
    assert_eq!(events.len(), 1, "one notice, however long it takes");
}

#[tokio::test(start_paused = true)]
async fn the_lock_holds_although_a_release_removes_its_file() {
    let room = Room::new();
    let (mut early, mut late, stop) = (Vec::new(), Vec::new(), Stop::never());
    let first = take(&room, 0, &mut early, &stop).await.unwrap();
    let remove = async {
        room.time.sleep(Duration::from_secs(1)).await;
        std::fs::remove_file(room.state.locks().join("cbx_010101010101")).unwrap();
        drop(first);
    };
    let (second, ()) = tokio::join!(take(&room, 60, &mut early, &stop), remove);
    let _second = second.unwrap();
    let third = take(&room, 0, &mut late, &stop).await;
    assert_eq!(third.err().unwrap().code, ErrorCode::Busy);
}

#[tokio::test(start_paused = true)]
async fn a_lease_can_be_released_twice_and_what_is_gone_counts_as_released() {
    let room = Room::new();
    let lease = room.kept().await;
    assert_eq!(release(&room.bench(), &lease, None).await, Ok(ReleaseOutcome::Released));
    gone_everywhere(&room);
    assert_eq!(release(&room.bench(), &lease, None).await, Ok(ReleaseOutcome::AlreadyGone));
    room.toy.will("release", Act::Refuse(ErrorCode::NotFound, None));
    assert_eq!(release(&room.bench(), &lease, None).await, Ok(ReleaseOutcome::AlreadyGone));
    let missing = adopt::find(&room.bench(), &lease.slug, Purpose::Release).await.unwrap_err();
    assert_eq!(missing.code, ErrorCode::NotFound);
}

#[tokio::test(start_paused = true)]
async fn a_box_stopped_by_another_command_while_it_is_used_leaves_no_claim() {
    let room = Room::new();
    let kept = room.kept().await;
    for (ask, keep) in
        [(existing(&kept.slug), None), (one_shot(), Some("--keep")), (one_shot(), None)]
    {
        let stop_it = async |held: &Held, _: &mut dyn EventSink| -> Result<()> {
            let trail = Trail::adopt(&room.state.journal(), &held.lease.lease_id)?;
            assert_eq!(trail.is_some(), held.reused, "a live owner's trail is not taken");
            release(&room.bench(), &held.lease, trail).await?;
            Err(error(ErrorCode::ConnectionLost, None))
        };
        let (done, _) = room.lease(&ask, &Stop::never(), keep, stop_it).await;
        assert_eq!(done.unwrap().0.unwrap_err().code, ErrorCode::ConnectionLost);
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_killed_while_its_intent_was_written_leaves_nothing() {
    let room = Room::new();
    for torn in ["", "{\"type\":\"int"] {
        std::fs::write(room.state.journal().join("cbx_010101010101.jsonl"), torn).unwrap();
        assert!(reap::open(&room.state).is_empty());
        gone_everywhere(&room);
    }
}

#[tokio::test(start_paused = true)]
async fn a_live_command_and_its_lease_are_left_alone_by_cleanup() {
    let room = Room::new();
    let look = async |_: &Held, _: &mut dyn EventSink| Ok(reap::open(&room.state).len());
    let (done, _) = room.lease(&one_shot(), &Stop::never(), None, look).await;
    assert_eq!(done.unwrap().0, Ok(0));
}
