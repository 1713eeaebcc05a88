//! One connection: calls in, answers or faults out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::answers::{self, Good};
use super::ask::{Ask, Kind, fnv};
use super::errors;
use super::face::Face;
use super::faults::{self, Fault, Step};
use super::http::{self, Body, Broken, Head, Wire};
use super::ledger::{End, Visit};
use super::limits::{Headers, Scarce};
use super::provider::{Place, Provider, Told, Turned};
use super::settings::Beyond;
use super::spoil::{self, Show, Then};
use crate::clock;

/// How long a peer may take to read the part of a body that comes before a reset; the reset would overtake it.
const SETTLE: Duration = Duration::from_millis(5);

/// What becomes of the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum After {
    Again,
    Finish,
    Reset,
    /// Closed at once: whatever the peer still sends meets a reset.
    Leave,
}

/// Serves one connection to its end.
pub(super) async fn converse(stream: TcpStream, provider: Arc<Provider>) {
    let Ok(mut wire) = Wire::new(stream) else { return };
    loop {
        match exchange(&mut wire, &provider).await {
            Ok(After::Again) => {}
            Ok(After::Finish) => return wire.finish().await,
            Ok(After::Reset) => return wire.reset(),
            Ok(After::Leave) => return,
            // The peer has left; whatever was in flight is abandoned by its guard.
            Err(_) => return,
        }
    }
}

async fn exchange(wire: &mut Wire, provider: &Arc<Provider>) -> io::Result<After> {
    let head = match wire.head().await {
        Ok(head) => head,
        Err(broken) => return unreadable(wire, broken, Face::default()).await,
    };
    let kind = if head.method == "POST" { Kind::at(&head.path) } else { None };
    let Some(kind) = kind else { return lookup(wire, provider, &head).await };
    let key = fnv(&head.key);
    let (number, visit, draw) = provider.arrived(kind, key);
    let (keep_alive, path) = (head.keep_alive, head.path.clone());
    let mut call = Call { wire, provider, visit, kind, path, key, number, keep_alive, told: None };
    let lack = kind.face().lack(&head);
    // Before the body is read, and so before the text could order anything else.
    if draw.fault == Some(Fault::ResetUnread) {
        call.visit.end(End::Faulted(Fault::ResetUnread));
        return Ok(After::Reset);
    }
    let body = match call.wire.body(&head).await {
        Ok(body) => body,
        Err(broken) => {
            if !matches!(broken, Broken::Gone) {
                call.visit.end(End::Refused);
            }
            return unreadable(call.wire, broken, kind.face()).await;
        }
    };
    if let Some(lack) = lack {
        return call.refuse_as_invalid(lack).await;
    }
    call.answer(&body, draw).await
}

/// Says what was wrong with a request that could not be read, and ends the connection.
async fn unreadable(wire: &mut Wire, broken: Broken, face: Face) -> io::Result<After> {
    let (status, message) = match broken {
        Broken::Gone => return Err(io::ErrorKind::ConnectionAborted.into()),
        Broken::Malformed(message) => (400, message),
        Broken::TooLarge => (413, "the request is too large"),
    };
    send_json(wire, face, status, Vec::new(), errors::invalid(message, None), false).await
}

/// Everything that is not a call.
async fn lookup(wire: &mut Wire, provider: &Provider, head: &Head) -> io::Result<After> {
    if let Err(broken) = wire.body(head).await {
        return unreadable(wire, broken, Face::of(Kind::at(&head.path))).await;
    }
    let path = head.path.strip_prefix("/v1").unwrap_or(&head.path);
    let created = provider.unix_seconds();
    let unknown = |message: &str, code| (404, errors::invalid(message, Some(code)));
    let (status, body) = match (head.method.as_str(), path) {
        ("GET", "/models") => (200, answers::models(&provider.settings.models, created)),
        ("GET", path) if path.starts_with("/models/") => {
            let id = &path["/models/".len()..];
            match provider.settings.models.iter().find(|model| *model == id) {
                Some(model) => (200, answers::model(model, created)),
                None => unknown(&format!("The model '{id}' does not exist"), "model_not_found"),
            }
        }
        ("GET", "/simulator/ledger") => (200, serde_json::to_value(provider.snapshot()).unwrap_or_default()),
        (_, "/simulator/redirected") => {
            provider.ledger.redirect_followed();
            unknown("this is where a redirect leads that should not have been followed", "redirect_followed")
        }
        (method, path) if Kind::at(path).is_some() || path == "/models" || path == "/simulator/ledger" => {
            let message = format!("Not allowed to {method} on {path}");
            (405, errors::invalid(&message, Some("method_not_allowed")))
        }
        (method, path) => unknown(&format!("Unknown request URL: {method} {path}"), "unknown_url"),
    };
    // The body of an answer to HEAD would be taken for the next answer: after it, none comes.
    let keep_alive = head.keep_alive && head.method != "HEAD";
    send_json(wire, Face::of(Kind::at(path)), status, Vec::new(), body, keep_alive).await
}

/// Sends `body`, which is in OpenAI's words, in those of `face`.
async fn send_json(
    wire: &mut Wire,
    face: Face,
    status: u16,
    mut headers: Headers,
    body: Value,
    keep_alive: bool,
) -> io::Result<After> {
    let body = face.translated(status, &mut headers, body);
    send(wire, status, headers, "application/json", body.to_string().as_bytes(), keep_alive).await
}

async fn send(
    wire: &mut Wire,
    status: u16,
    mut headers: Headers,
    media_type: &str,
    body: &[u8],
    keep_alive: bool,
) -> io::Result<After> {
    headers.push(("content-type", media_type.to_owned()));
    let mut bytes = http::head(status, &headers, Body::Length(body.len()), keep_alive);
    bytes.extend_from_slice(body);
    wire.send(&bytes).await?;
    Ok(if keep_alive { After::Again } else { After::Finish })
}

/// One call in flight.
struct Call<'a> {
    wire: &'a mut Wire,
    provider: &'a Arc<Provider>,
    visit: Visit,
    kind: Kind,
    path: String,
    key: u64,
    number: u64,
    keep_alive: bool,
    /// What headers say of the limits: as it was when the call met them, however late the answer.
    told: Option<Told>,
}

impl Call<'_> {
    async fn answer(&mut self, body: &[u8], draw: faults::Draw) -> io::Result<After> {
        let body_hash = fnv(body);
        self.provider.ledger.read(body_hash);
        let read = self.kind.face().read(self.kind, &self.path, body);
        let read = read.and_then(|ask| Ok((faults::script(&ask.prompt())?, ask)));
        let (steps, ask) = match read {
            Ok(read) => read,
            Err(message) => return self.refuse_as_invalid(&message).await,
        };
        let spent = answers::spent(&ask);
        let charge = self.provider.settings.limits.charge;
        let tokens = charge.tokens(spent.prompt, spent.completion, ask.most_tokens);
        let (told, admitted) = self.provider.admit(self.key, tokens);
        self.told = Some(told);
        let mut place = match admitted {
            Ok(place) => place,
            Err(turned) => return self.refuse(&ask, &turned).await,
        };
        let earlier = self.provider.ledger.admitted(self.key, body_hash, spent, tokens, place.at);
        self.queue(&mut place).await?;
        // A text with orders is not subject to chance: once they are carried out, it is answered.
        let drawn = draw.fault.map(|fault| Step { fault, times: 1, retry_after: None });
        let step = if steps.is_empty() { drawn } else { faults::due(&steps, earlier).cloned() };
        let good = answers::good(&ask, self.provider.stamp(self.number));
        match step {
            None => self.delight(&ask, &good, draw.latency).await,
            Some(step) if step.fault.is_harmless() => {
                self.visit.disturbed(step.fault);
                if step.fault == Fault::Informational {
                    self.wire.send(b"HTTP/1.1 103 Early Hints\r\nlink: </v1/models>; rel=preload\r\n\r\n").await?;
                }
                let after = self.delight(&ask, &good, draw.latency).await?;
                match step.fault {
                    Fault::HangUp => Ok(After::Leave),
                    Fault::Duplicate => self.show(spoil::unspoilt(&good), ask.stream, None).await,
                    _ => Ok(after),
                }
            }
            Some(step) => {
                if step.fault != Fault::ResetUnread {
                    self.pause(draw.latency).await?;
                }
                self.visit.end(End::Faulted(step.fault));
                self.strike(&step, &good).await
            }
        }
    }

    async fn refuse_as_invalid(&mut self, message: &str) -> io::Result<After> {
        self.visit.end(End::Refused);
        self.json(400, Vec::new(), errors::invalid(message, None)).await
    }

    /// Waits for a worker, unless the peer leaves.
    async fn queue(&mut self, place: &mut Place) -> io::Result<()> {
        let Some(turn) = place.turn() else { return Ok(()) };
        tokio::select! {
            // The other end is in line for as long as the place is.
            _ = turn => Ok(()),
            () = self.wire.gone() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Waits, unless the peer leaves.
    async fn pause(&mut self, time: Duration) -> io::Result<()> {
        if time.is_zero() {
            return Ok(());
        }
        tokio::select! {
            () = clock::until(clock::now() + time) => Ok(()),
            () = self.wire.gone() => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }

    /// Gives the good answer.
    async fn delight(&mut self, ask: &Ask, good: &Good, latency: Duration) -> io::Result<After> {
        self.pause(latency).await?;
        let prompt = fnv(ask.prompt().as_bytes());
        let sent = self.show(spoil::unspoilt(good), ask.stream, Some(prompt)).await;
        if sent.is_err() {
            self.visit.take_back(prompt);
        }
        sent
    }

    /// Carries out a fault.
    async fn strike(&mut self, step: &Step, good: &Good) -> io::Result<After> {
        let streamed = matches!(good, Good::Stream(_));
        if let Some(show) = spoil::spoilt(step.fault, self.kind, good) {
            return self.show(show, streamed, None).await;
        }
        match step.fault {
            Fault::Reset | Fault::ResetUnread => Ok(After::Reset),
            Fault::Stall => {
                self.wire.gone().await;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Fault::Garbage => {
                self.wire.send(b"\x16\x03\x01 this is no HTTP \xff\xfe\r\n\r\n").await?;
                Ok(After::Finish)
            }
            Fault::Redirect => {
                let location = format!("http://{}/simulator/redirected", self.provider.address);
                self.json(307, vec![("location", location)], json!({})).await
            }
            Fault::RateLimited => {
                let ordered = step.retry_after.clone();
                let value = ordered.unwrap_or_else(|| seconds(self.provider.settings.retry_after));
                let message = "Rate limit reached (injected by the simulator)";
                self.patient(429, value, errors::rate_limited(message)).await
            }
            Fault::RateLimitedBare => {
                let message = "Rate limit reached (injected by the simulator, without a time)";
                self.json(429, Vec::new(), errors::rate_limited(message)).await
            }
            Fault::Quota => self.json(429, Vec::new(), errors::out_of_quota()).await,
            Fault::Status(status) => self.status(status, step.retry_after.clone()).await,
            // Errors inside a stream, asked for where there is none.
            _ => self.status(500, None).await,
        }
    }

    async fn status(&mut self, status: u16, retry_after: Option<String>) -> io::Result<After> {
        // These two come from a proxy in front of the provider, which knows nothing of JSON.
        if matches!(status, 502 | 504) && retry_after.is_none() {
            let page = errors::page(status);
            return send(self.wire, status, Headers::new(), "text/html", &page, self.keep_alive).await;
        }
        let error = errors::of_status(status);
        let settings = self.provider.settings.retry_after_503.filter(|_| status == 503).map(seconds);
        match retry_after.or(settings) {
            Some(value) => self.patient(status, value, error).await,
            None => self.json(status, Vec::new(), error).await,
        }
    }

    /// An error that names a time: `Retry-After`, or `retry-after-ms` for a value that ends so.
    async fn patient(&mut self, status: u16, value: String, error: Value) -> io::Result<After> {
        let ms = value.strip_suffix("ms").and_then(|ms| ms.parse::<u64>().ok());
        let plain = value.parse::<f64>().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        if let Some(wait) = ms.map(Duration::from_millis).or(plain) {
            self.provider.hold(self.key, wait);
        }
        let header = match ms {
            Some(ms) => ("retry-after-ms", ms.to_string()),
            None => ("retry-after", value),
        };
        self.json(status, vec![header], error).await
    }

    /// Turns down a call beyond a limit.
    async fn refuse(&mut self, ask: &Ask, Turned { refusal, limits }: &Turned) -> io::Result<After> {
        let beyond = self.provider.settings.beyond_concurrency;
        let reset = refusal.scarce == Scarce::Concurrency && beyond == Beyond::Reset;
        self.visit.end(End::Limited(refusal.scarce, !reset));
        if reset {
            return Ok(After::Reset);
        }
        let face = self.kind.face();
        let limits = face.told(limits);
        if let Some(told) = refusal.told(&limits) {
            self.provider.hold(self.key, told);
        }
        self.json(429, refusal.headers(&limits), face.refusal(refusal, &limits, &ask.model)).await
    }

    /// Sends a 200 with this body; `prompt` is entered as answered just before the last byte leaves, so that nobody holds
    /// an answer that the ledger does not know.
    async fn show(&mut self, show: Show, streamed: bool, prompt: Option<u64>) -> io::Result<After> {
        let kind = if streamed { "text/event-stream; charset=utf-8" } else { "application/json" };
        let mut headers = self.headers(Headers::new());
        headers.push(("content-type", kind.to_owned()));
        let head = http::head(200, &headers, show.body, self.keep_alive);
        let last = show.pieces.len().saturating_sub(1);
        if show.pieces.is_empty() {
            self.wire.send(&head).await?;
        }
        let mut head = Some(head);
        for (n, piece) in show.pieces.iter().enumerate() {
            if n > 0 {
                self.pause(self.provider.settings.chunk_gap).await?;
            }
            if let Some(prompt) = prompt.filter(|_| n == last) {
                self.visit.end(End::Answered(prompt));
            }
            let mut bytes = head.take().unwrap_or_default();
            match show.body {
                Body::Chunked => http::chunk(piece, &mut bytes),
                Body::Length(_) | Body::Unframed => bytes.extend_from_slice(piece),
            }
            if n == last && show.then == Then::Complete && show.body == Body::Chunked {
                bytes.extend_from_slice(http::LAST_CHUNK);
            }
            self.wire.send(&bytes).await?;
        }
        match show.then {
            Then::Complete => Ok(self.after()),
            Then::Fin => Ok(After::Finish),
            Then::Reset => {
                self.pause(SETTLE).await?;
                Ok(After::Reset)
            }
            Then::Stall => {
                self.wire.gone().await;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
        }
    }

    async fn json(&mut self, status: u16, headers: Headers, body: Value) -> io::Result<After> {
        let headers = self.headers(headers);
        send_json(self.wire, self.kind.face(), status, headers, body, self.keep_alive).await
    }

    /// `more`, and those that every answer to a call has.
    fn headers(&self, more: Headers) -> Headers {
        let told = || self.told.clone().unwrap_or_else(|| self.provider.told(self.key));
        let mut headers = self.kind.face().headers(self.number, told);
        headers.extend(more);
        headers
    }

    fn after(&self) -> After {
        if self.keep_alive { After::Again } else { After::Finish }
    }
}

/// Seconds for a header: whole where they are, with a fraction where they are not.
fn seconds(duration: Duration) -> String {
    if duration.subsec_nanos() == 0 { duration.as_secs().to_string() } else { duration.as_secs_f64().to_string() }
}
