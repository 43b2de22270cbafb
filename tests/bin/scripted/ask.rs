//! Callbacks as a test writes them.

use serde_json::{Map, Value, json};

use crate::{Answer, STALL, Scene};

impl Scene {
    /// Makes the callback that is given as `method {params}` and answers with what came back.
    pub(crate) fn callback(&self, request: &str) -> Answer {
        let (method, params) = request.split_once(' ').unwrap_or((request, "{}"));
        let mut params: Value = serde_json::from_str(params).unwrap_or_default();
        params["call"] = json!(self.id);
        let answer = self.plugin.ask(&format!("host/{method}"), params).recv_timeout(STALL);
        let answer = answer.unwrap_or_default();
        let message = answer["result"].to_string() + &answer["error"].to_string();
        Ok(json!({"checks": [{"id": "callback", "status": "ok", "message": message}]}))
    }

    /// Makes the callbacks of a list of `[method, params]`, one after the other. A text `$name` in params is that
    /// member of an earlier result. Answers with all results and errors.
    pub(crate) fn chain(&self, steps: &str) -> Answer {
        let steps: Vec<(String, Map<String, Value>)> =
            serde_json::from_str(steps).unwrap_or_default();
        let (mut known, mut answers) = (Map::new(), Vec::new());
        for (method, mut params) in steps {
            for value in params.values_mut() {
                let name = value.as_str().and_then(|text| text.strip_prefix('$'));
                if let Some(found) = name.and_then(|name| known.get(name)) {
                    *value = found.clone();
                }
            }
            params.insert("call".to_owned(), json!(self.id));
            let asked = self.plugin.ask(&format!("host/{method}"), params.into());
            let mut answer = asked.recv_timeout(STALL).unwrap_or_default();
            if let Some(result) = answer["result"].as_object() {
                known.extend(result.clone());
            }
            let shown = if answer["error"].is_null() { "result" } else { "error" };
            answers.push(answer[shown].take());
        }
        let message = Value::from(answers).to_string();
        Ok(json!({"checks": [{"id": "chain", "status": "ok", "message": message}]}))
    }

    /// More callbacks at once than are allowed; says how many were refused.
    pub(crate) fn storm(&self) -> Answer {
        let params = json!({"call": self.id, "ms": 200});
        let waiting: Vec<_> =
            (0..100).map(|_| self.plugin.ask("host/sleep", params.clone())).collect();
        let answers: Vec<_> = waiting.iter().filter_map(|w| w.recv_timeout(STALL).ok()).collect();
        let refused = answers.iter().filter(|a| a["error"]["data"]["kind"] == "rate_limited");
        let message = format!("{} answers, {} refused", answers.len(), refused.count());
        Ok(json!({"checks": [{"id": "storm", "status": "ok", "message": message}]}))
    }
}
