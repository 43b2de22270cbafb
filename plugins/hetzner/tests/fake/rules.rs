//! What shall go wrong, and what a test may look at.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cloud::{Cloud, refuse};
use crate::http::{Reply, Request};

/// One thing that goes wrong: for requests that begin with `on` (`POST /servers`) and whose body contains `with`,
/// `times` times, or always.
pub(crate) struct Rule {
    on: String,
    with: String,
    left: Option<u64>,
    status: Option<u16>,
    code: String,
    message: String,
    headers: Vec<(String, String)>,
    lose: bool,
    delay: Duration,
}

impl Rule {
    pub(crate) fn read(value: &Value) -> Self {
        let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
        let headers = value["headers"].as_object().into_iter().flatten();
        Self {
            on: text("on"),
            with: text("with"),
            left: value["times"].as_u64(),
            status: value["status"].as_u64().and_then(|status| u16::try_from(status).ok()),
            code: text("code"),
            message: text("message"),
            headers: headers
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            lose: value["lose"] == true,
            delay: Duration::from_millis(value["delayMs"].as_u64().unwrap_or_default()),
        }
    }

    fn holds(&self, asked: &str, body: &str) -> bool {
        self.left != Some(0) && asked.starts_with(&self.on) && body.contains(&self.with)
    }
}

fn locked(cloud: &Mutex<Cloud>) -> MutexGuard<'_, Cloud> {
    cloud.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request, as the rules want it.
pub(crate) fn answer(cloud: &std::sync::Arc<Mutex<Cloud>>, request: &Request) -> Reply {
    if let Some(what) = request.path.strip_prefix("/_fake/") {
        return control(&mut locked(cloud), what, request);
    }
    let asked = format!("{} {}", request.method, request.path);
    let (mut refused, mut lose, mut delay) = (None, false, Duration::ZERO);
    {
        let mut cloud = locked(cloud);
        cloud.requests.push(asked.clone());
        for rule in cloud.rules.iter_mut().filter(|rule| rule.holds(&asked, &request.text)) {
            rule.left = rule.left.map(|left| left - 1);
            (lose, delay) = (lose || rule.lose, delay.max(rule.delay));
            if let Some(status) = rule.status {
                let reply = refuse(status, &rule.code, &rule.message);
                refused = Some(Reply { headers: rule.headers.clone(), ..reply });
                break;
            }
        }
        if refused.is_some() {
            cloud.refused.push(request.text.clone());
        }
    }
    std::thread::sleep(delay);
    let mut reply = refused.unwrap_or_else(|| Cloud::answer(cloud, request));
    reply.lost = lose;
    let limits = [("ratelimit-limit", "3600"), ("ratelimit-remaining", "3599")];
    reply.headers.extend(limits.map(|(name, value)| (name.to_owned(), value.to_owned())));
    reply
}

fn control(cloud: &mut Cloud, what: &str, request: &Request) -> Reply {
    match what {
        "state" => Reply::json(200, cloud.state()),
        "rules" => {
            let rules = request.body.as_array().cloned().unwrap_or_default();
            cloud.rules = rules.iter().map(Rule::read).collect();
            Reply::json(200, json!({}))
        }
        "settings" => {
            let number = |name: &str, old: u64| request.body[name].as_u64().unwrap_or(old);
            cloud.page = number("page", cloud.page);
            cloud.boot_ms = number("bootMs", cloud.boot_ms);
            cloud.broken = request.body["broken"] == true;
            cloud.off = request.body["off"] == true;
            cloud.impostor = request.body["impostor"] == true;
            Reply::json(200, json!({}))
        }
        "foreign" => {
            cloud.foreign(&request.body);
            Reply::json(200, json!({}))
        }
        _ => Reply::json(404, json!({})),
    }
}
