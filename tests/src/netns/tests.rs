//! A network of namespaces carries what it should and loses what it should.

use std::time::{Duration, Instant};

use super::Net;
use crate::{Call, Room, Sshd};

/// `ssh` from the near machine to the far one.
fn ssh(room: &Room, net: &Net, sshd: &Sshd, script: &str) -> Call {
    let call = room.call("ssh").args(["-F", "none", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR"]);
    let call = call.args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    net.near(
        call.arg("-i")
            .arg(&sshd.key)
            .args(["-p", &sshd.port.to_string()])
            .arg(format!("{}@{}", sshd.user, Net::FAR))
            .arg(script),
    )
}

#[test]
fn a_session_outlives_a_hole_and_loses_nothing() {
    let room = Room::new();
    let Some(net) = Net::start(&room) else { return };
    let sshd = Sshd::far(&room, &net);
    let script = "echo begun; for i in 1 2 3 4 5 6 7 8 9; do echo $i; sleep 0.2; done";
    let running = ssh(&room, &net, &sshd, script).start();
    running.prints("begun");
    net.hole(true);
    let (before, began) = (running.stdout(), Instant::now());
    crate::eventually("the hole", Duration::from_secs(5), || {
        began.elapsed() > Duration::from_millis(600)
    });
    let during = running.stdout();
    assert!(during.len() <= before.len() + 4, "{before:?} then {during:?}");
    net.hole(false);
    assert_eq!(running.wait().expect(0).out(), "begun\n1\n2\n3\n4\n5\n6\n7\n8\n9\n");
}

#[test]
fn a_pulled_cable_can_be_put_back() {
    let room = Room::new();
    let Some(net) = Net::start(&room) else { return };
    let sshd = Sshd::far(&room, &net);
    net.unplug(true);
    let ended = ssh(&room, &net, &sshd, "true").run().expect(255);
    assert!(ended.err().contains("unreachable"), "{ended}");
    net.unplug(false);
    assert_eq!(ssh(&room, &net, &sshd, "echo back").ok().out(), "back\n");
}

#[test]
fn the_two_machines_see_nobody_else() {
    let room = Room::new();
    let Some(net) = Net::start(&room) else { return };
    let list = net.near(room.call("ip").args(["-o", "link"])).ok().out();
    assert_eq!(list.lines().count(), 2, "loopback and the cable: {list}");
}
