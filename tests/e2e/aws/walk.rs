//! When the cloud says no: what is tried next, what is told, and that nothing is left.

use std::time::Duration;

use crabbox_tests::{Ended, eventually};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::Sky;

fn full(with: &str) -> Value {
    json!({"on": "RunInstances", "with": with, "status": 500, "code": "InsufficientInstanceCapacity", "message": "no room"})
}

#[test]
fn when_nothing_can_be_had_every_try_is_told_and_what_could_be_had_instead() {
    let Some(sky) = Sky::new() else { return };
    sky.configure("  regions: [us-east-1]\n");
    sky.set(&json!({"quotas": {"L-34B43A08": 48, "L-1216C47A": 32}, "scores": {"us-east-1": 8, "eu-west-1": 3}}));
    let spot = json!({"on": "RunInstances", "with": "MarketType=spot", "code": "MaxSpotInstanceCountExceeded", "message": "too many"});
    sky.faults(json!([spot, full("")]));
    let ran = sky.crabbox(&["run", "--class", "fast", "--json", "--", "true"]).run().expect(4);
    let error = ran.json()["error"].clone();
    assert_eq!(error["errorKind"], "capacity", "{ran}");
    let causes: Vec<&str> =
        error["cause"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    let told = sky.attempts(&ran);
    assert_eq!(told.len(), 2 * 2 * 6, "{told:?}");
    assert!(
        causes[0].starts_with("c7a.16xlarge spot in us-east-1: quota: it has 64 vCPUs, and 48"),
        "{causes:?}"
    );
    assert!(
        causes.iter().any(|c| c.contains("c7a.8xlarge on-demand in us-east-1: capacity: ")),
        "{causes:?}"
    );
    assert!(
        causes.iter().any(|c| c.contains("c7a.12xlarge spot in us-east-1: quota: ")),
        "{causes:?}"
    );
    assert!(
        told[0].contains("c7a.16xlarge")
            && told[0].contains("quota")
            && told[0].contains("us-east-1"),
        "{told:?}"
    );
    assert!(told[12].contains("eu-west-1"), "{told:?}");
    // Sizes above the limit were not even asked for: two of spot and one on demand a region.
    assert_eq!(sky.count("RunInstances"), 2 * 3, "{:?}", sky.asked());
    let others = error["alternatives"].as_array().unwrap();
    assert!(
        others.contains(&json!("c7a.48xlarge")) && !others.contains(&json!("c7a.16xlarge")),
        "{ran}"
    );
    assert!(error["hint"].as_str().unwrap().contains("--type"), "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
    sky.assert_forgotten();
}

#[test]
fn the_next_type_market_zone_or_region_is_taken_where_one_is_full() {
    let Some(sky) = Sky::new() else { return };
    sky.configure("  regions: [us-east-1]\n  zones: [eu-west-1a, eu-west-1b]\n");
    let made = |words: &[&str]| {
        let _ = sky.crabbox(&[&["warmup", "--slug", "some"], words].concat()).ok();
        let one = sky.instances()[0].clone();
        let _ = sky.crabbox(&["stop", "some"]).ok();
        assert_eq!(sky.names(), [""; 0]);
        json!([one["type"], one["lifecycle"], one["zone"]])
    };
    sky.faults(json!([full("=c7a.48xlarge"), full("=eu-west-1a")]));
    assert_eq!(made(&[]), json!(["c7i.48xlarge", "spot", "eu-west-1b"]));
    sky.faults(json!([full("MarketType=spot")]));
    assert_eq!(made(&["--type", "c7a.large"]), json!(["c7a.large", null, "eu-west-1a"]));
    sky.faults(json!([full("=eu-west-1a"), full("=eu-west-1b")]));
    let there = made(&["--type", "c7a.large", "--market", "on-demand"]);
    assert!(there[2].as_str().unwrap().starts_with("us-east-1"), "{there}");
    // An account that may have nothing of the classes says so of each type.
    sky.configure("");
    let free = "The specified instance type is not eligible for Free Tier.";
    sky.faults(json!([{"on": "RunInstances", "with": ".48xlarge", "code": "InvalidParameterCombination", "message": free},
        {"on": "RunInstances", "with": "=c7a", "code": "InvalidParameterCombination", "message": free},
        {"on": "RunInstances", "with": "=m7a", "code": "InvalidParameterCombination", "message": free}]));
    assert_eq!(made(&[])[0], "t3.small");
}

#[test]
fn spot_alone_is_asked_for_where_the_user_wants_no_other() {
    let Some(sky) = Sky::new() else { return };
    sky.configure("  fallback: none\n");
    sky.faults(json!([full("")]));
    let ran = sky.crabbox(&["run", "--type", "c7a.large", "--json", "--", "true"]).run().expect(4);
    assert_eq!(sky.attempts(&ran).len(), 1, "{ran}");
}

#[test]
fn an_answer_that_is_lost_makes_no_second_instance_and_leaves_none() {
    let Some(sky) = Sky::new() else { return };
    for lost in [
        "RunInstances",
        "ImportKeyPair",
        "CreateSecurityGroup",
        "TerminateInstances",
        "DeleteKeyPair",
    ] {
        sky.faults(json!([{"on": lost, "times": 1, "lose": true}]));
        let ran = sky.crabbox(&["run", "--", "true"]).run().expect(0);
        assert_eq!(sky.names(), [""; 0], "{lost}\n{ran}");
        sky.assert_forgotten();
    }
    assert_eq!(sky.state()["instances"].as_array().unwrap().len(), 5, "one a run");
}

#[test]
fn a_service_that_asks_to_slow_down_is_asked_later() {
    let Some(sky) = Sky::new() else { return };
    let slow = |on: &str| json!({"on": on, "times": 1, "status": 503, "code": "RequestLimitExceeded", "message": "slow down"});
    sky.faults(json!([slow("RunInstances"), slow("TerminateInstances")]));
    let _ = sky.crabbox(&["run", "--", "true"]).ok();
    assert_eq!((sky.count("RunInstances"), sky.names()), (2, vec![]));
}

#[test]
fn wrong_keys_missing_rights_and_wrong_settings_are_told_before_anything_is_made() {
    let mut policy = super::policy();
    let make = &mut policy["Statement"][1]["Action"];
    make.as_array_mut().unwrap().retain(|action| action != "ec2:RunInstances");
    let Some(sky) = Sky::with(&policy) else { return };
    let run: &[&str] = &["run", "--json", "--", "true"];
    let error = |ended: &Ended| ended.json()["error"].clone();
    let wrong = sky.crabbox(run).env("AWS_SECRET_ACCESS_KEY", "wr0ng-wr0ng").run().expect(3);
    assert_eq!(error(&wrong)["errorKind"], "auth", "{wrong}");
    assert!(!wrong.out().contains("wr0ng-wr0ng"), "{wrong}");
    let none =
        sky.room.crabbox(&sky.repo, run).env("AWS_EC2_METADATA_DISABLED", "true").run().expect(3);
    assert_eq!(error(&none)["errorKind"], "auth", "{none}");
    let lacking = sky.crabbox(run).run().expect(3);
    assert_eq!(error(&lacking)["errorKind"], "permission", "{lacking}");
    assert!(error(&lacking)["message"].as_str().unwrap().contains("RunInstances"), "{lacking}");
    let doctor = sky.crabbox(&["doctor"]).run().expect(1);
    for words in [
        "ec2:RunInstances is not allowed",
        "allow ec2:RunInstances",
        "ok      provider.aws.right ec2:ImportKeyPair",
    ] {
        assert!(doctor.out().contains(words), "{doctor}");
    }
    let made = || sky.count("RunInstances") + sky.count("ImportKeyPair");
    let before = made();
    for (more, path) in [
        ("  ami: ami-0123456789abcdef0\n", "no image"),
        ("  subnetId: subnet-0123456789abcdef0\n", "no subnet"),
        ("  securityGroupId: sg-0123456789abcdef0\n", "no security group"),
    ] {
        sky.configure(more);
        let ran = sky.crabbox(run).run().expect(2);
        assert!(error(&ran)["message"].as_str().unwrap().contains(path), "{ran}");
        assert!(error(&ran)["hint"].is_string() && !ran.err().contains("provisioning"), "{ran}");
        assert!(error(&ran)["cause"].to_string().contains("config.yaml:"), "{ran}");
    }
    sky.configure("");
    let none = sky.crabbox(&["run", "--type", "z9.huge", "--json", "--", "true"]).run().expect(2);
    let said = error(&none)["message"].as_str().unwrap().to_owned();
    assert_eq!(said, "aws: there is no machine type z9.huge in eu-west-1", "{none}");
    assert_eq!(made(), before);
    assert_eq!(sky.names(), [""; 0]);
}

#[test]
fn a_run_that_could_not_run_on_its_system_is_refused_before_anything_is_asked_for() {
    let Some(sky) = Sky::new() else { return };
    let asked = |words: &[&str], code: i32| {
        let all = [&["run", "--json"], words, &["--", "true"]].concat();
        sky.crabbox(&all).run().expect(code).json()["error"].clone()
    };
    let native = asked(&["--target", "windows"], 2);
    assert_eq!(native["errorKind"], "unsupported", "{native}");
    assert!(native["hint"].as_str().unwrap().contains("--windows-mode wsl2"), "{native}");
    let homeless = asked(&["--target", "macos"], 2);
    let message = homeless["message"].as_str().unwrap();
    assert!(message.contains("aws.macHostId names none"), "{homeless}");
    assert!(homeless["hint"].as_str().unwrap().contains("24 hours"), "{homeless}");
    let browser = asked(&["--target", "macos", "--browser"], 2);
    assert!(browser["message"].as_str().unwrap().contains("browser"), "{browser}");
    assert_eq!((sky.count("RunInstances"), sky.count("ImportKeyPair")), (0, 0));
}

/// What their first starts do with it was never seen: the machines of this cloud read Linux alone.
#[test]
fn macs_and_linux_inside_windows_are_asked_for_as_ec2_wants_it() {
    let Some(sky) = Sky::new() else { return };
    sky.configure("  macHostId: h-0123456789abcdef0\n");
    for (words, image, script, fields) in [
        (
            &["--target", "macos"][..],
            "ami-0000000000000dddd",
            "#!/bin/bash\n",
            &[
                ("Placement.HostId", "h-0123456789abcdef0"),
                ("Placement.Tenancy", "host"),
                ("InstanceType", "mac2.metal"),
            ][..],
        ),
        (
            &["--target", "windows", "--windows-mode", "wsl2", "--type", "t3.large"],
            "ami-0000000000000eeee",
            "<powershell>\n",
            &[("CpuOptions.NestedVirtualization", "enabled"), ("InstanceType", "t3.large")],
        ),
    ] {
        let before = sky.state()["forms"].as_array().unwrap().len();
        let running = sky.crabbox(&[&["run"], words, &["--", "true"]].concat()).start();
        eventually("an instance", Duration::from_secs(40), || sky.names().len() == 2);
        running.signal(Signal::INT);
        let ended = running.wait().expect(130);
        assert_eq!(sky.names(), [""; 0], "{ended}");
        let form = sky.state()["forms"][before].clone();
        for (name, value) in fields.iter().chain(&[("ImageId", image)]) {
            assert_eq!(form[name], *value, "{form}");
        }
        assert!(form["UserData"].as_str().unwrap().starts_with(script), "{form}");
        let takes_key = form["KeyName"].is_string();
        assert_eq!(takes_key, words.contains(&"macos"), "{form}");
        assert!(form["InstanceMarketOptions.MarketType"].is_string() != takes_key, "{form}");
    }
}

#[test]
fn a_repository_chooses_neither_keys_nor_endpoints_nor_who_may_log_in() {
    let Some(sky) = Sky::new() else { return };
    for text in [
        "endpointUrl: http://127.0.0.1:1",
        "profile: theirs",
        "credentials: cmd:id",
        "sshCIDRs: [0.0.0.0/0]",
        "instanceProfile: admin",
        "addressUrl: http://127.0.0.1:1",
    ] {
        std::fs::write(sky.repo.join(".crabbox.yaml"), format!("aws:\n  {text}\n")).unwrap();
        let ran = sky.crabbox(&["run", "--json", "--", "true"]).run().expect(2);
        assert_eq!(ran.json()["error"]["errorKind"], "config_untrusted", "{text}\n{ran}");
    }
    assert_eq!(sky.asked(), [""; 0]);
}

#[test]
fn keys_are_found_where_the_vendors_own_tools_keep_them() {
    let Some(sky) = Sky::new() else { return };
    let [id, key] = sky.key("keys");
    let folder = sky.room.at("home/.aws");
    std::fs::create_dir_all(&folder).unwrap();
    let printed = json!({"Version": 1, "AccessKeyId": id, "SecretAccessKey": key, "Expiration": "2099-01-01T00:00:00Z"});
    std::fs::write(folder.join("printed"), printed.to_string()).unwrap();
    let text = format!(
        "[profile tool]\ncredential_process = cat {}/printed\n[profile wrong]\naws_access_key_id = AKIAWRONG\naws_secret_access_key = wr0ng-wr0ng\n",
        folder.display()
    );
    std::fs::write(folder.join("config"), text).unwrap();
    std::fs::write(
        folder.join("credentials"),
        format!("[ci]\naws_access_key_id={id}\naws_secret_access_key={key}\n"),
    )
    .unwrap();
    let list =
        |profile: &str| sky.room.crabbox(&sky.repo, ["list"]).env("AWS_PROFILE", profile).run();
    for profile in ["ci", "tool"] {
        assert_eq!(list(profile).code, 0, "{profile}: {}", list(profile));
    }
    assert_eq!(list("wrong").code, 3);
    assert_eq!(list("absent").code, 3);
    // The user's setting goes before variables.
    sky.configure("  profile: wrong\n");
    assert_eq!(sky.crabbox(&["list"]).run().code, 3);
}

#[test]
fn an_instance_that_never_becomes_a_box_is_told_why_and_given_back() {
    let Some(sky) = Sky::new() else { return };
    sky.set(&json!({"broken": true}));
    let ran = sky.crabbox(&["run", "--json", "--", "true"]).run().expect(5);
    let error = ran.json()["error"].clone();
    assert_eq!(
        (&error["errorKind"], &error["stage"]),
        (&json!("bootstrap"), &json!("ready")),
        "{ran}"
    );
    assert_eq!(sky.names(), [""; 0], "{ran}");
    sky.set(&json!({"broken": false, "impostor": true}));
    let ran = sky.crabbox(&["run", "--json", "--", "true"]).run().expect(7);
    assert_eq!(ran.json()["error"]["errorKind"], "ssh_host_key", "{ran}");
    assert_eq!(sky.names(), [""; 0], "{ran}");
}
