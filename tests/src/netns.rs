//! Two machines on this one: network namespaces joined by a router, whose link can be lost as links are.
//!
//! Here the kernels' own TCP does what it does on a bad day: it retransmits, backs off and recovers, or gives up.
//! Needs root, or a kernel that lets users make namespaces of their own.

use std::fs;
use std::time::Duration;

use crate::{Call, Room, Running, eventually};

/// What both ends and the router's two sides are called.
const NEAR: &str = "10.231.1.2";
const FAR: &str = "10.231.2.2";
const ROUTER_NEAR: &str = "10.231.1.1";
const ROUTER_FAR: &str = "10.231.2.1";

/// Three namespaces: the client's, the router's, the box's. They vanish when this is dropped.
pub struct Net {
    near: Space,
    router: Space,
    far: Space,
}

impl Net {
    /// The address of the box.
    pub const FAR: &str = FAR;

    /// Makes the namespaces; panics with what is missing when they cannot be made. With `CRABBOX_TEST_NETNS=0` in
    /// the environment there is nothing instead, and the test says that it proved nothing.
    pub fn start(room: &Room) -> Option<Self> {
        if crate::gone_without("CRABBOX_TEST_NETNS", "network namespaces") {
            return None;
        }
        let near = Space::first(room);
        let (router, far) = (near.another(room), near.another(room));
        let net = Self { near, router, far };
        net.join(&net.near, ("near", NEAR), ROUTER_NEAR);
        net.join(&net.far, ("far", FAR), ROUTER_FAR);
        net.hole(false);
        Some(net)
    }

    /// A cable from a machine to the router, which is also its way to everywhere else.
    fn join(&self, space: &Space, (name, addr): (&str, &str), router: &str) {
        let pid = space.pid();
        let script = format!(
            "ip link add {name} type veth peer name out netns {pid} && ip addr add {router}/24 dev {name} && \
             ip link set {name} up && ip link set lo up"
        );
        self.router.shell(&script);
        let script = format!(
            "ip addr add {addr}/24 dev out && ip link set lo up && ip link set out up && \
             ip route add default via {router}"
        );
        space.shell(&script);
    }

    /// The same call on the client's machine.
    pub fn near(&self, call: Call) -> Call {
        self.near.wrap(call)
    }

    /// The same call on the box.
    pub fn far(&self, call: Call) -> Call {
        self.far.wrap(call)
    }

    /// Loses every packet between the two, and tells nobody, until told otherwise.
    pub fn hole(&self, on: bool) {
        let forward = if on { 0 } else { 1 };
        self.router.shell(&format!("echo {forward} >/proc/sys/net/ipv4/ip_forward"));
    }

    /// Pulls the client's cable or puts it back: while it is out, there is no way to anywhere.
    pub fn unplug(&self, on: bool) {
        self.near.shell(&match on {
            true => "ip link set out down".to_owned(),
            false => format!("ip link set out up && ip route replace default via {ROUTER_NEAR}"),
        });
    }
}

/// One namespace and the process that keeps it.
struct Space {
    keeper: Running,
    /// A call in the room, to start others from.
    blank: Call,
    /// The keeper also has a user namespace of its own, in which we are root.
    user: bool,
}

impl Space {
    fn first(room: &Room) -> Self {
        let user = !rustix::process::geteuid().is_root();
        let unshare = room.call("unshare");
        let unshare = if user { unshare.args(["--user", "--map-root-user"]) } else { unshare };
        Self::kept(room, unshare, user)
    }

    /// One more, where the first one's root may join the two.
    fn another(&self, room: &Room) -> Self {
        Self::kept(room, self.enter(room.call("unshare")), self.user)
    }

    fn kept(room: &Room, unshare: Call, user: bool) -> Self {
        let call = unshare.args(["--net", "sleep", "3600"]).limit(Duration::from_secs(3600));
        let mut keeper = call.start();
        let proc = format!("/proc/{}/comm", keeper.pid().as_raw_nonzero());
        // Whoever keeps the namespace has become `sleep` once it is made.
        let made = || fs::read_to_string(&proc).is_ok_and(|name| name == "sleep\n");
        eventually("a network namespace or the reason why not", Duration::from_secs(10), || {
            keeper.ended() || made()
        });
        assert!(
            !keeper.ended(),
            "cannot make a network namespace: run the tests as root, or let users make namespaces (sysctl \
             kernel.unprivileged_userns_clone=1 kernel.apparmor_restrict_unprivileged_userns=0), or say \
             CRABBOX_TEST_NETNS=0 to go without these tests\n{}",
            keeper.stderr()
        );
        Self { keeper, blank: room.call("sh"), user }
    }

    fn pid(&self) -> String {
        self.keeper.pid().as_raw_nonzero().to_string()
    }

    /// As root of the namespace.
    fn enter(&self, call: Call) -> Call {
        let user: &[&str] = if self.user { &["--user", "--preserve-credentials"] } else { &[] };
        let target = ["--net", "--target", &self.pid()].map(str::to_owned);
        call.through("nsenter", user.iter().map(|arg| (*arg).to_owned()).chain(target))
    }

    /// As the account that runs the tests.
    fn wrap(&self, call: Call) -> Call {
        if !self.user {
            return self.enter(call);
        }
        let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
        let map = [
            "--user".to_owned(),
            format!("--map-user={}", user.as_raw()),
            format!("--map-group={}", group.as_raw()),
        ];
        self.enter(call.through("unshare", map))
    }

    fn shell(&self, script: &str) {
        let ended = self.enter(self.blank.clone().args(["-c", script])).run();
        assert!(ended.code == 0, "`{script}` (iproute2 and util-linux are needed)\n{ended}");
    }
}

#[cfg(test)]
mod tests;
