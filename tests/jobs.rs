//! Jobs over HTTP, by the real daemon and a store on disk.
#![cfg(all(feature = "gateway", feature = "sqlite"))]

#[path = "support/daemon.rs"]
mod daemon;
#[path = "support/upstream.rs"]
mod upstream;

use std::net::SocketAddr;

use daemon::{Daemon, Reply, chat, delete, get, post};
use serde_json::{Value, json};
use upstream::{Upstream, good};

fn config(upstream: SocketAddr, more: &str) -> String {
    format!(
        "[retry]\nbase_delay = \"10ms\"\n[upstreams.up]\nbase_url = \"http://{upstream}/v1\"\nmodels = [\"m\"]\n\
         [upstreams.claude]\nkind = \"anthropic\"\nbase_url = \"http://{upstream}\"\nmodels = [\"claude\"]\n\
         api_keys = [\"sk-ant-0000000001\"]\n{more}"
    )
}

fn body(text: &str) -> Value {
    serde_json::from_str(&chat(text)).unwrap()
}

fn submit(daemon: &Daemon, job: &Value) -> Reply {
    daemon.ask(post("/v1/jobs", "", job.to_string()))
}

/// The id of a job that was accepted.
fn accepted(daemon: &Daemon, job: &Value) -> String {
    let reply = submit(daemon, job);
    assert_eq!(reply.status, 202, "{}", reply.text());
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// A job, when it has ended.
fn ended(daemon: &Daemon, id: &str) -> Value {
    let reply = daemon.get(&format!("/v1/jobs/{id}?wait=30s"));
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

#[test]
fn a_job_is_accepted_waited_for_and_has_the_upstreams_body_byte_for_byte() {
    const ODD: &str =
        "{ \"choices\":[ ], \"n\" : 1.50, \"u\":\"\\u00e9\", \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}";
    let upstream = Upstream::held();
    let price = "[upstreams.up.prices.m]\ninput = 1000.0\noutput = 2000.0";
    let daemon = Daemon::start(&config(upstream.addr, price));
    let reply = submit(&daemon, &json!({"body": body("hello"), "timeout": "1h", "priority": "normal"}));
    assert_eq!(reply.status, 202, "{}", reply.text());
    let job = reply.json();
    let id = job["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("job_"), "{id}");
    assert_eq!((&job["object"], &job["status"], &job["attempts"]), (&json!("job"), &json!("queued"), &json!(0)));
    assert_eq!((&job["endpoint"], &job["priority"]), (&json!("/v1/chat/completions"), &json!("normal")));
    assert_eq!(job["expires_at"].as_i64().unwrap() - job["created_at"].as_i64().unwrap(), 3_600);

    let asked = upstream.next();
    assert_eq!(asked.body, chat("hello"), "byte for byte");
    assert_eq!(daemon.get(&format!("/v1/jobs/{id}?wait=1ms")).json()["status"], "running");
    let mut waiting = daemon.connect();
    waiting.send(get(&format!("/v1/jobs/{id}?wait=60s")));
    asked.answer(200, ODD);
    let reply = waiting.reply();
    assert_eq!((reply.status, reply.header("content-type")), (200, Some("application/json")));
    assert!(reply.text().contains(ODD), "{}", reply.text());
    let job = reply.json();
    assert_eq!((&job["status"], &job["attempts"], &job["error"]), (&json!("succeeded"), &json!(1), &Value::Null));
    assert_eq!((&job["usage"]["input_tokens"], &job["usage"]["total_tokens"]), (&json!(3), &json!(7)));
    assert!((job["cost_usd"].as_f64().unwrap() - 0.011).abs() < 1e-9, "{job}");
    assert!(job["started_at"].is_i64() && job["finished_at"].is_i64());
    let (code, said) = daemon.stop();
    assert_eq!(code, Some(0));
    assert!(!said.contains("hello"), "no prompt in the log");
}

#[test]
fn what_is_wrong_with_a_submission_is_said_with_the_field_at_fault_before_anything_is_kept() {
    let daemon = Daemon::start(&config(Upstream::held().addr, "[server]\nmax_body = \"4KiB\""));
    let good = body("hello");
    let stream = json!({"model": "m", "messages": [], "stream": true});
    for (job, status, code, param, says) in [
        (json!({}), 400, "invalid_request", json!("body"), "`body` is missing"),
        (json!({"body": null}), 400, "invalid_request", json!("body"), "`body` is missing"),
        (json!({"body": "text"}), 400, "invalid_request", json!("body"), "object"),
        (json!({"body": {}}), 400, "invalid_request", json!("body.model"), "`model` is missing"),
        (json!({"body": {"model": "m"}}), 400, "invalid_request", json!("body.messages"), "array"),
        (json!({"body": stream}), 400, "invalid_request", json!("body.stream"), "`stream`"),
        (json!({"body": good, "time_out": "1h"}), 400, "invalid_request", json!("time_out"), "did you mean `timeout`?"),
        (json!({"body": good, "colour": 1}), 400, "invalid_request", json!("colour"), "a job has"),
        (json!({"body": good, "timeout": 5}), 400, "invalid_request", json!("timeout"), "string"),
        (json!({"body": good, "timeout": "soon"}), 400, "invalid_request", json!("timeout"), "timeout"),
        (json!({"body": good, "timeout": "0s"}), 400, "invalid_request", json!("timeout"), "timeout"),
        (json!({"body": good, "timeout": "366d"}), 400, "invalid_request", json!("timeout"), "timeout"),
        (json!({"body": good, "priority": "urgent"}), 400, "invalid_request", json!("priority"), "high, normal or low"),
        (json!({"body": good, "key": ""}), 400, "invalid_request", json!("key"), "1 to 255"),
        (json!({"body": good, "at_most_once": 1}), 400, "invalid_request", json!("at_most_once"), "true or false"),
        (
            json!({"body": good, "webhook": "https://e.com/"}),
            400,
            "invalid_request",
            json!("webhook"),
            "webhook_secret",
        ),
        (
            json!({"body": good, "endpoint": "/v1/chat/completion"}),
            400,
            "invalid_request",
            json!("endpoint"),
            "did you mean",
        ),
        (json!({"body": good, "endpoint": "/v1/files"}), 400, "invalid_request", json!("endpoint"), "endpoint"),
        (json!({"body": {"model": "x", "messages": []}}), 404, "model_not_found", json!("model"), "no upstream serves"),
        (json!({"body": good, "endpoint": "/v1/messages"}), 404, "model_not_found", json!("model"), "no calls to"),
        (json!({"body": body(&"x".repeat(5_000))}), 413, "body_too_large", json!(null), "max_body"),
    ] {
        let reply = submit(&daemon, &job);
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["code"], &error["param"]), (status, &json!(code), &param), "{job}: {error}");
        assert!(error["message"].as_str().unwrap().contains(says), "{job}: {error}");
        assert_eq!(reply.header("x-should-retry"), Some("false"));
    }
    for text in ["", "[]", "{", "{\"body\":{},\"body\":{}}", "{\"body\":{}} x", "\"\u{e9}\""] {
        let reply = daemon.ask(post("/v1/jobs", "", text));
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (400, &json!("invalid_request")), "{text}");
    }
    let list = daemon.get("/v1/jobs").json();
    assert_eq!((&list["object"], &list["data"], &list["has_more"]), (&json!("list"), &json!([]), &json!(false)));
    for (request, status, code) in [
        (get("/v1/jobs/job_0000000000000001"), 404, "not_found"),
        (get("/v1/jobs/nonsense"), 404, "not_found"),
        (delete("/v1/jobs/job_0000000000000001"), 404, "not_found"),
        (get("/v1/jobs/job_0000000000000001?wait=11m"), 400, "invalid_request"),
        (get("/v1/jobs/job_0000000000000001?wait=long"), 400, "invalid_request"),
        (get("/v1/jobs?limit=0"), 400, "invalid_request"),
        (get("/v1/jobs?limit=101"), 400, "invalid_request"),
        (get("/v1/jobs?status=lost"), 400, "invalid_request"),
        (get("/v1/jobs?after=5"), 400, "invalid_request"),
        (delete("/v1/jobs"), 405, "method_not_allowed"),
    ] {
        let reply = daemon.ask(&request);
        assert_eq!((reply.status, &reply.json()["error"]["code"]), (status, &json!(code)), "{request}");
    }
}

#[test]
fn jobs_are_listed_newest_first_page_by_page_and_by_status() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, "[upstreams.up.limits]\nmax_concurrent = 1"));
    let ids: Vec<String> = (0..5).map(|n| accepted(&daemon, &json!({"body": body(&n.to_string())}))).collect();
    upstream.next().says("hi");
    assert_eq!(ended(&daemon, &ids[0])["status"], "succeeded");
    assert_eq!(daemon.ask(delete(&format!("/v1/jobs/{}", ids[4]))).json()["status"], "cancelled");
    let listed = |query: &str| {
        let list = daemon.get(&format!("/v1/jobs?{query}")).json();
        let ids: Vec<String> =
            list["data"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
        (ids, list["has_more"].as_bool().unwrap())
    };
    let (newest, has_more) = listed("limit=2");
    assert_eq!((&newest[..], has_more), (&[ids[4].clone(), ids[3].clone()][..], true));
    let (rest, has_more) = listed(&format!("limit=100&after={}", newest[1]));
    assert_eq!((&rest[..], has_more), (&[ids[2].clone(), ids[1].clone(), ids[0].clone()][..], false));
    assert_eq!(listed("status=succeeded"), (vec![ids[0].clone()], false));
    assert_eq!(listed("status=cancelled").0, [ids[4].clone()]);
    assert!(daemon.get("/v1/jobs").json()["data"][4].get("result").is_none(), "lists have no results");
    let jobs = &daemon.get("/v1/status").json()["jobs"];
    assert_eq!((&jobs["queues"][0]["model"], &jobs["store_failure"]), (&json!("m"), &Value::Null), "{jobs}");
}

#[test]
fn the_same_key_is_the_same_job_over_a_restart_too_and_another_request_is_a_conflict() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, ""));
    let job = json!({"body": body("hello"), "key": "mine-42"});
    let id = accepted(&daemon, &job);
    let again = submit(&daemon, &job);
    assert_eq!((again.status, &again.json()["id"]), (200, &json!(id)));
    let other = submit(&daemon, &json!({"body": body("other"), "key": "mine-42"}));
    assert_eq!((other.status, &other.json()["error"]["code"]), (409, &json!("idempotency_conflict")));
    assert_eq!(other.json()["error"]["param"], "key");
    upstream.next().says("hi");
    let job_then = ended(&daemon, &id);
    let daemon = daemon.restarted();
    let again = submit(&daemon, &job);
    assert_eq!((again.status, again.json()), (200, job_then));
    assert!(upstream.is_quiet());
}

#[test]
fn a_cancelled_jobs_call_is_ended_at_the_upstream() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, ""));
    let id = accepted(&daemon, &json!({"body": body("hello")}));
    let asked = upstream.next();
    let reply = daemon.ask(delete(&format!("/v1/jobs/{id}")));
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("cancelled")));
    upstream.until_ended(asked.connection);
    let job = ended(&daemon, &id);
    assert_eq!((&job["status"], &job["attempts"], job.get("result")), (&json!("cancelled"), &json!(1), None));
}

#[test]
fn an_anthropic_job_fails_with_the_upstreams_own_error() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, ""));
    let call = json!({"model": "claude", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]});
    let id = accepted(&daemon, &json!({"body": call, "endpoint": "/v1/messages"}));
    let theirs = json!({"type": "invalid_request_error", "message": "no"});
    upstream.next().answer(400, &json!({"type": "error", "error": theirs}).to_string());
    let job = ended(&daemon, &id);
    assert_eq!((&job["status"], &job["error"], &job["endpoint"]), (&json!("failed"), &theirs, &json!("/v1/messages")));
}

#[test]
fn tenants_do_not_see_each_others_jobs() {
    let upstream = Upstream::held();
    let tenants = "[tenants.a]\nkey = \"key-of-a-000001\"\n[tenants.b]\nkey = \"key-of-b-000001\"";
    let daemon = Daemon::start(&config(upstream.addr, tenants));
    let of = |tenant: &str| format!("authorization: Bearer key-of-{tenant}-000001\r\n");
    let job = json!({"body": body("hello"), "key": "mine"}).to_string();
    let submitted = |tenant: &str| daemon.ask(post("/v1/jobs", &of(tenant), &job)).json()["id"].clone();
    let (a, b) = (submitted("a"), submitted("b"));
    assert_ne!(a, b, "a key is a tenant's own");
    let asks = |tenant: &str, method: &str, path: &str| {
        daemon.ask(format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n{}\r\n", of(tenant)))
    };
    let path = format!("/v1/jobs/{}", a.as_str().unwrap());
    assert_eq!(asks("b", "GET", &path).status, 404);
    assert_eq!(asks("b", "DELETE", &path).status, 404);
    assert_eq!(asks("a", "GET", &path).status, 200);
    assert_eq!(asks("a", "GET", "/v1/jobs").json()["data"].as_array().unwrap().len(), 1);
    assert_eq!(daemon.get("/v1/jobs").status, 401);
}

#[test]
fn jobs_outlive_a_kill_and_a_second_daemon_leaves_their_store_alone() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, ""));
    let (again, once) = (json!({"body": body("again")}), json!({"body": body("once"), "at_most_once": true}));
    let (again, once) = (accepted(&daemon, &again), accepted(&daemon, &once));
    let first = [upstream.next(), upstream.next()];

    let mut second = daemon::command(daemon.file().parent().unwrap());
    second.env("FOREBAY__SERVER__LISTEN", "127.0.0.1:0");
    let (code, said) = daemon::Process::start(second).end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("in use") && said.contains(&daemon.id().to_string()), "{said}");

    let daemon = daemon.killed();
    drop(first);
    let asked = upstream.next();
    assert_eq!(asked.said(), "again");
    asked.says("hi");
    let job = ended(&daemon, &again);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("succeeded"), &json!(2)));
    let job = ended(&daemon, &once);
    assert_eq!((&job["status"], &job["error"]["code"]), (&json!("unknown"), &json!("upstream_unavailable")));
    assert!(upstream.is_quiet());
}

#[test]
fn a_daemon_that_ends_takes_no_job_and_parks_those_it_has() {
    let upstream = Upstream::held();
    let daemon = Daemon::start(&config(upstream.addr, "[upstreams.up.limits]\nmax_concurrent = 1"));
    let (first, second) = (json!({"body": body("first")}), json!({"body": body("second")}));
    let (first, second) = (accepted(&daemon, &first), accepted(&daemon, &second));
    let asked = upstream.next();
    let (mut late, mut waits) = (daemon.connect(), daemon.connect());
    waits.send(get(&format!("/v1/jobs/{second}?wait=60s")));
    daemon.until_load(1, 1);
    daemon.signal("TERM");
    assert_eq!(waits.reply().json()["status"], "queued", "whoever waits is told how it stands");
    let reply = late.ask(post("/v1/jobs", "", json!({"body": body("late")}).to_string()));
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (503, &json!("draining")));
    assert!(reply.header("retry-after").is_some());
    asked.says("hi");
    let daemon = daemon.restarted_after_its_end();
    upstream.next().says("hi");
    assert_eq!(ended(&daemon, &first)["status"], "succeeded");
    let job = ended(&daemon, &second);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("succeeded"), &json!(1)));
    assert!(upstream.is_quiet());
}

#[test]
fn the_end_of_a_job_is_told_to_its_webhook_signed() {
    let (upstream, receiver) = (Upstream::held(), Upstream::held());
    let jobs = "[jobs]\nwebhook_secret = \"whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\"\nwebhook_allow_private = true";
    let daemon = Daemon::start(&config(upstream.addr, jobs));
    let url = format!("http://{}/hook", receiver.addr);
    let id = accepted(&daemon, &json!({"body": body("hello"), "webhook": url}));
    upstream.next().says("hi");
    let told = receiver.next();
    let event: Value = serde_json::from_str(&told.body).unwrap();
    assert_eq!((&event["type"], &event["data"]["id"]), (&json!("job.succeeded"), &json!(id)));
    assert_eq!(event["data"]["result"], serde_json::from_str::<Value>(&good("hi")).unwrap());
    assert_eq!(told.header("webhook-id"), [id.as_str()]);
    assert!(told.header("webhook-signature")[0].starts_with("v1,") && !told.header("webhook-timestamp").is_empty());
    told.answer(200, "{}");
}
