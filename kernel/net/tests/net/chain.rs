//! Credentials of AWS from every place that its own tools know, in their order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crabbox_net::{Chain, Printing};
use serde_json::{Value, json};

use crate::server::{Server, json as answer, reply};

async fn find(home: &Path, chosen: Option<&str>, env: &[(&str, &str)]) -> Result<Value, String> {
    let env: BTreeMap<_, _> = env.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let print = Arc::new(|command: String| -> Printing {
        let printed = json!({"AccessKeyId": command, "SecretAccessKey": "s", "Expiration": "2099-01-01T00:00:00Z"});
        Box::pin(async move { Ok(printed.to_string()) })
    });
    let chain = Chain::new(
        Arc::new(env),
        home.to_owned(),
        chosen.map(str::to_owned),
        print,
        Arc::new(|| 0),
    );
    match chain.find().await {
        Ok(found) => Ok(found.map_or(Value::Null, |secret| {
            serde_json::from_str::<Value>(secret.expose()).unwrap()["AccessKeyId"].clone()
        })),
        Err(error) => Err(error.message),
    }
}

const CONFIG: &str = "[default]\naws_access_key_id = of-default\naws_secret_access_key = s\n[profile tool]\ncredential_process = print me\n\
[profile role]\nrole_arn = arn:x\n[profile web]\nrole_arn = arn:x\nweb_identity_token_file = x\n[profile half]\naws_access_key_id = x\n[sso-session corp]\nsso_region = eu-west-1\nsso_start_url = https://x\n\
[profile corp]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = dev\n";

#[tokio::test]
async fn variables_and_profiles_are_looked_at_in_the_usual_order() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    fs::write(home.path().join(".aws/config"), CONFIG).unwrap();
    let keys = [("AWS_ACCESS_KEY_ID", "of-env"), ("AWS_SECRET_ACCESS_KEY", "s")];
    let tool = [keys[0], keys[1], ("AWS_PROFILE", "tool")];
    let at = home.path();
    assert_eq!(find(at, None, &keys).await, Ok(json!("of-env")));
    assert_eq!(find(at, None, &tool).await, Ok(json!("of-env")), "keys go before AWS_PROFILE");
    assert_eq!(find(at, Some("tool"), &keys).await, Ok(json!("print me")), "a choice goes first");
    assert_eq!(find(at, None, &tool[2..]).await, Ok(json!("print me")));
    assert_eq!(find(at, None, &[]).await, Ok(json!("of-default")));
    let federated = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), ("AWS_ROLE_ARN", "arn:x")];
    let error = find(at, None, &federated).await.unwrap_err();
    assert!(error.contains("export-credentials"), "another identity is no way on: {error}");
    for (profile, told) in [
        ("role", "nothing that has credentials"),
        ("web", "export-credentials"),
        ("absent", "no profile absent"),
        ("corp", "aws sso login --profile corp"),
    ] {
        let error = find(at, Some(profile), &[]).await.unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn services_near_by_and_a_single_sign_on_hand_keys_out() {
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join(".aws/sso/cache");
    fs::create_dir_all(&cache).unwrap();
    fs::write(home.path().join(".aws/sso.txt"), CONFIG).unwrap();
    let server = Server::start(|asked| {
        let keys = |id: &str| json!({"AccessKeyId": id, "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"});
        match (&*asked.method, asked.path.split('?').next().unwrap_or_default()) {
            ("PUT", "/latest/api/token") => reply(200, "", "metadata-token"),
            (_, "/creds") if asked.header("authorization") == "pass" => answer(200, &keys("of-container").to_string()),
            (_, "/latest/meta-data/iam/security-credentials/") => reply(200, "", "role"),
            (_, "/latest/meta-data/iam/security-credentials/role")
                if asked.header("x-aws-ec2-metadata-token") == "metadata-token" =>
            {
                answer(200, &keys("of-machine").to_string())
            }
            (_, "/federation/credentials") if asked.header("x-amz-sso_bearer_token") == "logged-in" => answer(
                200,
                &json!({"roleCredentials": {"accessKeyId": "of-sso", "secretAccessKey": "s", "sessionToken": "t", "expiration": 1}})
                    .to_string(),
            ),
            _ => answer(401, "{}"),
        }
    })
    .await;
    let (url, creds) = (server.url(""), server.url("/creds"));
    let at = home.path();
    let machine = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.as_str());
    assert_eq!(find(at, None, &[machine]).await, Ok(json!("of-machine")));
    let off = ("AWS_EC2_METADATA_DISABLED", "true");
    assert_eq!(find(at, None, &[machine, off]).await, Ok(Value::Null));
    let full = |url| ("AWS_CONTAINER_CREDENTIALS_FULL_URI", url);
    let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pass");
    assert_eq!(
        find(at, None, &[full(creds.as_str()), token, machine]).await,
        Ok(json!("of-container"))
    );
    let far = find(at, None, &[full("http://192.0.2.1/creds"), token]).await.unwrap_err();
    assert!(far.contains("neither this machine nor encrypted"), "{far}");
    // sha1 of `corp`, as the vendor's tool names the file.
    let file = cache.join("ee0bfd2552fbd840c02cc48b6e823320543c450f.json");
    fs::write(file, json!({"accessToken": "logged-in"}).to_string()).unwrap();
    let config = at.join(".aws/sso.txt");
    let env = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_SSO", &url),
        ("AWS_PROFILE", "corp"),
    ];
    assert_eq!(find(at, None, &env).await, Ok(json!("of-sso")));
}

const ROLES: &str = "[default]\naws_access_key_id = of-default\naws_secret_access_key = s\nregion = eu-west-1\n\
[profile near]\nrole_arn = arn:near\nsource_profile = default\nregion = eu-west-1\nexternal_id = a b\n\
[profile far]\nrole_arn = arn:far\nsource_profile = near\nrole_session_name = me\n\
[profile here]\nrole_arn = arn:here\ncredential_source = Environment\n\
[profile own]\nrole_arn = arn:own\nsource_profile = own\naws_access_key_id = of-own\naws_secret_access_key = s\n\
[profile no]\nrole_arn = arn:no\nsource_profile = default\n\
[profile round]\nrole_arn = arn:x\nsource_profile = about\n[profile about]\nrole_arn = arn:x\nsource_profile = round\n";

#[tokio::test]
async fn a_role_is_taken_on_with_the_credentials_its_profile_names() {
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("config");
    fs::write(&config, ROLES).unwrap();
    let server = Server::start(|asked| {
        let form = asked.text();
        let field = |name: &str| form.split('&').find_map(|pair| pair.strip_prefix(name)).unwrap_or("-").to_owned();
        let signed = asked.header("authorization");
        let who = signed.split("Credential=").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or("-");
        match &*field("RoleArn=") {
            "arn%3Ano" => reply(403, "", "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not for you</Message></Error></ErrorResponse>"),
            arn => reply(200, "", &format!(
                "<AssumeRoleResponse><Credentials><AccessKeyId>{who}+{}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>\
                 <SessionToken>t/{arn}==</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResponse>",
                arn.replace("%3A", ":")
            )),
        }
    })
    .await;
    let url = server.url("/");
    let env = [
        ("AWS_CONFIG_FILE", config.to_str().unwrap()),
        ("AWS_ENDPOINT_URL_STS", &url),
        ("AWS_ACCESS_KEY_ID", "of-env"),
        ("AWS_SECRET_ACCESS_KEY", "s"),
    ];
    let at = home.path();
    for (profile, keys) in [
        ("near", "of-default+arn:near"),
        ("far", "of-default+arn:near+arn:far"),
        ("here", "of-env+arn:here"),
        ("own", "of-own+arn:own"),
    ] {
        assert_eq!(find(at, Some(profile), &env).await, Ok(json!(keys)), "{profile}");
    }
    let asked = server.asked();
    let near = asked[0].text();
    for part in ["Action=AssumeRole", "RoleSessionName=crabbox", "ExternalId=a+b"] {
        assert!(near.contains(part), "{near}");
    }
    assert!(asked[0].header("authorization").contains("/eu-west-1/sts/aws4_request"));
    assert_eq!(asked[2].header("x-amz-security-token"), "t/arn%3Anear==", "a role's own session");
    assert!(asked[2].text().contains("RoleSessionName=me"));
    for (profile, told) in [("no", "not for you"), ("round", "more than 5 roles")] {
        let error = find(at, Some(profile), &env).await.unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[tokio::test]
async fn credentials_that_are_about_to_end_are_looked_for_again() {
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    fs::write(home.path().join(".aws/config"), CONFIG).unwrap();
    for (end, asked) in [("1970-01-01T00:00:30Z", 2), ("1970-01-01T00:02:00Z", 1)] {
        let printed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&printed);
        let print = Arc::new(move |_: String| -> Printing {
            count.fetch_add(1, Ordering::Relaxed);
            let keys = json!({"AccessKeyId": "a", "SecretAccessKey": "s", "Expiration": end});
            Box::pin(async move { Ok(keys.to_string()) })
        });
        let profile = Some("tool".to_owned());
        let home = home.path().to_owned();
        let chain = Chain::new(Arc::default(), home, profile, print, Arc::new(|| 0));
        for _ in 0..2 {
            assert!(chain.find().await.unwrap().is_some());
        }
        assert_eq!(printed.load(Ordering::Relaxed), asked, "{end}");
    }
}
