//! The lines, as they are parsed.

use crabbox_schemas::error::ErrorCode;
use crabbox_schemas::ids::LeaseId;
use crabbox_schemas::lease::{Desired, SshEndpoint};
use std::collections::BTreeMap;

use super::*;
use crate::event::Stream;

fn lease() -> Lease {
    Lease {
        lease_id: LeaseId::parse("cbx_abcdef123456").unwrap(),
        slug: "blue-prawn".into(),
        name: "crabbox-blue-prawn-c80c2195".into(),
        cloud_id: "srv-7".into(),
        status: "ready".into(),
        server_type: "cx22".into(),
        labels: BTreeMap::new(),
        work_root: Some("/work/crabbox".into()),
        ssh: Some(SshEndpoint {
            user: "crabbox".into(),
            host: "192.0.2.1".into(),
            port: 2222,
            ..SshEndpoint::default()
        }),
    }
}

fn claim() -> Claim {
    Claim {
        lease_id: lease().lease_id,
        slug: "blue-prawn".into(),
        provider: "toy".into(),
        repo_root: "/src".into(),
        claimed_at: "2026-05-07T10:00:00Z".into(),
        last_used_at: "2026-05-07T10:04:11Z".into(),
        idle_timeout_seconds: 1800,
        ttl_seconds: 5400,
        created_at: "2026-05-07T10:00:00Z".into(),
        keep: true,
        plugin: None,
        settings: String::new(),
        lease: None,
        other: BTreeMap::new(),
    }
}

fn timing() -> Timing {
    Timing {
        provider: "toy".into(),
        sync_ms: 1_238,
        command_ms: 350,
        total_ms: 72_400,
        exit_code: 37,
        sync_phases: vec![
            SyncPhase { name: "ssh".into(), ms: Some(12), skipped: false, reason: None },
            SyncPhase {
                name: "git_hydrate".into(),
                ms: None,
                skipped: true,
                reason: Some("off".into()),
            },
        ],
        ..Timing::default()
    }
}

fn sync_finished(skipped: bool, drifted: u64) -> Event {
    Event::SyncFinished {
        ms: 1_238,
        skipped,
        sent_files: 1,
        sent_bytes: 2,
        deleted: 0,
        drifted,
        phases: Vec::new(),
    }
}

#[test]
fn a_run_tells_its_story_on_stderr() {
    let desired = Desired {
        lease_id: lease().lease_id,
        slug: "blue-prawn".into(),
        name: "crabbox-blue-prawn".into(),
    };
    let released = |outcome: &str| Event::Released {
        lease: lease(),
        provider: "toy".into(),
        outcome: outcome.into(),
    };
    let events = [
        Event::RunRecorded { run_id: "run_000000000001".into() },
        Event::LeasingStarted {
            desired,
            provider: "toy".into(),
            class: "beast".into(),
            keep: false,
        },
        Event::LeaseCreated { lease: lease(), provider: "toy".into(), reused: false },
        Event::LeaseCreated { lease: lease(), provider: "toy".into(), reused: true },
        Event::BootstrapWaiting { stage: "tcp".into(), message: "refused".into() },
        Event::Waiting { owner: "pid 7".into() },
        Event::SyncStarted {
            root: "/src/app".into(),
            host: "192.0.2.1".into(),
            workdir: "/work/crabbox/app".into(),
            files: 1,
            bytes: 1_572_864,
        },
        sync_finished(true, 0),
        sync_finished(false, 2),
        Event::CommandStarted {
            host: "192.0.2.1".into(),
            workdir: "/w".into(),
            command: "make test".into(),
            acknowledged: true,
        },
        Event::ResultsCollected {
            results: TestResults { tests: 4, files: vec!["a".into()], ..TestResults::default() },
        },
        released("released"),
        released("already_gone"),
        released("pending"),
        released("retained"),
        Event::Kept { lease: lease(), reason: "--keep".into() },
        Event::Warning { message: "low\x1b[2J disk".into() },
    ];
    let text: Vec<String> = events.iter().flat_map(lines).collect();
    insta::assert_snapshot!(text.join("\n"), @r#"
    recording run run_000000000001
    provisioning provider=toy lease=cbx_abcdef123456 slug=blue-prawn class=beast preferred_type=beast keep=false
    provisioned lease=cbx_abcdef123456 server=srv-7 type=cx22
    using lease=cbx_abcdef123456 slug=blue-prawn provider=toy
    waiting for tcp: refused
    waiting: another run uses this work tree (pid 7)
    syncing /src/app -> 192.0.2.1:/work/crabbox/app
    sync candidate: 1 files, 1.5 MiB
    No changes detected, skipping sync (1.24s)
    repaired 2 paths that an earlier command had changed on the box
    sync complete in 1.24s
    running on 192.0.2.1 make test
    test results files=1 tests=4 failures=0 errors=0 skipped=0
    deleted lease=cbx_abcdef123456 server=srv-7 name=crabbox-blue-prawn-c80c2195
    already gone lease=cbx_abcdef123456 server=srv-7
    deleting lease=cbx_abcdef123456 server=srv-7 name=crabbox-blue-prawn-c80c2195
    released static lease=cbx_abcdef123456 host=192.0.2.1
    kept lease=cbx_abcdef123456 slug=blue-prawn (--keep); `crabbox stop blue-prawn` gives it back
    warning: low\u{1b}[2J disk
    "#);
}

#[test]
fn output_and_details_are_not_lines() {
    let output = Event::Output { stream: Stream::Stdout, offset: 0, data: "x".into() };
    for silent in [output, Event::Debug { message: "d".into() }] {
        assert!(lines(&silent).is_empty());
    }
}

#[test]
fn a_warm_box_says_how_to_reach_it() {
    let mut secret = lease();
    if let Some(ssh) = secret.ssh.as_mut() {
        ssh.user = "token-abc".into();
        ssh.user_secret = true;
    }
    let delegated = Lease { ssh: None, ..lease() };
    let text = [
        leased(&lease(), "toy", &claim()),
        ready(&lease()),
        ready(&secret),
        leased(&delegated, "toy", &claim()),
        warmup_complete(62_100),
        synced("/work/crabbox/app"),
    ];
    insta::assert_snapshot!(text.join("\n"), @r#"
    leased cbx_abcdef123456 slug=blue-prawn provider=toy server=srv-7 type=cx22 ip=192.0.2.1 idle_timeout=30m0s expires=2026-05-07T10:34:11Z
    ready ssh=crabbox@192.0.2.1:2222 network=public workroot=/work/crabbox
    ready ssh=<redacted>@192.0.2.1:2222 network=public workroot=/work/crabbox
    leased cbx_abcdef123456 slug=blue-prawn provider=toy sandbox=srv-7
    warmup complete total=1m2s
    synced /work/crabbox/app
    "#);
    assert!(!text.concat().contains("token-abc"));
}

#[test]
fn a_run_ends_with_where_the_time_went() {
    let text = [
        command_complete(&timing()),
        run_summary(&timing()),
        delegated_summary(&timing()),
        delegated_summary(&Timing {
            sync_ms: 0,
            sync_phases: vec![],
            sync_skipped: true,
            ..timing()
        }),
        still_syncing(15_004),
    ];
    insta::assert_snapshot!(text.join("\n"), @r#"
    command complete in 350ms total=1m12s
    run summary sync=1.24s command=350ms total=1m12s sync_skipped=false exit=37 sync_steps=ssh:12ms,git_hydrate:skipped_off
    toy run summary sync=1.24s command=350ms total=1m12s exit=37 sync_steps=ssh:12ms,git_hydrate:skipped_off
    toy run summary sync=delegated command=350ms total=1m12s exit=37 sync_skipped=true
    still syncing after 15s
    "#);
}

#[test]
fn progress_counts_in_its_own_unit() {
    let progress = |done, total, unit, message: Option<&str>| {
        progress(&Event::Progress {
            phase: "upload".into(),
            done,
            total,
            unit,
            message: message.map(str::to_owned),
        })
        .unwrap()
    };
    assert_eq!(progress(Some(1024), Some(2048), "bytes", None), "upload 1.0 KiB/2.0 KiB");
    assert_eq!(progress(Some(3), None, "files", Some("a\nb")), "upload 3 files a\\nb");
    assert_eq!(progress(None, None, "", Some("busy")), "upload busy");
    assert_eq!(super::progress(&Event::Debug { message: "d".into() }), None);
}

#[test]
fn a_failure_reads_the_same_with_and_without_colour() {
    let io = std::io::Error::other("no space\x07");
    let error =
        KernelError::new(ErrorCode::State, "cannot write /x").because(&io).hint("free space");
    let plain = failure(&error, false);
    insta::assert_snapshot!(plain, @r#"
    error: cannot write /x
      caused by: no space\u{7}
    hint: free space
    "#);
    let mut bare = failure(&error, true);
    for code in ["\x1b[1;31m", "\x1b[1;36m", "\x1b[0m"] {
        assert!(bare.contains(code));
        bare = bare.replace(code, "");
    }
    assert_eq!(bare, plain);
    assert_eq!(warning("x", false), "warning: x");
}
