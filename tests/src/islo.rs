//! The small Islo of `plugins/islo/fake`.

use std::ops::Deref;

use crate::Room;
use crate::sandboxes::Fake;

/// The key it wants.
pub const KEY: &str = "ak-c4n4ry-51";

/// One that runs; it ends when this is dropped.
pub struct IsloFake(Fake);

impl Deref for IsloFake {
    type Target = Fake;

    fn deref(&self) -> &Fake {
        &self.0
    }
}

impl IsloFake {
    /// Starts one, and makes it the room's provider.
    pub fn start(room: &Room) -> Self {
        let fake = Self::alone();
        fake.configure(room, "");
        fake
    }

    /// Starts one.
    pub fn alone() -> Self {
        Self(Fake::start("islo", KEY, &[]))
    }

    /// Writes the room's settings.
    pub fn configure(&self, room: &Room, more: &str) {
        room.configure(&format!(
            "provider: islo\nislo:\n  baseUrl: {}\n  apiKey: cmd:printf 'ak-%s-51' c4n4ry\n{more}",
            self.url()
        ));
    }
}
