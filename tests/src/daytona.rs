//! The small Daytona of `plugins/daytona/fake`.

use std::ops::Deref;
use std::path::Path;

use serde_json::Value;

use crate::sandboxes::Fake;
use crate::{Room, binary};

/// The key it wants.
pub const KEY: &str = "dtn-c4n4ry-51";

/// One that runs; it ends when this is dropped.
pub struct DaytonaFake(Fake);

impl Deref for DaytonaFake {
    type Target = Fake;

    fn deref(&self) -> &Fake {
        &self.0
    }
}

impl DaytonaFake {
    /// Starts one, and makes it the room's provider: runs go through its toolboxes.
    pub fn start(room: &Room) -> Self {
        let fake = Self::alone();
        fake.configure(room, "  sshAccess: false\n");
        fake
    }

    /// Starts one.
    pub fn alone() -> Self {
        Self(Fake::start("daytona", KEY, &[]))
    }

    /// Starts one with SSH, and makes it the room's provider. Boxes work below `work` on this machine.
    pub fn with_ssh(room: &Room, work: &Path) -> Self {
        let fake = Self(Fake::start("daytona", KEY, &[&binary("ssh-gateway")]));
        let more = format!("  sshGatewayHost: 127.0.0.1\n  workRoot: {}\n", work.display());
        fake.configure(room, &more);
        fake
    }

    /// Writes the room's settings.
    pub fn configure(&self, room: &Room, more: &str) {
        room.configure(&format!(
            "provider: daytona\ndaytona:\n  apiUrl: {}/api\n  apiKey: cmd:printf 'dtn-%s-51' c4n4ry\n  snapshot: small\n{more}",
            self.url()
        ));
    }

    /// Everything it says of the sandboxes it has.
    pub fn kept(&self) -> Vec<Value> {
        self.told()["kept"].as_array().cloned().unwrap_or_default()
    }
}
