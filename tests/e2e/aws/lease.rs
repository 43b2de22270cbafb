//! An instance's life: leased, used, kept, touched, given back; and what is never seen of it.

use std::fs;

use super::Sky;

#[test]
fn a_run_leases_an_instance_works_on_it_and_gives_it_back() {
    let Some(sky) = Sky::new() else { return };
    fs::write(sky.repo.join("dirty.txt"), "not committed\n").unwrap();
    let ran =
        sky.crabbox(&["run", "--", "sh", "-c", "cat hello.txt dirty.txt; exit 3"]).run().expect(3);
    assert_eq!(ran.out(), "hello\nnot committed\n", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    assert_eq!(sky.count("RunInstances"), 1);
    sky.room.assert_no_claims();
    let told = &sky.state()["groups"][0]["rules"];
    assert!(told[0].as_str().unwrap().ends_with("198.51.100.7/32"), "{told}");
}
