//! A system with a store in memory and a scripted upstream, which can be started again on the same store.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;

use crate::clock::{self, Instant, WallClock};
use crate::jobs::Whose;
use crate::messages::{FailureKind, Job, JobId, JobStatus, Request, Sent};
use crate::pool::transport::{HttpRequest, HttpResponse, MemoryTransport, Scripted, TransportError};
use crate::store::Store;
use crate::store::jobs::{JobRecord, KeptAttempt};
use crate::{Config, Forebay};

pub(super) fn chat(text: &str) -> Request {
    of_model("m", text)
}

pub(super) fn of_model(model: &str, text: &str) -> Request {
    Request::chat(model, json!([{"role": "user", "content": text}]))
}

/// What the upstream does with a call, after a tenth of a second.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Status(u16, Vec<(&'static str, String)>),
    Fails(FailureKind, Sent),
    /// It is worked on for so long, then answered well.
    After(Duration),
}

impl Answer {
    pub(super) const BODY: &'static str = "{\"choices\": [{\"message\":{\"content\":\"hi\"}}], \
                                           \"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}";

    pub(super) fn good() -> Self {
        Self::Status(200, vec![])
    }

    pub(super) fn status(status: u16) -> Self {
        Self::Status(status, vec![])
    }

    pub(super) fn never() -> Self {
        Self::After(Duration::from_secs(400 * 86_400))
    }
}

/// A call that the upstream has seen.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) number: usize,
    /// The prompt, or `(webhook)`.
    pub(super) said: String,
    pub(super) body: String,
    pub(super) at: Instant,
}

type Script = Arc<dyn Fn(&Seen) -> Answer + Send + Sync>;

pub(super) struct Stage {
    pub(super) forebay: Forebay,
    pub(super) store: Store,
    wall: WallClock,
    script: Script,
    seen: Arc<Mutex<Vec<Seen>>>,
    more: String,
}

impl Stage {
    /// An upstream that does as `script` says.
    pub(super) async fn new(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with("", script).await
    }

    /// The same with more in the configuration.
    pub(super) async fn with(more: &str, script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let (script, seen, store): (Script, _, _) = (Arc::new(script), Arc::default(), Store::memory());
        let wall = WallClock::new();
        let forebay = start(more, &script, &seen, &store, wall).await;
        Self { forebay, store, wall, script, seen, more: more.to_owned() }
    }

    /// The process is gone, in the middle of whatever it did, and another one is started on its store.
    pub(super) async fn crash(self) -> Self {
        self.crash_for(Duration::ZERO).await
    }

    /// The same, and nobody is there for so long.
    pub(super) async fn crash_for(self, long: Duration) -> Self {
        let Self { forebay, store, wall, script, seen, more } = self;
        // As dead as can be: nothing it does from here on reaches the store.
        let store = store.reopened();
        drop(forebay);
        clock::until(clock::now() + long).await;
        let forebay = start(&more, &script, &seen, &store, wall).await;
        Self { forebay, store, wall, script, seen, more }
    }

    /// The process ends in order, and another one is started on its store.
    pub(super) async fn restart(self, within: Duration) -> Self {
        self.forebay.shutdown(within).await;
        self.crash().await
    }

    pub(super) async fn job(&self, id: JobId) -> JobRecord {
        self.store.read(move |records| records.job(id, None)).await.unwrap().expect("the job")
    }

    pub(super) async fn attempts(&self, id: JobId) -> Vec<KeptAttempt> {
        self.store.read(move |records| records.attempts(id)).await.unwrap()
    }

    pub(super) async fn submit(&self, job: Job) -> JobId {
        self.forebay.submit(job).await.unwrap()
    }

    /// The job, when it has ended.
    pub(super) async fn ended(&self, id: JobId) -> JobRecord {
        let within = Duration::from_secs(30 * 86_400);
        let record = self.forebay.jobs().await.unwrap().wait(id, Whose::Anyones, within).await.unwrap();
        assert!(record.status.is_end(), "{id} is still {}", record.status);
        record
    }

    /// Waits until the job stands so.
    pub(super) async fn until_status(&self, id: JobId, status: JobStatus) {
        let late = clock::now() + Duration::from_secs(86_400);
        while self.job(id).await.status != status {
            assert!(clock::now() < late, "{id} is never {status}");
            clock::until(clock::now() + Duration::from_millis(10)).await;
        }
    }

    /// Calls that the upstream has seen.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Waits until the upstream has seen so many calls.
    pub(super) async fn until_seen(&self, count: usize) {
        let late = clock::now() + Duration::from_secs(86_400);
        while self.seen.lock().unwrap().len() < count {
            assert!(clock::now() < late, "{:?}", self.seen());
            clock::until(clock::now() + Duration::from_millis(10)).await;
        }
    }
}

async fn start(more: &str, script: &Script, seen: &Arc<Mutex<Vec<Seen>>>, store: &Store, wall: WallClock) -> Forebay {
    let retry = if more.contains("[retry]") { "" } else { "[retry]\njitter = \"none\"\n" };
    let text = format!(
        "[pool]\nthreads = 0\n{retry}[upstreams.up]\nbase_url = \"http://u.test/v1\"\nmodels = [\"m\"]\n{more}"
    );
    let config = Config::from_toml(&text).unwrap();
    let (script, seen) = (Arc::clone(script), Arc::clone(seen));
    let open = move || {
        let (script, seen) = (Arc::clone(&script), Arc::clone(&seen));
        MemoryTransport::new(move |request: HttpRequest| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            let is_webhook = request.url.starts_with("https://hooks.test/");
            let said = if is_webhook { "(webhook)".to_owned() } else { super::super::prompt_of(&request) };
            let mut log = seen.lock().unwrap();
            let call = Seen { number: log.len(), said, body, at: clock::now() };
            log.push(call.clone());
            drop(log);
            let answer = script(&call);
            async move { answered(answer).await }
        })
    };
    Forebay::builder(config).transport(open).seed(1).store(store.clone(), wall).start().await.unwrap()
}

async fn answered(answer: Answer) -> Result<HttpResponse, TransportError> {
    let after = if let Answer::After(after) = &answer { *after } else { Duration::from_millis(100) };
    clock::until(clock::now() + after).await;
    match answer {
        Answer::Status(200, _) | Answer::After(_) => Ok(Scripted::json(200, Answer::BODY.to_owned())),
        Answer::Status(status, headers) => {
            let mut response = Scripted::json(status, format!("{{\"error\":{{\"message\":\"status {status}\"}}}}"));
            for (name, value) in headers {
                response.headers.push(name.try_into().unwrap(), value.try_into().unwrap());
            }
            Ok(response)
        }
        Answer::Fails(kind, sent) => Err(TransportError::new(kind, sent, "scripted")),
    }
}
