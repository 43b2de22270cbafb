//! A box in use: when its provider hears of it, and when it need not.

#[expect(dead_code, reason = "each test program uses its part of the fakes")]
mod fakes;

use std::time::Duration;

use crabbox_kernel::error::Result;
use crabbox_kernel::lease::Held;
use crabbox_kernel::ports::{Clock, EventSink, Stop};
use crabbox_schemas::error::ErrorCode;

use fakes::{Act, Room, existing, one_shot};

#[tokio::test(start_paused = true)]
async fn the_heartbeat_touches_at_its_interval_and_shrugs_off_passing_faults() {
    let room = Room::new();
    room.toy.will("touch", Act::Refuse(ErrorCode::Transient, None));
    room.toy.will("touch", Act::Refuse(ErrorCode::ProviderTimeout, None));
    let work = async |_: &Held, _: &mut dyn EventSink| -> Result<()> {
        room.time.wall_ms.set(0); // a clock that jumps back changes nothing
        room.time.sleep(Duration::from_secs(70)).await;
        Ok(())
    };
    let (done, _) = room.lease(&one_shot(), &Stop::never(), None, work).await;
    assert!(done.unwrap().0.is_ok());
    let times = room.toy.times("touch running");
    assert_eq!(
        times,
        [0, 5_000, 15_000, 35_000, 55_000],
        "soon at first, then a third of the limit"
    );
}

/// Takes a kept box in hand for some time; the calls this made, without those before.
async fn used_for(room: &Room, slug: &str, time: Duration) -> Vec<String> {
    let before = room.toy.calls.borrow().len();
    let work = async |held: &Held, _: &mut dyn EventSink| -> Result<()> {
        assert!(held.reused);
        room.time.sleep(time).await;
        Ok(())
    };
    let (done, _) = room.lease(&existing(slug), &Stop::never(), None, work).await;
    assert!(matches!(done, Ok((Ok(()), _))), "{done:?}");
    room.toy.calls.borrow()[before..].iter().map(|call| call.0.clone()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_box_just_used_is_used_again_without_its_provider_and_without_a_write() {
    let room = Room::new();
    let kept = room.kept().await;
    let claim = room.state.claims().join(format!("{}.json", kept.lease_id));
    let before = std::fs::metadata(&claim).unwrap().modified().unwrap();
    for _ in 0..5 {
        let calls = used_for(&room, &kept.slug, Duration::from_millis(900)).await;
        assert_eq!(calls, Vec::<String>::new());
    }
    assert_eq!(std::fs::metadata(&claim).unwrap().modified().unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_box_in_brief_but_frequent_use_never_looks_idle_to_its_provider() {
    let room = Room::new();
    let kept = room.kept().await;
    for _ in 0..100 {
        room.time.sleep(Duration::from_secs(7)).await;
        let calls = used_for(&room, &kept.slug, Duration::from_millis(10)).await;
        assert!(calls.is_empty() || calls == ["touch ready"], "{calls:?}");
    }
    let touches = room.toy.times("touch ready");
    let longest = touches.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(longest <= 40_000, "{longest} ms of the 60 s the box may be idle: {touches:?}");
    assert!(touches.len() <= 30, "and not for every command: {touches:?}");
}

#[tokio::test(start_paused = true)]
async fn an_overdue_touch_is_beside_the_command_and_its_end_waits_only_a_little() {
    let room = Room::new();
    let kept = room.kept().await;
    for (stall, most) in [(false, 0), (true, 5_000)] {
        room.time.sleep(Duration::from_secs(40)).await;
        if stall {
            room.toy.will("touch", Act::Stall);
        }
        let from = room.time.monotonic_ms();
        let calls = used_for(&room, &kept.slug, Duration::ZERO).await;
        assert_eq!(calls, ["touch ready"]);
        assert!(room.time.monotonic_ms() - from <= most);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reused_box_that_is_used_for_long_is_said_to_be_running_and_idle_again() {
    let room = Room::new();
    let kept = room.kept().await;
    let calls = used_for(&room, &kept.slug, Duration::from_secs(50)).await;
    assert_eq!(calls, ["touch ready", "touch running", "touch ready"]);
    assert_eq!(used_for(&room, &kept.slug, Duration::ZERO).await, Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_box_past_either_end_or_described_under_other_settings_is_asked_about() {
    for change in ["idle", "ttl", "settings", "address", "status", "clock"] {
        let room = Room::new();
        let kept = room.kept().await;
        let claims = room.bench().claims();
        let mut claim = claims.get(&kept.lease_id).unwrap().unwrap();
        match change {
            "idle" => room.time.sleep(Duration::from_secs(61)).await,
            "ttl" => claim.created_at = "2026-01-01T00:00:00Z".into(),
            "settings" => claim.settings = "1".into(),
            "address" => claim.lease.as_mut().unwrap().ssh = None,
            "status" => claim.lease.as_mut().unwrap().status = "failed".into(),
            _ => claim.idle_timeout_seconds = 0,
        }
        claims.put(&claim).unwrap();
        let calls = used_for(&room, &kept.slug, Duration::ZERO).await;
        assert_eq!(calls.first().map(String::as_str), Some("resolve Use"), "{change}: {calls:?}");
        if matches!(change, "idle" | "settings" | "address" | "status") {
            let calls = used_for(&room, &kept.slug, Duration::ZERO).await;
            assert_eq!(calls, Vec::<String>::new(), "{change}: what was learnt is kept");
        }
    }
}
