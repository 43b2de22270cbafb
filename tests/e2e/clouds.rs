//! What all clouds of machines have here, and stories that are the same of each.

use std::time::Duration;

use crabbox_tests::{Call, Room, binaries, gone_without};
use serde_json::Value;

/// A cloud of machines.
pub(crate) trait Cloud {
    /// The provider's name.
    const PROVIDER: &str;
    /// How often a lease is killed, unless `CRABBOX_TEST_CASES` says otherwise.
    const ROUNDS: u64 = 60;
    fn room(&self) -> &Room;
    fn crabbox(&self, words: &[&str]) -> Call;
    /// What is not ours, as it is.
    fn foreign(&self) -> Vec<Value>;
    /// Names of everything there is.
    fn names(&self) -> Vec<String>;
}

/// One run through the component, from the lease to its end; without it where somebody went without.
pub(crate) fn goes_through_the_component<C: Cloud>(cloud: &C, as_component: impl FnOnce()) {
    if gone_without("CRABBOX_TEST_WASM", "a component of ours") {
        return;
    }
    as_component();
    // What was compiled once stays so: on a busy machine that alone takes as long as a plugin may take to say hello.
    let cache = binaries().join("test-cache").display().to_string();
    let running = cloud.crabbox(&["run", "--", "sh", "-c", "cat hello.txt; exit 3"]);
    let running = running.env("XDG_CACHE_HOME", cache);
    let ran = running.limit(Duration::from_secs(120)).run().expect(3);
    assert_eq!((ran.out(), cloud.names()), ("hello\n".to_owned(), vec![]), "{ran}");
    let told = cloud.crabbox(&["plugin", "info", C::PROVIDER]).ok();
    assert!(told.out().contains("wasm"), "{told}");
}
