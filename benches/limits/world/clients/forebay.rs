//! The real thing: dispatcher, actors and pool, on this thread, with the provider for a transport.

use std::sync::Arc;
use std::time::Duration;

use forebay::clock::Dice;
use forebay::transport::{HttpRequest, LocalFuture, MemoryTransport};
use forebay::{Config, Endpoint, Forebay, Priority, Request};

use super::super::provider::Provider;
use super::super::scenario::Scenario;
use super::Way;

/// How long callers wait: longer than any scenario.
const PATIENCE: Duration = Duration::from_secs(4 * 3_600);

/// Tells the provider whose attempt it is.
const JOB: &str = "x-job";

pub(super) struct Through {
    forebay: Forebay,
    provider: Arc<Provider>,
}

impl Through {
    pub(super) async fn start(scenario: &Scenario, provider: Arc<Provider>, mut dice: Dice) -> Self {
        let of_transport = Arc::clone(&provider);
        let forebay = Forebay::builder(config(scenario))
            .seed(dice.number())
            .transport(move || {
                let provider = Arc::clone(&of_transport);
                MemoryTransport::new(move |request: HttpRequest| {
                    let job = request.headers.get(JOB).and_then(|job| job.parse().ok()).expect("a job's number");
                    Arc::clone(&provider).exchange(job)
                })
            })
            .start()
            .await
            .expect("the system starts");
        Self { forebay, provider }
    }
}

fn config(scenario: &Scenario) -> Config {
    let (requests, tokens) = scenario.caps;
    let cap = |name: &str, cap: Option<u64>| cap.map_or(String::new(), |cap| format!("limits.{name} = {cap}\n"));
    let text = format!(
        "[pool]\nthreads = 0\n\
         [upstreams.up]\nbase_url = \"http://provider.test/v1\"\napi_keys = [\"sk-test-0000000001\"]\nmodels = [\"m\"]\n{}{}",
        cap("requests_per_minute", requests),
        cap("tokens_per_minute", tokens),
    );
    Config::from_toml(&text).unwrap_or_else(|problems| panic!("{problems}"))
}

impl Way for Through {
    fn call(&self, job: usize) -> LocalFuture<Result<(), String>> {
        let (forebay, provider) = (self.forebay.clone(), Arc::clone(&self.provider));
        Box::pin(async move {
            let (ask, is_urgent) = (provider.ask(job), provider.is_urgent(job));
            let request = Request::new(Endpoint::ChatCompletions, ask.body())
                .and_then(|request| request.with_header(JOB, &job.to_string()))
                .expect("a good request")
                .with_priority(if is_urgent { Priority::Normal } else { Priority::Low })
                .with_timeout(PATIENCE);
            let told = |error: forebay::Error| format!("{}: {}", error.code(), error.message());
            if !request.is_stream() {
                return forebay.call(request).await.map(drop).map_err(told);
            }
            let mut events = forebay.stream(request).await.map_err(told)?;
            while let Some(event) = events.next().await {
                event.map_err(told)?;
            }
            Ok(())
        })
    }

    fn close(&self) -> LocalFuture<()> {
        let forebay = self.forebay.clone();
        Box::pin(async move { forebay.shutdown(Duration::ZERO).await })
    }
}
