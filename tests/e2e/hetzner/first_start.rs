//! What a server's first start reads, held against cloud-init's own description of it.

use std::fs;

use crabbox_tests::{binaries, gone_without};
use serde_json::{Value, json};

use super::Sky;

/// Prints what does not fit.
const JUDGE: &str = r#"
import json, sys, yaml
from jsonschema import Draft4Validator
schema, data = json.load(open(sys.argv[1])), yaml.safe_load(open(sys.argv[2]))
assert data["write_files"], "it is no user data"
for wrong in Draft4Validator(schema).iter_errors(data):
    print("/".join(map(str, wrong.absolute_path)), wrong.message)
"#;

#[test]
fn user_data_is_what_cloud_inits_own_description_allows() {
    if gone_without("CRABBOX_TEST_CLOUD_INIT", "cloud-init's own description of user data") {
        return;
    }
    let clients = binaries().join("../clients");
    let schemas = "cloud-init/usr/lib/python3/dist-packages/cloudinit/config/schemas";
    let schema = clients.join(schemas).join("schema-cloud-config-v1.json");
    assert!(schema.is_file(), "{} is missing: ./test.sh gets it", schema.display());
    let sky = Sky::new();
    sky.rules(json!([{"on": "POST /servers", "status": 412, "code": "resource_unavailable", "message": "full"}]));
    for more in [&[][..], &["--desktop", "--browser", "--code"]] {
        let _ = sky
            .crabbox(&[&["run", "--type", "cx23"], more, &["--", "true"]].concat())
            .run()
            .expect(4);
    }
    let judge = sky.room.at("judge.py");
    fs::write(&judge, JUDGE).unwrap();
    let refused = sky.state()["refused"].clone();
    let asked: Vec<Value> = refused.as_array().unwrap().iter().map(body).collect();
    assert_eq!(asked.len(), 2 * 3, "three locations");
    for (n, asked) in asked.iter().enumerate() {
        let data = sky.room.at(&format!("user-data-{n}"));
        fs::write(&data, asked["user_data"].as_str().unwrap()).unwrap();
        let call = sky.room.call(clients.join("bin/python")).arg(&judge);
        assert_eq!(call.arg(&schema).arg(data).ok().out(), "");
    }
}

fn body(text: &Value) -> Value {
    serde_json::from_str(text.as_str().unwrap()).unwrap()
}
