//! Webhooks: what it takes to tell a receiver of a job's end. One attempt at a time, pure of any store: whoever keeps the
//! outbox calls [`Webhooks::deliver`] for each row that is due and writes down what it comes to.
//!
//! `url` says what may be named as a receiver, `signature` signs, `schedule` says when to come again, `receivers` keeps a
//! dead one from holding up the others. The sending is the pool's transport's, which connects to public addresses only,
//! and follows no redirect.

mod receivers;
mod schedule;
mod signature;
#[cfg(test)]
mod tests;
pub(crate) mod url;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{CONTENT_TYPE, HeaderValue};

use self::receivers::Receivers;
use self::schedule::Verdict;
use self::signature::Signer;
use crate::clock::{self, Dice, Instant};
use crate::messages::{
    Authorities, CallId, FailureKind, Headers, JobId, Phase, Secret, Timeouts, Upstream, UpstreamKind,
};
use crate::pool::transport::{BodyStream, ChosenBy, HttpRequest, HttpResponse, LocalFuture, Transport, TransportError};
use crate::providers::classify;
use crate::telemetry::webhooks as events;

/// How many deliveries should be under way at once: what is due beyond that waits in the outbox.
pub(crate) const MOST_AT_ONCE: usize = 64;
/// How long an attempt may take, from the name's look-up to the answer's end. Standard Webhooks recommends 15 to 30 s.
const TIME_LIMIT: Duration = Duration::from_secs(15);
/// How much of that connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How much of an answer's body is read, which nobody looks at: a receiver that is cut off in a short answer may take it
/// for a failure.
const MAX_ANSWER: usize = 16 * 1024;

/// A webhook to be told.
#[derive(Clone)]
pub(crate) struct Delivery {
    /// Whose end it tells. Its id is the `webhook-id`, by which receivers know the same webhook again.
    pub(crate) job: JobId,
    /// Where to; checked by [`url::check`] when it was accepted.
    pub(crate) url: Arc<str>,
    /// JSON, the same at each attempt.
    pub(crate) body: Bytes,
    /// Attempts made before this one.
    pub(crate) made: u32,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Delivery");
        shown
            .field("job", &self.job)
            .field("to", &url::origin(&self.url))
            .field("made", &self.made)
            .finish_non_exhaustive()
    }
}

/// What an attempt to deliver comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum DeliveryEnd {
    /// The receiver has it.
    Delivered,
    /// One more attempt is made, and the next is due in this time.
    Again {
        /// From the attempt's end.
        after: Duration,
    },
    /// It will not be delivered.
    GivenUp {
        /// For the log and the operator; holds nothing of the URL's path.
        why: String,
    },
}

/// Delivers webhooks signed with one secret, from one thread.
pub(crate) struct Webhooks {
    signer: Signer,
    chosen_by: ChosenBy,
    /// Limits of time and trust: the system's authorities.
    upstream: Arc<Upstream>,
    transport: Rc<dyn Transport>,
    receivers: Rc<RefCell<Receivers>>,
    dice: Rc<RefCell<Dice>>,
}

impl Webhooks {
    /// # Errors
    /// What is wrong with `secret`. One that comes from a configuration has been checked.
    pub(crate) fn new(
        secret: &Secret,
        allow_private: bool,
        transport: Rc<dyn Transport>,
        dice: Dice,
    ) -> Result<Self, String> {
        Ok(Self {
            signer: Signer::new(secret)?,
            chosen_by: if allow_private { ChosenBy::TrustedCaller } else { ChosenBy::Caller },
            upstream: Arc::new(receiver()),
            transport,
            receivers: Rc::default(),
            dice: Rc::new(RefCell::new(dice)),
        })
    }

    /// Makes one attempt, within some 15 s; `now` is the time its signature names. Dropping the future calls the attempt off:
    /// the receiver may have it all the same.
    pub(crate) fn deliver(&self, delivery: Delivery, now: SystemTime) -> LocalFuture<DeliveryEnd> {
        let request = self.request(&delivery, now);
        let limit = self.upstream.timeouts.answer;
        let (receivers, transport, dice) = (self.receivers.clone(), self.transport.clone(), self.dice.clone());
        Box::pin(async move {
            let (start, origin, made) = (clock::now(), url::origin(&delivery.url), delivery.made.saturating_add(1));
            let wait = |asked| schedule::wait(made, asked, &mut dice.borrow_mut());
            let (why, wait) = match attempt(request, &*transport, &receivers, limit, now).await {
                Ok(answer) => match schedule::judge(answer.status) {
                    Verdict::Delivered => {
                        events::webhook_delivered(delivery.job, origin, made, since(start));
                        return DeliveryEnd::Delivered;
                    }
                    Verdict::Unwanted => ("the receiver answered 410: it wants no more".to_owned(), None),
                    Verdict::Failed => (format!("the receiver answered {}", answer.status), wait(answer.asked)),
                },
                Err(lost) => (lost.why, wait(None)),
            };
            match wait {
                Some(after) => {
                    events::webhook_failed(delivery.job, origin, made, since(start), &why, after);
                    DeliveryEnd::Again { after }
                }
                None => {
                    events::webhook_given_up(delivery.job, origin, made, &why);
                    DeliveryEnd::GivenUp { why }
                }
            }
        })
    }

    fn request(&self, delivery: &Delivery, now: SystemTime) -> HttpRequest {
        let unix_seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut headers = self.signer.headers(delivery.job, unix_seconds, &delivery.body);
        headers.push(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        HttpRequest {
            upstream: self.upstream.clone(),
            url: delivery.url.to_string(),
            chosen_by: self.chosen_by,
            headers,
            body: delivery.body.clone(),
            call: CallId::new(),
        }
    }
}

/// Any receiver, as the transport sees it.
fn receiver() -> Upstream {
    Upstream {
        name: "(webhooks)".into(),  // no configured upstream can be called that
        kind: UpstreamKind::OpenAi, // asked by nobody: what is sent is not encoded
        base_url: "".into(),
        timeouts: Timeouts { connect: CONNECT_LIMIT, first_byte: TIME_LIMIT, answer: TIME_LIMIT, idle: TIME_LIMIT },
        max_answer: MAX_ANSWER,
        ask_usage: false,
        authorities: Authorities::default(),
        headers: Headers::new(),
    }
}

fn since(start: Instant) -> Duration {
    clock::now().saturating_duration_since(start)
}

/// What was answered.
struct Answered {
    status: u16,
    /// How long the receiver wants to be left alone.
    asked: Option<Duration>,
}

/// Nothing was answered.
struct Lost {
    why: String,
    /// Whether that took the whole time.
    is_silence: bool,
}

impl From<TransportError> for Lost {
    fn from(error: TransportError) -> Self {
        Self { is_silence: error.kind == FailureKind::Timeout(Phase::Connect), why: error.detail }
    }
}

/// Sends `request` unless its receiver is held, and remembers whether that answered.
async fn attempt(
    request: HttpRequest,
    transport: &dyn Transport,
    receivers: &Rc<RefCell<Receivers>>,
    limit: Duration,
    now: SystemTime,
) -> Result<Answered, Lost> {
    let Some(turn) = Receivers::turn(receivers, url::origin(&request.url)) else {
        let why = "not tried: its receiver has left several unanswered, and the next is under way".to_owned();
        return Err(Lost { why, is_silence: false });
    };
    let end = exchange(transport.send(request), limit, now).await;
    match &end {
        Err(Lost { is_silence: true, .. }) => turn.silent(),
        _ => turn.answered(),
    }
    end
}

/// Waits for the answer. Its head says it all; of its body no more is read than politeness asks for.
async fn exchange(
    sending: LocalFuture<Result<HttpResponse, TransportError>>,
    limit: Duration,
    now: SystemTime,
) -> Result<Answered, Lost> {
    let deadline = clock::now() + limit;
    let response = tokio::select! {
        biased;
        response = sending => response?,
        () = clock::until(deadline) => {
            return Err(Lost { why: format!("no answer within {} s", limit.as_secs_f64()), is_silence: true });
        }
    };
    let asked = response.headers.get("retry-after");
    let asked = asked.and_then(|value| classify::retry_after(value, &response.headers, now));
    tokio::select! {
        biased;
        () = read_away(response.body) => {}
        () = clock::until(deadline) => {}
    }
    Ok(Answered { status: response.status, asked })
}

/// Reads `body` to its end, or as much of it as an answer should have.
async fn read_away(mut body: BodyStream) {
    let mut read = 0;
    while let Some(Ok(chunk)) = body.next().await {
        read += chunk.len();
        if read > MAX_ANSWER {
            break;
        }
    }
}
